"""The GPU's passes in Triton: what stands between two convolutions, read once and written once in each direction.

Tensors are channels last, so a picture's position is a row of C numbers. A stage is, in this order, each part at will:
bias, ReLU, LRN, max pooling, ReLU, where LRN and pooling are two launches forward and one backward; the within-map
norm, whose windows lie in the plane, has kernels of its own. Sums are float32. For the gradient LRN's sum over
neighbouring maps is a product with a band of ones, which the tensor cores do beside the loads. Columns come in windows
of WIN, which hold a tower whole or, of a wider one, TILE of its maps with HALO on either side: the gradient reaches
twice half a window.
"""

from __future__ import annotations

import triton
import triton.language as tl

NOTHING = 255  # the place of a maximum that the ReLU after pooling has cut off


@triton.jit
def _columns(C: tl.constexpr, P: tl.constexpr, WIN: tl.constexpr, TILE: tl.constexpr, HALO: tl.constexpr):
    """This program's columns, their places in their tower, which of them exist, and which it answers for."""
    tiles: tl.constexpr = (P + TILE - 1) // TILE
    tower = tl.program_id(1) // tiles
    at = tl.arange(0, WIN)
    inside = (tl.program_id(1) % tiles) * TILE - HALO + at
    exists = (inside >= 0) & (inside < P)
    return tower * P + inside, inside, exists, exists & (at >= HALO) & (at < HALO + TILE)


@triton.jit
def _sum_over_maps(x, WIN: tl.constexpr, HALF: tl.constexpr, NARROW: tl.constexpr):
    """(rows, WIN) -> the same, each the sum of its HALF neighbours on either side and itself."""
    at = tl.arange(0, WIN)
    distance = at[:, None] - at[None, :]
    near = (distance <= HALF) & (distance >= -HALF)
    if NARROW:
        return tl.dot(x.to(tl.bfloat16), near.to(tl.bfloat16))
    # In two parts: the band is 0 and 1 and the first part has TF32's 11 bits, so that their product is exact; of the 13
    # bits of the rest TF32 drops two, 2^-22 of the number.
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    low = tl.dot(x - high, near.to(tl.float32), input_precision="tf32")
    return tl.dot(high, near.to(tl.float32), low, input_precision="tf32")


@triton.jit
def _power(d, BETA: tl.constexpr):
    """d^-BETA."""
    if BETA == 0.75:
        root = tl.rsqrt(d)
        return root * tl.sqrt(root)
    return tl.exp2(-BETA * tl.log2(d))


