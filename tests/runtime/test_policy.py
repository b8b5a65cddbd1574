"""Retries, timeouts and delays, on virtual time."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from motus.runtime import TaskCancelledError, agent_task, cancel, open_runtime

pytestmark = pytest.mark.anyio


class Flaky:
    """Fails a number of times, and remembers when it was called."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[float] = []

    async def __call__(self, x: int = 0) -> int:
        self.calls.append(anyio.current_time())
        if len(self.calls) <= self.failures:
            raise ValueError(f"attempt {len(self.calls)}")
        return x


@agent_task
async def inc(x: int) -> int:
    return x + 1


async def test_a_failing_task_is_tried_again_with_the_same_arguments() -> None:
    flaky = Flaky(2)
    async with open_runtime():
        assert await inc(agent_task(retries=2)(flaky)(inc(4))) == 6
    assert len(flaky.calls) == 3


async def test_the_last_error_is_the_tasks() -> None:
    flaky = Flaky(5)
    async with open_runtime():
        with pytest.raises(ValueError, match="attempt 3"):
            await agent_task(retries=2)(flaky)()
    assert len(flaky.calls) == 3


async def test_an_attempt_that_another_follows_is_logged_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "motus.runtime"):
        async with open_runtime():
            with pytest.raises(ValueError, match="attempt 3"):
                await agent_task(retries=2)(Flaky(5))()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG, logging.DEBUG]
    for number, record in enumerate(caplog.records, 1):
        assert "'Flaky'" in record.getMessage()
        assert f"attempt {number} failed" in record.getMessage()
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == f"attempt {number}"


async def test_the_delay_is_between_attempts() -> None:
    flaky = Flaky(2)
    async with open_runtime():
        start = anyio.current_time()
        await agent_task(retries=3, retry_delay=2.0)(flaky)()
    assert [at - start for at in flaky.calls] == pytest.approx([0, 2, 4])


async def test_a_policy_for_one_call_leaves_the_task_as_it_is() -> None:
    flaky = Flaky(1)
    task = agent_task(flaky)
    async with open_runtime():
        assert await task.policy(retries=1)(3) == 3
        flaky.calls.clear()
        with pytest.raises(ValueError, match="attempt 1"):
            await task(3)


async def test_a_timeout_is_a_failure_that_names_the_task_and_the_seconds() -> None:
    @agent_task(timeout=2.0)
    async def slow() -> None:
        await anyio.sleep_forever()

    async with open_runtime():
        start = anyio.current_time()
        future = slow()
        below = inc(future)
        for one in (future, below):
            with pytest.raises(TimeoutError, match=r"slow' timed out after 2.0 seconds"):
                await one
        assert anyio.current_time() - start == pytest.approx(2)


async def test_a_timeout_is_retried() -> None:
    starts: list[float] = []

    @agent_task(timeout=2.0, retries=2, retry_delay=1.0)
    async def slow() -> int:
        starts.append(anyio.current_time())
        await anyio.sleep(5 if len(starts) < 3 else 1)
        return len(starts)

    async with open_runtime():
        start = anyio.current_time()
        assert await slow() == 3
    assert [at - start for at in starts] == pytest.approx([0, 3, 6])


async def test_a_timeout_covers_children_and_returned_futures() -> None:
    ended: list[str] = []

    @agent_task
    async def child(name: str) -> str:
        try:
            await anyio.sleep(5)
        finally:
            ended.append(name)
        return name

    @agent_task(timeout=2.0)
    async def leaves_a_child() -> None:
        child("left")

    @agent_task(timeout=2.0)
    async def returns_a_child() -> Any:
        return [child("returned")]

    async with open_runtime():
        start = anyio.current_time()
        for task in (leaves_a_child, returns_a_child):
            with pytest.raises(TimeoutError):
                await task()
        assert anyio.current_time() - start == pytest.approx(4)
        assert ended == ["left", "returned"]
        assert await returns_a_child.policy(timeout=10)() == ["returned"]


async def test_the_children_of_an_attempt_are_gone_before_the_next() -> None:
    log: list[str] = []

    @agent_task
    async def child(n: int) -> None:
        log.append(f"child {n} begins")
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            log.append(f"child {n} ends")

    attempts = 0

    @agent_task(retries=1)
    async def parent() -> str:
        nonlocal attempts
        attempts += 1
        log.append(f"attempt {attempts}")
        if attempts == 1:
            child(attempts)
            await anyio.sleep(1)
            raise ValueError
        return "done"

    async with open_runtime():
        assert await parent() == "done"
    assert log == ["attempt 1", "child 1 begins", "child 1 ends", "attempt 2"]


async def test_a_failed_returned_future_is_a_failed_attempt() -> None:
    flaky = Flaky(1)

    @agent_task(retries=1)
    async def returns_a_future() -> Any:
        return agent_task(flaky)(7)

    async with open_runtime():
        assert await returns_a_future() == 7


async def test_cancellation_is_not_retried() -> None:
    calls: list[int] = []

    @agent_task(retries=5)
    async def task() -> None:
        calls.append(1)
        await anyio.sleep_forever()

    async with open_runtime():
        future = task()
        await anyio.sleep(1)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
    assert calls == [1]


async def test_a_cancel_during_the_delay_ends_it_at_once() -> None:
    flaky = Flaky(9)
    async with open_runtime():
        future = agent_task(retries=5, retry_delay=1000)(flaky)()
        await anyio.sleep(1)
        start = anyio.current_time()
        assert repr(future).endswith("retrying>")
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert anyio.current_time() == start
    assert len(flaky.calls) == 1


async def test_returning_a_cancelled_future_cancels_and_is_not_retried() -> None:
    calls: list[int] = []

    @agent_task
    async def endless() -> None:
        await anyio.sleep_forever()

    @agent_task(retries=3)
    async def returns() -> Any:
        calls.append(1)
        return held[0]

    held: list[Any] = []
    async with open_runtime():
        held.append(endless())
        future = returns()
        await anyio.sleep(1)
        cancel(held[0])
        with pytest.raises(TaskCancelledError) as caught:
            await future
        assert caught.value.task_name.endswith("returns")
        assert isinstance(caught.value.__cause__, TaskCancelledError)
    assert calls == [1]


async def test_nodes_after_a_timeout_have_no_deadline() -> None:
    @agent_task(timeout=1.0)
    async def maybe(seconds: float) -> float:
        await anyio.sleep(seconds)
        return seconds

    @agent_task
    async def free(seconds: float) -> float:
        await anyio.sleep(seconds)
        return seconds

    async with open_runtime():
        for _ in range(3):
            slow = [maybe(5) for _ in range(20)]
            fast = [maybe(0.5) for _ in range(20)]
            for one in slow:
                with pytest.raises(TimeoutError):
                    await one
            assert [await one for one in fast] == [0.5] * 20
            assert await free(10) == 10


async def test_an_error_in_the_cleanup_of_a_timed_out_attempt_is_retried_too() -> None:
    calls: list[int] = []

    async def fails_when_stopped() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    @agent_task(timeout=1.0, retries=1)
    async def messy() -> str:
        calls.append(1)
        if len(calls) == 1:
            async with anyio.create_task_group() as group:
                group.start_soon(fails_when_stopped)
                group.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()
        return "done"

    async with open_runtime():
        assert await messy() == "done"
    assert len(calls) == 2
