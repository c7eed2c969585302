"""From MODEL, as a user names it, to a classifier whose answers an engine computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alexnet.base import hints, metrics
from alexnet.base.device import choose_device
from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.base.run_files import BEST, LAST, METRICS
from alexnet.engines import ENGINES
from alexnet.networks.variants import VARIANTS
from alexnet.weights import formats, published
from alexnet.weights.classifier import Classifier, built, weights_of

# Where folders of Hugging Face have their weights.
OF_OTHERS = ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_weights(path: str | Path) -> Path:
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
        hides = " and hides the published weights of that name" if str(path) in published.PUBLISHED else ""
        raise AlexNetError(
            f"MODEL {path} is a folder without {LAST}{hides}; give a folder that alexnet train has made, after its "
            "first checkpoint, or one of Hugging Face's."
        )
    return file


def all_hints(path: str | Path) -> hints.Hints:
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


def load_classifier(
    path: str | Path, device: str | torch.device = "cpu", engine: str | None = None, batch_size: int = 64,
    say: Callable[[str], object] = lambda text: None, **said: str | Path | None,
) -> Classifier:  # fmt: skip
    """What `alexnet.load` gives, less its methods that answer; `said` are what a file may not say (base/hints.py)."""
    from alexnet.engines import exported

    path = hints.with_hints(path, said)
    file, given = find_weights(path), all_hints(path)
    if exported.recognises(file):
        if needless := [key for key in given.given() if key != "square"]:
            raise AlexNetError(f"MODEL {file} is an export, which says all itself; leave out --{needless[0]}.")
        found = exported.load_export(file)
        if given.square:
            found = replace(found, preprocess=replace(found.preprocess, square=given.square))
    else:
        found = built(formats.read(file, given), choose_device(device), file)
    return attach(found, engine, batch_size, say)


def device_for(engine: str | None, device: str | torch.device) -> str | torch.device:
    """The device that an engine leaves open: onnx and openvino compute on the CPU alone."""
    if engine is not None and engine not in ENGINES:
        raise AlexNetError(f"--engine was given '{engine}'; it takes {', '.join(ENGINES)}.")
    if engine not in ("onnx", "openvino"):
        return device
    if str(device).partition(":")[0] not in ("auto", "cpu"):
        raise AlexNetError(f"--engine {engine} computes on the CPU; leave out --device {device}, or --engine.")
    return "cpu"


def check_engine(engine: str | None, world: World) -> None:
    """Refuse a trial of engines in each of several processes: they would choose differently, and answer so."""
    if engine == "auto" and world.size > 1:
        raise AlexNetError("--engine auto is tried in one process; name torch, onnx or openvino under torchrun.")


def attach(
    classifier: Classifier, engine: str | None, batch_size: int = 64, say: Callable[[str], object] = lambda text: None
) -> Classifier:
    """The classifier with its answers from the named engine, in float32; None leaves it as it is.

    `auto` is the fastest of a trial with batches of `batch_size`, 8-bit weights and bfloat16 included where their
    answers are within the trial's bounds of torch's; with a GPU it is torch. `say` gets what was chosen and why.
    """
    if engine is None:
        return classifier
    device_for(engine, classifier.device.type)
    if classifier.exported:
        if engine not in ("auto", classifier.exported):
            raise AlexNetError(
                f"--engine {engine} was asked for, but MODEL is an export that {classifier.exported} runs; leave "
                "--engine out, or give the model that it was exported from."
            )
        return classifier
    if engine == "torch":
        return replace(classifier, engine=None)
    if engine == "auto":
        from alexnet.engines import choosing

        if classifier.device.type != "cpu":
            say(f"engine: torch, because the other engines do not use {classifier.device.type}")
            return replace(classifier, engine=None)
        chosen = choosing.choose_engine(classifier, batch_size)
        say(chosen.words)
        return replace(classifier, engine=None if chosen.plain else chosen.engine)
    from alexnet.engines import onnx, openvino
    from alexnet.engines.base import FLOAT32
    from alexnet.weights.onnx_writer import to_bytes

    contents = to_bytes(weights_of(classifier), preprocessing=True)
    if engine == "onnx":
        return replace(classifier, engine=onnx.make_engine(contents, classifier.preprocess, FLOAT32))
    return replace(classifier, engine=openvino.make_engine(openvino.read(contents), classifier.preprocess, FLOAT32))
