"""Small real data made on the spot: coloured pictures in class folders and in parquet files, and a trained run.

`TEST_DEVICE=cuda pytest` computes on a GPU wherever a test names no device; `-m device` chooses the tests for which
that matters. The default is the CPU, on a machine with a GPU too.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from alexnet.cli import run as run_command
from alexnet.networks.variants import VARIANTS

# As the processes have that tests start: sums by other numbers of threads round otherwise.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
os.fsync = lambda file: None  # no test cuts the power, and each file waits for the disk otherwise

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))
if DEVICE.type == "cpu":  # `auto`, in this process and in those that tests start, then finds nothing else
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: a GPU's kernels then run in NumPy
    if torch.backends.mps.is_available():
        torch.backends.mps.is_available = cache(lambda: False)  # torch asks for what is cached
else:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (210, 50, 40)}
TINY = ("variant=alexnet32", "epochs=2", "batch_size=8", "learning_rate=0.002", "precision=float32", "log_every=1")
if DEVICE.type != "cpu":
    TINY = (*TINY, "deterministic=true")


def pytest_configure(config: pytest.Config) -> None:
    from alexnet.base.device import choose_device

    if choose_device().type != DEVICE.type:
        raise pytest.UsageError(f"TEST_DEVICE={DEVICE}: torch finds no such device here")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many tests wait for other processes or for clocks."""
    there = getattr(os, "sched_getaffinity", None)
    return (len(there(0)) if there else os.cpu_count() or 1) + 1


# Files that take the longest begin first, so that none of them is alone at the end.
LONG = ("test_variants", "test_export", "test_reproduction", "test_processes", "test_parallel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if DEVICE.type != "cpu":
        for item in items:
            if item.get_closest_marker("cpu"):
                item.add_marker(pytest.mark.skip(reason="about the CPU alone"))


def needs(*modules: str) -> None:
    """Skip where one is not installed; import each as the package does, so that it tells nobody."""
    from alexnet.engines.base import package

    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        package(name, "", "")


def coloured(colour: str, number: int, size: tuple[int, int] = (36, 40)) -> Image.Image:
    """A noisy picture whose colour is its class."""
    generator = np.random.default_rng([number, *COLOURS[colour]])
    noise = generator.normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def write_folders(root: Path, per_class: int, first: int = 0) -> Path:
    """root/CLASS/NUMBER.png"""
    for colour in COLOURS:
        (root / colour).mkdir(parents=True)
        for number in range(first, first + per_class):
            coloured(colour, number).save(root / colour / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that holds both data sets of the claims by name, made of coloured pictures."""
    root = tmp_path_factory.mktemp("place")
    for name in ("cifar10", "tiny-imagenet"):
        write_folders(root / name / "train", 6)
        write_folders(root / name / "val", 4, first=50)
    return root


def rows(per_class: int, first: int = 0) -> list[tuple[bytes, int]]:
    """Encoded pictures with their labels, so many of each colour."""
    return [
        (encoded(coloured(name, n)), label)
        for n in range(first, first + per_class)
        for label, name in enumerate(sorted(COLOURS))
    ]


def write_parquet(path: Path, rows: list[tuple[bytes, int]], names: list[str] | None) -> Path:
    """Hugging Face style: image {bytes, path}, label, names in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([{"bytes": b, "path": f"{i}.png"} for i, (b, _) in enumerate(rows)], image),
            "label": pa.array([label for _, label in rows], pa.int64()),
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)
    return path


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def last_json(out: str) -> dict:
    """The object that a command with --json prints last."""
    return json.loads(out.strip().splitlines()[-1])


class Bomb:
    """A pickle that would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills: once, and every process of pytest-xdist uses it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            make(root / name)
            (root / f"{name}.made").touch()
    return root / name


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """train/ and val/ class folders: 3 colours, 16 and 5 pictures each; tests must not write to it."""

    def make(root: Path) -> None:
        write_folders(root / "train", 16)
        write_folders(root / "val", 5, first=100)

    return once(tmp_path_factory, "folders", make)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, folders) -> Path:
    """A run of two epochs on the coloured pictures; tests must not write to it."""
    from alexnet import train

    sets = [*TINY, "epochs=6", "schedule=linear"]
    return once(tmp_path_factory, "tiny", lambda out: train(folders, out, "author_2012", sets))


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """Runs end without their pictures, which take longer to draw than such runs; `draws` marks who needs them."""
    from alexnet.training import plots

    if not request.node.get_closest_marker("draws"):
        monkeypatch.setattr(plots, "PICTURES", {})


@pytest.fixture
def slim(request, monkeypatch) -> None:
    """alexnet32 at reduced width, where a test trains it; what loads `tiny_run` needs the real one."""
    from narrow import narrow

    if "tiny_run" not in request.fixturenames:
        monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))


@pytest.fixture
def alexnet(capfd) -> Callable:
    """Run a command in this process: (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run_command([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def refused(alexnet) -> Callable[..., str]:
    """Run a command that must be refused: one sentence on stderr, status 2; returns the sentence."""

    def call(*arguments: object) -> str:
        status, out, err = alexnet(*arguments)
        lines = err.strip().splitlines()
        assert status == 2, (status, out, err)
        assert "Traceback" not in err
        assert lines[-1].startswith("alexnet: ")
        return lines[-1]

    return call
