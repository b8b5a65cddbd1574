"""The graphs that are measured. Each function adds about `n` nodes and returns the last future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import anyio

from motus.runtime import AgentFuture, agent_task

__all__ = ["SHAPES", "Shape"]

Shape = Callable[[int], AgentFuture[Any]]


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def add(a: int, b: int) -> int:
    return a + b


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


@agent_task
async def inc_later(x: int) -> int:
    await anyio.sleep(0)  # noqa: ASYNC115 - what the published figures are measured with
    return x + 1


@agent_task
def inc_on_a_thread(x: int) -> int:
    return x + 1


def chain(n: int) -> AgentFuture[Any]:
    """Each task waits for the one before."""
    future = inc(0)
    for _ in range(n - 1):
        future = inc(future)
    return future


def fan(n: int) -> AgentFuture[Any]:
    """Independent tasks, and one that waits for all of them."""
    return total([inc(i) for i in range(n - 1)])


def tree(n: int) -> AgentFuture[Any]:
    """A binary tree, reduced from its leaves."""
    level = [inc(i) for i in range((n + 1) // 2)]
    while len(level) > 1:
        pairs = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def chain_later(n: int) -> AgentFuture[Any]:
    """A chain whose bodies each wait once."""
    future = inc_later(0)
    for _ in range(n - 1):
        future = inc_later(future)
    return future


def fan_later(n: int) -> AgentFuture[Any]:
    """A fan whose bodies each wait once."""
    return total([inc_later(i) for i in range(n - 1)])


def fan_on_threads(n: int) -> AgentFuture[Any]:
    """A fan of synchronous bodies."""
    return total([inc_on_a_thread(i) for i in range(n - 1)])


SHAPES: Final[dict[str, Shape]] = {
    "chain": chain,
    "fan": fan,
    "tree": tree,
    "chain, one sleep(0)": chain_later,
    "fan, one sleep(0)": fan_later,
    "fan on threads": fan_on_threads,
}
