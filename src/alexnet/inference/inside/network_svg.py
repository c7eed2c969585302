"""A network drawn to scale as a row of blocks, with its towers and where they cross: SVG text, from its records alone.

Three scales, each the same all along the row: pixels of a map's side, maps, and units of fully connected layers. A
tower is a row of its own; a line from one tower's block to another's says that a layer sees both (paper Fig. 2).
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass

from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape

HEIGHT, DEPTH = 150.0, 0.32  # of the input's side; of a block's side, towards the back
MAPS, UNITS = 56.0, 150.0  # of the most maps and the most units of a tower
BAR, SLAB, LEAST = 9.0, 5.0, 2.5  # width of units, of layers that change no shape; what can still be seen
GAP, NEAR, MARGIN, LABEL, LINE = 26.0, 3.0, 14.0, 62.0, 11.0

COLOURS = {
    "input": "#8a8f98", "conv": "#3b82c4", "local": "#2a9d8f", "fc": "#c8553d", "pool": "#5fa55a", "norm": "#d9a13b",
    "activation": "#a05fb4", "dropout": "#8d99ae", "softmax": "#555b66",
}  # fmt: skip
KINDS: dict[type, str] = {
    v.Conv: "conv", v.Local: "local", v.FC: "fc", v.MaxPool: "pool", v.AvgPool: "pool", v.LRN: "norm",
    v.WithinMapNorm: "norm", v.BatchNorm: "norm", v.ReLU: "activation", v.Tanh: "activation", v.Dropout: "dropout",
    v.Softmax: "softmax",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A layer as it is drawn: `rows` towers, whether it sees the others' outputs, and what it makes of them."""

    name: str
    kind: str
    shape: tuple[int, ...]
    rows: int
    crosses: bool
    thin: bool


def network_svg(variant: v.Variant, classes: int, channels: int, input: int) -> str:
    """The network as SVG: each layer is a group of the class `layer` with `data-layer`, to be focused and clicked."""
    return _Drawing(blocks(variant, classes, channels, input), variant, input).text()


def blocks(variant: v.Variant, classes: int, channels: int, input: int) -> list[Block]:
    """The input and every layer, in order."""
    towers = max(getattr(record, "groups", 1) for record in variant.layers)
    shape: tuple[int, ...] = (channels, input, input)
    found = [Block("input", "input", shape, 1, False, False)]
    last = [record.name for record in variant.layers if isinstance(record, v.Weighted)][-1]
    rows = 1
    for record in variant.layers:
        shape = output_shape(record, shape, classes)
        before = rows
        if isinstance(record, v.Weighted):
            rows = 1 if record.name == last or shape[0] % towers else towers
        thin = not isinstance(record, v.Weighted | v.MaxPool | v.AvgPool)
        found.append(Block(record.name, KINDS[type(record)], shape, rows, _crosses(record, before, rows), thin))
    return found


def _crosses(record: v.Layer, before: int, rows: int) -> bool:
    """Whether the layer's towers see each other's inputs."""
    if before == 1:
        return False
    if isinstance(record, v.LRN):
        return record.towers == 1
    return isinstance(record, v.Weighted) and getattr(record, "groups", 1) == 1


@dataclass(frozen=True)
class Rectangle:
    x: float
    y: float
    width: float
    height: float
    depth: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


