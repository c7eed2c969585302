"""What 1 to 64 GPUs would do for `alexnet2012`, by formulas from one GPU's measured step and a link's stated speed.

Nothing here is measured but the step of one H100 (gpu_h100_202611.md): the figures are a simulation. Link speeds are
the makers' or the papers'. Bytes come from `alexnet.networks.traffic`, which tests hold against what is really sent.

    python benchmarks/scale.py                     # an H100 each; links of 50 GB/s (400 Gbit/s)
    python benchmarks/scale.py --link 7            # as in Sun et al. (56 Gbit/s)
    python benchmarks/scale.py --papers            # the formulas against what papers report
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from alexnet.networks import traffic
from alexnet.networks.variants import Variant, variant

NET = (variant("alexnet2012"), 1000, 3, 224)
BATCHES, GPUS = (128, 256, 512, 1024, 2048, 4096, 8192), (1, 2, 4, 8, 16, 32, 64)
FEWEST = 8  # pictures a GPU
GAIN = 1.25  # of doubling the GPUs: less than that is called the end of scaling
BACKWARD = 2 / 3  # of a step's arithmetic: two of three products
CONVOLUTIONS = 0.9  # of the arithmetic (facts 1.1: 666 of 724 million multiply-adds)
IMAGENET = 1_281_167  # training pictures
PCIE = 6e9  # bytes/s, about what the PCIe 2.0 of 2014 gives


@dataclass(frozen=True)
class Gpu:
    """A step takes `fixed` seconds and `each` for every picture."""

    fixed: float
    each: float

    def step(self, pictures: float) -> float:
        return self.fixed + self.each * pictures


def from_rates(small: int, small_rate: float, large: int, large_rate: float) -> Gpu:
    """The GPU that gives those images/s with batches of those sizes."""
    each = (large / large_rate - small / small_rate) / (large - small)
    return Gpu(small / small_rate - each * small, each)


H100 = from_rates(128, 29_090, 512, 39_620)  # measured: gpu_h100_202611.md


def seconds(
    way: str,
    gpu: Gpu,
    gpus: int,
    batch: int,
    link: float,
    number: int = 4,
    overlap: bool = True,
    net: tuple[Variant, int, int, int] = NET,
) -> float:  # fmt: skip
    """A step of `batch` pictures on all GPUs together; `link` bytes/s leave each, `number` is the bytes of a number.

    Sums of gradients run beside the backward pass of the layers below, activations are waited for.
    """
    if gpus == 1:
        return gpu.step(batch)
    hidden = BACKWARD * CONVOLUTIONS if overlap else 0.0

    def sending(count: float) -> float:
        return count * number / gpus / link

    if way == "towers":
        numbers = 2 * batch * sum(talk.first + talk.second for talk in traffic.towers(*net))
        return gpu.step(batch / 2) + sending(numbers)
    arithmetic = gpu.step(batch / gpus)
    if way == "hybrid":
        sent = traffic.hybrid(*net, gpus, batch)
        return arithmetic + sending(sent.connected) + max(0, sending(sent.convolutions) - hidden * arithmetic)
    sent = traffic.sharded(*net, gpus) if way == "sharded" else traffic.data(*net, gpus)
    return arithmetic + max(0, sending(sent.all) - hidden * arithmetic)


def table(way: str, gpu: Gpu, link: float) -> list[str]:
    """Images/s by batch and GPUs, and where doubling the GPUs no longer pays."""
    lines = [f"| {way}: batch | {' | '.join(map(str, GPUS))} | scaling ends at |", "| --- " * (len(GPUS) + 2) + "|"]
    for batch in BATCHES:
        rates: dict[int, float] = {}
        for gpus in GPUS:
            if batch // gpus >= FEWEST and not (way == "towers" and gpus > 2):
                rates[gpus] = batch / seconds(way, gpu, gpus, batch, link)
        cells = [f"{rates[gpus]:,.0f}" if gpus in rates else "" for gpus in GPUS]
        pays = [gpus for gpus in rates if gpus == 1 or rates[gpus] / rates[gpus // 2] >= GAIN]
        end = next((gpus for gpus in pays if 2 * gpus not in pays), 1)
        lines.append(f"| {batch:,} | {' | '.join(cells)} | {end}{'' if 2 * end in rates else ' or later'} |")
    return [*lines, ""]


def why(gpu: Gpu, link: float) -> list[str]:
    """Parts of a step at 64 GPUs with 128 pictures each."""
    gpus, batch = 64, 8192
    rows = [
        "| 64 GPUs of 128 pictures | arithmetic, ms | sending, ms | of it hidden, ms |",
        "| --- | --- | --- | --- |",
    ]
    arithmetic = gpu.step(batch / gpus)
    for way, sent in (
        ("data", traffic.data(*NET, gpus)),
        ("sharded", traffic.sharded(*NET, gpus)),
        ("hybrid", traffic.hybrid(*NET, gpus, batch)),
    ):
        sending = sent.all * 4 / gpus / link
        shown = seconds(way, gpu, gpus, batch, link) - arithmetic
        rows.append(f"| {way} | {1e3 * arithmetic:.2f} | {1e3 * sending:.2f} | {1e3 * (sending - shown):.2f} |")
    return [*rows, ""]


def papers() -> list[str]:
    """The formulas with what papers state, beside what they report."""
    lines = ["| reported | by formula |", "| --- | --- |"]
    # Sun et al., arXiv 1902.06855: 95 epochs in 1.5 minutes on 512 GPUs, 410.2 times one GPU; 56 Gbit/s.
    rate = 95 * IMAGENET / 90 / 410.2
    volta = Gpu(0.0, 1 / rate)
    for reported, gpus, number, overlap in (
        ("64 GPUs, 56 Gbit/s, popular systems: 2.5 times one (Sun et al.)", 64, 4, False),
        ("512 GPUs, 56 Gbit/s, theirs: 410.2 times one (Sun et al.)", 512, 2, True),
    ):
        batch = 128 * gpus
        found = volta.step(batch) / seconds("data", volta, gpus, batch, 7e9, number, overlap)
        how = f"{8 * number}-bit gradients {'beside' if overlap else 'after'} the backward pass"
        lines.append(f"| {reported} | {found:.1f} times ({how}, 128 pictures a GPU of {rate:,.0f} images/s) |")
    # Jia et al., arXiv 1807.11205: 95 epochs within 4 minutes.
    lines.append(
        f"| 95 epochs in 4 minutes (Jia et al.) | {95 * IMAGENET / 240:,.0f} images/s; no speed of one GPU is given |"
    )
    # Krizhevsky, arXiv 1404.5997, Table 1 as docs/facts.md has it: 90 epochs, hours by GPUs at batch 128 each.
    k20 = Gpu(0.0, 98.05 * 3600 / 90 / IMAGENET)
    for gpus, hours in ((2, 50.24), (4, 26.20), (8, 15.68)):
        batch = 128 * gpus
        found = k20.step(batch) / seconds("hybrid", k20, gpus, batch, PCIE)
        told = f"{98.05 / hours:.2f} times one (Krizhevsky)"
        lines.append(f"| {gpus} K20, hybrid: {told} | {found:.2f} times (128 pictures a GPU; 6 GB/s, a guess) |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link", type=float, default=50.0, help="GB/s that leave each GPU")
    parser.add_argument("--papers", action="store_true")
    arguments = parser.parse_args()
    if arguments.papers:
        print("\n".join(papers()))
        return
    for way in ("data", "hybrid", "sharded", "towers"):
        print("\n".join(table(way, H100, arguments.link * 1e9)))
    print("\n".join(why(H100, arguments.link * 1e9)))


if __name__ == "__main__":
    main()
