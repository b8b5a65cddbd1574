"""What the bare event loops need for as many tasks, and our shapes beside them, in one process."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
import trio

from benchmarks.figures import Series
from benchmarks.shapes import ALL_WAIT, ONE_SLEEP, SHAPES, STOPPED, Party, Shape
from motus.runtime import init, open_runtime, resolve, shutdown

__all__ = ["ANYIO", "ASYNCIO", "LARGE", "TRIO", "measure", "sizes_of"]

BACKENDS: Final = ("trio", "asyncio")
TRIO, ASYNCIO, ANYIO = "bare trio nursery", "bare asyncio tasks", "anyio task group"

# Beyond so many nodes only a few shapes are measured, natively: the growth is what matters there.
LARGE: Final = 50_000

Body = Callable[[Any], Awaitable[Any]]


async def trivial(x: int) -> int:
    return x + 1


async def later(x: int) -> int:
    await anyio.sleep(0)  # noqa: ASYNC115  # the same body as in `benchmarks.shapes`
    return x + 1


async def meeting(party: Party) -> int:
    await party.join()
    return 1


async def staying(party: Party) -> None:
    await party.join()
    await anyio.sleep_forever()


async def bare_trio(body: Body, arguments: Sequence[Any]) -> None:
    async with trio.open_nursery() as nursery:
        for argument in arguments:
            nursery.start_soon(body, argument)


async def bare_asyncio(body: Body, arguments: Sequence[Any]) -> None:
    tasks = [asyncio.ensure_future(body(argument)) for argument in arguments]
    await asyncio.gather(*tasks)


async def bare_anyio(body: Body, arguments: Sequence[Any]) -> None:
    async with anyio.create_task_group() as group:
        for argument in arguments:
            group.start_soon(body, argument)


async def stopped_trio(party: Party, n: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(n):
            nursery.start_soon(staying, party)
        await party.join()
        nursery.cancel_scope.cancel()


async def stopped_asyncio(party: Party, n: int) -> None:
    tasks = [asyncio.ensure_future(staying(party)) for _ in range(n)]
    await party.join()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def stopped_anyio(party: Party, n: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(n):
            group.start_soon(staying, party)
        await party.join()
        group.cancel_scope.cancel()


REFERENCES: Final = {
    TRIO: ("trio", bare_trio, stopped_trio),
    ASYNCIO: ("asyncio", bare_asyncio, stopped_asyncio),
    ANYIO: ("trio", bare_anyio, stopped_anyio),
}


def reference(bodies: str, name: str, n: int) -> float:
    """Microseconds per task, without the start and the end of the loop."""
    backend, start, start_and_stop = REFERENCES[name]

    async def main() -> float:
        gc.collect()
        began = time.perf_counter()
        if bodies == STOPPED:
            await start_and_stop(Party(n + 1), n)
        elif bodies == ALL_WAIT:
            await start(meeting, [Party(n)] * n)
        else:
            await start(later if bodies == ONE_SLEEP else trivial, range(n))
        return time.perf_counter() - began

    return anyio.run(main, backend=backend) / n * 1e6


def native(backend: str, shape: Shape, n: int) -> float:
    """Microseconds per node in a loop that is ours too: submission, running, the wait."""

    async def main() -> float:
        async with open_runtime():
            gc.collect()
            began = time.perf_counter()
            if shape.raises is None:
                await shape.build(n)
                return time.perf_counter() - began
            try:
                await shape.build(n)
            except shape.raises:
                pass
            else:
                raise AssertionError("a storm that did not break out")
        return time.perf_counter() - began

    return anyio.run(main, backend=backend) / n * 1e6


def background(backend: str, shape: Shape, n: int) -> float:
    """Microseconds per node for a synchronous program that submits and resolves."""
    init(backend=backend)
    try:
        resolve(shape.build(1))
        gc.collect()
        began = time.perf_counter()
        resolve(shape.build(n))
        return (time.perf_counter() - began) / n * 1e6
    finally:
        shutdown()


def sizes_of(shape: Shape, sizes: Sequence[int]) -> list[int]:
    """The sizes at which a shape is measured: those that fit, or else the most that does."""
    fitting = [n for n in sizes if n <= LARGE or shape.large]
    if shape.most is not None:
        fitting = sorted({min(n, shape.most) for n in fitting})[-1:]
    return fitting


def one_round(
    sizes: Sequence[int], names: Sequence[str], record: Callable[[str, str, str, int, float], None]
) -> None:
    """Every figure once, a shape right after the references that it is divided by."""
    work = [(n, name) for name in names for n in sizes_of(SHAPES[name], sizes)]
    for n in sorted({n for n, _ in work}):
        here = [name for size, name in work if size == n]
        for bodies in dict.fromkeys(SHAPES[name].bodies for name in here):
            for where in REFERENCES:
                record(bodies, bodies, where, n, reference(bodies, where, n))
        for name in here:
            shape = SHAPES[name]
            for backend in BACKENDS:
                record(name, shape.bodies, f"native {backend}", n, native(backend, shape, n))
                if shape.background and n <= LARGE:
                    micros = background(backend, shape, n)
                    record(name, shape.bodies, f"background {backend}", n, micros)


def measure(
    sizes: Sequence[int],
    names: Sequence[str],
    rounds: int,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Series]:
    """All shapes at all sizes, `rounds` times, interleaved; one series for each of them."""
    found: dict[tuple[str, str, int], Series] = {}

    def record(shape: str, bodies: str, where: str, n: int, micros: float) -> None:
        series = found.setdefault((shape, where, n), Series(shape, bodies, where, n, []))
        series.values.append(micros)

    # Not counted: everything is imported, compiled and specialised once.
    one_round([min(1000, *sizes)], names, lambda *_: None)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}: shapes at {', '.join(map(str, sizes))} nodes")
        one_round(sizes, names, record)
    return list(found.values())
