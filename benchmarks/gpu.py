"""Every GPU figure, in calls of under ten minutes each: correctness first, then speed; JSON a section and a table.

python benchmarks/gpu.py correct|floor|step|loop|tutorial|tiny|table --out FOLDER [--device cuda] [--small]

`loop` and `tutorial` make a folder of photographs and a pack under FOLDER first. `tiny` needs --data TINY_IMAGENET.
--small is for trying the script on a CPU: few, small steps, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import peers
import torch

from alexnet import bench, recipe, training
from alexnet.data.loader import Batch
from alexnet.metrics import read
from alexnet.model import seeded_build
from alexnet.shapes import layer_facts

IMAGENET_IMAGES = 1_281_167
MODES = ("", "default", "max-autotune")  # of torch.compile; "" is eager


def correct(given) -> dict:
    """Outputs and gradients on the device against float64 on the CPU; a repeated run; a resumed one."""
    results = {}
    for name, side in (("alexnet32", 28),) if given.small else (("alexnet32", 28), ("alexnet2012", 224)):
        model = seeded_build(0, name, 10, 3, side).double()
        x = 30 * torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
        truth = _outputs(model, x)
        for precision in ("float32", "bfloat16"):
            there = seeded_build(0, name, 10, 3, side).to(given.device).to(memory_format=torch.channels_last)
            with torch.autocast(given.device, getattr(torch, precision), enabled=precision != "float32"):
                got = _outputs(there, x.float().to(given.device))
            errors = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(got, truth, strict=True)]
            results[f"{name} {precision}, logits"] = errors[0]
            results[f"{name} {precision}, worst gradient"] = max(errors[1:])
            limit = {"float32": 1e-2, "bfloat16": 1.0}[precision]
            assert max(10 * errors[0], *errors[1:]) < limit, (name, precision, errors)
    sets = ["variant=alexnet32", "epochs=1", "deterministic=true", "max_steps=12", "checkpoint_every=6"]
    last = []
    for name, stops in (("a", [12]), ("b", [12]), ("parts", [5, 12])):
        for number, stop in enumerate(stops):
            end = [f"max_steps={stop}"]
            run = given.out / "correct" / name
            if number:
                training.train("digits", run, None, end, resume=True, device=given.device)
            else:
                training.train("digits", run, "digits", [*sets, *end], device=given.device)
        last.append((run / "model.safetensors").read_bytes())
    results["repeated run is the same, bit for bit"] = last[0] == last[1]
    results["resumed run is the same, bit for bit"] = last[0] == last[2]
    assert last[0] == last[1] == last[2]
    return results


def _outputs(model, x) -> list[torch.Tensor]:
    """Logits and the gradients of their mean square."""
    model.eval().zero_grad()
    y = model(x)
    y.float().square().mean().backward() if x.dtype != torch.float64 else y.square().mean().backward()
    return [y.detach(), *(p.grad for p in model.parameters())]


def floor(given) -> dict:
    """Products and copies of this device, and what they allow; forward and backward of each layer by the profiler."""
    results = {}
    with bench.prepared(_sets(given), given.device, pictures=given.batch) as run:
        results["floor images/s"] = bench.floor_rate(run)
        operations, moved = bench.work_of_a_step(run)
        results["operations a step"], results["fewest bytes a step"] = operations, moved
        batch = bench.one_batch(run)
        results["step images/s"] = given.batch / bench.seconds(lambda: bench.train(run, batch), run.world.device)
        results["fraction of floor"] = results["step images/s"] / results["floor images/s"]
        activity = torch.profiler.ProfilerActivity
        kinds = [activity.CPU, activity.CUDA] if given.device == "cuda" else [activity.CPU]
        with torch.profiler.profile(activities=kinds, record_shapes=True) as profile:
            for _ in range(3):
                bench.train(run, batch)
            bench.synchronise(run.world.device)
        key = "self_device_time_total" if given.device == "cuda" else "self_cpu_time_total"
        rows = sorted(profile.key_averages(group_by_input_shape=True), key=lambda row: -getattr(row, key))
        results["breakdown, ms a step"] = [
            [row.key, str(row.input_shapes)[:80], round(getattr(row, key) / 3e3, 4)] for row in rows[:40]
        ]
        results["multiply-adds"] = {r.name: r.macs for r in layer_facts(run.model.variant, 1000, 3, run.model.input)}
    return results


def step(given) -> dict:
    """Steps on data that is ready: ours, eager and compiled, by precision and batch; peers at their best."""
    results = {}
    sizes = [given.batch] if given.small else [128, 256, 512, 1024]
    for variant in ("alexnet2012", "alexnet2012_nonorm", "alexnet_owt"):
        for size in sizes:
            for compile in (False,) if given.small else (False, True):
                sets = [*_sets(given), f"variant={variant}", f"batch_size={size}", f"compile={str(compile).lower()}"]
                name = f"{variant}, batch {size}{', compiled' if compile else ''}"
                results[name] = _rate(lambda sets=sets, size=size: _ours(sets, given, size))
    for name, build in (("stock 2012", peers.two_towers), ("torchvision", peers.torchvision_alexnet)):
        for size in sizes:
            for mode in MODES[:1] if given.small else MODES:
                label = f"{name}, batch {size}, {mode or 'eager'}"
                results[label] = _rate(lambda build=build, size=size, mode=mode: _peer(build, given, size, mode))
    ours, theirs = _best(results, "alexnet2012,"), _best(results, "stock 2012,")
    results["alexnet2012 / stock 2012 at its best (demanded: 2)"] = ours / theirs
    owt, torchvision = _best(results, "alexnet_owt,"), _best(results, "torchvision,")
    results["alexnet_owt / torchvision at its best (demanded: 1.2)"] = owt / torchvision
    return results


def _rate(measure: Callable[[], float]) -> float | str:
    try:
        return measure()
    except RuntimeError as error:  # out of memory, or a compiler that fails: the other figures are still wanted
        return f"failed: {str(error).splitlines()[0][:120]}"


def _best(results: dict, start: str) -> float:
    return max(v for name, v in results.items() if name.startswith(start) and isinstance(v, float))


def _ours(sets: list[str], given, size: int) -> float:
    with bench.prepared(sets, given.device, pictures=size) as run:
        ready = _on_device(bench.one_batch(run), given.device)
        return size / bench.seconds(lambda: bench.train(run, ready), run.world.device)


def _peer(build, given, size: int, mode: str) -> float:
    precision = getattr(torch, given.precision)
    work = peers.stepper(build(), given.device, size, precision, channels_last=True, compile=mode)
    return size / bench.seconds(work, torch.device(given.device))


def _on_device(batch: Batch, device: str) -> Batch:
    return Batch(batch.pictures.to(device), batch.labels.to(device), batch.rows, batch.size)


def loop(given) -> dict:
    """The whole of `alexnet train` from a pack for a minute or more, and the same with its data on the device."""
    from alexnet.data.packing import pack

    root, packed = _photographs(given), given.out / "pack"
    if not packed.exists():
        pack(root, packed, 256)
    results = {}
    for variant in ("alexnet2012", "alexnet_owt"):
        sets = [*_sets(given), f"variant={variant}", "log_every=50", "learning_rate=0.0001", "epochs=1000"]
        estimate = 50 if given.small else given.steps
        sets += [f"max_steps={8 if given.small else estimate}", *(["log_every=2"] if given.small else [])]
        for name in ("from the pack", "on the device"):
            run = given.out / "runs" / f"{variant} {name} {time.time_ns()}"
            with _resident(given.device) if name == "on the device" else nullcontext():
                training.train(packed, run, None, sets, device=given.device)
            results[f"{variant} {name}, images/s"] = _steady(run)
        results[f"{variant}: share of the rate with data on the device (demanded: 0.95)"] = (
            results[f"{variant} from the pack, images/s"] / results[f"{variant} on the device, images/s"]
        )
    hours = 90 * IMAGENET_IMAGES / results["alexnet2012 from the pack, images/s"] / 3600
    results["90 epochs of ImageNet, hours"] = hours
    return results


def _resident(device: str):
    """The loop's batches replaced by its first one, on the device, over and over."""
    real = training.batches

    def same(*arguments, **options) -> Iterator[Batch]:
        first = None
        for batch in _count(arguments, options):
            first = first or _on_device(next(iter(real(*arguments, **options))), device)
            yield Batch(first.pictures, first.labels, first.rows, batch)

    def _count(arguments, options):
        _, positions, size, _, start, end = arguments[:6]
        for number in range(start, min(end, -(-len(positions) // size))):
            if len(positions) - number * size >= size:
                yield size

    return mock.patch.object(training, "batches", same)


def _steady(run: Path) -> float:
    """Images/s between the first and the last logged step of a run: start and compilation are left out."""
    lines = [line for line in read(run / "metrics.jsonl") if line["kind"] == "step"]
    size = recipe.resolve(str(run / "recipe.toml")).batch_size
    ends = [(line["step"] * size, line["step"] * size / line["images_per_second"]) for line in (lines[0], lines[-1])]
    return (ends[1][0] - ends[0][0]) / (ends[1][1] - ends[0][1])


def tutorial(given) -> dict:
    """The tutorial's loop on the same photographs: PIL, DataLoader with 16 workers, float32."""
    workers, seconds = (2, 2.0) if given.small else (16, 60.0)
    images, began, rates = 0, 0.0, []
    for number, count in enumerate(peers.tutorial(_photographs(given), given.device, given.batch, workers)):
        if number == 3:
            bench.synchronise(torch.device(given.device))
            images, began = 0, time.perf_counter()
        images += count
        if began and time.perf_counter() - began > seconds:
            bench.synchronise(torch.device(given.device))
            rates.append((images - count) / (time.perf_counter() - began))
            break
    return {"tutorial, images/s (ours from the pack: demanded 15 times)": rates[0]}


def _photographs(given) -> Path:
    """Class folders of made-up JPEGs of about ImageNet's size, made once."""
    root = given.out / "photographs"
    if not root.exists():
        data = bench.made_up(64, 3, (120, 90) if given.small else bench.PHOTOGRAPH).split("train")
        for number in range(64 if given.small else given.pictures):
            folder = root / f"class{number % 16}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(data.read(number % 64))
    return root


def tiny(given) -> dict:
    """`modern` and `paper_2012` on Tiny ImageNet: error against seconds, from their metrics."""
    if given.data is None:
        return {"skipped": "no --data TINY_IMAGENET"}
    results = {}
    for name in ("modern", "paper_2012"):
        if name not in recipe.shipped():
            results[name] = "there is no such recipe"
            continue
        epochs = 1 if given.small else given.epochs
        sets = [f"epochs={epochs}", *(["variant=alexnet64", "stored=64", "input=56"])]
        sets += ["max_steps=4"] if given.small else []
        began, run = time.perf_counter(), given.out / "runs" / f"tiny {name} {time.time_ns()}"
        result = training.train(given.data, run, name, sets, device=given.device)
        curve = [[x["epoch"], x["valid_top1_error"]] for x in read(run / "metrics.jsonl") if x["kind"] == "epoch"]
        results[name] = {
            "top1_error": result.top1_error, "seconds": time.perf_counter() - began, "curve": curve,
        }  # fmt: skip
    return results


SECTIONS = {f.__name__: f for f in (correct, floor, step, loop, tutorial, tiny)}


def table(given) -> None:
    """What the sections have written, as one table."""
    for name in SECTIONS:
        file = given.out / f"{name}.json"
        if not file.exists():
            continue
        facts = json.loads(file.read_text())
        print(f"\n{name}: {facts.pop('machine')}")
        for key, value in facts.items():
            if isinstance(value, list):
                print(f"| {key} |")
                for row in value[:25]:
                    print("|   " + " | ".join(map(str, row)) + " |")
            else:
                print(f"| {key} | {f'{value:,.4g}' if isinstance(value, float) else value} |")


def _sets(given) -> list[str]:
    return [f"precision={given.precision}", f"batch_size={given.batch}", *given.sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=[*SECTIONS, "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--batch", type=int, default=0, help="default 512; 4 with --small")
    parser.add_argument("--steps", type=int, default=6000, help="of each loop: a minute at 50,000 images/s and more")
    parser.add_argument("--pictures", type=int, default=16_384)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data", help="Tiny ImageNet, for `tiny`")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="key=value of the recipe")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    given.batch = given.batch or (4 if given.small else 512)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.section != "table":
        facts = SECTIONS[given.section](given)
        name = torch.cuda.get_device_name() if given.device == "cuda" else given.device
        facts["machine"] = f"{name}, torch {torch.__version__}"
        assert all(v == v for v in facts.values() if isinstance(v, float)), facts
        (given.out / f"{given.section}.json").write_text(json.dumps(facts, indent=1))
    table(given)


if __name__ == "__main__":
    main()
