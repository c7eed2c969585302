"""This project's own files: safetensors with the mean image, and JSON in the header for everything else."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from alexnet.errors import AlexNetError
from alexnet.files import write_whole
from alexnet.weights import int8
from alexnet.weights.base import Weights, check_finite, facts, first_line, from_facts

KEY = "alexnet"  # of the header's metadata; one alone, because safetensors writes several in any order


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as safetensors do: the header's length, then its brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def read(file: Path, mean: Path | None = None, variant: str | None = None) -> Weights:
    """The weights in one of our files; another program's safetensors are refused."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            if KEY not in metadata:
                raise AlexNetError(
                    f"MODEL {file} was written by another program; give a file that alexnet train has made."
                )
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            check_finite(file, tensors)
        weights = from_facts(json.loads(metadata[KEY]), int8.widened(tensors))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise AlexNetError(
            f"MODEL {file} is not a whole file of AlexNet weights ({first_line(error)}); copy it again or train anew."
        ) from None
    return weights


def write(weights: Weights, file: Path, eight_bits: bool = False) -> list[Path]:
    """Write a file; the files made."""
    write_whole(file, lambda out: out.write(to_bytes(weights, eight_bits)))
    return [file]


def to_bytes(weights: Weights, eight_bits: bool = False) -> bytes:
    """The contents of a file; with `eight_bits` its weights are whole numbers (int8.py)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    tensors["mean"] = weights.preprocess.mean.cpu().contiguous()
    if eight_bits:
        tensors = int8.narrowed(tensors)
    return save(tensors, {KEY: json.dumps(facts(weights))})
