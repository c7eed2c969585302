"""How fast pictures are packed and fed, each figure beside a peer's in the same run.

    python benchmarks/data.py inputs DATA FOLDER    # full-size JPEGs from the small pictures of DATA
    python benchmarks/data.py packing FOLDER
    python benchmarks/data.py feeding FOLDER        # peers that are not installed are left out, by name
    python benchmarks/data.py memory FOLDER

The inputs are 500 x 375 JPEGs of quality 95: 4 x 3 small pictures, enlarged twice, with noise that gives them the size
of photographs in bytes. They differ from photographs in having edges between the tiles, and the same detail everywhere.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet.base.distributed import World
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures, batches, epoch_order
from alexnet.data.packs.reading import HEADER, checksum
from alexnet.data.packs.shards import HEADER_BYTES, npy_header
from alexnet.data.packs.writing import pack
from alexnet.data.pictures import decode, stored

SIDE, BATCH, WORKERS = 256, 256, 2
NOISE = 9.0  # grey levels; with it the files are 100 to 130 KB
WORLD = World(0, 1, torch.device("cpu"))
elsewhere: list[float] = []  # CPU seconds of processes that live on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["inputs", "packing", "feeding", "memory"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "inputs":
        data, folder = arguments.paths
        inputs(data, folder, arguments.pictures)
        return
    describe()
    folder, runs = arguments.paths[0], arguments.runs
    if arguments.what == "packing":
        packing(folder, runs, arguments.pictures)
    else:
        {"feeding": feeding, "memory": memory}[arguments.what](folder, runs)


def describe() -> None:
    """Print versions and cores."""
    names = ("torch", "torchvision", "pillow", "numpy", "datasets", "webdataset")
    print(json.dumps({"python": platform.python_version(), "cores": os.cpu_count(), **{n: _version(n) for n in names}}))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def compare(
    measures: dict[str, Callable[[], int]], runs: int, before: Mapping[str, Callable[[], object]] | None = None
) -> None:
    """Images/s of each, in turn, `runs` times after one that does not count: median, least and most.

    Beside it CPU time a picture, of all processes: on a machine that others use too it
    tells more than the clock. `before` is what is done, uncounted, before a measure.
    """
    rates: dict[str, list[float]] = {name: [] for name in measures}
    costs: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(runs + 1):
        for name, measure in measures.items():
            if before and name in before:
                before[name]()
            began, spent = time.perf_counter(), _cpu()
            count = measure()
            if number:
                rates[name].append(count / (time.perf_counter() - began))
                costs[name].append((_cpu() - spent) / count * 1e6)
    base = next(iter(rates))
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates[base], strict=True)]
        print(
            f"{name:36} {statistics.median(values):9,.0f} images/s ({min(values):,.0f} to {max(values):,.0f}), "
            f"{statistics.median(ratios):6.3f} of the first ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"{statistics.median(costs[name]):7,.0f} us of CPU",
            flush=True,
        )


def _cpu() -> float:
    """Seconds of CPU time."""
    ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ours + sum(elsewhere)


# -- inputs -------------------------------------------------------------------------------------------------------


def inputs(data: Path, folder: Path, count: int) -> None:
    """folder/full/CLASS/*.jpg of 500 x 375, then the same at 256 x 256 as packs and as JPEGs."""
    split = find_data(data).split("train")
    source = np.random.default_rng(2012)
    sizes = []
    for name in ("full", "small"):  # pictures of before would be packed and read with these
        shutil.rmtree(folder / name, ignore_errors=True)
    for number in range(count):
        mosaic = Image.new("RGB", (512, 384))
        for place, row in enumerate(source.integers(0, len(split), 12).tolist()):
            tile = decode(split.read(row)).resize((128, 128), Image.Resampling.BICUBIC)
            mosaic.paste(tile, (place % 4 * 128, place // 4 * 128))
        pixels = np.asarray(mosaic)[:375, :500] + source.normal(0, NOISE, (375, 500, 3))
        path = folder / "full" / f"class{number % 10}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
        sizes.append(path.stat().st_size)
    print(f"{count:,} JPEGs of {min(sizes):,} to {max(sizes):,} bytes, {statistics.mean(sizes):,.0f} in the mean")
    for encoding in ("raw", "jpeg"):
        shutil.rmtree(folder / encoding, ignore_errors=True)
        result = pack(folder / "full", folder / encoding, SIDE, encoding)
        each = result.bytes / sum(result.pictures.values())
        print(f"{encoding}: {each:,.0f} bytes a picture, {each * 1_281_167 / 1e9:,.1f} GB for 1,281,167")
    split, raw = find_data(folder / "jpeg").split("train"), find_data(folder / "raw").split("train")
    errors = []
    for row in range(len(split)):
        path = folder / "small" / f"class{split.labels[row]}" / f"{row:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(split.read(row))
        errors.append(np.square(np.asarray(decode(path)).astype(float) - raw.read(row)).mean())
    print(f"jpeg against raw: PSNR {10 * np.log10(255**2 / np.mean(errors)):.2f} dB")


# -- packing ------------------------------------------------------------------------------------------------------


def _bare(paths: list[str]) -> tuple[int, float]:
    began = time.process_time()
    for path in paths:
        stored(decode(path), SIDE)
    return len(paths), time.process_time() - began


def packing(folder: Path, runs: int, count: int) -> None:
    """`alexnet pack` against its own decode-and-resize call in a bare loop, in as many processes as there are cores."""
    data = find_data(folder / "full")
    split = data.split("train").take(np.arange(min(count, len(data.split("train")))), "some")
    data = replace(data, splits={"train": split})
    paths = [str(split.read(i)) for i in range(len(split))]
    parts = [paths[n::WORKERS] for n in range(WORKERS)]
    with ProcessPoolExecutor(WORKERS) as pool:

        def packed(encoding: str) -> Callable[[], int]:
            def measure() -> int:
                shutil.rmtree(folder / "out", ignore_errors=True)
                return sum(pack(data, folder / "out", SIDE, encoding, workers=WORKERS).pictures.values())

            return measure

        def bare() -> int:
            counts, seconds = zip(*pool.map(_bare, parts), strict=True)
            elsewhere.append(sum(seconds))
            return sum(counts)

        measures = {f"bare loop, {WORKERS} processes": bare}
        compare(measures | {"pack raw": packed("raw"), "pack jpeg": packed("jpeg")}, runs)
    shutil.rmtree(folder / "out", ignore_errors=True)


# -- feeding ------------------------------------------------------------------------------------------------------


def loader(path: Path, times: int = 1, neighbours: int = 1) -> Callable[[], int]:
    split = find_data(path).split("train")
    pictures = Pictures(split, SIDE, 3, WORKERS)
    pictures.kept = None  # every picture is read, none remembered
    epochs = iter(range(1_000_000))

    def measure() -> int:
        # Several epochs as one: a real one has thousands of batches, of which the first few find no memory to reuse.
        positions = np.concatenate([epoch_order(0, next(epochs), len(split), neighbours) for _ in range(times)])
        return sum(len(batch.labels) for batch in batches(pictures, positions, BATCH, WORLD, neighbours=neighbours))

    return measure


def _copied(path: Path, times: int) -> Callable[[], int]:
    """A copy of the same bytes, from all of them in memory into a batch, by two threads."""
    split = find_data(path).split("train")
    source, target = np.stack([split.read(i) for i in range(len(split))]), np.ones((BATCH, SIDE, SIDE, 3), np.uint8)
    halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
    pool = ThreadPoolExecutor(2)

    def measure() -> int:
        whole = len(split) // BATCH
        for number in range(times * whole):
            batch = source[number % whole * BATCH :][:BATCH]
            list(pool.map(lambda half, batch=batch: np.copyto(target[half], batch[half]), halves))
        return times * whole * BATCH

    return measure


def _plain(parts: list[list[bytes]]) -> int:
    for part in parts:
        for contents in part:
            np.asarray(Image.open(io.BytesIO(contents)))
    return sum(map(len, parts))


def _plain_torchvision(parts: list[list[bytes]]) -> int:
    from torchvision.io import ImageReadMode, decode_jpeg

    for part in parts:
        for contents in part:
            decode_jpeg(torch.from_numpy(np.frombuffer(contents, np.uint8).copy()), ImageReadMode.RGB)
    return sum(map(len, parts))


def _decoded(path: Path, plain: Callable[[list[list[bytes]]], int]) -> Callable[[], int]:
    """The JPEGs of a pack, decoded in a bare loop by two threads."""
    split = find_data(path).split("train")
    contents = [split.read(i) for i in range(len(split))]
    pool = ThreadPoolExecutor(WORKERS)
    return lambda: sum(pool.map(lambda n: plain([contents[n::WORKERS]]), range(WORKERS)))


def _image_folder(path: Path) -> Callable[[], int]:
    from torchvision import datasets, transforms

    steps = transforms.Compose([transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.PILToTensor()])
    data = datasets.ImageFolder(str(path), steps)
    return _all_of(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS))


def _hugging_face(path: Path) -> Callable[[], int]:
    import datasets

    files, cache = sorted(str(p) for p in path.rglob("*.jpg")), str(path.parent / "hf_cache")
    rows = {"image": files, "label": [int(Path(f).parent.name.removeprefix("class")) for f in files]}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    # Bytes in the table, as data sets are published.
    data = data.map(lambda row: row, cache_file_name=f"{cache}.arrow", keep_in_memory=False)

    def tensors(rows: dict) -> dict:
        return {"image": [torch.from_numpy(np.array(one)) for one in rows["image"]], "label": rows["label"]}

    return _all_of(torch.utils.data.DataLoader(data.with_transform(tensors), BATCH, shuffle=True, num_workers=WORKERS))


def _webdataset(path: Path) -> Callable[[], int]:
    import webdataset

    shards, files = path.parent / "shards", sorted(path.rglob("*.jpg"))
    shards.mkdir(exist_ok=True)
    for number in range(8):
        with webdataset.TarWriter(str(shards / f"{number}.tar")) as out:
            for file in files[number::8]:
                label = int(file.parent.name.removeprefix("class"))
                out.write({"__key__": file.stem, "jpg": file.read_bytes(), "cls": label})
    data = webdataset.WebDataset(str(shards / "{0..7}.tar"), shardshuffle=8).shuffle(500).decode("rgb8")
    data = data.to_tuple("jpg", "cls").batched(BATCH)
    return _all_of(torch.utils.data.DataLoader(data, None, num_workers=WORKERS))


def _all_of(loader) -> Callable[[], int]:
    def measure() -> int:
        return sum(len(batch["label"] if isinstance(batch, dict) else batch[1]) for batch in loader)

    return measure


def feeding(folder: Path, runs: int) -> None:
    """Each up to one contiguous uint8 batch of 256 pictures of 256 x 256; two cores."""
    raw, jpeg = folder / "raw", folder / "jpeg"
    compare({"two-thread copy of the same bytes": _copied(raw, 10), "raw pack": loader(raw, 10)}, runs)
    measures = {"plain decode, Pillow": _decoded(jpeg, _plain), "jpeg pack": loader(jpeg, 3)}
    compare(measures | {"plain decode, torchvision": _decoded(jpeg, _plain_torchvision)}, runs)
    measures = {
        "torchvision ImageFolder, 500 x 375": lambda: _image_folder(folder / "full"),
        "torchvision ImageFolder, 256 x 256": lambda: _image_folder(folder / "small"),
        "Hugging Face datasets, 256 x 256": lambda: _hugging_face(folder / "small"),
        "webdataset, 256 x 256": lambda: _webdataset(folder / "small"),
        "jpeg pack": lambda: loader(jpeg, 3),
        "raw pack": lambda: loader(raw, 10),
    }
    there = {}
    for name, make in measures.items():
        try:
            there[name] = make()
        except ImportError as error:
            print(f"{name}: {error}")
    compare(there, max(1, runs - 2))


# -- memory -------------------------------------------------------------------------------------------------------


def memory(folder: Path, runs: int) -> None:
    """What packing takes for few and many pictures; what a loader of a sparse raw pack of 20 GB takes in mid-epoch."""
    data = find_data(folder / "full")
    for count in (256, len(data.split("train"))):
        few = replace(data, splits={"train": data.split("train").take(np.arange(count), "some")})
        pack(few, folder / "out", SIDE, workers=WORKERS)
        shutil.rmtree(folder / "out")
        print(
            f"packing {count:,} pictures: at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
        )
    root, per_file, files = folder / "sparse", 2048, 50
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder / "raw", root)
    for path in root.glob("train-0*.npy"):
        path.unlink()
    header = json.loads((root / HEADER).read_text())
    size = per_file * SIDE * SIDE * 3
    for number in range(files):
        with open(root / f"train-{number:05}.npy", "wb") as file:
            file.write(npy_header((per_file, SIDE, SIDE, 3)))
            file.truncate(HEADER_BYTES + size)
    np.save(root / "train-labels.npy", np.arange(per_file * files) % 10)
    lengths = {path.name: path.stat().st_size for path in root.glob("*.npy")}
    header["files"] = [{"name": name, "bytes": length, "sha256": ""} for name, length in lengths.items()]
    header["splits"]["train"]["shards"] = [per_file] * files
    header.pop("sha256")
    (root / HEADER).write_text(json.dumps({**header, "sha256": checksum(header)}))
    split = find_data(root).split("train")
    print(f"before: {_held()}")
    began, seen = time.perf_counter(), 0
    for number, batch in enumerate(
        batches(Pictures(split, SIDE, 3, WORKERS), epoch_order(0, 0, len(split)), BATCH, WORLD)
    ):
        seen += len(batch.labels)
        if number in (20, 200):
            print(f"after {seen:,} of {len(split):,} pictures ({size * files / 1e9:.1f} GB): {_held()}")
        if number == 200:
            break
    print(f"{seen / (time.perf_counter() - began):,.0f} images/s, of zeros")
    shutil.rmtree(root)


def _held() -> str:
    wanted = ("RssAnon", "RssShmem", "RssFile")
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return ", ".join(f"{words[0]} {int(words[1]) / 1024:,.0f} MiB" for words in lines if words[0].rstrip(":") in wanted)


if __name__ == "__main__":
    main()
