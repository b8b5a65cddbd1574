"""LangGraph's functional API: tasks called in an entrypoint, without a checkpointer.

A task does not take another's future, so whoever builds the graph waits for each value; that is
how its documentation does it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from langgraph.func import entrypoint, task

# A chain is one long step; no limit of its own may end it.
CONFIG: Any = {"recursion_limit": 1_000_000}


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(a: int, b: int) -> int:
    return a + b


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
async def inc_async(x: int) -> int:
    return x + 1


@task
async def add_async(a: int, b: int) -> int:
    return a + b


@task
async def total_async(xs: list[int]) -> int:
    return sum(xs)


@entrypoint()
def chain(n: int) -> int:
    value = 0
    for _ in range(n):
        value = inc(value).result()
    return value


@entrypoint()
def fan(n: int) -> int:
    futures = [inc(i) for i in range(n - 1)]
    return total([future.result() for future in futures]).result()


@entrypoint()
def tree(n: int) -> int:
    futures = [inc(i) for i in range((n + 1) // 2)]
    level = [future.result() for future in futures]
    while len(level) > 1:
        pairs = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [future.result() for future in pairs] + level[2 * len(pairs) :]
    return level[0]


@entrypoint()
async def chain_async(n: int) -> int:
    value = 0
    for _ in range(n):
        value = await inc_async(value)
    return value


@entrypoint()
async def fan_async(n: int) -> int:
    futures = [inc_async(i) for i in range(n - 1)]
    return await total_async([await future for future in futures])


@entrypoint()
async def tree_async(n: int) -> int:
    futures = [inc_async(i) for i in range((n + 1) // 2)]
    level = [await future for future in futures]
    while len(level) > 1:
        pairs = [add_async(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [await future for future in pairs] + level[2 * len(pairs) :]
    return level[0]


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    yield {
        "chain": lambda n: chain.invoke(n, CONFIG),
        "fan": lambda n: fan.invoke(n, CONFIG),
        "tree": lambda n: tree.invoke(n, CONFIG),
    }


@asynccontextmanager
async def async_session() -> AsyncIterator[dict[str, Any]]:
    yield {
        "chain": lambda n: chain_async.ainvoke(n, CONFIG),
        "fan": lambda n: fan_async.ainvoke(n, CONFIG),
        "tree": lambda n: tree_async.ainvoke(n, CONFIG),
    }
