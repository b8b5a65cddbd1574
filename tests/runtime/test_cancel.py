"""What is told to stop has stopped, all of it, and nothing else has."""

from __future__ import annotations

import asyncio
import copy
import os
from typing import Any

import anyio
import pytest

from motus.runtime import (
    AgentFuture,
    TaskCancelledError,
    agent_task,
    cancel,
    cancelled,
    check_cancelled,
    open_runtime,
)
from motus.runtime.current import current

pytestmark = pytest.mark.anyio

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def later(x: int, seconds: float = 1.0) -> int:
    await anyio.sleep(seconds)
    return x


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


@agent_task
async def forever(log: list[str] | None = None, name: str = "forever") -> int:
    try:
        await anyio.sleep_forever()
    finally:
        if log is not None:
            log.append(name)
    return 0


async def test_cancelling_stops_the_task_and_all_that_depends_on_it() -> None:
    log: list[str] = []
    async with open_runtime():
        running = forever(log)
        below = inc(running)
        far = total([below, inc(1)])
        bystander = later(5, 2.0)
        await anyio.sleep(1)
        assert cancel(running)
        for future in (running, below, far):
            with pytest.raises(TaskCancelledError) as caught:
                await future
            assert log == ["forever"]
            assert caught.value.task_id == future.af_id
            assert cancelled(future)
        assert isinstance(caught.value.__cause__, TaskCancelledError)
        assert caught.value.__cause__.task_id == running.af_id
        assert await bystander == 5
        assert not cancel(running)
        assert not cancel(bystander)
        assert await bystander == 5


async def test_the_error_names_the_task() -> None:
    async with open_runtime():
        future = forever()
        future.af_cancel()
        with pytest.raises(TaskCancelledError) as caught:
            await future
    assert str(caught.value) == f"Task 'forever' was cancelled (id={future.af_id})"
    assert caught.value.task_name == "forever"


async def test_the_error_has_the_name_of_the_function() -> None:
    class Crawler:
        @agent_task
        async def fetch(self) -> None:
            await anyio.sleep(60)

    async with open_runtime():
        future = Crawler().fetch()
        future.af_cancel()
        with pytest.raises(TaskCancelledError, match=r"Crawler\.fetch' was cancelled") as caught:
            await future
    assert caught.value.task_name == "fetch"
    assert str(copy.copy(caught.value)) == str(caught.value)
    assert str(TaskCancelledError("fetch")) == "Task 'fetch' was cancelled"


async def test_cancelling_what_has_not_started() -> None:
    async with open_runtime():
        waiting = inc(later(1))
        assert cancel(waiting)
        assert cancelled(waiting)
        ready = inc(1)
        assert cancel(ready)
        with pytest.raises(TaskCancelledError):
            await ready


async def test_children_are_stopped_before_the_wait_returns() -> None:
    log: list[str] = []

    @agent_task
    async def child() -> None:
        for index in range(2):
            forever(log, f"grandchild {index}")
        await forever(log, "awaited")

    @agent_task
    async def parent() -> None:
        child()
        async with anyio.create_task_group() as group:
            group.start_soon(spawned)
            await anyio.sleep_forever()

    async def spawned() -> None:
        forever(log, "from a task group")

    async with open_runtime():
        future = parent()
        await anyio.sleep(1)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert sorted(log) == ["awaited", "from a task group", "grandchild 0", "grandchild 1"]


async def test_a_failing_parent_stops_its_children_before_it_fails() -> None:
    log: list[str] = []

    @agent_task
    async def parent() -> None:
        forever(log, "child")
        await anyio.sleep(1)
        raise ValueError("boom")

    async with open_runtime():
        with pytest.raises(ValueError, match="boom"):
            await parent()
        assert log == ["child"]


