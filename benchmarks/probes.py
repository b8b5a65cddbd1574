"""What is not a time per node: memory, submission, latency, holds of the loop.

Each probe runs in a process of its own, `python -m benchmarks.probes`, which reads
`{"probe": ..., "backend": ..., "nodes": ...}` on stdin and prints `{"figure": value}`.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel

from benchmarks.shapes import fan, inc, inc_later, total
from motus.runtime import (
    AgentFuture,
    TaskCancelledError,
    agent_task,
    cancel,
    init,
    open_runtime,
    resolve,
    shutdown,
)

__all__ = ["PROBES", "Gate", "percentile"]


class Gate:
    """Holds a task back until it is opened, with or without an error."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.error: Exception | None = None

    def open(self, error: Exception | None = None) -> None:
        self.error = error
        self.event.set()


@agent_task
async def behind(gate: Gate) -> int:
    await gate.event.wait()
    if gate.error is not None:
        raise gate.error
    return 0


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


# ---------------------------------------------------------------------- memory


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def traced() -> int:
    """Bytes that Python objects have allocated since tracing began."""
    return tracemalloc.get_traced_memory()[0]


async def _memory(n: int, measure: Callable[[], int], in_a_chain: bool) -> dict[str, float]:
    async with open_runtime():
        await fan(1000)  # what is made once is there before it counts
        gate = Gate()
        root = behind(gate)
        await anyio.sleep(0.01)
        kept: list[Any] = [None] * n
        gc.collect()
        before = measure()
        future: AgentFuture[Any] = root
        for i in range(n):
            future = kept[i] = inc(future if in_a_chain else root)
        del future
        gc.collect()
        pending = measure() - before
        gate.open()
        for one in kept:
            if not one.af_done():
                await one
        one = None
        gc.collect()
        held = measure() - before
        kept[:] = [None] * n
        gc.collect()
        retained = measure() - before
    return {"pending": pending / n, "finished, held": held / n, "finished, dropped": retained / n}


def memory(backend: str, n: int) -> dict[str, float]:
    """Bytes per node as Python allocates them: pending, and finished with and without its future.

    Objects only: results are small integers, which exist anyway.
    """
    found = {}
    tracemalloc.start()
    for name, in_a_chain in (("fan", False), ("chain", True)):
        figures = anyio.run(_memory, n, traced, in_a_chain, backend=backend)
        found |= {f"{name}, {what}": value for what, value in figures.items()}
    return found


def resident_memory(backend: str, n: int) -> dict[str, float]:
    """Bytes per pending node as the system sees the process."""
    figures = anyio.run(_memory, n, resident, False, backend=backend)
    return {"fan, pending": figures["pending"]}


# ---------------------------------------------------------------------- submission


def submission(backend: str, n: int) -> dict[str, float]:
    """Microseconds that one call takes from whoever makes it."""

    def calls(n: int) -> list[float]:
        clock = time.perf_counter
        stamps = [clock()]
        futures = []
        for i in range(n):
            futures.append(inc(i))
            stamps.append(clock())
        return [(b - a) * 1e6 for a, b in itertools.pairwise(stamps)]

    async def in_loop() -> list[float]:
        async with open_runtime():
            calls(100)
            await total([inc(1)])
            gc.collect()
            return calls(n)

    def from_thread() -> list[float]:
        init(backend=backend)
        try:
            resolve(inc(1))
            gc.collect()
            return calls(n)
        finally:
            shutdown()

    found = {}
    for name, taken in (
        ("in the loop", anyio.run(in_loop, backend=backend)),
        ("from synchronous code", from_thread()),
    ):
        found[f"{name}, mean"] = sum(taken) / n
        found[f"{name}, p99"] = percentile(taken, 99)
    return found


# ---------------------------------------------------------------------- latency


@agent_task
async def stamp(_: Any = None) -> float:
    return time.perf_counter()


@agent_task
async def stamp_later(_: Any = None) -> float:
    await anyio.sleep(0.0005)
    return time.perf_counter()


@agent_task
def stamp_on_a_thread(_: Any = None) -> float:
    return time.perf_counter()


