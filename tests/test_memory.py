"""What a step needs of memory is held against what torch keeps, and where it runs out the user is told what fits."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from alexnet.base import device, limits
from alexnet.base.errors import AlexNetError
from alexnet.data import loader
from alexnet.data.dataset import Data, Split
from alexnet.data.layouts import parquet_rows
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures
from alexnet.data.preprocess import Preprocess
from alexnet.data.sources import Sources
from alexnet.inference.evaluation import evaluate
from alexnet.inference.feature_folder import gather
from alexnet.inference.prediction import stream
from alexnet.networks import fast
from alexnet.networks.model import AlexNet, seeded_build
from alexnet.networks.variants import variant
from alexnet.training import loop
from alexnet.training.memory import GIB, needed, too_little
from alexnet.weights.classifier import Classifier
from conftest import COLOURS, TINY, coloured, encoded
from narrow import narrow


def kept(model: AlexNet, batch_size: int) -> int:
    """Bytes of all different tensors that torch keeps for the backward pass, weights aside."""
    weights = {x.untyped_storage().data_ptr() for x in model.parameters()}
    storages = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes(), x  # held, so that no place is reused
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), fast.plain():
        model(torch.rand(batch_size, 3, model.input, model.input))
    return sum(size for at, (size, _) in storages.items() if at not in weights)


@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_owt", "alexnet_bn", "alexnet64", "alexnet32"])
def test_the_memory_that_is_foretold_is_about_what_torch_keeps(name):
    model = seeded_build(0, name, 10, 3, variant(name).input).train()
    outputs = needed(model, 4, torch.float32) - needed(model, 0, torch.float32)
    assert 0.7 < kept(model, 4) / outputs < 1.4
    assert needed(model, 0, torch.float32) == 12 * sum(x.numel() for x in model.parameters())


def test_a_captured_step_takes_its_memory_twice_and_the_batch_size_that_fits_goes_by_that(monkeypatch):
    """alexnet32 with 10 classes and 28 pixels, in bfloat16: the sum by hand."""
    model = seeded_build(0, "alexnet32", 10, 3, 28)
    weights = sum(x.numel() for x in model.parameters())
    made = {}
    for name in (record.name for record in model.variant.layers):
        getattr(model, name).register_forward_hook(lambda m, i, y, name=name: made.update({name: y[0].numel()}))
    with torch.no_grad():
        made["prob"] = model(torch.zeros(1, 3, 28, 28)).numel()  # which the loss keeps
    kept, once = 2 * 4 * weights, (4 + 2) * weights + 2 * 96 * sum(made.values())
    assert needed(model, 96, torch.bfloat16) == kept + once
    assert needed(model, 96, torch.bfloat16, captured=True) == kept + 2 * once
    # A card on which half of the batch fits by itself, and captured less than that.
    half = (6 * weights + 2 * 48 * sum(made.values())) + kept
    card = SimpleNamespace(total_memory=half / 0.69)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    said = [str(too_little(model, 96, torch.bfloat16, torch.device("cuda"), captured)) for captured in (False, True)]
    assert "--set batch_size=48 (about" in said[0]
    assert int(said[1].partition("batch_size=")[2].split()[0]) < 48


def test_batches_on_their_way_to_a_gpu_count_and_pictures_that_lie_there_do_not(folders, monkeypatch):
    """alexnet32 stores 32 x 32 x 3 bytes: two batches are copied ahead, three steps wait, and one is being given."""
    model, pictures = seeded_build(0, "alexnet32", 10, 3, 28), Pictures(find_data(folders).split("train"), 32, 3)
    sent = 6 * 96 * 32 * 32 * 3
    assert pictures.sent == 32 * 32 * 3
    without = needed(model, 96, torch.bfloat16)
    assert needed(model, 96, torch.bfloat16, picture=pictures.sent) == without + sent
    assert needed(model, 96, torch.bfloat16, True, pictures.sent) == needed(model, 96, torch.bfloat16, True) + sent
    # A card on which half of the batch fits by itself, and not with what is sent; on a CPU nothing is.
    half = needed(model, 48, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=half / 0.699))
    said = [
        str(too_little(model, 96, torch.bfloat16, torch.device(kind), False, picture)).partition("batch_size=")[2]
        for kind, picture in (("cuda", 0), ("cuda", pictures.sent), ("cpu", 10**12))
    ]
    assert [int(one.split()[0]) for one in said] == [48, 24, 48]
    run = SimpleNamespace(
        captured=None, division=SimpleNamespace(part=model, readers=SimpleNamespace(size=3)),
        recipe=SimpleNamespace(batch_size=287),
        world=SimpleNamespace(device=torch.device("cuda")), precision=torch.bfloat16,
        pictures=SimpleNamespace(sent=1 << 24, there=1 << 30), held_out=SimpleNamespace(there=1 << 29),
    )  # fmt: skip
    told = f"batches of 287 pictures among 3 processes, which takes about {without / GIB + 6 * 96 / 64:.1f} GiB"
    told += " beside the 1.5 GiB of pictures that lie there and what other programs hold"
    with pytest.raises(AlexNetError, match=told), loop._memory_in_words(run):  # 96 pictures each
        raise MemoryError
    assert pictures.there == 0
    pictures._resident = torch.zeros(2, 3, dtype=torch.uint8)
    assert (pictures.sent, pictures.there) == (0, 6)
    pictures.close()


@pytest.mark.parametrize(
    ("free", "beside", "lie"),
    [(100, 0, True), (100, 60, True), (100, 61, False), (99, 0, False), (0, 0, False), (10**6, 10**6, False)],
)
def test_pictures_lie_on_a_gpu_only_where_what_works_on_them_still_fits(free, beside, lie, folders, monkeypatch):
    pictures = Pictures(find_data(folders).split("train"), 32, 3)
    size = len(pictures) * 32 * 32 * 3
    pictures._have[:] = True
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size * free / 40, size * 1000))
    made = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, device=None, **more: made(*shape, **more))
    pictures.beside = size * beside / 40
    assert (pictures.resident(torch.device("cuda")) is not None) == lie
    assert pictures.there == size * lie
    pictures.close()


def test_a_card_on_which_pictures_lie_has_less_for_a_batch(monkeypatch):
    model = seeded_build(0, "alexnet32", 10, 3, 28)
    half = needed(model, 48, torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=half / 0.699))
    said = [
        str(too_little(model, 96, torch.float32, torch.device("cuda"), there=there)).partition("batch_size=")[2]
        for there in (0, 1 << 22)
    ]
    assert [int(one.split()[0]) for one in said] == [48, 24]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 8 TB"), MemoryError(),
        torch.AcceleratorError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_in_training_is_a_sentence_with_a_batch_size_that_fits(
    alexnet, folders, tmp_path, monkeypatch, error
):
    def forward(*_):
        raise error

    monkeypatch.setattr(AlexNet, "forward", forward)
    status, _, err = alexnet("train", folders, "--out", tmp_path / "run", "--set", *TINY)
    assert status == 2
    assert "ran out in a step of alexnet32 with batches of 8 pictures" in err
    assert "--set batch_size=4 (about" in err
    assert "Traceback" not in err
    unsure = "unable to find" in str(error) or "NOT_INITIALIZED" in str(error)
    assert ("for which too little memory is most often the cause" in err) == unsure


def test_a_gpu_for_which_torch_has_no_kernels_is_one_sentence(refused, folders, tmp_path, monkeypatch):
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")
    monkeypatch.setattr(AlexNet, "forward", mock.Mock(side_effect=error))
    said = refused("train", folders, "--out", tmp_path / "run", "--set", *TINY)
    assert said.startswith("alexnet: torch was built without kernels for this GPU; install a torch that fits it")


def test_a_gpu_that_another_program_has_alone_is_one_sentence(refused, folders, tmp_path, monkeypatch):
    error = torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
    monkeypatch.setattr(AlexNet, "forward", mock.Mock(side_effect=error))
    said = refused("train", folders, "--out", tmp_path / "run", "--set", *TINY)
    assert "the GPU is in use by another program that has it alone; wait for it, or give another --device" in said


def test_a_gpu_that_torch_cannot_use_is_said_and_not_passed_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(device, "NVIDIA", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "alexnet"):
        assert device.choose_device("cpu").type == "cpu"
        assert not caplog.records
        assert device.choose_device("auto").type in ("cpu", "mps")
    assert "an Nvidia GPU is here, but torch" in caplog.text
    with pytest.raises(AlexNetError, match=r"--device cuda: an Nvidia GPU is here, but torch .* see to the driver"):
        device.choose_device("cuda")


def test_a_single_picture_that_does_not_fit_is_not_answered_with_the_same_batch_size():
    model = seeded_build(0, "alexnet32", 10, 3, variant("alexnet32").input)
    said = str(too_little(model, 1, torch.float32, torch.device("cpu")))
    assert "batch_size=1" not in said
    assert "smaller network or input" in said


def held(command: str, count: int, classifier: Classifier, folder: Path) -> int:
    """The most bytes of Python's objects and arrays that the command holds for so many pictures."""
    picture = np.full((8, 8, 3), 90, np.uint8)
    tracemalloc.start()
    try:
        if command == "evaluate":
            split = Split("valid", np.zeros(count, np.int64), lambda row: picture, str)
            evaluate(classifier, Data("made", "made", classifier.classes, {"valid": split}), split="valid")
        elif command == "predict":
            for _ in stream(classifier, (picture for _ in range(count)), topk=1):
                pass
        else:
            sources = Sources(picture for _ in range(count))
            gather(classifier, sources, ["relu1"], folder / str(count), "mean")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "bytes_a_picture"), [("evaluate", 40), ("predict", 8), ("features", 8)])
