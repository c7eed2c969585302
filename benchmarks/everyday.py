"""How near predict and features come to what decoding and the network allow, and a plain torchvision loop beside them.

    python benchmarks/everyday.py                  # 600 generated JPEGs of 500 x 375
    python benchmarks/everyday.py --images FOLDER  # of one's own, at most --count of them

Decoding alone, the network alone, `predict` to a table, `features` (fc7) to .npy and the peer's loop run in turn on the
same cores, `--runs` times; rates are pictures/s, medians with their least and greatest. Two stages that share cores can
at best take 1/decode + 1/network a picture: that is the bound. Memory is this process' peak after a quarter of the
pictures and after all of them.
"""

from __future__ import annotations

import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.models import alexnet as torchvision_alexnet
from torchvision.transforms import v2

from alexnet.base.device import device_name
from alexnet.data.preprocess import Preprocess
from alexnet.data.sources import Sources
from alexnet.data.stream import named_batches
from alexnet.inference.feature_files import write_features
from alexnet.inference.prediction import stream, write_table
from alexnet.inference.scoring import Member, log_probabilities
from alexnet.networks.model import seeded_build
from alexnet.networks.variants import variant
from alexnet.weights.classifier import Classifier

BATCH = 64


def classifier(name: str) -> Classifier:
    """The variant with its initial weights: speed does not depend on them."""
    plan = variant(name)
    model = seeded_build(0, name, 1000, 3, plan.input).eval()
    mean = torch.full((3, 1, 1), 120.0)
    return Classifier(
        model, Preprocess(plan.stored, plan.input, "RGB", (plan.pixel_scale,), mean), list(map(str, range(1000)))
    )


def write_pictures(folder: Path, count: int) -> None:
    """JPEGs with the detail of photographs: smooth shapes and some grain, 500 x 375, quality 90, about 60 kB each."""
    for n in range(count):
        rng = np.random.default_rng(n)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse) + rng.normal(0, 10, (375, 500, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{n:05}.jpg", quality=90)


class Files(torch.utils.data.Dataset):
    """What a torchvision user writes: open, resize, crop, normalise."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.transform = v2.Compose(
            [
                v2.Resize(256, antialias=True),
                v2.CenterCrop(224),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[n]).convert("RGB"))


@torch.inference_mode()
def peer(model: torch.nn.Module, files: list[str]) -> None:
    """torchvision's network behind a DataLoader of one process a core, top five."""
    for images in torch.utils.data.DataLoader(Files(files), BATCH, num_workers=torch.get_num_threads()):
        model(images).softmax(1).topk(5)


@torch.inference_mode()
def network(one: Classifier, count: int) -> None:
    whole = {one.preprocess.key: torch.zeros(BATCH, *one.preprocess.shape, dtype=torch.uint8)}
    for _ in range(count // BATCH):
        log_probabilities([Member(one.model, one.preprocess)], [1.0], whole, 1)


@click.command()
@click.option("--images", type=click.Path(exists=True), help="A folder of pictures.  [default: generated ones]")
@click.option("--count", default=600, show_default=True)
@click.option("--variant", "name", default="alexnet_owt", show_default=True)
@click.option("--runs", default=3, show_default=True)
def main(images: str | None, count: int, name: str, runs: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if images is None:
            (folder / "pictures").mkdir()
            write_pictures(folder / "pictures", count)
        files = [name for name, _ in Sources([images or str(folder / "pictures")])][:count]
        count = len(files) - len(files) % BATCH
        files, one, theirs = files[:count], classifier(name), torchvision_alexnet().eval()
        size, channels = one.preprocess.stored, one.preprocess.channels
        made = iter(range(10_000))

        def predict(some: list[str] = files) -> None:
            write_table(folder / f"{next(made)}.csv", stream(one, some, batch_size=BATCH))

        def features() -> None:
            write_features(one, Sources(files), ["fc7"], folder / f"{next(made)}.npy", batch_size=BATCH)

        stages: dict[str, Callable[[], object]] = {
            "decoding alone": lambda: sum(len(b) for b in named_batches(Sources(files), size, channels, BATCH)),
            "network alone": lambda: network(one, count),
            "predict": predict,
            "features": features,
            "torchvision, DataLoader": lambda: peer(theirs, files),
        }
        predict(files[: count // 4])
        quarter = memory()
        rates: dict[str, list[float]] = {stage: [] for stage in stages}
        for _ in range(runs):
            for stage, run in stages.items():
                began = time.monotonic()
                run()
                rates[stage].append(count / (time.monotonic() - began))
            if len(rates["predict"]) == 1:
                whole = memory()
    print(f"{name}, {count:,} pictures, batch {BATCH}, {runs} runs; {device_name(torch.device('cpu'))}, {processor()}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}")
    middle = {stage: statistics.median(values) for stage, values in rates.items()}
    bound = 1 / (1 / middle["decoding alone"] + 1 / middle["network alone"])
    print(f"\n| what | pictures/s | of the bound, {bound:,.0f} | of torchvision |\n| --- | --- | --- | --- |")
    for stage, values in rates.items():
        shown = f"{middle[stage]:,.0f} ({min(values):,.0f} to {max(values):,.0f})"
        ratio = f"{middle[stage] / middle['torchvision, DataLoader']:.2f}"
        print(f"| {stage} | {shown} | {100 * middle[stage] / bound:.0f} % | {ratio} |")
    print(f"\npeak memory: {quarter:,} MB after a quarter of the pictures, {whole:,} MB after all of them")


def memory() -> int:
    """This process' greatest resident size so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
