"""The graphs that are measured. Each adds about `n` nodes and gives the future to wait for."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from motus.runtime import AgentFuture, TaskCancelledError, agent_task, cancel

__all__ = ["ALL_WAIT", "ONE_SLEEP", "SHAPES", "STOPPED", "TRIVIAL", "Party", "Shape", "StormError"]

# What the bodies do. The references in `benchmarks.limits` exist once for each of these, so that a
# ratio compares schedulers and not bodies.
TRIVIAL: Final = "trivial"
ONE_SLEEP: Final = "one sleep(0)"
ALL_WAIT: Final = "all wait at once"
STOPPED: Final = "all wait, then stopped"


class StormError(Exception):
    """What the root of an error storm raises."""


class Party:
    """Where `n` bodies meet: each waits until the last one is there."""

    def __init__(self, n: int) -> None:
        self.missing = n
        self._everyone: anyio.Event | None = None

    async def join(self) -> None:
        # The event is made in the loop that waits for it, which need not be where the graph is.
        if self._everyone is None:
            self._everyone = anyio.Event()
        self.missing -= 1
        if self.missing <= 0:
            self._everyone.set()
        await self._everyone.wait()


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
async def mix(*xs: int) -> int:
    return (sum(xs) + 1) % 1009


@agent_task
async def fail() -> int:
    raise StormError


@agent_task
async def inc_later(x: int) -> int:
    await anyio.sleep(0)  # noqa: ASYNC115  # what the published figures are measured with
    return x + 1


@agent_task
async def meet(party: Party) -> int:
    await party.join()
    return 1


@agent_task
async def meet_and_stay(party: Party) -> None:
    await party.join()
    await anyio.sleep_forever()


@agent_task
async def crowd(party: Party, n: int) -> None:
    for _ in range(n):
        meet_and_stay(party)
    await anyio.sleep_forever()


@agent_task
async def stop_a_crowd(n: int) -> None:
    party = Party(n + 1)
    parent = crowd(party, n)
    await party.join()
    cancel(parent)
    try:
        await parent
    except TaskCancelledError:
        return


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


LAYER: Final = 50


@functools.lru_cache(maxsize=4)
def _edges(n: int) -> list[tuple[int, ...]]:
    """For each node after the first layer: one to three places in the layer before."""
    rng = random.Random(n)  # the same graph in every round
    return [tuple(rng.choices(range(LAYER), k=rng.randint(1, 3))) for _ in range(n - LAYER - 1)]


def layers(n: int) -> AgentFuture[Any]:
    """Layers of 50 tasks, each of which waits for one to three of the layer before."""
    before: list[Any] = [inc(i) for i in range(LAYER)]
    now: list[Any] = []
    for places in _edges(n):
        now.append(mix(*[before[place] for place in places]))
        if len(now) == LAYER:
            before, now = now, []
    return mix(*before, *now)


def operators(n: int) -> AgentFuture[Any]:
    """A chain of `future + 1`."""
    future: Any = inc(0)
    for _ in range(n - 1):
        future = future + 1
    return future  # type: ignore[no-any-return]  # what an operator on a future gives


def chain_later(n: int) -> AgentFuture[Any]:
    """A chain whose bodies each wait once."""
    future = inc_later(0)
    for _ in range(n - 1):
        future = inc_later(future)
    return future


def fan_later(n: int) -> AgentFuture[Any]:
    """A fan whose bodies each wait once."""
    return total([inc_later(i) for i in range(n - 1)])


def fan_at_once(n: int) -> AgentFuture[Any]:
    """A fan whose bodies are all suspended at the same time."""
    party = Party(n)
    return total([meet(party) for _ in range(n)])


def chain_on_threads(n: int) -> AgentFuture[Any]:
    """A chain of synchronous bodies."""
    future = inc_on_a_thread(0)
    for _ in range(n - 1):
        future = inc_on_a_thread(future)
    return future


def fan_on_threads(n: int) -> AgentFuture[Any]:
    """A fan of synchronous bodies."""
    return total([inc_on_a_thread(i) for i in range(n - 1)])


def failing_chain(n: int) -> AgentFuture[Any]:
    """The first of a chain fails, and all that follow with it."""
    future = fail()
    for _ in range(n - 1):
        future = inc(future)
    return future


def failing_fan(n: int) -> AgentFuture[Any]:
    """A task fails, and with it all that wait for it."""
    root = fail()
    for _ in range(n - 2):
        inc(root)
    return inc(root)


def cancelled_chain(n: int) -> AgentFuture[Any]:
    """The first of a chain is cancelled, and all that follow with it."""
    root = future = inc(0)
    for _ in range(n - 1):
        future = inc(future)
    cancel(root)
    return root


def cancelled_fan(n: int) -> AgentFuture[Any]:
    """A task is cancelled, and with it all that wait for it."""
    root = inc(0)
    for _ in range(n - 1):
        inc(root)
    cancel(root)
    return root


@dataclass(frozen=True)
class Shape:
    """How a graph is measured. `build` is called in the loop, or from synchronous code."""

    build: Callable[[int], AgentFuture[Any]]
    bodies: str = TRIVIAL
    # With another number of nodes it would measure something else, or take too long.
    most: int | None = None
    # Also from synchronous code, where the graph runs while it is still being submitted.
    background: bool = True
    # The future ends so, and then the runtime is left, which waits for the other nodes.
    raises: type[Exception] | None = None
    # Among the few that are measured at sizes beyond `benchmarks.limits.LARGE`.
    large: bool = False


SHAPES: Final[dict[str, Shape]] = {
    "chain": Shape(chain, large=True),
    "fan": Shape(fan, large=True),
    "tree": Shape(tree, large=True),
    "layers": Shape(layers),
    "operators": Shape(operators),
    "chain, one sleep(0)": Shape(chain_later, ONE_SLEEP),
    "fan, one sleep(0)": Shape(fan_later, ONE_SLEEP),
    "fan, all wait at once": Shape(fan_at_once, ALL_WAIT, most=1000),
    "chain on threads": Shape(chain_on_threads, most=2000),
    "fan on threads": Shape(fan_on_threads),
    "error storm, chain": Shape(failing_chain, background=False, raises=StormError),
    "error storm, fan": Shape(failing_fan, background=False, raises=StormError),
    "cancel storm, chain": Shape(cancelled_chain, background=False, raises=TaskCancelledError),
    "cancel storm, fan": Shape(cancelled_fan, background=False, raises=TaskCancelledError),
    "cancel storm, children": Shape(stop_a_crowd, STOPPED, most=1000, background=False),
}
if not hasattr(AgentFuture, "__add__"):
    del SHAPES["operators"]