def test_many_pictures_take_the_memory_of_a_few(tmp_path, command, bytes_a_picture):
    """Of labelled ones the labels and numbers are held; of others nothing, nor of what they are answered."""
    model = AlexNet(narrow("alexnet32"), 2, 3, 28).eval()
    classifier = Classifier(model, Preprocess(32, 28, "RGB", (64.0,), torch.zeros(3, 1, 1)), ["x", "y"])
    few, many = 320, 1920
    held(command, 64, classifier, tmp_path)  # what is made once

    def grown(turn: str) -> int:
        folder = tmp_path / turn
        folder.mkdir()
        return held(command, many, classifier, folder) - held(command, few, classifier, folder)

    # Batches that threads make ahead come and go; what is held for each picture is there every time.
    assert any(grown(turn) < bytes_a_picture * (many - few) + 30_000 for turn in "123")


# -- what the system says of itself ---------------------------------------------------------------------------------

V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n"}
SYSTEMS = {  # files in place of the system's, then the memory there is and the free memory, in bytes
    "no container": (MEMINFO | {"proc/self/cgroup": "0::/user.slice\n"}, None, 8000 << 10),
    "version 2, its group the root": (
        MEMINFO | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "500000\n", f"{V2}/memory.current": "200000\n"},
        500_000, 300_000,
    ),
    "version 2, without limit": (
        MEMINFO | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "200000\n"},
        None, 8000 << 10,
    ),
    "version 2, limited further out": (
        MEMINFO
        | {"proc/self/cgroup": "0::/pod/one\n", f"{V2}/pod/memory.max": "700000", f"{V2}/pod/memory.current": "100000"}
        | {f"{V2}/pod/one/memory.max": "900000", f"{V2}/pod/one/memory.current": "50000"},
        700_000, 600_000,
    ),
    "version 2, files among its pages": (
        MEMINFO
        | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "500000", f"{V2}/memory.current": "480000"}
        | {f"{V2}/memory.stat": "anon 100000\ninactive_file 300000\n"},
        500_000, 320_000,
    ),
    "version 1, under its name outside": (
        MEMINFO
        | {"proc/self/cgroup": "5:cpu:/docker/a\n4:memory:/docker/a\n0::/\n", f"{V1}/memory.limit_in_bytes": "400000"}
        | {f"{V1}/memory.usage_in_bytes": "390000"}
        | {f"{V1}/memory.stat": "inactive_file 1\ntotal_inactive_file 90000\n"},
        400_000, 100_000,
    ),
    "version 1, without limit": (
        MEMINFO
        | {"proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712"}
        | {f"{V1}/memory.usage_in_bytes": "5"},
        None, 8000 << 10,
    ),
    "over its limit": (
        MEMINFO | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "500", f"{V2}/memory.current": "600"}, 500, 0
    ),
    "nothing said": ({}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_memory_is_what_the_machine_or_its_container_has(tmp_path, monkeypatch, system):
    files, whole, free = SYSTEMS[system]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(limits, "MACHINE", tmp_path)
    pages = {"SC_PHYS_PAGES": 1 << 30, "SC_AVPHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert limits.memory() == (whole or 4 << 40)
    assert limits.free_memory() == (4 << 30 if free is None else free)
    # 0.4 of it may be kept by all processes of the machine together
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    most = (4 << 30 if free is None else free) // 5
    assert (loader.fits_in_memory(most), loader.fits_in_memory(most + 1)) == (True, False)


# -- row groups of parquet files in temporary files ----------------------------------------------------------------

ENCODED = [encoded(coloured(one, n, (8, 8))) for n, one in enumerate(sorted(COLOURS) * 2)]


class Disk(tempfile.SpooledTemporaryFile):
    """A temporary file on a disk that has room for so many bytes, or files, of all of them."""

    room, used, fault = 0, 0, errno.ENOSPC

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = 0

    def write(self, contents: bytes) -> int:
        if self.used + len(contents) > self.room:
            raise OSError(self.fault, os.strerror(self.fault))
        type(self).used += len(contents)
        self.size += len(contents)
        return super().write(contents)

    def close(self) -> None:
        type(self).used -= self.size
        self.size = 0
        super().close()


ORDER = [int(i) for i in np.random.default_rng(0).permutation(np.tile(np.arange(6), 3))]


@pytest.fixture
def large_groups(tmp_path, monkeypatch):
    """Six row groups, each of which waits in a temporary file."""
    monkeypatch.setattr(parquet_rows, "HELD", 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parquet_rows._say_read_again.cache_clear()
    table = pa.table({"image": pa.array(ENCODED), "label": [0, 1] * 3})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=1)
    return find_data(tmp_path, whole=True).split("all")


@pytest.mark.parametrize(
    ("room", "files", "most"), [(1 << 30, 1000, 6), (0, 1000, 1), (1 << 30, 1, 1), (1 << 30, 13, 3)]
)
def test_what_waits_in_temporary_files_is_bounded(large_groups, tmp_path, monkeypatch, caplog, room, files, most):
    monkeypatch.setattr(parquet_rows.shutil, "disk_usage", lambda folder: SimpleNamespace(free=room))
    monkeypatch.setattr(parquet_rows, "open_files", lambda: files)
    seen = 0
    for i in ORDER:
        assert large_groups.read(i) == ENCODED[i]
        there = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        names = [os.readlink(one) for one in there if os.path.lexists(one)]
        seen = max(seen, sum(name.startswith(str(tmp_path)) and "parquet" not in name for name in names))
    assert seen == most
    assert caplog.text.count("alexnet pack DATA PACK") == (most < 6)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_full_disk_lets_go_of_other_row_groups_and_else_is_a_sentence(large_groups, monkeypatch, groups, fault):
    disk = type("disk", (Disk,), {"room": groups * max(map(len, ENCODED)), "fault": fault})
    monkeypatch.setattr(parquet_rows.tempfile, "SpooledTemporaryFile", disk)
    if groups:
        assert [large_groups.read(i) for i in ORDER] == [ENCODED[i] for i in ORDER]
        return
    with pytest.raises(AlexNetError) as caught:
        large_groups.read(0)
    assert ("ulimit -n" if fault == errno.EMFILE else "TMPDIR") in str(caught.value)
    disk.room = 1 << 20  # and when there is room again
    assert large_groups.read(0) == ENCODED[0]
