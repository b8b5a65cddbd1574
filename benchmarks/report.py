"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.figures import Series, find, ratio, short, table
from benchmarks.limits import ANYIO, ASYNCIO, TRIO
from benchmarks.peers import SHAPES as PEER_SHAPES
from benchmarks.peers.compare import Comparison
from benchmarks.shapes import SHAPES, TRIVIAL

__all__ = ["Probe", "Results", "against", "growth", "markdown", "shape_table"]

PLACES: Final = ("native trio", "native asyncio", "background trio", "background asyncio")
REFERENCES: Final = (TRIO, ASYNCIO, ANYIO)
GROWING: Final = tuple(name for name, shape in SHAPES.items() if shape.large)
NOT_MEASURED: Final = "-"


UNITS: Final = {
    "memory": "bytes per node, as Python allocates them",
    "resident memory": "bytes per node, as the system sees the process",
    "submission": "microseconds per call, seen by the caller",
    "latency": "microseconds from the end of a body to the start of the one that waited for it",
    "holds": "milliseconds of processor time, at most, between two turns of another task",
}


@dataclass(frozen=True)
class Probe:
    """A figure of `benchmarks.probes` in every round."""

    probe: str
    figure: str
    backend: str
    nodes: int
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass
class Results:
    """All that was measured."""

    machine: dict[str, Any]
    rounds: int
    series: list[Series] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    peers: list[Comparison] = field(default_factory=list)
    # Why a probe has fewer figures than rounds, or none.
    failures: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "units": {"shapes": "microseconds per node", **UNITS, "peers": "microseconds per task"},
            "shapes": [asdict(one) for one in self.series],
            "probes": [asdict(one) for one in self.probes],
            "failures": self.failures,
            "peers": [asdict(one) for one in self.peers],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Results:
        """The inverse of `document`."""
        return cls(
            document["machine"],
            document["rounds"],
            [Series(**one) for one in document["shapes"]],
            [Probe(**one) for one in document["probes"]],
            [Comparison(**one) for one in document["peers"]],
            document["failures"],
        )

    @property
    def sizes(self) -> list[int]:
        """The numbers of nodes at which trivial bodies were measured."""
        return sorted({one.nodes for one in self.series if one.where == TRIO})


def against(series: Sequence[Series], one: Series, reference: str) -> float | None:
    """How many times as long as the reference with the same bodies, at the same size."""
    below = find(series, one.bodies, reference, one.nodes)
    return ratio(one.values, below.values) if below is not None else None


def growth(series: Sequence[Series], shape: str, where: str, first: int, last: int) -> float | None:
    """How many times as long a node takes at `last` nodes as at `first`."""
    small, big = find(series, shape, where, first), find(series, shape, where, last)
    return ratio(big.values, small.values) if small is not None and big is not None else None


def _cell(series: Sequence[Series], one: Series | None) -> str:
    if one is None:
        return NOT_MEASURED
    ratios = [against(series, one, reference) for reference in (TRIO, ASYNCIO)]
    shown = " / ".join(NOT_MEASURED if value is None else f"{value:.2f}" for value in ratios)
    return f"{short(one.median)} ({shown})"


def shape_table(series: Sequence[Series], nodes: int) -> str:
    """Every shape at this size: microseconds per node, and in parentheses xT / xA."""
    here = [one for one in series if one.nodes == nodes]
    names = dict.fromkeys(one.shape for one in here if one.where in PLACES)
    rows = []
    for name in names:
        found = [find(here, name, place, nodes) for place in PLACES]
        rows.append([name, *[_cell(here, one) for one in found]])
    return table([f"{nodes:,} nodes", *PLACES], rows)


def reference_table(series: Sequence[Series]) -> str:
    """What the ratios divide by."""
    keys = dict.fromkeys((one.shape, one.nodes) for one in series if one.where in REFERENCES)
    rows = []
    for bodies, nodes in sorted(keys, key=lambda key: (key[1], key[0])):
        found = [find(series, bodies, name, nodes) for name in REFERENCES]
        shown = [NOT_MEASURED if one is None else short(one.median) for one in found]
        rows.append([f"{nodes:,} {bodies}", *shown])
    return table(["bodies", *REFERENCES], rows)


def growth_table(series: Sequence[Series], sizes: Sequence[int]) -> str:
    """Time per node at each size, and how it grows from the first to the last."""
    lines = [
        (one.shape, one.where)
        for one in series
        if one.nodes == sizes[-1] and (one.shape == TRIVIAL or one.shape in GROWING)
    ]
    rows = []
    for shape, where in lines:
        if where not in (*REFERENCES, "native trio", "native asyncio"):
            continue
        found = [find(series, shape, where, n) for n in sizes]
        shown = [NOT_MEASURED if one is None else short(one.median) for one in found]
        grown = growth(series, shape, where, sizes[0], sizes[-1])
        name = f"{shape}, {where}" if where in PLACES else where
        rows.append([name, *shown, NOT_MEASURED if grown is None else f"{grown:.2f}"])
    return table(["microseconds per node", *[f"{n:,}" for n in sizes], "last to first"], rows)


