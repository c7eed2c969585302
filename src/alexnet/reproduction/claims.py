"""The claims as data: what the paper says, which networks are trained for it, and which measure judges them.

An arm is one way of training; the first is the paper's own, the others are without what the claim is about. Sections
are those of the paper, the nets those of docs/facts.md 7.2, 8. On Tiny ImageNet the networks are forms of `alexnet64`,
whose step takes a sixth of the 2012 network's arithmetic, unless another variant is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet.base.errors import AlexNetError, did_you_mean

Kind = Literal["errors", "stated", "sooner", "views", "ensemble", "start", "neighbours", "towers"]
TINY, CIFAR = "tiny-imagenet", "cifar10"


@dataclass(frozen=True)
class Arm:
    """One way of training: a recipe with departures, `form` being appended to the variant's name.

    `first` names the data that its weights are trained on before, by the recipe tiny_imagenet. From `rates` on, the
    first seed looks for the learning rate that gets there soonest.
    """

    name: str
    recipe: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    form: str = ""
    first: str = ""
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and how it is put to the test.

    `text` says what is tested, `how` in a sentence how. `paper` is its figure in words, `figures` as numbers where it
    has any: points of top-1 and top-5 error, or times. `views` are averaged for an error. `quick` is how far a quick
    run goes: epochs, classes, pictures a class.
    """

    name: str
    section: str
    text: str
    how: str
    paper: str
    kind: Kind
    data: str
    arms: tuple[Arm, ...]
    views: int = 1
    seeds: int = 3
    figures: tuple[float | None, float | None] = (None, None)
    over: bool = False  # whether the paper says that, or more
    stated: float = 0.0  # the error that is stated for the first arm, in percent
    quick: tuple[int, int, int] = (3, 20, 100)

    def compared(self, seeds: int) -> tuple[float | None, float | None]:
        """The figures that so many seeds are set against: an ensemble's are of as many networks as the paper's."""
        return self.figures if self.kind != "ensemble" or seeds == self.seeds else (None, None)

    @property
    def own(self) -> set[str]:
        """Keys of recipes that the claim decides itself: they tell its networks apart, or are the same in all."""
        keys = {"learning_rate"} if any(arm.rates for arm in self.arms) else set()
        if not any(arm.recipe == "tiny_imagenet" for arm in self.arms):
            keys.add("variant")
        return keys.union(*(arm.sets for arm in self.arms), ALWAYS_OWN)


ALWAYS_OWN = {"seed": "--seeds N takes 0 to N - 1", "weights": "its networks begin from random ones or from its own"}
BASE = Arm("as in 2012", "tiny_imagenet")
SCRATCH = {"crops": False, "flips": False, "weight_decay": 0.0, "drops": (), "bias_drops": (), "stop_error": 0.25}


def _without(name: str, form: str = "", **sets: Any) -> Arm:
    return Arm(name, "tiny_imagenet", sets, form)


