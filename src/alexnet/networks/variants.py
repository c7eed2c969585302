"""Every network as data: a tuple of layer records. `model.py` builds them; nothing else is needed for a new one.

Sources: Krizhevsky, Sutskever, Hinton, NIPS 2012 ("paper"); the 2012 source, net 145 ("code"); Krizhevsky,
arXiv 1404.5997 ("OWT"). Layers carry the field's names, and stand in the order in which they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from alexnet.base.errors import AlexNetError, did_you_mean

# Standard deviation of the initial weights: a number; He's sqrt(2 / fan-in), each unit's weights centred so that the
# mean brightness of its input does not drive it; or what torch.nn does by itself.
Init = float | Literal["he", "torch"]


@dataclass(frozen=True)
class Conv:
    """Cross-correlation; with `ceil` zeros are added at right and bottom so that no column or row is left out."""

    name: str
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    ceil: bool = False
    std: Init = 0.01
    bias: float = 0.0
    decay_mult: float = 1.0  # × the recipe's weight decay


@dataclass(frozen=True)
class Local:
    """A convolution with weights and biases of its own at every position (docs/facts.md 8)."""

    name: str
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0
    std: float = 0.01
    bias: float = 0.0
    decay_mult: float = 1.0


@dataclass(frozen=True)
class FC:
    """Fully connected; `units=None` is one unit a class."""

    name: str
    units: int | None
    std: Init = 0.01
    bias: float = 0.0
    groups: int = 1  # towers that see only their own part of the input
    decay_mult: float = 1.0


@dataclass(frozen=True)
class ReLU:
    name: str


@dataclass(frozen=True)
class Tanh:
    name: str


@dataclass(frozen=True)
class LRN:
    """x · (k + alpha/size · Σ x²)^-beta over `size` neighbouring maps, each tower by itself (code).

    `divided=False` is the formula as the paper prints it (§3.3): alpha multiplies the sum.
    """

    name: str
    towers: int = 1
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    divided: bool = True


@dataclass(frozen=True)
class WithinMapNorm:
    """x · (1 + alpha/size² · Σ x²)^-beta over size × size positions of one map (code only; not in the paper)."""

    name: str
    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation of each map; under several processes over the whole batch."""

    name: str


@dataclass(frozen=True)
class MaxPool:
    """Overlapping where kernel > stride; windows that overhang are clipped at the border.

    Where several inputs of a window are its maximum, the gradient goes to the `first` in reading order, as everywhere
    today, or in full to `all` of them, as in the 2012 code (facts.md 2.3). With float32 maps of photographs ties are
    zeros, whose gradient the ReLU drops anyway; with bfloat16 they are common.
    """

    name: str
    kernel: int = 3
    stride: int = 2
    ties: Literal["first", "all"] = "first"
    ceil: bool = True  # off: columns and rows that fill no whole window are left out


@dataclass(frozen=True)
class AvgPool:
    """As MaxPool with means; a window that overhangs is divided by what is left of it (docs/facts.md 8)."""

    name: str
    kernel: int = 3
    stride: int = 2


@dataclass(frozen=True)
class Dropout:
    """`inverted=False`: units × 0/1 in training, × (1 - rate) otherwise (2012); True: rescaled in training."""

    name: str
    rate: float = 0.5
    inverted: bool = False


@dataclass(frozen=True)
class Softmax:
    name: str


Weighted = Conv | Local | FC  # layers with weights and biases that records describe
Layer = Weighted | ReLU | Tanh | LRN | WithinMapNorm | BatchNorm | MaxPool | AvgPool | Dropout | Softmax


@dataclass(frozen=True)
class Variant:
    """A network, the size at which its pictures are stored and the size of the crop it sees.

    Pixels are 0-255; the training set's mean image is subtracted, then they are divided by `pixel_scale`.
    """

    name: str
    source: str
    stored: int
    input: int
    layers: tuple[Layer, ...]
    pixel_scale: float = 1.0
    classes: int = 1000  # of the data that it was designed for
    adapt: bool = False  # whether the first fully connected layer is of the size that any input's maps ask for


