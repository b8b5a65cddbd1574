"""The same graphs with every peer and with Motus, each in a process of its own, round by round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.children import ChildError, ask
from benchmarks.figures import ratio
from benchmarks.peers import OURS, PEERS, SHAPES, Peer
from benchmarks.peers.environments import environment

__all__ = ["ROOT", "Comparison", "compare"]

# Not resolved: it is where this package was found, and `motus` is to be found there too.
ROOT: Final = Path(__file__).absolute().parents[2]
HERE: Final = Path(__file__).absolute().parent

# For one process: the slowest starts a server and a database first.
TIMEOUT: Final = 180.0

Ask = Callable[..., dict[str, Any]]


@dataclass
class Comparison:
    """What one peer needed, and Motus for the same in the same round: microseconds per task.

    Both by `"caller shape"`. `reason` says why there are no figures, or fewer.
    """

    name: str
    label: str
    how: str
    nodes: int
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    theirs: dict[str, list[float]] = field(default_factory=dict)
    ours: dict[str, list[float]] = field(default_factory=dict)
    reason: str = ""

    def times_ours(self, what: str) -> float:
        """How many times as long as Motus it takes; the median of the rounds' ratios."""
        return ratio(self.theirs[what], self.ours[what])


def job(name: str, peer: Peer, nodes: int) -> dict[str, Any]:
    """What `benchmarks/peers/harness.py` reads."""
    theirs = "must be own" if peer.listens else "own"
    network = theirs if peer.requirements else "shared"
    return {
        "adapter": str(HERE / f"{name}.py"),
        "paths": [] if peer.requirements else [str(ROOT)],
        "shapes": SHAPES,
        "callers": peer.callers,
        "nodes": nodes,
        "packages": peer.packages,
        "network": network,
    }


def one_run(python: str, name: str, peer: Peer, nodes: int, ask: Ask) -> dict[str, Any]:
    """One process: the answer of the harness. ChildError, in one line, if there is none."""
    command = [python, "-I", str(HERE / "harness.py")]
    return ask(command, job(name, peer, nodes), variables=peer.variables, timeout=TIMEOUT)


def micros(answer: Mapping[str, Any], nodes: int) -> dict[str, float]:
    """Microseconds per task by caller and shape."""
    return {
        f"{caller} {shape}": seconds / nodes * 1e6
        for caller, shapes in answer["seconds"].items()
        for shape, seconds in shapes.items()
    }


def compare(
    names: Sequence[str],
    rounds: int,
    cache: Path,
    *,
    nodes: Mapping[str, int] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    ask: Ask = ask,
    install: Callable[[str, Peer, Path], str] = environment,
) -> list[Comparison]:
    """Every named peer beside Motus. One that fails is there too, with the reason."""
    found: list[Comparison] = []
    pythons: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]
        size = (nodes or {}).get(name, peer.nodes)
        one = Comparison(name, peer.label, peer.how, size)
        found.append(one)
        progress(f"{peer.label}: its environment")
        try:
            pythons[name] = install(name, peer, cache)
        except ChildError as error:
            one.reason = str(error)
    for number in range(rounds):
        for one in found:
            if one.reason:
                continue
            peer = PEERS[one.name]
            progress(f"round {number + 1} of {rounds}: {one.label}, {one.nodes} tasks")
            try:
                mine = one_run(sys.executable, "ours", OURS, one.nodes, ask)
            except ChildError as error:
                one.reason = f"Motus itself failed: {error}"
                continue
            try:
                answer = one_run(pythons[one.name], one.name, peer, one.nodes, ask)
                theirs = micros(answer, one.nodes)
            except ChildError as error:
                one.reason = str(error)
                continue
            one.python, one.versions = answer["python"], answer["versions"]
            ours = micros(mine, one.nodes)
            for what, value in theirs.items():
                one.theirs.setdefault(what, []).append(value)
                one.ours.setdefault(what, []).append(ours[what])
    return found
