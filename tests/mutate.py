"""Break the package in thirty-six places, one at a time, and see that each turns a test red: python tests/mutate.py

A row is a file of src/alexnet, what stands there once, what is put in its place, and the tests that should see it. With
words, only rows whose file or text holds one of them are tried. The changes are made in a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PLACES = [
    # six that were once made together and left seven files green
    ("data/augmentations.py", "augment.draw_boxes(", "augment.no_such_boxes(", "test_recipe_keys.py -k crop_area"),
    (
        "training/parallel/__init__.py",
        "torch.compile(net)",
        "torch.no_such_compile(net)",
        "test_recipe_keys.py -k compile",
    ),
    (
        "base/device.py",
        "    torch.use_deterministic_algorithms(True)\n",
        "    raise ValueError\n",
        "test_recipe_keys.py -k determin",
    ),
    (
        "training/loop.py",
        "label_smoothing=run.recipe.label_smoothing",
        "label_smoothing=0.0",
        "test_recipe_keys.py -k label_smooth",
    ),
    ("data/augmentations.py", "source, recipe.chunk)", "source, 1)", "test_recipe_keys.py -k chunk"),
    ("training/run.py", "labels.are_imagenet(data.classes)", "False", "test_recipe_keys.py -k imagenet"),
    # the network
    (
        "networks/layers.py",
        "(2 * s * beta) * x * spread",
        "(s * beta) * x * spread",
        "test_variants.py -k alexnet2012-float32",
    ),
    ("networks/layers.py", "<= self.size // 2", "< self.size // 2", "test_reference.py test_model.py"),
    ("networks/layers.py", "count_include_pad=True", "count_include_pad=False", "test_reference.py test_model.py"),
    ("networks/layers.py", "mask.reshape(x.shape)", "mask", "test_precision.py -k alexnet_owt"),
    ("networks/layers.py", "else x * keep", "else x", "test_model.py test_reference.py"),
    (
        "networks/model.py",
        "math.sqrt(2 / layer.weight[0].numel())",
        "math.sqrt(1 / layer.weight[0].numel())",
        "test_model.py",
    ),
    (
        "networks/variants.py",
        'Conv("conv4", 384, 3, pad=1, groups=towers',
        'Conv("conv4", 384, 3, pad=1, groups=1',
        "test_model.py",
    ),
    ("networks/fast/cpu/blocks.py", "_MapsNorm(norm.size // 2,", "_MapsNorm(norm.size,", "test_fast.py -k float64"),
    (
        "networks/fast/cpu/conv1.py",
        "F.pad(layer.weight, (0, room, 0, room))",
        "F.pad(layer.weight, (room, 0, room, 0))",
        "test_fast.py -k by_blocks",
    ),
    # training
    ("training/optimizer.py", "old / rate)", "1.0)", "test_optimizer.py"),
    (
        "training/optimizer.py",
        "if decays else 0.0",
        "if decays else recipe.weight_decay",
        "test_recipe_keys.py -k decay",
    ),
    ("training/optimizer.py", "mults.get(layer, 1.0)", "1.0", "test_variants.py -k cifar10_18-float32"),
    (
        "training/parallel/division.py",
        "(loss * (self.world.size / everyone)).backward()",
        "(loss * self.world.size).backward()",
        "test_variants.py -k alexnet32-float32",
    ),
    (
        "training/loop.py",
        "min(position.best, result.top1_error)",
        "result.top1_error",
        "test_best.py -k best",
    ),
    ("data/augment.py", "coin & mirror", "coin", "test_augment.py"),
    ("data/augment.py", "axes)[:, :, None, None]) / (1 + amount)", "axes)[:, :, None, None])", "test_augment.py"),
    (
        "data/augment.py",
        ".repeat_interleave(chunk, 0)[:count]",
        ".repeat(chunk, 1)[:count]",
        "test_augment.py test_recipe_keys.py -k chunk",
    ),
    (
        "training/starting.py",
        "len(labels) / (classes * np",
        "len(labels) / (np",
        "test_recipe_keys.py -k class_weights",
    ),
    (
        "data/loader.py",
        "positions[positions < count]",
        "positions % count",
        "test_loader.py test_pack_reading.py -k 'order or window or once'",
    ),
    # answers
    (
        "data/preprocess.py",
        "crops.float() - mean",
        "crops.float() + mean",
        "test_variants.py -k 'answers and alexnet32-'",
    ),
    (
        "data/preprocess.py",
        "for mirrored in (False, True):",
        "for mirrored in (False, False):",
        "test_evaluation.py -k ten_views",
    ),
    ("inference/confusion.py", "labels * count + top[:, 0]", "top[:, 0] * count + labels", "test_evaluation.py"),
    ("inference/similarity.py", "vectors.norm(dim=1, keepdim=True)", "vectors.norm()", "test_similarity.py"),
    (
        "training/probing.py",
        "values.reshape(len(values), units)",
        "values.reshape(units, len(values)).T",
        "test_variants.py -k 'probe and cifar10_18'",
    ),
    # what is inside, and moving pictures
    ("inference/inside/heat.py", "rest.remove(late)", "pass", "test_inside.py -k relu_before_pooling"),
    ("inference/inside/heat.py", "input - side + stride, stride", "input - side + 1, stride", "test_inside.py -k prob"),
    ("inference/inside/fields.py", "min(places - 1, last", "max(0, last", "test_inside.py -k spoils"),
    ("inference/inside/network_svg.py", "return record.towers == 1", "return False", "test_drawing.py -k scale"),
    ("inference/moving/answering.py", "-math.expm1(", "math.exp(", "test_moving.py -k smoother"),
    ("inference/moving/reading.py", "picture.rotate(turn,", "picture.rotate(-turn,", "test_moving.py -k turned"),
]


def seen(file: str, old: str, new: str, tests: str, copy: Path) -> bool:
    """Whether the tests named turn red by the change; the copy is left as it was."""
    path = copy / "src" / "alexnet" / file
    whole = path.read_text("utf-8")
    if whole.count(old) != 1:
        raise SystemExit(f"{file} holds {whole.count(old)} times, not once: {old}")
    path.write_text(whole.replace(old, new), "utf-8")
    names, _, chosen = tests.partition(" -k ")
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
    words += [f"tests/{name}" for name in names.split()] + (["-k", chosen.strip("'")] if chosen else [])
    paths = {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(words, cwd=copy, env={**os.environ, **paths}, capture_output=True, text=True)
    finally:
        path.write_text(whole, "utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"{tests}: pytest ended with status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-500:]}"
        )
    return done.returncode == 1


def main(words: list[str]) -> int:
    chosen = [row for row in PLACES if not words or any(word in part for word in words for part in row[:3])]
    green = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(HERE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(HERE / name, copy / name)
        for file, old, new, tests in chosen:
            red = seen(file, old, new, tests, copy)
            green += not red
            print(f"{'red  ' if red else 'GREEN'}  {file}: {old.strip()} -> {new.strip() or '(nothing)'}", flush=True)
    print(f"{len(chosen) - green} of {len(chosen)} changes were seen")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