def _net145(towers: int) -> tuple[Layer, ...]:
    return (
        Conv("conv1", 96, 11, stride=4, ceil=True),
        LRN("norm1", towers),
        MaxPool("pool1"),
        ReLU("relu1"),
        Conv("conv2", 256, 5, pad=2, groups=towers, bias=1.0),
        ReLU("relu2"),
        LRN("norm2", towers),
        WithinMapNorm("norm2b"),
        MaxPool("pool2"),
        Conv("conv3", 384, 3, pad=1, std=0.03),
        ReLU("relu3"),
        Conv("conv4", 384, 3, pad=1, groups=towers, std=0.03, bias=1.0),
        ReLU("relu4"),
        Conv("conv5", 256, 3, pad=1, groups=towers, std=0.03, bias=1.0),
        MaxPool("pool5"),
        ReLU("relu5"),
        FC("fc6", 4096, bias=1.0),
        ReLU("relu6"),
        Dropout("drop6"),
        FC("fc7", 4096, bias=1.0),
        ReLU("relu7"),
        Dropout("drop7"),
        FC("fc8", None),
        Softmax("prob"),
    )


def _owt() -> tuple[Layer, ...]:
    def conv(name: str, filters: int, kernel: int, stride: int, pad: int) -> Conv:
        return Conv(name, filters, kernel, stride, pad, std="torch")

    return (
        conv("conv1", 64, 11, 4, 2),
        ReLU("relu1"),
        MaxPool("pool1", ceil=False),
        conv("conv2", 192, 5, 1, 2),
        ReLU("relu2"),
        MaxPool("pool2", ceil=False),
        conv("conv3", 384, 3, 1, 1),
        ReLU("relu3"),
        conv("conv4", 256, 3, 1, 1),
        ReLU("relu4"),
        conv("conv5", 256, 3, 1, 1),
        ReLU("relu5"),
        MaxPool("pool5", ceil=False),
        Dropout("drop6", inverted=True),
        FC("fc6", 4096, std="torch"),
        ReLU("relu6"),
        Dropout("drop7", inverted=True),
        FC("fc7", 4096, std="torch"),
        ReLU("relu7"),
        FC("fc8", None, std="torch"),
        Softmax("prob"),
    )


def _small(filters: tuple[int, int, int, int, int], units: int, conv1_stride: int) -> tuple[Layer, ...]:
    """The plan at 32 or 64 pixels: CaffeNet's order (norms after pooling, a quarter of the work), He's weights,
    LRN with k = 1 as in the author's CIFAR-10 nets (docs/facts.md 8)."""
    c1, c2, c3, c4, c5 = filters
    return (
        Conv("conv1", c1, 5, stride=conv1_stride, pad=2, std="he"),
        MaxPool("pool1"),
        ReLU("relu1"),
        LRN("norm1", 2, k=1.0),
        Conv("conv2", c2, 5, pad=2, groups=2, std="he"),
        MaxPool("pool2"),
        ReLU("relu2"),
        LRN("norm2", 2, k=1.0),
        Conv("conv3", c3, 3, pad=1, std="he"),
        ReLU("relu3"),
        Conv("conv4", c4, 3, pad=1, groups=2, std="he"),
        ReLU("relu4"),
        Conv("conv5", c5, 3, pad=1, groups=2, std="he"),
        MaxPool("pool5"),
        ReLU("relu5"),
        FC("fc6", units, std="he"),
        ReLU("relu6"),
        Dropout("drop6"),
        FC("fc7", units, std="he"),
        ReLU("relu7"),
        Dropout("drop7"),
        FC("fc8", None),
        Softmax("prob"),
    )


def _cifar18() -> tuple[Layer, ...]:
    """The author's "18 %" net: three convolutions, within-map norms, a last layer with 250 times the decay."""
    return (
        Conv("conv1", 32, 5, pad=2, std=1e-4),
        MaxPool("pool1"),
        ReLU("relu1"),
        WithinMapNorm("norm1", 3, 5e-5),
        Conv("conv2", 32, 5, pad=2),
        ReLU("relu2"),
        AvgPool("pool2"),
        WithinMapNorm("norm2", 3, 5e-5),
        Conv("conv3", 64, 5, pad=2),
        ReLU("relu3"),
        AvgPool("pool3"),
        FC("fc10", None, decay_mult=250.0),
        Softmax("prob"),
    )


def _cifar13() -> tuple[Layer, ...]:
    """The author's "13 %" net, which is the paper's four-layer one: two convolutions, two local layers."""
    return (
        Conv("conv1", 64, 5, pad=2, std=1e-4, decay_mult=0.0),
        ReLU("relu1"),
        MaxPool("pool1"),
        Conv("conv2", 64, 5, pad=2, decay_mult=0.0),
        ReLU("relu2"),
        MaxPool("pool2"),
        Local("local3", 32, 3, pad=1, std=0.04),
        ReLU("relu3"),
        Local("local4", 32, 3, pad=1, std=0.04),
        ReLU("relu4"),
        FC("fc10", None),
        Softmax("prob"),
    )


