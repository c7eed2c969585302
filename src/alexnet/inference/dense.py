"""The dense form of a network: its fully connected layers as convolutions, for a map of class scores over a picture."""

from __future__ import annotations

import copy
import math

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import Source, decode
from alexnet.data.preprocess import Preprocess
from alexnet.networks import fast
from alexnet.networks import layers as own
from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import output_shape
from alexnet.weights.classifier import Classifier

LARGEST = 1 << 27  # pixels of a whole picture: 1.6 GB as float32


class Dense(nn.Module):
    """The network with its fully connected layers as convolutions: class scores for every place of a picture.

    float (N, channels, H, W), each side at least the network's input -> logits (N, classes, h, w); a picture of the
    input's own size gives the network's logits, (N, classes, 1, 1). `stride` is in pixels between places. The scores
    of a place are not those of its crop alone: the convolutions see the picture around it where a crop has zeros.
    """

    def __init__(self, model: AlexNet | Classifier) -> None:
        super().__init__()
        net = model.model if isinstance(model, Classifier) else model
        self.input, self.stride = net.input, 1
        shape: tuple[int, ...] = (net.channels, net.input, net.input)
        records = {record.name: record for record in net.variant.layers}
        for name in net.order[: net.order.index(net.logits) + 1]:
            layer, record = getattr(net, name), records.get(name)
            if isinstance(record, v.Local):
                raise AlexNetError(
                    f"{net.variant.name} has no dense form: {record.name}'s weights belong to places of the picture."
                )
            if isinstance(record, v.FC):
                if not _plain(layer):
                    more = " with hooks or a forward of its own" if fast.touched(layer) else ""
                    raise AlexNetError(
                        f"{name} is {type(layer).__name__}{more}, which has no dense form; a fully connected layer "
                        "must be a plain Linear there: make the network dense first, then change its layer."
                    )
                self.add_module(name, _convolution(layer, shape))
            elif not isinstance(layer, nn.Flatten):
                self.add_module(name, copy.deepcopy(layer))
            if record is not None:
                self.stride *= getattr(record, "stride", 1)
                shape = output_shape(record, shape, net.classes)
        self.order = list(self._modules)
        self.register_load_state_dict_post_hook(own.renew_bands)
        self.train(net.training)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.input:
            raise ValueError(
                f"dense mode was given pictures of {x.shape[2]} x {x.shape[3]} pixels; both sides must be {self.input} "
                "or more"
            )
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def dense(model: AlexNet | Classifier) -> Dense:
    """The network in its dense form; weights are copied."""
    return Dense(model)


def whole_picture(preprocess: Preprocess, picture: Source, shorter: int = 0) -> Tensor:
    """A picture of any size and shape as the dense form takes it: float32 (1, C, H, W).

    Its shorter side is brought to `shorter` pixels (0: left as it is), bilinearly as everywhere. Of a mean image the
    mean colour is subtracted, so a picture of the input's own size differs from what the network sees by the mean
    image's relief.
    """
    opened = decode(picture, preprocess.channels)
    if shorter < 0:
        raise AlexNetError(
            f"the shorter side was to be {shorter} pixels; give a number of them, or 0 to leave it as it is."
        )
    if shorter:
        scale = shorter / min(opened.size)
        size = max(shorter, round(opened.width * scale)), max(shorter, round(opened.height * scale))
        if size[0] * size[1] > LARGEST:
            raise AlexNetError(
                f"a picture of {opened.width:,} x {opened.height:,} pixels would become one of {size[0]:,} x "
                f"{size[1]:,}, more than {LARGEST:,} in all; cut it into parts, or give a smaller shorter side."
            )
        opened = opened.resize(size, Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(opened.height, opened.width, preprocess.channels).permute(2, 0, 1)[None]
    return preprocess.divide(pixels.float() - preprocess.mean.mean((1, 2), keepdim=True).cpu())


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is a fully connected one that does nothing beyond its weights; those may be parametrized."""
    kind = type(layer).__base__ if parametrize.is_parametrized(layer) else type(layer)
    return kind in (nn.Linear, own.GroupedLinear) and not fast.touched(layer)


def _convolution(layer: nn.Linear, shape: tuple[int, ...]) -> nn.Conv2d:
    """A fully connected layer as the convolution that sees all of a map (C, h, w), or one pixel of units."""
    groups = layer.groups if isinstance(layer, own.GroupedLinear) else 1
    channels, height, width = shape if len(shape) == 3 else (math.prod(shape), 1, 1)
    weight, bias = layer.weight, layer.bias
    made = nn.Conv2d(
        channels, len(weight), (height, width), groups=groups, bias=bias is not None, device=weight.device,
        dtype=weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(weight.reshape(made.weight.shape))
        made.weight.requires_grad_(weight.requires_grad)
        if made.bias is not None:
            made.bias.copy_(bias)
            made.bias.requires_grad_(bias.requires_grad)
    return made
