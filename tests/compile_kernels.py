"""Compile every Triton kernel that a training step of every variant launches, for sm_80 and sm_90, without a GPU.

Prints a line a kernel. Ends with status 1 where one needs more shared memory than there is, spills registers, or reads
or writes its rows in less than 16 bytes at once. With names of variants, those alone, and float32, which takes the
longest and needs as much memory on both, for sm_80 alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace

os.environ.pop("TRITON_INTERPRET", None)

import numpy as np
import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet.data import augment, augment_fast
from alexnet.data.preprocess import Preprocess
from alexnet.networks.fast import gpu
from alexnet.networks.fast.gpu import convolutions, dropout, stages, triton_kernels
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS, variant
from alexnet.training import captured, optimizer
from alexnet.training.recipe import Recipe

SHARED = 99 * 1024  # bytes a program may take on a GeForce; an A100 has 163
SIDE = 80  # of pictures at most: kernels differ by channels, not by how many pixels they run over
SPILLED = 128  # bytes a thread: what was fastest on an H100 keeps up to 56 in memory, with Triton 3.6 up to 112
NARROW_READS = {"augment", "blocks_of_pixels"}  # of single pixels
NARROW_WRITES = {"augment"}  # of three channels
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    int: "i32",
    float: "fp32",
}
found: dict[tuple, tuple] = {}


def recorder(name: str):
    """In the kernels' place: notes what was launched with which types, and computes nothing."""

    def launch(*arguments, num_warps: int = 4, **constants):
        kernel = getattr(triton_kernels, name)
        kinds = [TYPES[a.dtype if isinstance(a, torch.Tensor) else type(a)] for a in arguments]
        signature = dict(zip([p.name for p in kernel.params], kinds, strict=False))
        numbers = {p.name: a for p, a in zip(kernel.params, arguments, strict=False) if isinstance(a, int)}
        even = {n for n, a in numbers.items() if a % 16 == 0 or n == "rows"}  # a launch sees; rows: of 16 pictures
        what = kernel, signature, num_warps, constants, even
        uneven = "size" in numbers.keys() - even or constants.get("DEPTH", 0) % 16 > 0
        found[name, tuple(kinds), num_warps, tuple(constants.items()), uneven] = what

    class Grid:
        def __getitem__(self, grid):
            return launch

    return Grid()


def compiled(kernel, signature, num_warps, constants, even, capability):
    places = [i for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name in even]
    aligned = {(i,): [["tt.divisibility", 16]] for i in places}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})


def registers(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of memory in their place."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        asked = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(asked, capture_output=True, text=True, check=True)
    used = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr)
    assert used, said
    return int(used[1]), int(used[2])


def wide(ptx: str, way: str) -> int:
    """How many reads (ld) or writes (st) of global memory take 16 bytes at once."""
    return len(re.findall(rf"\b{way}\.global\S*\.v4\.b32", ptx)) + len(re.findall(rf"\b{way}\.global\S*\.v2\.b64", ptx))


def main() -> int:
    gpu.ON_CPU, stages._narrow = True, lambda x: x.dtype == torch.bfloat16
    gpu.Kernel = convolutions.Kernel = dropout.Kernel = stages.Kernel = recorder
    torch.set_num_threads(1)
    for name in sys.argv[1:] or VARIANTS:
        plan = variant(name)
        side = min(SIDE, plan.input)
        plan = replace(plan, input=side, stored=side)
        model = AlexNet(plan, 10, 3, plan.input).to(memory_format=torch.channels_last)
        for dtype in (torch.bfloat16, torch.float32):
            draws = augment.draw(1, 0, True, torch.ones(3), augment.generator(0))
            stored = torch.zeros(1, 3, plan.input, plan.input, dtype=torch.uint8)
            preprocess = Preprocess(plan.input, plan.input, "RGB", (plan.pixel_scale,), torch.zeros(3, 1, 1))
            for axes in (None, torch.eye(3)):
                x = augment_fast.augmented(stored, draws, preprocess, axes, 0.1, dtype)
            masks = augment.dropout_masks(model.dropouts, 1, np.arange(1), (0,), torch.device("cpu"))
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                for given in (x, x.float()):  # in training, and in evaluation
                    model(given, masks).float().sum().backward()
            rule = captured.FusedUpdate(optimizer.build_optimizer(model, Recipe()), torch.device("cpu"))
            rule()  # as other processes have it, with gradients of the parameters
            low = {} if dtype == torch.float32 else dict(model.named_parameters())
            for copy in rule.copy_weights(low).values():
                copy.grad = torch.zeros_like(copy)
            rule()
    worst, faults = 0, 0
    for (name, *_, uneven), what in found.items():
        both = not sys.argv[1:] or "*bf16" in what[1].values()
        for capability in (80, 90) if both else (80,):
            made = compiled(*what, capability)
            shared, (used, spilled) = made.metadata.shared, registers(made.asm["cubin"])
            reads, writes = (wide(made.asm["ptx"], way) for way in ("ld", "st"))
            fault = shared > SHARED or spilled > SPILLED
            fault |= not (uneven or ((reads or name in NARROW_READS) and (writes or name in NARROW_WRITES)))
            worst, faults = max(worst, shared), faults + fault
            numbers = {k: v for k, v in what[3].items() if k in ("C", "WIN", "ROWS", "HALF", "WITHIN", "KERNEL")}
            print(
                f"{name} {next(iter(what[1].values()))} {numbers} sm_{capability}: {shared} bytes shared, "
                f"{used} registers, {spilled} bytes spilled, {reads} reads and {writes} writes of 16 bytes"
                f"{', a fault' * fault}",
                flush=True,
            )
    print(f"{len(found)} kernels, at most {worst} bytes shared; faults: {faults}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
