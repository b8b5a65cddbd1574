"""What a node of the task graph costs: `python -m benchmarks.scheduler`.

Each shape runs natively on trio and on asyncio, and from synchronous code on a background thread.
In the same round, in the same process, run the references: a bare trio nursery, bare asyncio
tasks and an anyio task group, each starting as many tasks with the same bodies. xT and xA are the
ratios to the first two, which are what to quote: absolute times depend on the machine and on what
else it does.

Times are microseconds per node, medians over the rounds; a ratio is the median of the rounds'
ratios. Memory, submission, latency and holds of the loop are measured in processes of their own.
`--peers all` measures other libraries too, each in an environment that is made for it.

  python -m benchmarks.scheduler --quick                   a few seconds, to see that it works
  python -m benchmarks.scheduler --shapes chain fan --probes none
  python -m benchmarks.scheduler --nodes 1000 2000 20000 200000 1000000 --peers all --results
                                                           everything, kept in benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.charts import chart
from benchmarks.children import ChildError, ask
from benchmarks.figures import machine, to_json
from benchmarks.limits import measure
from benchmarks.peers import PEERS
from benchmarks.peers.compare import ROOT, compare
from benchmarks.report import Probe, Results, markdown
from benchmarks.shapes import SHAPES
from benchmarks.targets import judge

__all__ = ["main"]

NODES: Final = (2_000, 20_000)
RESULTS: Final = ROOT / "benchmarks" / "results"
CACHE: Final = ROOT / ".bench-envs"

# How many nodes a probe has, and a quick one, and on which backends it differs.
BOTH: Final = ("trio", "asyncio")
PROBES: Final = {
    "memory": (50_000, 2_000, ("trio",)),
    "resident memory": (100_000, 2_000, ("trio",)),
    "submission": (20_000, 500, BOTH),
    "latency": (500, 20, BOTH),
    "holds": (100_000, 2_000, BOTH),
}


def probe_round(
    names: Sequence[str],
    *,
    quick: bool,
    found: dict[tuple[str, ...], Probe],
    failures: dict[str, str],
) -> None:
    """Every probe once, each in a process of its own."""
    for name in names:
        many, few, backends = PROBES[name]
        nodes = few if quick else many
        for backend in backends:
            try:
                figures = ask(
                    [sys.executable, "-m", "benchmarks.probes"],
                    {"probe": name, "backend": backend, "nodes": nodes},
                    variables={"PYTHONPATH": str(ROOT)},
                )
            except ChildError as error:
                failures[f"{name} on {backend}"] = str(error)
                continue
            for figure, value in figures.items():
                key = (name, figure, backend)
                one = found.setdefault(key, Probe(name, figure, backend, nodes, []))
                one.values.append(value)


def probes(names: Sequence[str], rounds: int, *, quick: bool) -> tuple[list[Probe], dict[str, str]]:
    """All probes, `rounds` times; and why some failed."""
    found: dict[tuple[str, ...], Probe] = {}
    failures: dict[str, str] = {}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}: {', '.join(names)}")
        probe_round(names, quick=quick, found=found, failures=failures)
    return list(found.values()), failures


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """The known names among the wanted, in the order of the known; `all` and `none` are allowed.

    What is not a name may be the beginning of some. SystemExit if it is not.
    """
    if "all" in wanted:
        return list(known)
    wanted = [one for one in wanted if one != "none"]
    found = [
        name
        for name in known
        if name in wanted or any(name.startswith(one) for one in wanted if one not in known)
    ]
    unknown = [one for one in wanted if not any(name.startswith(one) for name in known)]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return found


def peer_sizes(texts: Sequence[str]) -> dict[str, int]:
    """`name=number` as a dict."""
    pairs = [text.partition("=") for text in texts]
    return {chosen([name], list(PEERS))[0]: int(number) for name, _, number in pairs}


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scheduler",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--nodes", type=int, nargs="+", default=None, help="sizes (default: 2000 20000)")
    add("--rounds", type=int, default=3, help="of shapes, of probes and of peers (default: 3)")
    add("--shapes", nargs="+", default=["all"], help="all, none, names or beginnings of names")
    add("--probes", default="all", help=f"all, none, or some of {','.join(PROBES)}")
    add("--peers", default="none", help=f"all, none, or some of {','.join(PEERS)}")
    add("--peer-nodes", nargs="+", default=[], metavar="NAME=N", help="as original=20000")
    add("--environments", type=Path, default=CACHE, help="where the peers' environments are kept")
    add("--quick", action="store_true", help="one round of small graphs")
    add("--json", type=Path, help="keep all figures in this file")
    add(
        "--results", type=Path, nargs="?", const=RESULTS, metavar="DIR",
        help="write scheduler.md, .svg and .json there (without DIR: benchmarks/results)",
    )  # fmt: skip
    add("--again", type=Path, metavar="FILE", help="report on the figures in a JSON file")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> Results:
    """Measure what the options ask for."""
    quick = given.quick
    rounds = 1 if quick else given.rounds
    sizes = sorted(given.nodes or ((200, 1000) if quick else NODES))
    shapes = chosen(given.shapes, list(SHAPES))
    probing = chosen(given.probes.split(","), list(PROBES))
    names = chosen(given.peers.split(","), list(PEERS))
    few = dict.fromkeys(names, 20) if quick else {}
    results = Results(machine(), rounds)
    if shapes:
        results.series = measure(sizes, shapes, rounds, progress)
    if probing:
        results.probes, results.failures = probes(probing, rounds, quick=quick)
    if names:
        results.peers = compare(
            names,
            rounds,
            given.environments.absolute(),
            nodes=few | peer_sizes(given.peer_nodes),
            progress=progress,
        )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    if given.again:
        results = Results.from_document(json.loads(given.again.read_text()))
    else:
        results = run(given)
    report = markdown(results, judge(results))
    print(report)
    if given.json:
        given.json.write_text(to_json(results.document()))
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / "scheduler.md").write_text(report)
        (given.results / "scheduler.svg").write_text(chart(results))
        (given.results / "scheduler.json").write_text(to_json(results.document()))


if __name__ == "__main__":
    main()