@agent_task
async def since(stamped: float) -> float:
    return time.perf_counter() - stamped


@agent_task
def since_on_a_thread(stamped: float) -> float:
    return time.perf_counter() - stamped


def latency(backend: str, n: int) -> dict[str, float]:
    """Microseconds from the end of a body to the start of the one that waited for it."""
    cases: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "coroutine to coroutine": (stamp, since),
        "coroutine that slept to coroutine": (stamp_later, since),
        "thread to coroutine": (stamp_on_a_thread, since),
        "coroutine to thread": (stamp, since_on_a_thread),
        "thread to thread": (stamp_on_a_thread, since_on_a_thread),
    }

    async def main() -> dict[str, float]:
        found = {}
        async with open_runtime():
            for name, (first, then) in cases.items():
                await then(first())
                # One after the other: how long it takes when nothing else is to be done.
                taken = [await then(first()) * 1e6 for _ in range(n)]
                found[f"{name}, p50"] = percentile(taken, 50)
                found[f"{name}, p99"] = percentile(taken, 99)
        return found

    return anyio.run(main, backend=backend)


# ---------------------------------------------------------------------- holds


class Ticker:
    """A task that does nothing but take its turn, and notes how long it waited for the next."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.turns = 0
        self.stopped = False

    async def run(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        while not self.stopped:
            await anyio.lowlevel.checkpoint()
            wall_now, cpu_now = time.perf_counter(), time.thread_time()
            self.wall = max(self.wall, wall_now - wall)
            self.cpu = max(self.cpu, cpu_now - cpu)
            self.turns += 1
            wall, cpu = wall_now, cpu_now


def _fan_of(root: Any, n: int) -> Any:
    for _ in range(n - 1):
        inc(root)
    return inc(root)


def _chain_of(root: Any, n: int) -> Any:
    for _ in range(n):
        root = inc(root)
    return root


def _join_of(root: Any, n: int) -> Any:
    return total([inc(root) for _ in range(n)])


def _sleepers_of(root: Any, n: int) -> Any:
    for _ in range(n - 1):
        inc_later(root)
    return inc_later(root)


GRAPHS: Final = {
    "fan": _fan_of,
    "chain": _chain_of,
    "fan and join": _join_of,
    "fan of sleep(0)": _sleepers_of,
}


async def _hold(graph: Callable[[Any, int], Any], ending: str, n: int) -> Ticker:
    """How the loop fares while `n` nodes that wait for one end. Submission is not in it."""
    ticker = Ticker()
    gate = Gate()
    async with anyio.create_task_group() as group:
        async with open_runtime():
            root = behind(gate)
            # Dropped, as by a caller who wants the last value only.
            last = graph(root, n)
            await anyio.sleep(0.01)
            gc.collect()
            group.start_soon(ticker.run)
            await anyio.sleep(0.01)
            ticker.wall = ticker.cpu = 0.0
            if ending == "success":
                gate.open()
            elif ending == "failure":
                gate.open(ValueError("the root fails"))
            else:
                cancel(root)
            with contextlib.suppress(ValueError, TaskCancelledError):
                await last
            del last, root
        ticker.stopped = True
    return ticker


def holds(backend: str, n: int) -> dict[str, float]:
    """Milliseconds of the loop's thread between two turns of another task, at most.

    Of its processor time, so that what else the machine does is not counted.
    """
    found = {}
    for ending in ("success", "failure", "cancellation"):
        for name, graph in GRAPHS.items():
            if name == "fan of sleep(0)" and ending != "success":
                continue  # they never begin, which makes it the fan again
            ticker = anyio.run(_hold, graph, ending, n, backend=backend)
            found[f"{ending}, {name}"] = ticker.cpu * 1e3
    return found


PROBES: Final[dict[str, Callable[[str, int], dict[str, float]]]] = {
    "memory": memory,
    "resident memory": resident_memory,
    "submission": submission,
    "latency": latency,
    "holds": holds,
}


def main() -> None:
    job = json.load(sys.stdin)
    print(json.dumps(PROBES[job["probe"]](job["backend"], job["nodes"])))


if __name__ == "__main__":
    main()