async def test_a_failing_child_harms_neither_sibling_nor_parent() -> None:
    @agent_task
    async def bad() -> None:
        await anyio.sleep(0.5)
        raise ValueError

    @agent_task
    async def parent() -> int:
        bad()
        sibling = later(7)
        return await sibling

    async with open_runtime():
        assert await parent() == 7


async def test_cleanup_under_a_shield_is_waited_for() -> None:
    log: list[str] = []

    @agent_task
    async def careful() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
                log.append("cleaned up")

    async with open_runtime():
        future = careful()
        await anyio.sleep(1)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert log == ["cleaned up"]


async def test_a_body_that_ignores_the_cancel_is_cancelled_all_the_same() -> None:
    @agent_task
    async def stubborn() -> int:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3)
        return 1

    async with open_runtime():
        future = stubborn()
        await anyio.sleep(1)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert await total([later(i, 0.1) for i in range(10)]) == 45


async def test_errors_during_the_cleanup_of_a_cancelled_task_do_not_replace_the_cancellation() -> (
    None
):
    @agent_task
    async def messy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    @agent_task
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            await anyio.sleep_forever()

    async with open_runtime():
        for task in (messy, group):
            future = task()
            await anyio.sleep(1)
            cancel(future)
            with pytest.raises(TaskCancelledError):
                await future
        assert await inc(1) == 2


@pytest.mark.parametrize("wait", [True, False])
async def test_a_task_may_cancel_itself(wait: bool) -> None:
    @agent_task
    async def suicidal() -> int:
        cancel(current.get())
        with pytest.raises(TaskCancelledError):
            check_cancelled()
        if wait:
            await anyio.sleep(1)
            went_on.append("after its first checkpoint")
        return 5

    went_on: list[str] = []
    async with open_runtime():
        future = suicidal()
        below = inc(future)
        for one in (future, below):
            with pytest.raises(TaskCancelledError):
                await one
        assert not went_on
        assert await later(3) == 3


async def test_cancelling_many_leaves_the_runners_healthy() -> None:
    async with open_runtime():
        doomed = [forever() for _ in range(200)]
        fine = [later(i, 5.0) for i in range(50)]
        await anyio.sleep(1)
        for future in doomed:
            assert cancel(future)
        for future in doomed:
            with pytest.raises(TaskCancelledError):
                await future
        assert [await future for future in fine] == list(range(50))
        assert await total([later(i, 0.1) for i in range(20)]) == 190


async def test_cancelling_one_of_several_results_cancels_the_task() -> None:
    log: list[str] = []

    @agent_task(num_returns=2)
    async def pair() -> tuple[int, int]:
        await forever(log)
        return 1, 2

    async with open_runtime():
        one, two = pair()
        await anyio.sleep(1)
        assert cancel(one)
        for future in (one, two):
            with pytest.raises(TaskCancelledError):
                await future
        assert log == ["forever"]


async def test_a_long_chain_is_cancelled_without_recursion() -> None:
    async with open_runtime():
        first: AgentFuture[Any] = forever()
        last = first
        for _ in range(1_000_000 if SOAK else 100_000):
            last = inc(last)
        await anyio.sleep(1)
        cancel(first)
        with pytest.raises(TaskCancelledError):
            await last


async def test_leaving_the_block_by_an_exception_stops_everything() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="boom"):
        async with open_runtime():
            futures = [forever(log) for _ in range(10)]
            waiting = inc(futures[0])
            await anyio.sleep(1)
            raise ValueError("boom")
    assert log == ["forever"] * 10
    assert all(cancelled(future) for future in [*futures, waiting])


async def test_leaving_the_block_by_a_cancellation_stops_everything() -> None:
    log: list[str] = []
    futures = []
    with anyio.move_on_after(1) as scope:
        async with open_runtime():
            futures += [forever(log) for _ in range(10)]
            futures.append(inc(futures[0]))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["forever"] * 10
    assert all(cancelled(future) for future in futures)


