"""What a node of the task graph costs: `python -m benchmarks.scheduler`.

Each shape runs natively on trio and on asyncio, and from synchronous code on a background thread.
In the same round, in the same process, run the references: a bare trio nursery, bare asyncio
tasks and an anyio task group, each starting as many trivial tasks. xT and xA are the ratios to the
first two, which are what to quote: absolute times depend on the machine and on what else it does.

Times are microseconds per node, medians over the rounds; a ratio is the median of the rounds'
ratios. `--json FILE` keeps the figures of every round.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import trio

from benchmarks.shapes import SHAPES, Shape
from motus.runtime import init, open_runtime, resolve, shutdown

__all__ = ["main"]

BACKENDS = ("trio", "asyncio")
TRIO, ASYNCIO, ANYIO = "bare trio nursery", "bare asyncio tasks", "anyio task group"


async def trivial(x: int) -> int:
    return x + 1


async def bare_trio(n: int) -> None:
    async with trio.open_nursery() as nursery:
        for i in range(n):
            nursery.start_soon(trivial, i)


async def bare_asyncio(n: int) -> None:
    await asyncio.gather(*[asyncio.create_task(trivial(i)) for i in range(n)])


async def bare_anyio(n: int) -> None:
    async with anyio.create_task_group() as group:
        for i in range(n):
            group.start_soon(trivial, i)


def timed_in_loop(backend: str, work: Callable[[int], Awaitable[Any]], n: int) -> float:
    """Microseconds per node, without the start and end of the loop."""

    async def main() -> float:
        gc.collect()
        began = time.perf_counter()
        await work(n)
        return time.perf_counter() - began

    return anyio.run(main, backend=backend) / n * 1e6


def timed_native(backend: str, shape: Shape, n: int) -> float:
    async def main() -> float:
        async with open_runtime():
            gc.collect()
            began = time.perf_counter()
            await shape(n)
            return time.perf_counter() - began

    return anyio.run(main, backend=backend) / n * 1e6


def timed_background(backend: str, shape: Shape, n: int) -> float:
    init(backend=backend)
    try:
        resolve(shape(1))
        gc.collect()
        began = time.perf_counter()
        resolve(shape(n))
        return (time.perf_counter() - began) / n * 1e6
    finally:
        shutdown()


def one_round(n: int) -> dict[str, float]:
    """Every figure once."""
    figures = {
        TRIO: timed_in_loop("trio", bare_trio, n),
        ASYNCIO: timed_in_loop("asyncio", bare_asyncio, n),
        ANYIO: timed_in_loop("trio", bare_anyio, n),
    }
    for name, shape in SHAPES.items():
        for backend in BACKENDS:
            figures[f"{name} | native {backend}"] = timed_native(backend, shape, n)
            figures[f"{name} | background {backend}"] = timed_background(backend, shape, n)
    return figures


def table(n: int, rounds: list[dict[str, float]]) -> str:
    lines = [
        f"| {n} nodes | us per node | xT | xA |",
        "|---|---:|---:|---:|",
    ]
    for name in rounds[0]:
        micros = median(figures[name] for figures in rounds)
        per_trio = median(figures[name] / figures[TRIO] for figures in rounds)
        per_asyncio = median(figures[name] / figures[ASYNCIO] for figures in rounds)
        shape, _, where = name.partition(" | ")
        label = f"{shape}, {where}" if where else f"*{shape}*"
        lines.append(f"| {label} | {micros:.2f} | {per_trio:.2f} | {per_asyncio:.2f} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("anyio", "trio", "motus-agents")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep all figures in this file")
    options = parser.parse_args()
    results = {}
    for n in options.nodes:
        one_round(min(n, 1000))  # not counted: everything is imported and compiled once
        rounds = [one_round(n) for _ in range(options.rounds)]
        results[n] = rounds
        print(table(n, rounds), end="\n\n", flush=True)
    if options.json:
        document = {"machine": machine(), "unit": "microseconds per node", "rounds": results}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