def _cifar11() -> tuple[Layer, ...]:
    """The "11 %" net of cuda-convnet 1: the 13 % net with a norm between each convolution's ReLU and its pooling."""
    layers = list(_cifar13())
    for number in (1, 2):
        at = [layer.name for layer in layers].index(f"pool{number}")
        layers.insert(at, LRN(f"norm{number}", alpha=1e-3, k=1.0))
    return tuple(layers)


def _paper() -> tuple[Layer, ...]:
    """The text of the paper, §3 and §5: ReLU, then normalisation by the printed formula; sigma 0.01 everywhere."""
    return (
        Conv("conv1", 96, 11, stride=4, ceil=True),
        ReLU("relu1"),
        LRN("norm1", 2, divided=False),
        MaxPool("pool1"),
        Conv("conv2", 256, 5, pad=2, groups=2, bias=1.0),
        ReLU("relu2"),
        LRN("norm2", 2, divided=False),
        MaxPool("pool2"),
        Conv("conv3", 384, 3, pad=1),
        ReLU("relu3"),
        Conv("conv4", 384, 3, pad=1, groups=2, bias=1.0),
        ReLU("relu4"),
        Conv("conv5", 256, 3, pad=1, groups=2, bias=1.0),
        ReLU("relu5"),
        MaxPool("pool5"),
        *_net145(2)[-8:],
    )


SMALL64 = (64, 192, 384, 384, 256)


def _small_ablations() -> dict[str, tuple[str, tuple[Layer, ...]]]:
    """alexnet64 as net 145 was taken apart (facts.md 7.2), by the suffix of its name; 28, 14, 7 and 3 pixels in all."""
    whole = _small(SMALL64, 1536, 2)
    one = {name: {"groups": 1} for name in ("conv2", "conv4", "conv5")} | {f"norm{n}": {"towers": 1} for n in (1, 2)}
    widths = {f"conv{n}": {"filters": SMALL64[n - 1] // 2} for n in (1, 2, 3, 4)}
    half = {name: one.get(name, {}) | widths.get(name, {}) for name in {**one, **widths}}
    pools = {name: {"kernel": 2, "ceil": False} for name in ("pool1", "pool2", "pool5")}
    return {
        "half": ("one tower, conv5 and the fully connected layers not halved (paper §3.2)", _changed(whole, half)),
        "nonorm": ("no normalisation (paper §3.3)", _without(whole, "norm1", "norm2")),
        "nonoverlap": ("pooling without overlap (paper §3.4)", _changed(whole, pools)),
        "no_conv3": ("without conv3 (paper §7)", _without(whole, "conv3", "relu3")),
        "no_conv4": ("without conv4 (paper §7)", _without(whole, "conv4", "relu4")),
    }


def _small_initial() -> dict[str, tuple[str, tuple[Layer, ...]]]:
    """alexnet64 from three kinds of initial weights in place of He's (docs/facts.md 3), by the suffix of its name."""

    def begun(below: float, middle: float, bias: float) -> tuple[Layer, ...]:
        stds = dict.fromkeys(WEIGHTS, below) | dict.fromkeys(("conv3", "conv4", "conv5"), middle)
        biases = dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), bias)
        fields = {name: {"std": std, "bias": biases.get(name, 0.0)} for name, std in stds.items()}
        return _changed(_small(SMALL64, 1536, 2), fields)

    return {
        "sigma03": (
            "initial weights of the 2012 code: sigma 0.03 in conv3 to conv5, biases of 1",
            begun(0.01, 0.03, 1.0),
        ),
        "sigma01": ("initial weights of the paper's text: sigma 0.01, biases of 1", begun(0.01, 0.01, 1.0)),
        "bias01": ("initial weights as Caffe's: sigma 0.01, biases of 0.1", begun(0.01, 0.01, 0.1)),
    }


def _bvlc() -> tuple[Layer, ...]:
    """Caffe's bvlc_alexnet (docs/facts.md 10): LRN over all maps with k = 1, biases of 0.1, inverted dropout."""
    changed = {"norm1": {"towers": 1, "k": 1.0, "divided": True}, "norm2": {"towers": 1, "k": 1.0, "divided": True}}
    changed |= {name: {"bias": 0.1} for name in ("conv2", "conv4", "conv5")}
    changed |= {name: {"bias": 0.1, "std": 0.005} for name in ("fc6", "fc7")}
    changed |= {name: {"inverted": True} for name in ("drop6", "drop7")}
    return _changed(_paper(), changed)