async def test_a_cancellation_while_the_block_waits_for_its_tasks_stops_them() -> None:
    log: list[str] = []
    with anyio.move_on_after(1):
        async with open_runtime():
            future = forever(log)
    assert log == ["forever"]
    assert cancelled(future)


async def test_cleanup_that_calls_tasks_while_the_block_closes_gets_cancelled_futures() -> None:
    called: list[AgentFuture[int]] = []

    @agent_task
    async def calls_in_cleanup() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            called.append(inc(1))

    with anyio.move_on_after(1):
        async with open_runtime():
            calls_in_cleanup()
            await anyio.sleep_forever()
    assert cancelled(called[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_foreign_asyncio_cancel_ends_the_task_and_harms_no_runner() -> None:
    @agent_task
    async def cancels_its_asyncio_task(wait: bool) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0.01 if wait else 0)
        return 1

    @agent_task
    async def awaits_a_cancelled_task() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        await task

    async with open_runtime():
        for future in (
            cancels_its_asyncio_task(True),
            cancels_its_asyncio_task(False),
            awaits_a_cancelled_task(),
        ):
            below = inc(future)
            with pytest.raises(TaskCancelledError):
                await future
            with pytest.raises(TaskCancelledError):
                await below
            assert await total([later(i, 0.001) for i in range(10)]) == 45


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_asyncio_code_runs_unchanged_in_bodies() -> None:
    @agent_task
    async def timeout() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)

    @agent_task
    async def gather() -> list[int]:
        return list(await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.sleep(0.01, 2)))

    @agent_task
    async def group() -> int:
        async with asyncio.TaskGroup() as tasks:
            one = tasks.create_task(asyncio.sleep(0.01, 3))
        return one.result()

    async with open_runtime():
        with pytest.raises(TimeoutError):
            await timeout()
        assert await gather() == [1, 2]
        assert await group() == 3
        assert await asyncio.wait_for(later(4), 5) == 4
        endless = forever()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endless, 0.01)
        assert not endless.af_done()
        cancel(endless)


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_asyncio_code_on_trio_is_told_how_to_run() -> None:
    @agent_task
    async def uses_asyncio() -> None:
        await asyncio.sleep(1)

    async with open_runtime():
        with pytest.raises(RuntimeError) as caught:
            await uses_asyncio()
    assert any("MOTUS_BACKEND=asyncio" in note for note in caught.value.__notes__)


def checkpoints(log: list[tuple[str, int]]) -> Any:
    """A program with children, a shielded cleanup and a dependent; each step is logged."""

    async def step(name: str, n: int) -> None:
        for index in range(n):
            log.append((name, index))
            await anyio.sleep(1)

    @agent_task
    async def leaf(n: int) -> int:
        await step("leaf", n)
        return n

    @agent_task
    async def middle() -> int:
        one = leaf(3)
        try:
            await step("middle", 2)
            return await one + await leaf(2)
        finally:
            with anyio.CancelScope(shield=True):
                await step("cleanup", 1)

    @agent_task
    async def root() -> list[Any]:
        return [middle(), leaf(1)]

    return root


@pytest.mark.parametrize("instant", [0.5 + index for index in range(9)])
async def test_cancel_at_every_checkpoint_of_a_program(instant: float) -> None:
    log: list[tuple[str, int]] = []
    bystander: list[tuple[str, int]] = []
    async with open_runtime():
        future = checkpoints(log)()
        other = checkpoints(bystander)()
        below = total(future)
        with anyio.move_on_after(instant):
            await future
        was_done = future.af_done()
        assert cancel(future) is not was_done
        if was_done:
            assert await future == [5, 1]
            assert await below == 6
        else:
            with pytest.raises(TaskCancelledError):
                await future
            steps = len(log)
            with pytest.raises(TaskCancelledError):
                await below
            await anyio.sleep(20)
            assert len(log) == steps
        assert await other == [5, 1]
        assert len(bystander) == 9
