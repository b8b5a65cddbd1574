"""The results as one SVG: the shapes beside the bare loops, time against size, and the peers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from benchmarks.figures import find, short
from benchmarks.limits import ANYIO, ASYNCIO, TRIO
from benchmarks.peers import SHAPES as PEER_SHAPES
from benchmarks.report import Results, against
from benchmarks.shapes import SHAPES

__all__ = ["Canvas", "chart", "ticks"]

WIDTH: Final = 920
LEFT: Final = 200
RIGHT: Final = 60
INK, FAINT, GRID = "#1f2933", "#66727f", "#dde3ea"
# Distinct without colour vision too (after Okabe and Ito).
BLUE, ORANGE, GREEN, VIOLET, GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#8a949e"


class Canvas:
    """Elements of an SVG, top to bottom; `y` is where the next panel begins."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.y = 20.0

    def text(
        self, x: float, y: float, text: str, *, size: int = 12, anchor: str = "start",
        colour: str = INK, bold: bool = False,
    ) -> None:  # fmt: skip
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}"{weight}>{escape(text)}</text>'
        )

    def bar(self, x: float, y: float, width: float, height: float, colour: str, tip: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" '
            f'rx="1.5" fill="{colour}"><title>{escape(tip)}</title></rect>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, width: float = 1, dash: str = ""
    ) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f" stroke-dasharray={quoteattr(dash)}" if dash else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"{dashes}/>'
        )

    def dot(self, x: float, y: float, colour: str, tip: str) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}">'
            f"<title>{escape(tip)}</title></circle>"
        )

    def heading(self, title: str, subtitle: str) -> None:
        self.text(20, self.y + 18, title, size=16, bold=True)
        self.text(20, self.y + 36, subtitle, colour=FAINT)
        self.y += 50

    def legend(self, entries: Iterable[tuple[str, str]]) -> None:
        x = float(LEFT)
        for label, colour in entries:
            self.bar(x, self.y, 12, 10, colour, label)
            self.text(x + 17, self.y + 9, label)
            x += 36 + 6.6 * len(label)
        self.y += 24

    def document(self) -> str:
        height = self.y + 10
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="system-ui, -apple-system, '
            'Segoe UI, Helvetica, Arial, sans-serif" role="img">\n'
            "<title>What a node of the task graph costs</title>\n"
            f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def ticks(low: float, high: float) -> list[float]:
    """The values 1, 2 and 5 times a power of ten from `low` to `high`; powers only, if many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low <= 500 else (1,)
    return [
        step * 10.0**power
        for power in range(first, last + 1)
        for step in steps
        if low <= step * 10.0**power * 1.0000001 and step * 10.0**power <= high * 1.0000001
    ]


def round_down(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * 1.0000001)


def round_up(value: float) -> float:
    """The smallest of 1, 2, 5 and 10 times a power of ten that is not below the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.9999999)


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis: values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * part


