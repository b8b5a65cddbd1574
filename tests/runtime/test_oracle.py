"""Random programs give what running them in order gives (G1), on both backends."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import pytest

from motus.runtime import AgentFuture, TaskCancelledError, agent_task, open_runtime

pytestmark = pytest.mark.anyio

PROGRAMS = 200_000 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 2_000
BATCHES = 8


class Step(NamedTuple):
    """One task of a program: what it does, with which earlier ones as arguments."""

    kind: str
    arguments: tuple[int, ...]
    delay: float
    fails: bool


class Pair(NamedTuple):
    left: Any
    right: Any


KINDS = ["plain", "wait", "nested", "returns", "children", "flaky", "pair", "timeout"]


def program(seed: int) -> list[Step]:
    chance = random.Random(seed)
    steps: list[Step] = []
    for index in range(chance.randint(1, 25)):
        count = min(index, chance.choice([0, 1, 1, 2, 3]))
        arguments = tuple(chance.sample(range(index), count)) if count else ()
        delay = chance.choice([0, 0, 0.1, 0.5, 1])
        steps.append(Step(chance.choice(KINDS), arguments, delay, chance.random() < 0.06))
    return steps


class BoomError(Exception):
    pass


def oracle(steps: list[Step]) -> list[Any]:
    """The values, or the index of the task whose failure arrives, one after the other."""
    values: list[Any] = []
    for index, step in enumerate(steps):
        failed = [values[a] for a in step.arguments if isinstance(values[a], BoomError)]
        if failed:
            values.append(failed[0])
        elif step.fails:
            values.append(BoomError(index))
        else:
            values.append(index + sum(values[a] for a in step.arguments))
    return values


@agent_task
async def add(a: int, b: int) -> int:
    return a + b


@agent_task
async def add_later(a: int, b: int) -> int:
    await anyio.sleep(0.2)
    return a + b


def body(step: Step, index: int) -> Callable[..., AgentFuture[Any]]:
    calls = 0

    async def plain(*arguments: Any) -> Any:
        if step.fails:
            raise BoomError(index)
        return index + sum(arguments)

    async def wait(*arguments: Any) -> Any:
        await anyio.sleep(step.delay)
        return await plain(*arguments)

    async def nested(box: dict[str, Any]) -> Any:
        await anyio.sleep(step.delay)
        return await plain(*box["list"], *box["pair"].left)

    async def returns(*arguments: Any) -> Any:
        value: Any = await plain()
        for argument in arguments:
            value = add_later(value, argument)
        return value

    async def children(*arguments: Any) -> Any:
        value = await wait()
        for argument in arguments:
            value = await add(value, argument)
        return value

    async def flaky(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        await anyio.sleep(step.delay)
        if calls % 3:
            add_later(1, 2)
            raise ValueError("not yet")
        return await plain(*arguments)

    if step.kind == "nested":
        task: Callable[..., AgentFuture[Any]] = agent_task(nested)

        def call(*arguments: Any) -> AgentFuture[Any]:
            half = len(arguments) // 2
            return task({"list": list(arguments[:half]), "pair": Pair(arguments[half:], None)})

        return call
    if step.kind == "flaky":
        return agent_task(retries=2, retry_delay=step.delay)(flaky)
    if step.kind == "timeout":
        return agent_task(timeout=5)(wait)
    if step.kind == "pair":

        async def pair(*arguments: Any) -> tuple[Any, Any]:
            value = await wait(*arguments)
            return value, -value

        def first(*arguments: Any) -> AgentFuture[Any]:
            futures: tuple[AgentFuture[Any], ...] = agent_task(num_returns=2)(pair)(*arguments)
            return futures[0]

        return first
    bodies = {"plain": plain, "wait": wait, "returns": returns, "children": children}
    chosen: Callable[..., AgentFuture[Any]] = agent_task(bodies[step.kind])
    return chosen


async def outcome(future: AgentFuture[Any]) -> Any:
    try:
        return await future
    except BoomError as error:
        return error


def same(got: Any, wanted: Any) -> bool:
    return got == wanted or (isinstance(got, BoomError) and isinstance(wanted, BoomError))


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_random_programs_equal_the_oracle(batch: int) -> None:
    for seed in range(batch * PROGRAMS // BATCHES, (batch + 1) * PROGRAMS // BATCHES):
        steps = program(seed)
        async with open_runtime() as runtime:
            futures: list[AgentFuture[Any]] = []
            for index, step in enumerate(steps):
                if step.delay == 1:
                    # Submissions while earlier tasks run.
                    await anyio.sleep(0.3)
                task = body(step, index)
                futures.append(task(*[futures[a] for a in step.arguments]))
            got = [await outcome(future) for future in futures]
            wanted = oracle(steps)
            assert all(map(same, got, wanted)), f"seed {seed}: {got} != {wanted}"
            # A failure always comes from a task that fails by itself, somewhere above.
            for value in got:
                if isinstance(value, BoomError):
                    assert steps[value.args[0]].fails
        assert runtime.scheduler.graph.unfinished == 0


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_cancelling_anything_at_any_time_stops_its_subtree_and_nothing_else(
    batch: int,
) -> None:
    for seed in range(batch * PROGRAMS // BATCHES, (batch + 1) * PROGRAMS // BATCHES):
        steps = program(seed)
        chance = random.Random(-seed)
        victim = chance.randrange(len(steps))
        below = {victim}
        for index, step in enumerate(steps):
            if below.intersection(step.arguments):
                below.add(index)
        async with open_runtime():
            futures: list[AgentFuture[Any]] = []
            for index, step in enumerate(steps):
                futures.append(body(step, index)(*[futures[a] for a in step.arguments]))
            await anyio.sleep(chance.choice([0, 0.05, 0.15, 0.3, 0.7, 1.1, 2.3]))
            was_done = futures[victim].af_done()
            assert futures[victim].af_cancel() is not was_done
            wanted = oracle(steps)
            for index, future in enumerate(futures):
                try:
                    got = await outcome(future)
                except TaskCancelledError:
                    assert index in below, f"seed {seed}: a bystander was cancelled"
                    assert not was_done
                else:
                    # A failure may have been faster than the cancellation.
                    assert same(got, wanted[index]), f"seed {seed}"
                    if index == victim:
                        assert was_done, f"seed {seed}"
