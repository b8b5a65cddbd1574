"""What turns cost, as Markdown, and whether the targets were met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.figures import ratio, short, table

__all__ = ["LEVELS", "OURS", "THEIRS", "Figure", "Results", "judge", "markdown"]

OURS: Final = "ours"
THEIRS: Final = "the original"
# Which client, and how many turns at a time.
LEVELS: Final = [("small", 1), ("small", 2), ("small", 8), ("httpx", 32), ("small", 32)]
LOAD: Final = ("turns/s", "p50 ms", "p99 ms", "CPU ms per turn")

Row = tuple[str, str, str, str]


class Figure(NamedTuple):
    """What was measured, in which unit, on which side."""

    what: str
    unit: str
    side: str


@dataclass
class Results:
    """Every figure in every round."""

    machine: dict[str, Any]
    rounds: int
    figures: dict[Figure, list[float]] = field(default_factory=dict)

    def add(self, figure: Figure, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        figures = [{**key._asdict(), "values": found} for key, found in self.figures.items()]
        return {"machine": self.machine, "rounds": self.rounds, "figures": figures}

    def median(self, what: str, unit: str, side: str = OURS) -> float | None:
        found = self.figures.get(Figure(what, unit, side))
        return None if found is None else median(found)

    def times(self, what: str, unit: str) -> float | None:
        """How many times better than the original: the median of the rounds' ratios."""
        ours = self.figures.get(Figure(what, unit, OURS))
        theirs = self.figures.get(Figure(what, unit, THEIRS))
        if ours is None or theirs is None:
            return None
        return ratio(ours, theirs) if unit == "turns/s" else ratio(theirs, ours)


def _key(agent: str, workers: int, client: str, concurrency: int) -> str:
    return f"{agent}, {workers} workers, {client}, {concurrency}"


def judge(results: Results) -> list[Row]:
    """Metric, measured, target, and "met" or "missed"; only for what the run has measured."""
    return list(_judge(results))


def _judge(results: Results) -> Iterator[Row]:
    for client, concurrency, bound in (
        ("small", 1, 10.0), ("small", 2, 6.0), ("small", 8, 3.3), ("httpx", 32, 1.9),
        ("small", 32, 4.0),
    ):  # fmt: skip
        key = _key("heavy", 16, client, concurrency)
        for unit in ("turns/s", "p50 ms"):
            where = f"{unit} at {concurrency}, {client} client"
            yield from _at_least(where, results.times(key, unit), bound)
    for concurrency, bound in ((1, 6.0), (8, 3.0)):
        times = results.times(_key("heavy", 16, "small", concurrency), "p99 ms")
        yield from _at_least(f"p99 at {concurrency}", times, bound)
    times = results.times(_key("heavy", 2, "small", 8), "turns/s")
    yield from _at_least("turns/s at 8, 2 workers", times, 5.0)
    yield from _at_least("10 MB state", results.times("10 MB state", "ms"), 2.5)
    cpus = [results.median(_key("heavy", 16, *level), LOAD[3]) for level in LEVELS]
    known = [cpu for cpu in cpus if cpu is not None]
    yield from _at_most("CPU per turn, worst level", max(known, default=None), 10.0, "ms")
    for what, unit, bound in (
        ("cancel to reaped", "ms", 50.0),
        ("server killed to no process left", "ms", 200.0),
        ("private memory of a spare", "MB", 5.0),
        ("idle with ten waiting turns", "wake-ups/s", 0.0),
    ):
        yield from _at_most(what, results.median(what, unit), bound, unit)


def _at_least(metric: str, value: float | None, bound: float) -> Iterator[Row]:
    if value is not None:
        verdict = "met" if value >= bound else "missed"
        yield metric, f"{short(value)}x", f">= {bound:g}x", verdict


def _at_most(metric: str, value: float | None, bound: float, unit: str) -> Iterator[Row]:
    if value is not None:
        verdict = "met" if value <= bound else "missed"
        yield metric, f"{short(value)} {unit}", f"<= {bound:g} {unit}", verdict


def _cell(results: Results, what: str, unit: str) -> str:
    ours = results.median(what, unit)
    theirs = results.median(what, unit, THEIRS)
    times = results.times(what, unit)
    shown = "-" if ours is None else short(ours)
    if theirs is not None and times is not None:
        shown += f" : {short(theirs)} ({short(times)}x)"
    return shown


def markdown(results: Results, verdicts: list[Row]) -> str:
    """The report."""
    loads = dict.fromkeys(key.what for key in results.figures if key.unit == "turns/s")
    rows = [[what, *[_cell(results, what, unit) for unit in LOAD]] for what in loads]
    others = dict.fromkeys(
        (key.what, key.unit) for key in results.figures if key.unit not in LOAD
    )  # fmt: skip
    more = [[what, unit, _cell(results, what, unit)] for what, unit in others]
    found = results.machine
    return f"""# What a turn costs

{found["processor"]}, {found["cores"]} cores shared by client, servers and workers;
{found["system"]}; rounds: {results.rounds}. A turn is: create a session, send a message, wait for
the answer, delete the session. In each cell: ours : the original (times better). Medians over the
rounds; a ratio is the median of the rounds' ratios. The heavy agent imports openai and anthropic.

## Targets

{table(["metric, heavy agent", "measured", "target", ""], verdicts)}

## Turns

{table(["agent, workers, client, turns at a time", *LOAD], rows)}

## Other figures

{table(["what", "unit", "median"], more)}
"""
