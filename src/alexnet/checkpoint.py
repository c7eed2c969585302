"""Weights with everything that later commands would otherwise ask for, and the state of a run that can go on.

`*.safetensors` hold the weights, the mean image and, as JSON in the header, variant, class names and preprocessing.
`state.pt` holds plain data (`torch.load(weights_only=True)` reads it). Each is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from alexnet.errors import AlexNetError
from alexnet.model import AlexNet, seeded_build
from alexnet.preprocess import Preprocess
from alexnet.variants import VARIANTS

if TYPE_CHECKING:
    from alexnet.prediction import Prediction

FORMAT = "alexnet-1"
LAST, BEST, STATE, RECIPE, METRICS = (
    "model.safetensors",
    "best.safetensors",
    "state.pt",
    "recipe.toml",
    "metrics.jsonl",
)
NAMES = (LAST, BEST, STATE, RECIPE, METRICS)  # a folder with any of them holds a run


@dataclass
class Classifier:
    """A network with its preprocessing and class names.

    `.model` is in eval mode: preprocessed float32 pictures (N, C, input, input) -> float32 logits (N, classes).
    """

    model: AlexNet
    preprocess: Preprocess
    classes: list[str]

    def predict(self, pictures, topk: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `topk` most probable classes of each picture (paths, bytes, PIL images or uint8 arrays), in order."""
        from alexnet.prediction import predict

        return predict(self, pictures, topk=topk, batch_size=batch_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """The classifier in a run folder (its last weights) or a file of weights, on that device."""
    file = Path(path)
    if not file.exists():
        hint = ""
        if str(path) in VARIANTS:
            hint = f" ('{path}' is a variant, which has no weights: train it, or see alexnet info {path})"
        raise AlexNetError(f"MODEL {path} does not exist{hint}; give a run folder or a file of weights.")
    if file.is_dir():
        file = file / LAST
        if not file.exists():
            raise AlexNetError(
                f"MODEL {path} is a folder without {LAST}; give a folder that alexnet train has made, after its first "
                "checkpoint."
            )
    facts, tensors = read_weights(file)
    try:
        mean = tensors.pop("mean")
        preprocess = Preprocess.from_facts(facts["preprocess"], mean)
        classes = [str(name) for name in facts["classes"]]
        size = preprocess.channels, preprocess.input, facts["dropout"]
        model = seeded_build(0, facts["variant"], len(classes), *size)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"MODEL {file} does not fit together ({_first_line(error)}); it was changed or damaged: copy it again."
        ) from None
    return Classifier(model.to(device).eval(), preprocess, classes)


def read_weights(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a file of ours; anything else is an error that says what is wrong."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise AlexNetError(
                    f"MODEL {file} was written by another program; give a file that alexnet train has made."
                )
            return json.loads(metadata["facts"]), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise AlexNetError(
            f"MODEL {file} is not a whole file of AlexNet weights ({_first_line(error)}); copy it again or train anew."
        ) from None


def weights_bytes(model: AlexNet, preprocess: Preprocess, classes: list[str]) -> bytes:
    """The contents of a file of weights."""
    facts = {
        "variant": model.variant.name,
        "dropout": next((rate for _, rate in model.dropouts.values()), None),
        "classes": classes,
        "preprocess": preprocess.facts(),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors["mean"] = preprocess.mean.cpu().contiguous()
    return to_safetensors(tensors, {"format": FORMAT, "facts": json.dumps(facts)})


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Call `write(file)` on a file beside `path`, then put it in its place: a crash leaves the old or the new."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise AlexNetError(
            f"cannot write {path} ({error.strerror or error}); free space or give another place."
        ) from None
    finally:
        part.unlink(missing_ok=True)


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
            f"{path} is not a whole state of a run ({_first_line(error)}), so it cannot go on; train anew elsewhere."
        ) from None
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
