"""What a pass does after its convolution, and how its kernels cut rows and channels into tiles."""

from __future__ import annotations

from dataclasses import dataclass

PROGRAMS = 1024  # that add up a bias' gradient, each its own part: the sum is the same on every card


@dataclass(frozen=True)
class Plan:
    """What a pass does after its convolution, as the kernels take it. A half below 0 and a kernel of 0 mean none."""

    towers: int = 1
    relu: bool = False
    half: int = -1
    scale: float = 0.0
    k: float = 1.0
    beta: float = 0.75
    within: int = -1
    within_scale: float = 0.0
    within_beta: float = 0.75
    kernel: int = 0
    stride: int = 1
    ceil: bool = True
    relu_after: bool = False

    def pooled(self, side: int) -> int:
        """The side that pooling makes of a side, as torch counts."""
        if not self.kernel:
            return side
        span = side - self.kernel
        return 1 + (-(-span // self.stride) if self.ceil else span // self.stride)


def power_of_two(number: int) -> int:
    return 1 << max(4, (number - 1).bit_length())


@dataclass(frozen=True)
class Shape:
    """How a kernel cuts channels into windows: see triton_kernels.py."""

    P: int
    WIN: int
    TILE: int
    HALO: int

    @property
    def columns(self) -> int:
        """Programs to a row of one tower."""
        return -(-self.P // self.TILE)


def shape(channels: int, towers: int, half: int, products: bool = True, low: bool = True) -> Shape:
    """Windows for that many channels; for products LRN's towers stay whole up to 128 maps, and wider ones overlap.

    In float32, not `low`, up to 64: a band of 128 x 128 would not fit into a program's registers.
    """
    if half < 0:
        window = min(128, power_of_two(channels))
        return Shape(channels, window, window, 0)
    each = channels // towers
    if not products:
        window = min(128, power_of_two(each))
        return Shape(each, window, window, 0)
    widest = 128 if low else 64
    if each <= widest:
        return Shape(each, power_of_two(each), each, 0)
    return Shape(each, widest, widest - 16, 8)


def fits(plan: Plan, channels: int, low: bool) -> bool:
    """Whether an LRN's gradient, which reaches twice half its size, stays between the HALOs."""
    return not shape(channels, plan.towers, plan.half, low=low).HALO or 2 * plan.half <= 8


# Numbers of a program's tile, and its warps, as they were fastest on an H100; "norm" is LRN.
TILES = {
    "forward": (4096, 4),
    "forward norm": (2048, 4),
    "pooling": (2048, 4),
    "backward": (4096, 4),
    "backward norm": (4096, 4),
    "backward norm float32": (1024, 4),  # the most that no register is spilled by, on sm_80 and sm_90
    "within": (2048, 4),
    "within backward": (2048, 4),
}


def tiles(kind: str, window: int) -> dict[str, int]:
    """A kernel's rows and warps, for windows of a width; products need 16 rows at least."""
    numbers, warps = TILES[kind]
    return {"ROWS": max(16, numbers // window), "num_warps": warps}
