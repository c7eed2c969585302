"""One module for every variant: the layers of `variants.py`, built by name and run in their order."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.overrides import TorchFunctionMode

from alexnet.base.errors import AlexNetError, Misused
from alexnet.networks import fast
from alexnet.networks import layers as own
from alexnet.networks import variants as v
from alexnet.networks.shapes import check_size, is_whole, output_shape


class AlexNet(nn.Module):
    """A variant as a module whose children are its layers, in their order: `model.conv1`, …, `model.fc8`.

    Takes preprocessed float pictures (N, channels, input, input), gives logits (N, classes). `masks` holds 0/1
    tensors (N, units) for dropout layers by name, so that a training loop can own the draw. `until` names the
    layer whose output is returned; the default is the last before the softmax, `model.prob`, which is no child because
    it is run only where it is named.

    Any layer may be replaced, wrapped or stand twice: the names are run, whatever they hold. Two children are no
    layers of the variant: `flatten`, and `conv1_edge` where a convolution's last window overhangs.
    """

    def __init__(
        self, variant: v.Variant, classes: int, channels: int, input: int, changes: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.changes = dict(changes or {})
        variant = v.changed(variant, self.changes)
        check_size(variant, classes, channels, input)
        self.variant, self.classes, self.channels, self.input = variant, classes, channels, input
        self.dropouts: dict[str, tuple[int, float]] = {}  # units and rate of each dropout layer
        shape: tuple[int, ...] = (channels, input, input)
        for record in variant.layers:
            layer = _module(record, shape, classes)
            if isinstance(record, v.Softmax):
                object.__setattr__(self, record.name, layer)
            else:
                if isinstance(record, v.Conv) and record.ceil:
                    self.add_module(f"{record.name}_edge", own.LastWindow(record.kernel, record.stride, record.pad))
                if isinstance(record, v.FC) and len(shape) > 1:
                    self.add_module("flatten", nn.Flatten())
                self.add_module(record.name, layer)
            if isinstance(record, v.Dropout):
                self.dropouts[record.name] = math.prod(shape), record.rate
            shape = output_shape(record, shape, classes)
        self.register_load_state_dict_post_hook(own.renew_bands)
        self.order = [*self._modules, *(record.name for record in variant.layers if isinstance(record, v.Softmax))]
        weighted = [x.name for x in variant.layers if isinstance(x, v.Weighted)] or [""]
        self._inputs = 0  # of a last layer that was taken away
        # What timm's tools ask for; preprocessing is added where weights are loaded.
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": variant.name, "num_classes": classes, "input_size": [channels, input, input],
            "first_conv": weighted[0], "classifier": weighted[-1],
        }  # fmt: skip
        self.logits = next(x.name for x in reversed(variant.layers) if not isinstance(x, v.Softmax))

    def named_layers(self) -> list[tuple[str, nn.Module]]:
        """What is run, in order; a module that stands twice is there twice, unlike in `named_children`."""
        return [(name, getattr(self, name)) for name in self.order]

    # -- as timm's users expect --

    @property
    def num_classes(self) -> int:
        return getattr(self.get_classifier(), "out_features", self.classes)

    @property
    def default_cfg(self) -> dict[str, Any]:
        return self.pretrained_cfg

    def get_classifier(self) -> nn.Module:
        """The last layer with weights."""
        return getattr(self, self.pretrained_cfg["classifier"])

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer with initial weights for that many classes; with 0, none, so that features come out."""
        if not is_whole(num_classes) or num_classes < 0:
            raise Misused(f"reset_classifier was given {num_classes!r:.40}; give how many classes, or 0 for none.")
        record = next(x for x in reversed(self.variant.layers) if isinstance(x, v.Weighted))
        old = getattr(self, record.name)
        new: nn.Module = nn.Identity()
        if num_classes:
            inputs = getattr(old, "in_features", self._inputs)
            new = nn.Linear(inputs, num_classes)
            _draw(new, record)
            new.to(next(self.parameters()))
        self._inputs = getattr(old, "in_features", self._inputs)
        self.add_module(record.name, new)
        self.classes = num_classes

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, until: str | None = None) -> Tensor:
        if isinstance(x, Proxy):
            masks, until = (_unless_proxy(given) for given in (masks, until))
        until = until or self.logits
        return self.activations(x, [until], masks)[until]

    def activations(
        self, x: Tensor, layers: Collection[str] | str, masks: Mapping[str, Tensor] | None = None,
        keep: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> dict[str, Tensor]:  # fmt: skip
        """What each of the named layers makes of x, by name in order, in one pass that ends at the last of them.

        Without hooks, so that threads may share the network. `keep` is given each output before the next layer, which
        may work in place, is run; what it returns is returned. Names, shapes and types that do not fit raise
        AlexNetError, which is a ValueError here.
        """
        layers = [layers] if isinstance(layers, str) else layers
        self._check(x, layers, masks or {})
        last = max(layers, key=self.order.index)
        found: dict[str, Tensor] = {}
        passes = fast.passes(self.named_layers, x, last, masks)
        done: Sequence[str] = ()  # layers that a fast form has taken together
        for name, layer in self.named_layers():
            if name not in done:
                chosen = passes.get(name)
                y = None if chosen is None or any(one in layers for one in chosen.names[:-1]) else chosen(x)
                if chosen is not None and y is not None:
                    x, done = y, chosen.names
                else:
                    x = layer(x, masks[name]) if masks and name in masks else layer(x)
            if name in layers:
                found[name] = keep(x)
            if name == last:
                break
        return found

    def _check(self, x: Tensor, layers: Collection[str], masks: Mapping[str, Tensor]) -> None:
        for name in layers:
            if name not in self.order:
                raise Misused(f"{self.variant.name} has no layer '{name}'; it has {', '.join(self.order)}.")
        if not layers:
            raise Misused(f"no layer was named; give one or more of {', '.join(self.order)}.")
        for name in masks:
            if name not in self.dropouts:
                there = f"it has {', '.join(self.dropouts)}" if self.dropouts else "it has none"
                raise Misused(f"{self.variant.name} has no dropout layer '{name}' to mask; {there}.")
            if not _takes_mask(layer := getattr(self, name)):
                raise Misused(f"{name} is {type(layer).__name__} now, which takes no mask; leave its mask out.")
        if isinstance(x, Proxy):
            return
        if not isinstance(x, Tensor):
            raise Misused(
                f"{self.variant.name} was given {type(x).__name__}; it takes a Tensor (N, {self.channels}, "
                f"{self.input}, {self.input}), as .preprocess makes of pictures."
            )
        expected = (self.channels, self.input, self.input)
        if not torch.jit.is_tracing() and tuple(x.shape[1:]) != expected:
            raise Misused(
                f"{self.variant.name} was given pictures of shape {tuple(x.shape)}; it takes (N, "
                f"{', '.join(map(str, expected))}): preprocess them first, or build it with another input or channels."
            )
        self._check_type(x)

    def _check_type(self, x: Tensor) -> None:
        """Refuse a type that the first convolution would, where nobody has changed that or what it is given."""
        first = getattr(self, self.order[int(self.order[0].endswith("_edge"))])
        if type(first) is not nn.Conv2d or first._forward_pre_hooks or x.dtype == first.weight.dtype:
            return
        kind = x.device.type
        if x.is_floating_point() and kind in own.AUTOCASTS and torch.is_autocast_enabled(kind):
            return
        given, wanted = str(x.dtype)[6:], str(first.weight.dtype)[6:]
        raise Misused(
            f"{self.variant.name} was given pictures of {given} and its weights are {wanted}; give what .preprocess "
            "makes of pictures, or bring both to one type, as .float() does."
        )

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script makes its form of: the layers in a row, pictures -> logits."""
        row = _Row(OrderedDict(self.named_layers()[: self.order.index(self.logits) + 1]))
        row.order, row.training = " ".join(row._modules), self.training
        return row


def _takes_mask(layer: nn.Module) -> bool:
    """Whether it can be called with a mask: our dropout can, and what somebody has put around it."""
    if isinstance(layer, own.Dropout):
        return True
    try:
        inspect.signature(layer.forward).bind(None, None)
    except TypeError:
        return False
    return True


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Networks in eval mode; afterwards every layer is in the mode that it was in. Those in it already are not touched,
    so threads may share them."""
    training = [layer for model in models for layer in model.modules() if layer.training]
    for layer in training:
        layer.training = False
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


@contextmanager
def for_pictures(model: nn.Module) -> Iterator[None]:
    """A network as pictures are shown to it: `in_eval_mode`, and in float32, which is what they become."""
    check_float32(model)
    with in_eval_mode(model):
        yield


def check_float32(model: nn.Module) -> None:
    """Refuse weights of another type of floating point, by name."""
    for name, one in model.named_parameters():
        if one.is_floating_point() and one.dtype != torch.float32:
            raise AlexNetError(
                f"pictures are computed in float32, and {name} is {str(one.dtype)[6:]}; call .model.float()."
            )


class _Row(nn.Sequential):
    """Layers in a row. TorchScript takes two rows of the same names for one, in whatever order, but for a constant."""

    __constants__ = ("order",)
    order = ""


def _unless_proxy(given: Any) -> Any:
    """None where torch.fx stands in for an argument: its form of the network takes pictures alone."""
    if isinstance(given, Proxy):
        given.node.graph.erase_node(given.node)
        return None
    return given


def build(variant: str, classes: int = 1000, channels: int = 3, input: int | None = None, **changes: Any) -> AlexNet:
    """The bare network of that name with its own initial weights, drawn from torch's generator: preprocessed float32
    pictures (N, channels, input, input) -> logits (N, classes).

    `variant` is alexnet2012, alexnet64 or another that `alexnet info` lists. `input` is the side of the square it
    sees in pixels (default: the variant's own); one that the plan cannot take is an error that says which it can.
    `changes` are `dropout` (share of units dropped, 0 to 1), `activation` (relu or tanh) and `ties` (first or all:
    who gets max pooling's gradient). Raises AlexNetError for what cannot be built.
    """
    chosen = v.variant(variant)
    model = AlexNet(chosen, classes, channels, chosen.input if input is None else input, changes)
    initialise(model)
    return model


def initialise(model: AlexNet) -> None:
    """Draw the weights and set the biases as the variant's records say (docs/facts.md 3); what LRN sums over, too."""
    own.renew_bands(model)
    for record in model.variant.layers:
        if not isinstance(record, v.Weighted) or record.std == "torch":
            continue
        _draw(getattr(model, record.name), record)


def _draw(layer: Any, record: v.Weighted) -> None:
    """Initial weights of one layer; those of torch's own rule are drawn when it is made."""
    if record.std != "torch":
        std = math.sqrt(2 / layer.weight[0].numel()) if record.std == "he" else record.std
        nn.init.normal_(layer.weight, 0.0, std)
        if record.std == "he":
            with torch.no_grad():
                layer.weight -= layer.weight.flatten(1).mean(1).reshape(-1, *[1] * (layer.weight.dim() - 1))
        nn.init.constant_(layer.bias, record.bias)


def _module(record: v.Layer, shape: tuple[int, ...], classes: int) -> nn.Module:
    match record:
        case v.Conv():
            return nn.Conv2d(shape[0], record.filters, record.kernel, record.stride, record.pad, groups=record.groups)
        case v.FC():
            inputs, units = math.prod(shape), record.units or classes
            return own.GroupedLinear(inputs, units, record.groups) if record.groups > 1 else nn.Linear(inputs, units)
        case v.Local():
            _, height, width = output_shape(record, shape, classes)
            return own.LocalConv2d(shape[0], record.filters, record.kernel, record.stride, record.pad, (height, width))
        case v.ReLU():
            return nn.ReLU()
        case v.Tanh():
            return nn.Tanh()
        case v.LRN():
            alpha = record.alpha if record.divided else record.alpha * record.size
            return own.LocalResponseNorm(shape[0], record.towers, record.size, alpha, record.beta, record.k)
        case v.WithinMapNorm():
            return own.WithinMapNorm(record.size, record.alpha, record.beta)
        case v.BatchNorm():
            return nn.BatchNorm2d(shape[0])
        case v.MaxPool() if record.ties == "all":
            return own.AllTiesMaxPool2d(record.kernel, record.stride, record.ceil)
        case v.AvgPool():
            return nn.AvgPool2d(record.kernel, record.stride, ceil_mode=True)
        case v.MaxPool():
            return nn.MaxPool2d(record.kernel, record.stride, ceil_mode=record.ceil)
        case v.Dropout():
            return own.Dropout(record.rate, record.inverted)
        case v.Softmax():
            return nn.Softmax(dim=1)


def seeded_build(
    seed: int, variant: str, classes: int, channels: int, input: int, changes: Mapping[str, Any] | None = None
) -> AlexNet:
    """`build` on the CPU with weights that are a function of `seed` alone; torch's own generators are left as they
    were."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset those of GPUs, too
        return build(variant, classes, channels, input, **(changes or {}))


class _Undrawn(TorchFunctionMode):
    """Layers keep the memory that they are given as it is."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) != nn.init.__name__:
            return function(*args, **(kwargs or {}))
        return None


def empty_build(
    variant: v.Variant, classes: int, channels: int, input: int, changes: Mapping[str, Any] | None, device: str = "cpu"
) -> AlexNet:
    """The bare network without initial weights, which take a second of a large one: its memory holds anything."""
    with torch.device(device), _Undrawn():
        return AlexNet(variant, classes, channels, input, changes)