def probe_table(probes: Sequence[Probe], probe: str) -> str:
    here = [one for one in probes if one.probe == probe]
    backends = list(dict.fromkeys(one.backend for one in here))
    by_place = {(one.figure, one.backend): one.median for one in here}
    rows = []
    for figure in dict.fromkeys(one.figure for one in here):
        found = [by_place.get((figure, backend)) for backend in backends]
        rows.append([figure, *[NOT_MEASURED if one is None else short(one) for one in found]])
    return table([f"{probe}, {here[0].nodes:,} nodes", *backends], rows)


def peer_table(peers: Sequence[Comparison]) -> str:
    """Microseconds per task, and in parentheses how many times ours."""
    rows = []
    for one in peers:
        version = " ".join(one.versions.values())
        label = f"{one.label} {version}".strip()
        callers = list(dict.fromkeys(what.split()[0] for what in one.theirs))
        how = "; ".join(part for part in (one.how, one.reason) if part)
        for caller in callers:
            cells = []
            for shape in PEER_SHAPES:
                what = f"{caller} {shape}"
                times = one.times_ours(what)
                cells.append(f"{short(median(one.theirs[what]))} ({short(times)}x)")
            rows.append([label, caller, f"{one.nodes:,}", *cells, how])
        if not callers:
            missing = [NOT_MEASURED] * len(PEER_SHAPES)
            rows.append([label, NOT_MEASURED, f"{one.nodes:,}", *missing, f"failed: {one.reason}"])
    return table(["peer", "caller", "tasks", *PEER_SHAPES, "how"], rows)


def our_table(peers: Iterable[Comparison]) -> str:
    """Ours in the processes that ran beside the peers, by the number of tasks."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for one in peers:
        for what, values in one.ours.items():
            caller, shape = what.split()
            place = found.setdefault((caller, one.nodes), {})
            place.setdefault(shape, []).extend(values)
    rows = [
        [f"{caller}, {nodes:,} tasks", *[short(median(shapes[shape])) for shape in PEER_SHAPES]]
        for (caller, nodes), shapes in sorted(found.items(), reverse=True)
    ]
    return table(["Motus", *PEER_SHAPES], rows)


def machine_lines(results: Results) -> str:
    about = results.machine
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    return (
        f"{about['processor']}, {about['cores']} cores, {about['system']}, "
        f"Python {about['python']}; {versions}. Rounds: {results.rounds}."
    )


SHAPES_TEXT: Final = """\
Microseconds per node; in parentheses the ratios to a bare trio nursery and to bare asyncio tasks
(xT / xA) that start as many tasks with the same bodies, in the same process and round. Ratios are
medians of the rounds' ratios. Native: submitted and awaited in the loop. Background: submitted and
resolved by synchronous code, the loop on another thread. Bodies on threads, and tasks that fail or
are cancelled before they begin, are divided by trivial tasks in the loop that succeed. Absolute
times depend on the machine and on what else it does; the ratios are what to quote."""

PEERS_TEXT: Final = """\
Each peer in an environment and a process of its own, in turn with Motus doing the same work.
Microseconds per task; in parentheses how many times as long as Motus takes for as many tasks, from
the same kind of caller, in the same round. Slow peers get fewer tasks. Every value is checked."""


def markdown(results: Results, targets: Sequence[Sequence[str]] = ()) -> str:
    """The whole report; `targets` are rows of metric, measured, bound, and whether it is met."""
    parts = ["# What a node of the task graph costs", machine_lines(results)]
    if targets:
        parts += ["## Targets", table(["metric", "measured", "target", ""], targets)]
    if results.series:
        parts += ["## Shapes", SHAPES_TEXT]
        for nodes in sorted({one.nodes for one in results.series}):
            parts.append(shape_table(results.series, nodes))
        parts += ["The references, microseconds per task:", reference_table(results.series)]
        trivial = [n for n in results.sizes if find(results.series, TRIVIAL, TRIO, n)]
        if len(trivial) > 1:
            parts += ["## Growth", growth_table(results.series, trivial)]
    if results.probes:
        parts.append("## Memory, submission, latency, holds")
        for probe in dict.fromkeys(one.probe for one in results.probes):
            text = UNITS[probe]
            parts += [f"{text[0].upper()}{text[1:]}:", probe_table(results.probes, probe)]
    parts += [f"Failed: {what}: {reason}" for what, reason in results.failures.items()]
    if results.peers:
        parts += ["## Peers", PEERS_TEXT, peer_table(results.peers), our_table(results.peers)]
    return "\n\n".join(parts) + "\n"