class _Drawing:
    def __init__(self, found: list[Block], variant: v.Variant, input: int) -> None:
        self.blocks, self.variant, self.input = found, variant, input
        self.per_pixel = HEIGHT / input
        self.per_map = MAPS / max(b.shape[0] / b.rows for b in found if len(b.shape) == 3 and b.kind != "input")
        self.per_unit = UNITS / max(b.shape[0] / b.rows for b in found if len(b.shape) == 1)
        self.two = max(b.rows for b in found)
        tall = max(self._size(b)[1] + self._size(b)[2] for b in found[1:])
        self.row_height = tall + 18
        whole = max(self.two * self.row_height, HEIGHT * (1 + DEPTH))
        self.axes = {
            1: [MARGIN + whole / 2 + HEIGHT * DEPTH / 4],
            self.two: [MARGIN + whole * (2 * row + 1) / (2 * self.two) + 6 for row in range(self.two)],
        }
        self.bottom = MARGIN + whole + 8
        self.placed = list(self._place())
        end = self.placed[-1][-1]
        self.width = end.x + end.width + end.depth + MARGIN + 24

    def _size(self, block: Block) -> tuple[float, float, float]:
        """Width, height and depth of one of a block's rows."""
        if len(block.shape) == 1:
            return (SLAB if block.thin else BAR), max(LEAST, block.shape[0] / block.rows * self.per_unit), 0
        side = max(LEAST, block.shape[1] * self.per_pixel)
        width = SLAB if block.thin else max(LEAST, block.shape[0] / block.rows * self.per_map)
        return width, side, side * DEPTH

    def _place(self) -> Iterator[list[Rectangle]]:
        x = MARGIN
        for number, block in enumerate(self.blocks):
            width, height, depth = self._size(block)
            if number and block.thin:
                x += NEAR
            elif number:
                x += GAP + depth * 0.4
            yield [Rectangle(x, axis - height / 2, width, height, depth) for axis in self.axes[block.rows]]
            following = self.blocks[number + 1] if number + 1 < len(self.blocks) else None
            x += width + (0 if following and following.thin else depth)

    def text(self) -> str:
        """The whole file."""
        name = html.escape(self.variant.name)
        height = self.bottom + LABEL
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="network" viewBox="0 0 {self.width:.0f} {height:.0f}" '
            f'width="{self.width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif" font-size="10" '
            'fill="currentColor">',
            f"<title>{name}</title><desc>{html.escape(self._says())}</desc>",
        ]
        before: tuple[Block, list[Rectangle]] | None = None
        for block, rectangles in zip(self.blocks, self.placed, strict=True):
            if before is not None and (not block.thin or block.crosses):
                parts.append(self._lines(*before, block, rectangles))
            before = block, rectangles
        parts += map(self._group, self.blocks, self.placed, self._labels())
        return "\n".join([*parts, "</svg>\n"])

    def _labels(self) -> list[float]:
        """Where each name stands: at its block, or as far to the right as those before it need."""
        places: list[float] = []
        for rectangles in self.placed:
            x = rectangles[0].x + rectangles[0].width / 2 - 2
            places.append(max(x, places[-1] + LINE) if places else x)
        return places

    def _says(self) -> str:
        towers = f"{self.two} towers; lines between them are crossings" if self.two > 1 else "one tower"
        return (
            f"{self.variant.name}: {self.variant.source}. Heights are sides of maps in pixels, widths numbers of maps, "
            f"bars are units, each to one scale; {towers}."
        )

    def _lines(self, before: Block, left: list[Rectangle], block: Block, right: list[Rectangle]) -> str:
        """From what a layer sees to the layer."""
        lines = []
        for number, end in enumerate(right):
            for other, start in enumerate(left):
                crossing = len(left) == len(right) and other != number
                if crossing and not block.crosses:
                    continue
                crossing |= len(left) > len(right)
                stroke = 'class="crossing" stroke-dasharray="4 3"' if crossing else 'class="way" stroke-opacity=".5"'
                begin = start.x + start.width + start.depth / 2, start.middle - start.depth / 2
                lines.append(
                    f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end.x:.1f}" y2="{end.middle:.1f}" '
                    f'stroke="currentColor" {stroke}/>'
                )
        return "".join(lines)

    def _group(self, block: Block, rectangles: list[Rectangle], label_x: float) -> str:
        first, colour = rectangles[0], COLOURS[block.kind]
        shape = " x ".join(map(str, block.shape))
        seen = f", {block.rows} towers" if block.rows > 1 else ""
        crossing = ", which see each other" if block.crosses else ""
        said = html.escape(f"{block.name}: {shape}{seen}{crossing}")
        button = "" if block.kind == "input" else ' role="button" tabindex="0"'
        hit = (
            f'<rect class="hit" x="{first.x - 1:.1f}" y="{MARGIN}" width="{max(first.width, SLAB) + NEAR - 1:.1f}" '
            f'height="{self.bottom - MARGIN + LABEL - 4:.1f}" fill="transparent"/>'
        )
        place = f"translate({label_x:.1f} {self.bottom + 6:.1f}) rotate(60)"
        label = f'<text transform="{place}">{html.escape(block.name)}</text>'
        faces = "".join(_block(place, colour) for place in rectangles)
        return (
            f'<g class="layer {block.kind}" data-layer="{html.escape(block.name)}"{button} aria-label="{said}">'
            f"<title>{said}</title>{hit}{faces}{label}</g>"
        )


def _block(place: Rectangle, colour: str) -> str:
    """A block in oblique projection: front, top and right side."""
    x, y, w, h, d = place.x, place.y, place.width, place.height, place.depth
    edge = 'stroke="#1b1f24" stroke-opacity=".55" stroke-width=".6"'
    front = f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour}" {edge}/>'
    if not d:
        return front
    top = f"{x:.1f},{y:.1f} {x + d:.1f},{y - d:.1f} {x + w + d:.1f},{y - d:.1f} {x + w:.1f},{y:.1f}"
    side = f"{x + w:.1f},{y:.1f} {x + w + d:.1f},{y - d:.1f} {x + w + d:.1f},{y + h - d:.1f} {x + w:.1f},{y + h:.1f}"
    return (
        f'{front}<polygon points="{top}" fill="{_lighter(colour, 0.3)}" {edge}/>'
        f'<polygon points="{side}" fill="{_lighter(colour, 0.55)}" {edge}/>'
    )


def _lighter(colour: str, share: float) -> str:
    """The colour, mixed with that share of white."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (255 - part)):02x}" for part in parts)
