"""Weights with everything that later commands would otherwise ask for, and the state of a run that can go on.

`*.safetensors` hold the weights, the mean image and, as JSON in the header, variant, class names and preprocessing.
`state.pt` holds plain data (`torch.load(weights_only=True)` reads it). Each is written whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alexnet.base import hints, metrics
from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_whole
from alexnet.data.preprocess import Preprocess
from alexnet.networks.model import AlexNet, seeded_build
from alexnet.networks.variants import VARIANTS
from alexnet.weights import formats, huggingface, native, published
from alexnet.weights.base import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alexnet.engines.base import Engine
    from alexnet.inference.features import Features
    from alexnet.inference.prediction import Prediction

LAST, BEST, STATE, RECIPE, METRICS = (
    "model.safetensors",
    "best.safetensors",
    "state.pt",
    "recipe.toml",
    "metrics.jsonl",
)
# Where folders of Hugging Face have their weights.
OF_OTHERS = ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
NAMES = (LAST, BEST, STATE, RECIPE, METRICS)  # a folder with any of them holds a run


@dataclass
class Classifier:
    """A network with its preprocessing and class names.

    `.model` is in eval mode: preprocessed float32 pictures (N, C, input, input) -> float32 logits (N, classes).
    `.engine`, where there is one, answers in its stead; `.exported` names the engine of an export without layers.
    """

    model: AlexNet
    preprocess: Preprocess
    classes: list[str]
    origin: str = ""  # where the weights come from, in words
    engine: Engine | None = None
    exported: str = ""
    trained: dict[str, Any] = field(default_factory=dict)  # of a run: step, digest of its data and what it held out
    naming: str = ""  # not empty: the class names are numbers or ImageNet's, for the file has none

    def predict(self, pictures, topk: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `topk` most probable classes of each picture (paths, bytes, PIL images or uint8 arrays), in order."""
        from alexnet.inference.prediction import predict

        return predict(self, pictures, topk=topk, batch_size=batch_size)

    def features(self, pictures, layers="fc7", pool=None, batch_size: int = 64) -> Iterator[Features]:
        """The outputs of layers by name for each picture, one by one in order; `alexnet.features`."""
        from alexnet.inference.features import features

        return features(self, pictures, layers, pool, batch_size)

    def save(self, path: str | Path) -> list[Path]:
        """Write a new file in the format of its ending (.safetensors, .pth, .caffemodel, .onnx; a name without one is
        a folder as Hugging Face has models); the files made."""
        if self.exported:
            raise AlexNetError("an export has no weights to save; save the model that it was exported from.")
        found = weights_of(self)
        return formats.write(
            replace(found, tensors={k: x.detach().cpu() for k, x in found.tensors.items()}), Path(path)
        )

    def __repr__(self) -> str:
        """In one line: the network, what it knows, what it sees, where it is and where its weights come from."""
        name, sizes = self.model.variant.name, self.preprocess
        where = self.exported or (self.engine.words if self.engine else str(self.device))
        come = f", {self.origin}" if self.origin else ""
        return (
            f"<Classifier: {name}, {len(self.classes):,} classes, input {sizes.input} of {sizes.stored} pixels, "
            f"{where}{come}>"
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.exported else next(self.model.parameters()).device


def find(path: str | Path) -> Path:
    """The file of weights that MODEL means, hints aside: a folder's, a file, or published weights, fetched by name."""
    path, _ = hints.split(path)
    file = Path(path)
    if not file.exists():
        name = str(path)
        if name not in published.PUBLISHED:
            hint = " (it is a variant, which has no weights before it is trained)" if name in VARIANTS else ""
            raise AlexNetError(
                f"MODEL {name} does not exist{hint}; give a run folder, a file of weights, or one of the published "
                f"weights: {', '.join(published.PUBLISHED)}."
            )
        file = published.fetch(name, quiet=False)
    if file.is_dir():
        for name in (LAST, *OF_OTHERS):
            if (file / name).exists():
                return file / name
        raise AlexNetError(
            f"MODEL {path} is a folder without {LAST}; give a folder that alexnet train has made, after its first "
            "checkpoint, or one of Hugging Face's."
        )
    return file


def told(path: str | Path) -> hints.Hints:
    """The hints of MODEL, and of published weights what their file does not say."""
    name, given = hints.split(path)
    known = None if Path(name).exists() else published.PUBLISHED.get(name)
    return replace(given, square=given.square or known.square) if known else given


def chosen(path: str, weights: str | None) -> str:
    """MODEL with the `best` or the `last` of a run folder's weights, where one of them is asked for."""
    if weights is None:
        return path
    if not Path(path).is_dir():
        raise AlexNetError(
            f"--weights {weights} chooses among the weights of a run folder, and MODEL {path} is none; leave it out."
        )
    file = Path(path) / {"best": BEST, "last": LAST}[weights]
    if not file.exists():
        raise AlexNetError(
            f"MODEL {path} has no {file.name}; give a folder that alexnet train has made, after its first "
            f"{'epoch' if weights == 'best' else 'checkpoint'}."
        )
    return str(file)


def better(folder: Path, trained: Mapping[str, Any]) -> str:
    """What to say of a run whose weights are not those of its lowest validation error; "" where they are."""
    epochs = [line for line in metrics.read(folder / METRICS) if line["kind"] == "epoch"]
    best = metrics.best(folder / METRICS)
    if best is None or not (folder / BEST).exists() or trained.get("step") in (None, best["step"]):
        return ""
    if epochs[-1]["valid_top1_error"] == best["valid_top1_error"]:
        return ""
    return (
        f"epoch {best['epoch']} had the lowest validation error, {100 * best['valid_top1_error']:.2f} % (epoch "
        f"{epochs[-1]['epoch']}, the last: {100 * epochs[-1]['valid_top1_error']:.2f} %); its weights are "
        f"{folder / BEST}, for other commands too: --weights best"
    )


def load(
    path: str | Path, device: str | torch.device = "cpu", engine: str | None = None, batch_size: int = 64,
    say: Callable[[str], object] = lambda text: None, *, variant: str | None = None, classes: str | Path | None = None,
    mean: str | Path | None = None, key: str | None = None, order: str | None = None, square: str | None = None,
) -> Classifier:  # fmt: skip
    """The classifier in a run folder (its last weights), a file of weights of any format, or published ones by name.

    The last six say what a file may not: its network, names of classes (a file, or the order imagefolder or numeric),
    mean, which of several sets of weights it is, in a .npy the order of fc6's inputs (chw, hwc), and, where it is not
    to be as the file says, how a picture becomes a square (crop, squash, torchvision).

    Files of `alexnet export` (.onnx, .xml) are taken too. `engine` (auto, torch, onnx, openvino) computes the answers
    of `predict` and `evaluate`; `auto` tries which is the fastest with batches of `batch_size`, and says so.
    """
    from alexnet import engines
    from alexnet.engines import exported

    said = {"variant": variant, "classes": classes, "mean": mean, "key": key, "order": order, "square": square}
    path = hints.joined(path, said)
    file, given = find(path), told(path)
    if exported.recognises(file):
        if needless := [key for key in given.given() if key != "square"]:
            raise AlexNetError(f"MODEL {file} is an export, which says all itself; leave out --{needless[0]}.")
        found = exported.load(file)
        if given.square:
            found = replace(found, preprocess=replace(found.preprocess, square=given.square))
    else:
        found = built(formats.read(file, given), device, file)
    return engines.attach(found, engine, batch_size, say)


def built(found: formats.Weights, device: str | torch.device = "cpu", file: str | Path = "") -> Classifier:
    """The classifier of weights that were read; `file` names them in errors."""
    channels, input = found.preprocess.channels, found.preprocess.input
    try:
        model = seeded_build(0, found.variant, len(found.classes), channels, input, found.changes)
        model.load_state_dict(found.tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"MODEL {file or found.origin} does not fit together ({first_line(error)}); it was changed or damaged: "
            "copy it again."
        ) from None
    network = model.to(device).eval()
    network.pretrained_cfg = huggingface.pretrained_cfg(network.variant, len(found.classes), found.preprocess)
    return Classifier(
        network, found.preprocess, found.classes, found.origin, trained=found.trained, naming=found.naming
    )


def weights_bytes(
    model: AlexNet, preprocess: Preprocess, classes: list[str], origin: str, trained: dict[str, Any] | None = None
) -> bytes:
    """The contents of a file of weights; `origin` says in words where they come from, `trained` in figures."""
    return native.to_bytes(weights_of(Classifier(model, preprocess, classes, origin, trained=trained or {})))


def weights_of(classifier: Classifier) -> formats.Weights:
    """The classifier's weights with all that belongs to them, as files hold them."""
    model, preprocess = classifier.model, classifier.preprocess
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    return formats.Weights(
        model.variant.name, tensors, classifier.classes, preprocess, model.changes, classifier.origin,
        classifier.trained, classifier.naming,
    )  # fmt: skip


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values so that `read_state` gives them back."""
    write_whole(path, lambda file: torch.save(state, file))


def read_state(path: Path) -> dict[str, Any]:
    """The state that `write_state` saved; no code in the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["step"]
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise AlexNetError(
            f"{path} is not a whole state of a run ({first_line(error)}), so it cannot go on; train anew elsewhere."
        ) from None
    return state