@triton.jit
def _input(X, BIAS, at, mask, columns, exists, HAS_BIAS: tl.constexpr, RELU: tl.constexpr):
    x = tl.load(X + at, mask, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(BIAS + columns, exists, 0.0).to(tl.float32)[None, :]
    if RELU:
        x = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    return x


@triton.jit
def _greatest(
    X, BIAS, row, there, columns, exists, H, W, OH, OW,
    C: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, RELU: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """The greatest, after ReLU, of each of the `row`s' windows, and where it stands in its window."""
    x0, y0 = (row % OW) * STRIDE, (row // OW % OH) * STRIDE
    picture = row // OW // OH
    best = tl.full((ROWS, WIN), float("-inf"), tl.float32)
    place = tl.zeros((ROWS, WIN), tl.int32)
    for tap in tl.static_range(KERNEL * KERNEL):
        y, x = y0 + tap // KERNEL, x0 + tap % KERNEL
        seen = there & (y < H) & (x < W)
        at = ((picture * H + y) * W + x)[:, None].to(tl.int64) * C + columns[None, :]
        mask = seen[:, None] & exists[None, :]
        value = _input(X, BIAS, at, mask, columns, exists, HAS_BIAS, RELU)
        better = mask & ((value > best) | (value != value))
        best = tl.where(better, value, best)
        place = tl.where(better, tap, place)
    return best, place


@triton.jit
def stage_forward(
    X, BIAS, Y, PLACES, rows, scale, k, H, W, OH, OW,
    C: tl.constexpr, P: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr, RELU: tl.constexpr, HALF: tl.constexpr, BETA: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, RELU_AFTER: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """`rows` outputs. HALF < 0: no LRN; KERNEL 0: no pooling, which an LRN excludes; KEEP: write where maxima stood."""
    tl.static_assert(HALF < 0 or KERNEL == 0)
    columns, inside, exists, _ = _columns(C, P, WIN, WIN, 0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    out = row[:, None].to(tl.int64) * C + columns[None, :]
    mask = there[:, None] & exists[None, :]
    if KERNEL == 0:
        x = _input(X, BIAS, out, mask, columns, exists, HAS_BIAS, RELU)
        if HALF >= 0:
            total = x * x
            for step in tl.static_range(1, HALF + 1):  # the neighbours lie in the cache: sooner read than multiplied
                for sign in tl.static_range(-1, 2, 2):
                    near = (inside + sign * step >= 0) & (inside + sign * step < P)
                    seen = there[:, None] & near[None, :]
                    beside = _input(X, BIAS, out + sign * step, seen, columns + sign * step, near, HAS_BIAS, RELU)
                    total += beside * beside
            x *= _power(k + scale * total, BETA)
        tl.store(Y + out, x.to(Y.dtype.element_ty), mask)
    else:
        best, place = _greatest(
            X, BIAS, row, there, columns, exists, H, W, OH, OW, C, WIN, ROWS, HAS_BIAS, RELU, KERNEL, STRIDE
        )  # fmt: skip
        if RELU_AFTER:
            place = tl.where(best > 0, place, 255)
            best = tl.where(best < 0, 0.0, best)
        tl.store(Y + out, best.to(Y.dtype.element_ty), mask)
        if KEEP:
            tl.store(PLACES + out, place.to(tl.uint8), mask)


@triton.jit
def _from_pooling(
    G, PLACES, picture, y, x, there, columns, exists, OH, OW,
    C: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIN: tl.constexpr,
):  # fmt: skip
    """The gradient that reaches positions (y, x) of a picture from the windows whose maximum they were."""
    total = tl.zeros((ROWS, WIN), tl.float32)
    around: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
    for number in tl.static_range(around * around):
        oy, ox = y // STRIDE - number // around, x // STRIDE - number % around
        dy, dx = y - oy * STRIDE, x - ox * STRIDE
        seen = there & (oy >= 0) & (oy < OH) & (dy < KERNEL) & (ox >= 0) & (ox < OW) & (dx < KERNEL)
        at = ((picture * OH + oy) * OW + ox)[:, None].to(tl.int64) * C + columns[None, :]
        mask = seen[:, None] & exists[None, :]
        place = tl.load(PLACES + at, mask, 255).to(tl.int32)
        gradient = tl.load(G + at, mask, 0.0).to(tl.float32)
        total += tl.where(place == (dy * KERNEL + dx)[:, None], gradient, 0.0)
    return total


@triton.jit
def stage_backward(
    X, BIAS, G, PLACES, DX, SUMS, rows, scale, k, H, W, OH, OW,
    C: tl.constexpr, P: tl.constexpr, WIN: tl.constexpr, TILE: tl.constexpr, HALO: tl.constexpr, ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr, RELU: tl.constexpr, HALF: tl.constexpr, BETA: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, ADD_UP: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """The gradient of `rows` inputs; ADD_UP: its sum over this program's rows, the bias' gradient in parts."""
    columns, _, exists, own = _columns(C, P, WIN, TILE, HALO)
    sums = tl.zeros((WIN,), tl.float32)
    # One stage: pipelined loads of every tap would ask for more shared memory than there is.
    for block in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=1):
        row = block * ROWS + tl.arange(0, ROWS)
        there = row < rows
        at = row[:, None].to(tl.int64) * C + columns[None, :]
        mask = there[:, None] & exists[None, :]
        x, y = row % W, row // W % H
        if KERNEL > 0:
            gradient = _from_pooling(
                G, PLACES, row // W // H, y, x, there, columns, exists, OH, OW, C, KERNEL, STRIDE, ROWS, WIN
            )
        else:
            gradient = tl.load(G + at, mask, 0.0).to(tl.float32)
        if RELU or HALF >= 0:
            value = _input(X, BIAS, at, mask, columns, exists, HAS_BIAS, RELU)
            if HALF >= 0:
                d = k + scale * _sum_over_maps(value * value, WIN, HALF, NARROW)
                power = _power(d, BETA)
                spread = _sum_over_maps(gradient * value * power / d, WIN, HALF, NARROW)
                gradient = gradient * power - 2 * BETA * scale * value * spread
            if RELU:
                gradient = tl.where(value > 0, gradient, 0.0)
        tl.store(DX + at, gradient.to(DX.dtype.element_ty), there[:, None] & own[None, :])
        if ADD_UP:
            sums += tl.sum(tl.where(there[:, None], gradient, 0.0), 0)
    if ADD_UP:
        tl.store(SUMS + tl.program_id(0) * C + columns, sums, own)


@triton.jit
def _tile(rows, C: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows and columns, each with which exist, and of their product the places and which exist."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * WIN + tl.arange(0, WIN)
    there, exists = row < rows, columns < C
    at = row[:, None].to(tl.int64) * C + columns[None, :]
    return row, there, columns, exists, at, there[:, None] & exists[None, :]


@triton.jit
def within_forward(
    Z, Y, D, rows, scale, H, W,
    C: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr, WITHIN: tl.constexpr, BETA: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """Within-map norm: Y = Z · D^-BETA, D = 1 + scale · the sum of Z² around each place."""
    row, there, _, exists, at, mask = _tile(rows, C, WIN, ROWS)
    x, y = row % W, row // W % H
    total = tl.zeros((ROWS, WIN), tl.float32)
    for number in tl.static_range((2 * WITHIN + 1) * (2 * WITHIN + 1)):
        up, left = number // (2 * WITHIN + 1) - WITHIN, number % (2 * WITHIN + 1) - WITHIN
        seen = there & (y + up >= 0) & (y + up < H) & (x + left >= 0) & (x + left < W)
        z = tl.load(Z + at + (up * W + left) * C, seen[:, None] & exists[None, :], 0.0).to(tl.float32)
        total += z * z
    d = 1.0 + scale * total
    z = tl.load(Z + at, mask, 0.0).to(tl.float32)
    tl.store(Y + at, (z * _power(d, BETA)).to(Y.dtype.element_ty), mask)
    if KEEP:
        tl.store(D + at, d.to(D.dtype.element_ty), mask)


@triton.jit
def within_backward(
    Z, D, G, PLACES, DIRECT, T, rows, H, W, OH, OW,
    C: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr, BETA: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """The parts of the within-map norm's gradient: DIRECT = g · D^-BETA, and T = g · Z · D^(-BETA-1), to be summed."""
    row, there, columns, exists, at, mask = _tile(rows, C, WIN, ROWS)
    if KERNEL > 0:
        picture, y, x = row // W // H, row // W % H, row % W
        gradient = _from_pooling(
            G, PLACES, picture, y, x, there, columns, exists, OH, OW, C, KERNEL, STRIDE, ROWS, WIN
        )  # fmt: skip
    else:
        gradient = tl.load(G + at, mask, 0.0).to(tl.float32)
    d = tl.load(D + at, mask, 1.0).to(tl.float32)
    direct = gradient * _power(d, BETA)
    tl.store(DIRECT + at, direct.to(DIRECT.dtype.element_ty), mask)
    z = tl.load(Z + at, mask, 0.0).to(tl.float32)
    tl.store(T + at, (direct * z / d).to(T.dtype.element_ty), mask)


@triton.jit
def within_spread(
    Z, DIRECT, T, rows, scale, H, W,
    C: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr, WITHIN: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """The within-map norm's gradient, in the place of DIRECT: less what each place changes around it."""
    row, there, _, exists, at, mask = _tile(rows, C, WIN, ROWS)
    x, y = row % W, row // W % H
    total = tl.zeros((ROWS, WIN), tl.float32)
    for number in tl.static_range((2 * WITHIN + 1) * (2 * WITHIN + 1)):
        up, left = number // (2 * WITHIN + 1) - WITHIN, number % (2 * WITHIN + 1) - WITHIN
        seen = there & (y + up >= 0) & (y + up < H) & (x + left >= 0) & (x + left < W)
        total += tl.load(T + at + (up * W + left) * C, seen[:, None] & exists[None, :], 0.0).to(tl.float32)
    z = tl.load(Z + at, mask, 0.0).to(tl.float32)
    direct = tl.load(DIRECT + at, mask, 0.0).to(tl.float32)
    tl.store(DIRECT + at, (direct - 2 * BETA * scale * z * total).to(DIRECT.dtype.element_ty), mask)


@triton.jit
def blocks_of_pixels(
    X, OUT, rows, H, W, OH, OW, PAD, s_n, s_c, s_h, s_w,
    C: tl.constexpr, STRIDE: tl.constexpr, DEPTH: tl.constexpr, WIN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """(N, C, H, W) of any strides -> (N, OH, OW, DEPTH): STRIDE x STRIDE pixels become one, zeros around the picture.

    DEPTH is STRIDE² · C: the row of a block first, then its column, then the channel.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    depth = tl.arange(0, WIN)
    channel, inner = depth % C, depth // C
    x = (row % OW * STRIDE - PAD)[:, None] + (inner % STRIDE)[None, :]
    y = (row // OW % OH * STRIDE - PAD)[:, None] + (inner // STRIDE)[None, :]
    mask = there[:, None] & (depth < DEPTH)[None, :]
    picture = (row // OW // OH)[:, None].to(tl.int64)
    at = picture * s_n + channel[None, :] * s_c + y * s_h + x * s_w
    value = tl.load(X + at, mask & (x >= 0) & (x < W) & (y >= 0) & (y < H), 0.0)
    tl.store(OUT + row[:, None].to(tl.int64) * DEPTH + depth[None, :], value.to(OUT.dtype.element_ty), mask)


@triton.jit
def augment(
    PICTURES, TOP, LEFT, MIRROR, MEAN, SHIFTS, OUT, rows, size, noise, scale, s_n, s_c, s_h, s_w,
    C: tl.constexpr, NOISY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Crop, mirror, minus MEAN (size, size, C), plus SHIFTS (n, C) and ÷ noise, ÷ scale: uint8 -> channels last."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    x, y, picture = row % size, row // size % size, row // size // size
    mirrored = tl.load(MIRROR + picture, there, 0) != 0
    from_x = tl.load(LEFT + picture, there, 0) + tl.where(mirrored, size - 1 - x, x)
    from_y = tl.load(TOP + picture, there, 0) + y
    channel = tl.arange(0, 4)
    mask = there[:, None] & (channel < C)[None, :]
    at = (picture.to(tl.int64) * s_n + from_y * s_h + from_x * s_w)[:, None] + channel[None, :] * s_c
    value = tl.load(PICTURES + at, mask, 0).to(tl.float32)
    value -= tl.load(MEAN + (y * size + x)[:, None] * C + channel[None, :], mask, 0.0)
    if NOISY:
        value = (value + tl.load(SHIFTS + picture[:, None] * C + channel[None, :], mask, 0.0)) / noise
    value = value / scale
    tl.store(OUT + row[:, None].to(tl.int64) * C + channel[None, :], value.to(OUT.dtype.element_ty), mask)


@triton.jit
def relu_dropout(X, MASK, Y, size, keep, SIZE: tl.constexpr, INVERTED: tl.constexpr):
    """Y = max(X, 0) · MASK, and where INVERTED ÷ keep."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    x = tl.load(X + at, at < size, 0.0).to(tl.float32)
    x = tl.where(x < 0, 0.0, x) * tl.load(MASK + at, at < size, 0.0).to(tl.float32)  # NaN stays NaN
    if INVERTED:
        x = x / keep
    tl.store(Y + at, x.to(Y.dtype.element_ty), at < size)


@triton.jit
def relu_dropout_gradient(Y, G, DX, size, keep, SIZE: tl.constexpr, INVERTED: tl.constexpr):
    """Where Y is positive, ReLU and mask have let it through: neither is read again."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    gradient = tl.load(G + at, at < size, 0.0).to(tl.float32)
    if INVERTED:
        gradient = gradient / keep
    gradient = tl.where(tl.load(Y + at, at < size, 0.0) > 0, gradient, 0.0)
    tl.store(DX + at, gradient.to(DX.dtype.element_ty), at < size)


@triton.jit
def update(WEIGHT, VELOCITY, GRADIENT, COPY, NUMBERS, size, momentum, decay, SIZE: tl.constexpr, COPIED: tl.constexpr):
    """SGD as torch has it: v <- momentum · ratio · v + g + decay · w, w <- w - rate · v; NUMBERS: rate, ratio.

    A rate of 0 changes nothing. COPIED: the new weights go to COPY, too, in its type.
    """
    rate, ratio = tl.load(NUMBERS), tl.load(NUMBERS + 1)
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = at < tl.where(rate != 0, size, 0)
    weight = tl.load(WEIGHT + at, mask, 0.0)
    velocity = tl.load(VELOCITY + at, mask, 0.0) * ratio
    velocity = momentum * velocity + (tl.load(GRADIENT + at, mask, 0.0).to(tl.float32) + decay * weight)
    tl.store(VELOCITY + at, velocity, mask)
    weight -= rate * velocity
    tl.store(WEIGHT + at, weight, mask)
    if COPIED:
        tl.store(COPY + at, weight.to(COPY.dtype.element_ty), mask)
