"""What the scheduler is held to, and whether a run met it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.figures import find, short
from benchmarks.limits import ASYNCIO, TRIO
from benchmarks.report import Results, against, growth

__all__ = ["judge"]

PLAIN: Final = ("chain", "fan", "tree")
SLEEPING: Final = ("chain, one sleep(0)", "fan, one sleep(0)")
NODES: Final = 20_000
FEW: Final = 2_000
MANY: Final = 200_000

Row = tuple[str, str, str, str]


def judge(results: Results) -> list[Row]:
    """Metric, measured, target, and "met" or "missed"; only for what the run has measured."""
    return [*_shapes(results), *_growth(results), *_probes(results), *_peers(results)]


def _at_most(
    metric: str, values: Iterable[float | None], bound: float, unit: str = ""
) -> list[Row]:
    known = [value for value in values if value is not None]
    if not known:
        return []
    worst = max(known)
    verdict = "met" if worst <= bound else "missed"
    return [(metric, short(worst) + unit, f"<= {bound:g}{unit}", verdict)]


def _at_least(metric: str, values: Iterable[float], bound: float) -> list[Row]:
    known = list(values)
    if not known:
        return []
    verdict = "met" if min(known) >= bound else "missed"
    return [(metric, short(min(known)) + "x", f">= {bound:g}x", verdict)]


def _ratios(
    results: Results, shapes: Iterable[str], where: str, nodes: int, reference: str
) -> list[float | None]:
    found = [find(results.series, shape, where, nodes) for shape in shapes]
    return [against(results.series, one, reference) for one in found if one is not None]


def _shapes(results: Results) -> Iterator[Row]:
    native, loop = "native trio", "native asyncio"
    yield from _at_most(
        "trivial bodies, 20,000 nodes, trio: worst xT",
        _ratios(results, PLAIN, native, NODES, TRIO), 0.5,
    )  # fmt: skip
    yield from _at_most(
        "the same on asyncio: worst xA", _ratios(results, PLAIN, loop, NODES, ASYNCIO), 0.9
    )
    yield from _at_most("2,000 nodes: worst xT", _ratios(results, PLAIN, native, FEW, TRIO), 0.7)
    extra = [
        above - below
        for shape in PLAIN
        for above in _ratios(results, [shape], "background trio", NODES, TRIO)
        for below in _ratios(results, [shape], native, NODES, TRIO)
        if above is not None and below is not None
    ]
    yield from _at_most("from synchronous code: xT more than native, worst", extra, 0.15)
    yield from _at_most(
        "bodies with one sleep(0), 20,000 nodes: worst xT",
        _ratios(results, SLEEPING, native, NODES, TRIO), 0.7,
    )  # fmt: skip
    yield from _at_most("the same, 2,000 nodes", _ratios(results, SLEEPING, native, FEW, TRIO), 1.1)
    yield from _at_most(
        "1,000 nodes all suspended at once: xT",
        _ratios(results, ["fan, all wait at once"], native, 1000, TRIO), 3.5,
    )  # fmt: skip
    yield from _at_most(
        "synchronous bodies, fan: xT",
        _ratios(results, ["fan on threads"], native, NODES, TRIO),
        1.0,
    )
    threads = find(results.series, "chain on threads", native, FEW)
    yield from _at_most(
        "synchronous bodies, chain", [threads.median if threads else None], 80.0, " us"
    )


def _growth(results: Results) -> Iterator[Row]:
    ours = [growth(results.series, shape, "native trio", FEW, MANY) for shape in PLAIN]
    yield from _at_most("growth of time per node, 2,000 to 200,000: worst", ours, 2.2)
    reference = growth(results.series, "trivial", TRIO, FEW, MANY)
    if reference is not None:
        yield from _at_most("the same, against the bare nursery's own", ours, round(reference, 2))


def _probes(results: Results) -> Iterator[Row]:
    def of(probe: str, ending: str) -> list[float]:
        return [
            one.median
            for one in results.probes
            if one.probe == probe and one.figure.endswith(ending)
        ]

    yield from _at_most("bytes per pending node", of("memory", "pending"), 350.0)
    yield from _at_most("bytes retained per finished node", of("memory", "dropped"), 1.0)
    yield from _at_most("longest hold of the loop", of("holds", ""), 10.0, " ms")


def _peers(results: Results) -> Iterator[Row]:
    others: list[float] = []
    for one in results.peers:
        times = {what: one.times_ours(what) for what in one.theirs}
        if one.name != "original":
            others += times.values()
            continue
        trees = [value for what, value in times.items() if what.endswith("tree")]
        rest = [value for what, value in times.items() if not what.endswith("tree")]
        yield from _at_least("the original, chain and fan: least", rest, 15.0)
        yield from _at_least("the original, tree: least", trees, 50.0)
    yield from _at_least("the fastest other peer: least", others, 20.0)