def _caffenet() -> tuple[Layer, ...]:
    """Caffe's CaffeNet (docs/facts.md 10): bvlc_alexnet with pooling before normalisation and biases of 1."""
    one = {name: {"bias": 1.0} for name in ("conv2", "conv4", "conv5", "fc6", "fc7")}
    layers = list(_changed(_bvlc(), one))
    for number in (1, 2):
        names = [layer.name for layer in layers]
        norm, pool = names.index(f"norm{number}"), names.index(f"pool{number}")
        layers[norm], layers[pool] = layers[pool], layers[norm]
    return tuple(layers)


def _matconvnet() -> tuple[Layer, ...]:
    """MatConvNet's own training of bvlc_alexnet: batch normalisation in place of LRN, which its weights have taken in
    since (docs/facts.md 10)."""
    return _without(_bvlc(), "norm1", "norm2")


def _zoo() -> tuple[Layer, ...]:
    """The ONNX zoo's bvlcalexnet: Caffe's net, cut to 224 pixels: 54, 26, 12 and 6 (docs/facts.md 10)."""
    return _changed(_bvlc(), {"conv1": {"ceil": False}, "pool1": {"ceil": False}, "pool2": {"ceil": False}})


def _cc2() -> tuple[Layer, ...]:
    """cuda-convnet2's one-tower net of 2014 with norms after conv1 and conv2 and fc8's biases at -7 (facts.md 9.2)."""
    widths = {name: {"filters": filters} for name, filters in (("conv1", 64), ("conv2", 192), ("conv4", 256))}
    return _without(_changed(_net145(1), {**widths, "fc8": {"bias": -7.0}}), "norm2b")


def _apart() -> tuple[Layer, ...]:
    """Net 150: towers that never meet before fc8, conv2 and the fully connected layers widened."""
    wide = {"units": 8192, "groups": 2}
    return _changed(_net145(2), {"conv2": {"filters": 320}, "conv3": {"groups": 2}, "fc6": wide, "fc7": wide})


def _half() -> tuple[Layer, ...]:
    """Net 145-half: one tower, conv5 and the fully connected layers not halved (paper fn 2)."""
    widths = {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192}
    return _changed(_net145(1), {name: {"filters": filters} for name, filters in widths.items()})


def _nonoverlap() -> tuple[Layer, ...]:
    """Net 147: pooling 2 / 2; other paddings keep 6 x 6 maps at the end."""
    pools = {name: {"kernel": 2} for name in ("pool1", "pool2", "pool5")}
    return _changed(_net145(2), {**pools, "conv2": {"pad": 1}, "conv5": {"pad": 0}})


def _conv6() -> tuple[Layer, ...]:
    """Net 146: a sixth convolution on the 6 x 6 maps, seeing both towers (docs/facts.md 1.3)."""
    layers = _net145(2)
    at = [layer.name for layer in layers].index("relu5") + 1
    return (*layers[:at], Conv("conv6", 256, 3, pad=1, std=0.03, bias=1.0), ReLU("relu_conv6"), *layers[at:])


def _bn() -> tuple[Layer, ...]:
    """The paper's plan with batch normalisation where it has LRN, before ReLU."""
    layers = [x for x in _without(_paper(), "relu1", "relu2")]
    for number in (1, 2):
        at = [layer.name for layer in layers].index(f"norm{number}")
        layers[at : at + 1] = [BatchNorm(f"norm{number}"), ReLU(f"relu{number}")]
    return _changed(tuple(layers), {name: {"std": "he", "bias": 0.0} for name in WEIGHTS})


WEIGHTS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