def label_of(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def vertical_grid(canvas: Canvas, scale: Scale, top: float, bottom: float, unit: str) -> None:
    for value in ticks(scale.low, scale.high):
        x = scale(value)
        canvas.line([(x, top), (x, bottom)], GRID)
        canvas.text(x, bottom + 15, label_of(value) + unit, size=11, anchor="middle", colour=FAINT)


def shapes_panel(canvas: Canvas, results: Results, nodes: int) -> None:
    """Each shape as a multiple of the bare loop: trio against trio, asyncio against asyncio."""
    rows: list[tuple[str, list[tuple[float, str]]]] = []
    for name in SHAPES:
        bars = []
        for where, reference, colour in (
            ("native trio", TRIO, BLUE),
            ("native asyncio", ASYNCIO, ORANGE),
        ):
            sizes = [n for n in (nodes, 2000, 1000) if find(results.series, name, where, n)]
            one = find(results.series, name, where, sizes[0]) if sizes else None
            value = against(results.series, one, reference) if one else None
            if value is not None:
                bars.append((value, colour))
        if bars:
            rows.append((name, bars))
    if not rows:
        return
    canvas.heading(
        "Shapes beside the bare event loops",
        f"Time per task of a graph of {nodes:,} (or as many as fit the shape), divided by the "
        "loop's own for as many bare tasks with the same bodies",
    )
    canvas.legend([("on trio / bare nursery", BLUE), ("on asyncio / bare tasks", ORANGE)])
    canvas.y += 16
    values = [value for _, bars in rows for value, _ in bars]
    # Room for the figures beside the bars.
    low, high = min(0.5, min(values) / 1.4), max(2, max(values) * 1.4)
    scale = Scale(low, high, LEFT, WIDTH - RIGHT)
    top, bottom = canvas.y, canvas.y + 30 * len(rows)
    vertical_grid(canvas, scale, top, bottom, "x")
    for number, (name, bars) in enumerate(rows):
        y = top + 30 * number + 4
        canvas.text(LEFT - 10, y + 15, name, anchor="end")
        for place, (value, colour) in enumerate(bars):
            line = y + 11 * place
            tip = f"{name}: {short(value)}"
            # From 1, the bare loop, to either side: a logarithmic axis has no zero to start from.
            ends = sorted((scale(1), scale(value)))
            canvas.bar(ends[0], line, ends[1] - ends[0], 10, colour, tip)
            faster = value < 1
            x, anchor = scale(value) + (-5 if faster else 5), "end" if faster else "start"
            canvas.text(x, line + 9, f"{value:.2f}", size=10, anchor=anchor, colour=FAINT)
    canvas.line([(scale(1), top - 4), (scale(1), bottom)], INK, 1.4)
    canvas.text(scale(1) - 8, top - 8, "faster", size=11, anchor="end", colour=FAINT)
    canvas.text(scale(1) + 8, top - 8, "slower than the bare loop", size=11, colour=FAINT)
    canvas.y = bottom + 40


def growth_panel(canvas: Canvas, results: Results) -> None:
    """Time per task against the number of tasks."""
    lines = [
        ("chain, native trio", "chain", "native trio", BLUE, ""),
        ("fan, native trio", "fan", "native trio", GREEN, ""),
        ("tree, native trio", "tree", "native trio", VIOLET, ""),
        (TRIO, "trivial", TRIO, INK, "6 4"),
        (ASYNCIO, "trivial", ASYNCIO, ORANGE, "6 4"),
        (ANYIO, "trivial", ANYIO, GREY, "6 4"),
    ]
    sizes = [n for n in results.sizes if find(results.series, "trivial", TRIO, n)]
    drawn = []
    for label, shape, where, colour, dash in lines:
        found = [find(results.series, shape, where, n) for n in sizes]
        points = [(float(one.nodes), one.median) for one in found if one is not None]
        if len(points) > 1:
            drawn.append((label, points, colour, dash))
    if not drawn:
        return
    canvas.heading(
        "Time per task against size",
        "Microseconds per task with trivial bodies; both axes logarithmic",
    )
    values = [micros for _, points, _, _ in drawn for _, micros in points]
    top, bottom = canvas.y, canvas.y + 260
    across = Scale(sizes[0], sizes[-1], 80, WIDTH - 200)
    up = Scale(round_down(min(values)), round_up(max(values)), bottom, top)
    for value in ticks(up.low, up.high):
        canvas.line([(across.start, up(value)), (across.end, up(value))], GRID)
        canvas.text(72, up(value) + 4, label_of(value), size=11, anchor="end", colour=FAINT)
    for n in sizes:
        canvas.line([(across(n), top), (across(n), bottom)], GRID)
        canvas.text(across(n), bottom + 16, f"{n:,}", size=11, anchor="middle", colour=FAINT)
    canvas.text(
        (across.start + across.end) / 2, bottom + 34, "tasks", anchor="middle", colour=FAINT
    )
    for label, points, colour, dash in drawn:
        path = [(across(n), up(micros)) for n, micros in points]
        canvas.line(path, colour, 2, dash)
        for (x, y), (n, micros) in zip(path, points, strict=True):
            canvas.dot(x, y, colour, f"{label}, {n:,.0f} tasks: {short(micros)} us")
    ends = [(up(points[-1][1]), label, colour) for label, points, colour, _ in drawn]
    for y, label, colour in spread(ends, 16):
        canvas.text(across.end + 10, y + 4, label, colour=colour)
    canvas.y = bottom + 56


def spread(
    labels: Iterable[tuple[float, str, str]], distance: float
) -> list[tuple[float, str, str]]:
    """The labels at least `distance` apart, in their order, moved no further than need be."""
    placed: list[tuple[float, str, str]] = []
    for y, label, colour in sorted(labels):
        placed.append((max(y, placed[-1][0] + distance) if placed else y, label, colour))
    return placed


def peers_panel(canvas: Canvas, results: Results) -> None:
    """Microseconds per task of each peer, and of Motus."""
    rows: list[tuple[str, str, dict[str, float]]] = []
    ours: dict[str, dict[str, list[float]]] = {}
    for one in results.peers:
        for what, values in one.ours.items():
            caller, shape = what.split()
            ours.setdefault(caller, {}).setdefault(shape, []).extend(values)
    for caller, shapes in ours.items():
        medians = {shape: median(values) for shape, values in shapes.items()}
        rows.append(("Motus", caller, medians))
    for one in results.peers:
        for caller in dict.fromkeys(what.split()[0] for what in one.theirs):
            values_of = {shape: median(one.theirs[f"{caller} {shape}"]) for shape in PEER_SHAPES}
            rows.append((one.label, caller, values_of))
    failed = [one for one in results.peers if not one.theirs]
    if not rows:
        return
    # The fastest at the top.
    rows.sort(key=lambda row: max(row[2].values()))
    colours = dict(zip(PEER_SHAPES, (BLUE, GREEN, VIOLET), strict=True))
    canvas.heading(
        "Motus and its peers",
        "Microseconds per task with trivial bodies, the same graphs; logarithmic; less is better",
    )
    canvas.legend(colours.items())
    values = [value for _, _, shapes in rows for value in shapes.values()]
    scale = Scale(round_down(min(values)), round_up(max(values)), LEFT, WIDTH - RIGHT)
    top, bottom = canvas.y, canvas.y + 40 * len(rows)
    vertical_grid(canvas, scale, top, bottom, " us")
    for number, (label, caller, shapes) in enumerate(rows):
        y = top + 40 * number + 4
        canvas.text(LEFT - 10, y + 13, label, anchor="end", bold=label == "Motus")
        canvas.text(LEFT - 10, y + 27, f"{caller} caller", size=10, anchor="end", colour=FAINT)
        for place, (shape, value) in enumerate(shapes.items()):
            line = y + 11 * place
            tip = f"{label}, {caller} caller, {shape}: {short(value)} us"
            canvas.bar(scale.start, line, scale(value) - scale.start, 10, colours[shape], tip)
            canvas.text(scale(value) + 5, line + 9, short(value), size=10, colour=FAINT)
    canvas.y = bottom + 34
    for one in failed:
        canvas.text(20, canvas.y, f"{one.label}: not measured, {one.reason}"[:140], colour=FAINT)
        canvas.y += 18


def chart(results: Results) -> str:
    """The SVG document."""
    canvas = Canvas()
    plain = [n for n in results.sizes if find(results.series, "chain", "native trio", n)]
    if plain:
        shapes_panel(canvas, results, 20_000 if 20_000 in plain else plain[-1])
        growth_panel(canvas, results)
    peers_panel(canvas, results)
    about = results.machine
    foot = f"{about['processor']}, {about['cores']} cores, Python {about['python']}"
    canvas.text(20, canvas.y + 8, f"{foot}; medians, rounds: {results.rounds}", colour=FAINT)
    canvas.y += 20
    return canvas.document()
