"""Graphs and arguments that are so large that the other tasks of the loop would feel them."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from motus.runtime import AgentFuture, TaskCancelledError, agent_task, cancel, open_runtime

pytestmark = pytest.mark.anyio

MANY = 45_000


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def same(x: Any) -> Any:
    return x


class Turns:
    """A task that counts how often it gets its turn."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.count += 1


async def test_a_great_many_arguments_are_filled_in_with_pauses() -> None:
    turns = Turns()
    began = 0

    @agent_task
    async def join(xs: list[int]) -> int:
        nonlocal began
        began = turns.count
        return sum(xs)

    async with open_runtime(), anyio.create_task_group() as group:
        futures: list[Any] = [inc(i) for i in range(MANY)]
        await futures[-1]
        # All are done: what is left to do is to fill them in.
        group.start_soon(turns.run)
        await anyio.lowlevel.checkpoint()
        before = turns.count
        assert await join(futures) == sum(range(1, MANY + 1))
        assert began - before >= 3
        group.cancel_scope.cancel()


@pytest.mark.parametrize("shape", ["flat", "mixed", "nested", "late container", "kwargs"])
async def test_the_values_of_a_great_many_arguments(shape: str) -> None:
    async with open_runtime():
        futures: list[Any] = [inc(i) for i in range(MANY)]
        values: list[Any] = list(range(1, MANY + 1))
        if shape == "mixed":
            futures[5:5] = values[5:5] = [1.5, None, object]
        elif shape == "nested":
            futures, values = [futures, futures[:3]], [values, values[:3]]
        elif shape == "late container":
            futures.append((futures[0], 3))
            values.append((1, 3))
        if shape == "kwargs":
            assert await same(x=futures) == values
        else:
            assert await same(futures) == values
            # The caller's own list is as it was.
            assert isinstance(futures[0], AgentFuture | list)


async def test_cancelling_while_a_great_many_arguments_are_filled_in() -> None:
    ran = False

    @agent_task
    async def join(xs: list[int]) -> None:
        nonlocal ran
        ran = True

    async with open_runtime():
        futures = [inc(i) for i in range(MANY)]
        await futures[-1]
        joined = join(futures)
        # The runner has taken it, and has paused.
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert cancel(joined)
        with pytest.raises(TaskCancelledError):
            await joined
    assert not ran
    # Nor was it given its arguments after it had ended, which would keep them.
    assert joined.af_args is None


async def test_what_a_crowd_leaves_behind_is_gone_when_the_block_is_left() -> None:
    class Precious:
        alive = 0

        def __init__(self) -> None:
            Precious.alive += 1

        def __del__(self) -> None:
            Precious.alive -= 1

    @agent_task
    async def make() -> Precious:
        return Precious()

    @agent_task
    async def count(xs: list[Precious]) -> int:
        return len(xs)

    async with open_runtime():
        last = count([make() for _ in range(3000)])
        assert await last == 3000
    assert Precious.alive == 0