def _changed(layers: tuple[Layer, ...], changes: Mapping[str, Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers with some fields of some of them changed, by name."""
    return tuple(replace(layer, **changes.get(layer.name, {})) for layer in layers)


def _without(layers: tuple[Layer, ...], *names: str) -> tuple[Layer, ...]:
    """The layers without those of the given names."""
    return tuple(layer for layer in layers if layer.name not in names)


VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("alexnet2012", "the network that won ILSVRC-2012: 2012 source, net 145", 256, 224, _net145(2)),
        Variant("alexnet_paper", "the text of the paper, §3 and §5", 256, 224, _paper()),
        Variant("alexnet_single", "net 145 without towers, as most tutorials draw it", 256, 224, _net145(1)),
        Variant("alexnet2012_half", "one GPU's half of net 145 (paper §3.2)", 256, 224, _half()),
        Variant("alexnet2012_nonoverlap", "net 147: pooling without overlap (paper §3.4)", 256, 224, _nonoverlap()),
        Variant(
            "alexnet2012_nonorm",
            "net 148: no normalisation (paper §3.3)",
            256,
            224,
            _without(_net145(2), "norm1", "norm2", "norm2b"),
        ),
        Variant("alexnet2012_apart", "net 150: towers that never meet before fc8", 256, 224, _apart()),
        Variant("alexnet2012_conv6", "net 146: a sixth convolution, for more classes (paper §6)", 256, 224, _conv6()),
        Variant(
            "alexnet2012_no_conv3", "net 145 without conv3 (paper §7)", 256, 224, _without(_net145(2), "conv3", "relu3")
        ),
        Variant(
            "alexnet2012_no_conv4", "net 145 without conv4 (paper §7)", 256, 224, _without(_net145(2), "conv4", "relu4")
        ),
        Variant("alexnet_cc2", "cuda-convnet2's one-tower net of 2014: OWT with norms", 256, 224, _cc2()),
        Variant("bvlc_alexnet", "Caffe's bvlc_alexnet of 2013", 256, 227, _bvlc()),
        Variant("caffenet", "Caffe's CaffeNet of 2013: pooling before normalisation", 256, 227, _caffenet()),
        Variant("bvlc_alexnet_zoo", "bvlc_alexnet as in the ONNX zoo, at 224 pixels", 256, 224, _zoo()),
        Variant("matconvnet_alexnet", "MatConvNet's bvlc_alexnet, no norms left", 256, 227, _matconvnet()),
        Variant("alexnet_bn", "the paper's plan with batch normalisation", 256, 224, _bn(), 64.0),
        Variant("cifar10_18", "the author's 18 % net for CIFAR-10 (docs/facts.md 8)", 32, 32, _cifar18(), classes=10),
        Variant(
            "cifar10_13",
            "the author's 13 % net for CIFAR-10, without norms (paper §3.3)",
            32,
            24,
            _cifar13(),
            classes=10,
        ),
        Variant(
            "cifar10_11", "the author's 11 % net for CIFAR-10, with LRN (paper §3.3)", 32, 24, _cifar11(), classes=10
        ),
        # torchvision divides by std ~0.226 of [0, 1] pixels: 57.6 grey levels.
        Variant("alexnet_owt", "OWT as released in 2014 and in torchvision", 256, 224, _owt(), 57.6),
        Variant("alexnet64", "the plan for 64-pixel pictures", 64, 56, _small(SMALL64, 1536, 2), 64.0),
        *(
            Variant(f"alexnet64_{suffix}", f"alexnet64: {words}", 64, 56, layers, 64.0)
            for suffix, (words, layers) in _small_ablations().items()
        ),
        *(  # the author's sigmas belong to pixels that are not scaled
            Variant(f"alexnet64_{suffix}", f"alexnet64: {words}", 64, 56, layers)
            for suffix, (words, layers) in _small_initial().items()
        ),
        Variant(
            "alexnet32",
            "the plan for 32-pixel pictures",
            32,
            28,
            _small((64, 128, 256, 256, 256), 1024, 1),
            64.0,
        ),
    )
}


def variant(name: str) -> Variant:
    """The variant of that name; an unknown one is an error that names the nearest."""
    name = str(name)
    if name in VARIANTS:
        return VARIANTS[name]
    raise AlexNetError(
        f"there is no variant '{name:.60}'{did_you_mean(name, VARIANTS)} The variants are {', '.join(VARIANTS)}."
    )


# What can depart from a variant's own layers, and the values that each takes.
CHANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "dropout": ("a share of units from 0 up to, not including, 1", lambda x: isinstance(x, float | int) and 0 <= x < 1),
    "activation": ("relu or tanh", lambda x: x in ("relu", "tanh")),
    "ties": ("first or all", lambda x: x in ("first", "all")),
    "adapt": ("true or false", lambda x: isinstance(x, bool)),
}


def changed(variant: Variant, changes: Mapping[str, Any]) -> Variant:
    """The variant with another share of units dropped (`dropout`), `activation` or rule for `ties` in max pooling, or
    for inputs of any size (`adapt`)."""
    for key, value in changes.items():
        if key not in CHANGES or not CHANGES[key][1](value):
            takes = CHANGES[key][0] if key in CHANGES else f"one of {', '.join(CHANGES)}"
            raise AlexNetError(f"{variant.name} was asked for {key} = {value!r}; it takes {takes}.")

    def change(layer: Layer) -> Layer:
        if isinstance(layer, Dropout) and "dropout" in changes:
            return replace(layer, rate=float(changes["dropout"]))
        if isinstance(layer, MaxPool) and "ties" in changes:
            return replace(layer, ties=changes["ties"])
        if isinstance(layer, ReLU) and changes.get("activation") == "tanh":
            return Tanh(layer.name.replace("relu", "tanh"))
        return layer

    return replace(variant, layers=tuple(map(change, variant.layers)), adapt=bool(changes.get("adapt")))
