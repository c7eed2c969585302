"""The network as a part of others: a backbone of feature maps, and the dense form that gives a map of class scores."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from alexnet.base.errors import AlexNetError, Misused
from alexnet.inference.dense import Dense, dense, whole_picture
from alexnet.inference.features import check_layers
from alexnet.networks import variants as v
from alexnet.networks.layers import renew_bands
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import output_shape
from alexnet.weights.classifier import Classifier

__all__ = ["Backbone", "Dense", "dense", "whole_picture"]


class Backbone(nn.Module):
    """The layers up to the last of those named, as torchvision's detection and segmentation models take a backbone.

    float (N, channels, H, W) of any size that leaves a pixel -> {name: (N, C, h, w)}, in the order of the layers.
    `layers` are names, or a mapping of names to the names given back, such as {"relu5": "out"} for segmentation.
    `out_channels` is C, or a list where maps differ; `strides` are in pixels of the picture. `image_mean` and
    `image_std` are the preprocessing for pictures in 0 … 1, with the mean colour of a mean image. Layers are copied.
    """

    def __init__(self, model: AlexNet | Classifier, layers: str | Sequence[str] | Mapping[str, str] = "relu5") -> None:
        super().__init__()
        net = model.model if isinstance(model, Classifier) else model
        given = [layers] if isinstance(layers, str) else layers
        wanted = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
        if twice := [name for name, times in Counter(wanted.values()).items() if times > 1]:
            raise AlexNetError(f"a backbone was to give two layers' maps as '{twice[0]}'; give each a name of its own.")
        names = sorted(check_layers(net, list(wanted)), key=net.order.index)
        records = {record.name: record for record in net.variant.layers}
        order = list(records)
        shape: tuple[int, ...] = (net.channels, net.input, net.input)
        stride, channels, strides = 1, [], []
        for name in net.order[: net.order.index(names[-1]) + 1]:
            self.add_module(name, copy.deepcopy(getattr(net, name)))
            if name not in records:
                continue
            record = records[name]
            shape = output_shape(record, shape, net.classes)
            if len(shape) == 1 or isinstance(record, v.Local):
                raise AlexNetError(
                    f"a backbone ends before the first layer whose weights belong to places; {record.name} is one: "
                    f"give {order[order.index(record.name) - 1]} or a layer before it."
                )
            stride *= getattr(record, "stride", 1)
            if name in names:
                channels.append(shape[0])
                strides.append(stride)
        self.order = list(self._modules)
        self.register_load_state_dict_post_hook(renew_bands)
        self.names = OrderedDict((name, wanted[name]) for name in names)
        self.strides = strides
        passed = [records[name] for name in self.order if name in records]
        self.smallest = next(side for side in range(1, net.input + 1) if _leave(passed, (net.channels, side, side)))
        self.out_channels: int | list[int] = channels[0] if len(set(channels)) == 1 else channels
        if isinstance(model, Classifier):
            preprocess = model.preprocess
            scale = preprocess.scale if len(preprocess.scale) > 1 else preprocess.scale * preprocess.channels
            self.image_mean = (preprocess.mean.mean((1, 2)) / 255).tolist()
            self.image_std = [one / 255 for one in scale]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        try:
            return self._maps(x)
        except RuntimeError as error:
            if x.dim() != 4 or min(x.shape[2:]) >= self.smallest:
                raise
            raise Misused(
                f"a backbone was given pictures of {x.shape[2]} x {x.shape[3]} pixels, of which its layers leave "
                f"nothing; give pictures of {self.smallest} or more on both sides."
            ) from error

    def _maps(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for name in self.order:
            x = getattr(self, name)(x)
            if name in self.names:
                maps[self.names[name]] = x
        return maps


def _leave(records: Iterable[v.Layer], shape: tuple[int, ...]) -> bool:
    """Whether the layers leave a pixel of maps of that shape."""
    for record in records:
        shape = output_shape(record, shape, 1)
        if shape[1] < 1:
            return False
    return True