CLAIMS = {
    claim.name: claim
    for claim in (
        Claim(
            "headline",
            "§6",
            "The network of 2012, trained from scratch: the error of one net and one view.",
            "One network is trained by the recipe tiny_imagenet and asked about every validation picture once.",
            "40.7 % top-1 on ILSVRC-2012 (ten views)",
            "stated",
            TINY,
            (BASE,),
            seeds=1,
        ),
        Claim(
            "relu-vs-tanh",
            "§3.1, Fig. 1",
            "A four-layer net with ReLU reaches 25 % training error several times sooner than with tanh, each with its "
            "best learning rate.",
            "Both nets are trained without regularisation, at rates that go up and down by 2 until the best has a "
            "worse one on either side, and the ratio is of the epochs that the best rates take.",
            "about 6 times sooner",
            "sooner",
            CIFAR,
            (
                Arm("ReLU", "cifar10_13", SCRATCH, rates=(0.002,)),
                Arm("tanh", "cifar10_13", {**SCRATCH, "activation": "tanh"}, rates=(0.032,)),
            ),
            quick=(8, 10, 200),
            figures=(6.0, None),
        ),
        Claim(
            "lrn-cifar",
            "§3.3",
            "Response normalisation lowers the test error of a four-layer net on CIFAR-10.",
            "The author's net with and without normalisation is trained on the same pictures in the same order, and "
            "both are asked with nine views, as his test does.",
            "13 % without, 11 % with",
            "errors",
            CIFAR,
            (Arm("with LRN", "cifar10_11"), Arm("without LRN", "cifar10_13")),
            views=9,
            quick=(3, 10, 200),
            figures=(2.0, None),
        ),
        Claim(
            "cifar-18",
            "facts.md 8",
            "The author's net of three convolutions reaches 18 % test error without augmentation.",
            "The net of the released files is trained by their schedule, and its error on the test pictures is set "
            "against the one that they state.",
            "18 %",
            "stated",
            CIFAR,
            (Arm("18 % net", "cifar10_18"),),
            stated=18.0,
            quick=(3, 10, 200),
        ),
        Claim(
            "towers",
            "§3.2",
            "Two towers are better than one of half the width.",
            "Both are trained alike, and their answers are compared picture by picture.",
            "1.7 points top-1, 1.2 top-5 (ILSVRC-2010, ten views; ours one)",
            "errors",
            TINY,
            (BASE, _without("one tower of half the width", "_half")),
            figures=(1.7, 1.2),
        ),
        Claim(
            "lrn",
            "§3.3",
            "Response normalisation lowers the error.",
            "The same network is trained with and without it, and answers are compared picture by picture.",
            "1.4 points top-1, 1.2 top-5 (ten views; ours one)",
            "errors",
            TINY,
            (BASE, _without("without LRN", "_nonorm")),
            figures=(1.4, 1.2),
        ),
        Claim(
            "overlap",
            "§3.4",
            "Overlapping pooling lowers the error.",
            "Windows of 3 by 3 every 2 pixels are set against 2 by 2 every 2, and answers are compared picture by "
            "picture.",
            "0.4 points top-1, 0.3 top-5 (ten views; ours one)",
            "errors",
            TINY,
            (BASE, _without("without overlap", "_nonoverlap")),
            figures=(0.4, 0.3),
        ),
        Claim(
            "crops-and-flips",
            "§4.1",
            "Without random crops and flips the network overfits strongly.",
            "The network is trained on random crops and mirrored pictures, and on central crops alone.",
            "substantial overfitting without",
            "errors",
            TINY,
            (BASE, _without("central crops, no flips", crops=False, flips=False)),
        ),
        Claim(
            "colour-noise",
            "§4.1",
            "Noise along the principal axes of colour lowers the top-1 error by over a point.",
            "The network is trained with and without the noise, and answers are compared picture by picture.",
            "over 1 point top-1",
            "errors",
            TINY,
            (BASE, _without("without colour noise", colour_noise=0.0)),
            figures=(1.0, None),
            over=True,
        ),
        Claim(
            "dropout",
            "§4.2",
            "Without dropout the network overfits; with it training takes about twice the iterations.",
            "The network is trained with and without dropout in fc6 and fc7 for as many epochs; how many each takes is "
            "not tested.",
            "substantial overfitting without",
            "errors",
            TINY,
            (BASE, _without("without dropout", dropout=0.0)),
        ),
        Claim(
            "depth",
            "§7",
            "Removing any middle convolution loses about two points.",
            "The network is trained whole, without conv3 and without conv4, and answers are compared picture by "
            "picture.",
            "about 2 points top-1 each",
            "errors",
            TINY,
            (BASE, _without("without conv3", "_no_conv3"), _without("without conv4", "_no_conv4")),
            figures=(2.0, None),
        ),
        Claim(
            "ten-views",
            "§4.1",
            "Averaging ten views of a picture lowers the error.",
            "The same networks are asked with one view and with ten: the corners, the centre, and all of them "
            "mirrored.",
            "1.5 points top-1, 1.3 top-5",
            "views",
            TINY,
            (BASE,),
            views=10,
            figures=(1.5, 1.3),
        ),
        Claim(
            "ensemble",
            "Table 2",
            "Averaging five networks lowers the error.",
            "The networks of several seeds are asked apart and together, by the mean of their probabilities.",
            "2.6 points top-1, 1.8 top-5",
            "ensemble",
            TINY,
            (BASE,),
            seeds=5,
            figures=(2.6, 1.8),
        ),
        Claim(
            "pretrain",
            "Table 2",
            "Training on more data first, then fine-tuning, lowers the error.",
            "A network trained on Tiny ImageNet is fine-tuned to CIFAR-10, and one from random weights is trained "
            "on the same pictures.",
            "1.7 points top-1, 1.6 top-5",
            "errors",
            CIFAR,
            (
                Arm("pre-trained on Tiny ImageNet", "finetune", {"class_weights": False, "stop_after": 0}, first=TINY),
                Arm("from scratch", "tiny_imagenet"),
            ),
            quick=(3, 10, 100),
            figures=(1.7, None),
        ),
        Claim(
            "init-and-bias",
            "§5, facts.md 3",
            "Biases of 1 train with the code's sigma of 0.03 in conv3 to conv5; with 0.01 the loss stays flat, which "
            "Caffe mended by biases of 0.1.",
            "Three kinds of initial weights are trained alike, and their last training loss is set against that of "
            "guessing.",
            "flat with sigma 0.01 and biases of 1",
            "start",
            TINY,
            (
                _without("sigma 0.03, biases 1", "_sigma03"),
                _without("sigma 0.01, biases 1", "_sigma01"),
                _without("sigma 0.01, biases 0.1", "_bias01"),
            ),
        ),
        Claim(
            "retrieval",
            "§6.1, Fig. 4",
            "Pictures whose fc7 features are near by Euclidean distance are alike, which pixels are not.",
            "Each validation picture is asked among all others, and the share of its five nearest that have its "
            "class is counted; by fc7's outputs before their ReLU, where the paper takes them after it.",
            "a figure",
            "neighbours",
            TINY,
            (BASE,),
            seeds=1,
        ),
        Claim(
            "filters",
            "§6.1, Fig. 3",
            "In every run one tower's conv1 filters become colour-agnostic, the other's colour-specific.",
            "The share of a filter's energy that gray pictures do not see is averaged over each tower, and the "
            "difference is set against filters dealt out at random.",
            "in every run",
            "towers",
            TINY,
            (BASE,),
        ),
    )
}


def claim(name: str) -> Claim:
    """The claim of that name; an unknown one is an error that names the nearest."""
    if name not in CLAIMS:
        raise AlexNetError(
            f"there is no claim '{name}'{did_you_mean(name, CLAIMS)} The claims are {', '.join(CLAIMS)}."
        )
    return CLAIMS[name]
