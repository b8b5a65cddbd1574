"""Synchronous bodies: on threads, never starved, never deadlocked."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from motus.runtime import (
    AgentFuture,
    TaskCancelledError,
    agent_task,
    cancel,
    check_cancelled,
    open_runtime,
    resolve,
)

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]

VAR: ContextVar[int] = ContextVar("VAR", default=0)


@agent_task
def double(x: int) -> int:
    return 2 * x


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


async def test_synchronous_bodies_run_on_threads_in_the_context_of_the_call() -> None:
    loop_thread = threading.get_ident()

    @agent_task
    def body(x: int) -> int:
        assert threading.get_ident() != loop_thread
        assert VAR.get() == 3
        VAR.set(9)
        return x + 1

    VAR.set(3)
    async with open_runtime():
        future = body(0)
        for _ in range(20):
            future = body(future)
        assert await future == 21
        assert await total([body(i) for i in range(50)]) == sum(range(1, 51))
    assert VAR.get() == 3


async def test_errors_and_exits_of_synchronous_bodies_are_their_tasks() -> None:
    @agent_task
    def fails(error: BaseException) -> None:
        raise error

    async with open_runtime():
        for error in (ValueError("boom"), SystemExit(3), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                await fails(error)
        with pytest.raises(ValueError, match="boom"):
            await inc(fails(ValueError("boom")))
        assert await double(2) == 4


async def test_resolve_inside_a_synchronous_body() -> None:
    @agent_task
    def sums(n: int) -> int:
        return sum(resolve([inc(i) for i in range(n)]))

    async with open_runtime():
        assert await sums(5) == 15


@pytest.mark.parametrize("max_threads", [1, 2, 6])
async def test_nested_resolve_never_deadlocks(max_threads: int) -> None:
    @agent_task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + resolve(down(n - 1))

    async with open_runtime(max_threads=max_threads):
        assert await down(500) == 500


@pytest.mark.parametrize("max_threads", [1, 2, 6])
async def test_at_most_so_many_bodies_run_at_once(max_threads: int) -> None:
    lock = threading.Lock()
    running = most = 0

    @agent_task
    def leaf() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return 1

    @agent_task
    def branch() -> int:
        nonlocal running, most
        value = sum(resolve([leaf() for _ in range(3)]))
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return value

    async with open_runtime(max_threads=max_threads):
        assert await total([branch() for _ in range(20)]) == 60
    assert most <= max_threads


@pytest.mark.parametrize("max_threads", [1, 2, 6])
async def test_a_fan_of_1000(max_threads: int) -> None:
    async with open_runtime(max_threads=max_threads):
        assert await total([double(i) for i in range(1000)]) == 999_000


async def test_a_body_may_use_its_loop_through_anyio() -> None:
    @agent_task
    def body() -> str:
        anyio.from_thread.run(anyio.sleep, 0)
        return "back"

    async with open_runtime():
        assert await body() == "back"


async def test_a_body_may_run_a_loop_of_its_own(anyio_backend_name: str) -> None:
    async def inside() -> int:
        return await inc(await double(3))

    @agent_task
    def body() -> int:
        return anyio.run(inside, backend=anyio_backend_name)

    async with open_runtime():
        assert await body() == 7


async def test_cancelling_a_running_body_resolves_at_once_and_drops_the_result() -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[Any] = []

    @agent_task
    def stuck() -> int:
        begun.set()
        release.wait(10)
        try:
            check_cancelled()
        except TaskCancelledError as error:
            seen.append(error.task_name)
        late = inc(1)
        try:
            resolve(late)
        except TaskCancelledError:
            seen.append("called nothing")
        return 1

    async with open_runtime():
        started = stuck()
        below = inc(started)
        await anyio.to_thread.run_sync(begun.wait)
        assert cancel(started)
        for future in (started, below):
            with pytest.raises(TaskCancelledError):
                await future
        release.set()
    assert [text.rpartition(".")[2] for text in seen] == ["stuck", "called nothing"]


async def test_bodies_cancelled_in_the_queue_never_run() -> None:
    ran: list[int] = []
    release = threading.Event()
    begun = threading.Semaphore(0)

    @agent_task
    def slow(i: int) -> int:
        ran.append(i)
        begun.release()
        release.wait(10)
        return i

    async with open_runtime(max_threads=2):
        futures = [slow(i) for i in range(6)]
        for _ in range(2):
            await anyio.to_thread.run_sync(begun.acquire)
        # Those in the queue first: the others give their slots free.
        for future in reversed(futures):
            cancel(future)
        for future in futures:
            with pytest.raises(TaskCancelledError):
                await future
        release.set()
        assert await double(1) == 2
    assert sorted(ran) == [0, 1]


async def test_a_timed_out_body_is_retried_at_once_and_blocks_nobody() -> None:
    release = threading.Event()
    calls: list[int] = []

    @agent_task(timeout=1.0, retries=1)
    def stuck_once() -> int:
        calls.append(1)
        if len(calls) == 1:
            release.wait(10)
        return len(calls)

    async with open_runtime():
        assert await stuck_once() == 2
        assert await total([double(i) for i in range(20)]) == 380
        release.set()


async def test_what_a_timed_out_body_calls_later_is_cancelled() -> None:
    release = threading.Event()
    later: list[AgentFuture[int]] = []
    done = threading.Event()

    @agent_task(timeout=0.2)
    def stuck() -> None:
        release.wait(10)
        later.append(inc(1))
        done.set()

    async with open_runtime():
        with pytest.raises(TimeoutError):
            await stuck()
        release.set()
        await anyio.to_thread.run_sync(done.wait, 10)
        with pytest.raises(TaskCancelledError):
            await later[0]


async def test_leaving_the_block_waits_for_threads_that_were_told_to_stop() -> None:
    begun, release = threading.Event(), threading.Event()
    ended: list[int] = []

    @agent_task
    def slow() -> None:
        begun.set()
        release.wait(10)
        ended.append(1)

    async with open_runtime():
        future = slow()
        await anyio.to_thread.run_sync(begun.wait)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        release.set()
    assert ended == [1]


async def test_children_called_from_a_thread_belong_to_the_task() -> None:
    ended: list[str] = []

    @agent_task
    async def child() -> None:
        try:
            await anyio.sleep(0.05)
        finally:
            ended.append("child")

    @agent_task
    def from_a_sync_body() -> int:
        child()
        return 1

    @agent_task
    async def from_a_helper_thread() -> int:
        await anyio.to_thread.run_sync(child)
        return 2

    async with open_runtime():
        assert await from_a_sync_body() == 1
        assert ended == ["child"]
        assert await from_a_helper_thread() == 2
        assert ended == ["child"] * 2


async def test_a_result_with_futures_from_a_thread_is_settled() -> None:
    @agent_task
    def body() -> Any:
        return {"a": [inc(1), double(2)]}

    async with open_runtime():
        assert await body() == {"a": [2, 4]}


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_stuck_body_that_nobody_waits_for_blocks_no_other(how: str) -> None:
    begun, release = threading.Event(), threading.Event()
    calls: list[int] = []

    def body() -> str:
        calls.append(1)
        if len(calls) == 1:
            begun.set()
            release.wait(10)
        return "done"

    async with open_runtime(max_threads=1):
        if how == "timeout":
            assert await agent_task(timeout=0.5, retries=1)(body)() == "done"
        else:
            future = agent_task(body)()
            await anyio.to_thread.run_sync(begun.wait)
            cancel(future)
        with anyio.fail_after(10):
            assert await double(2) == 4
        release.set()


async def test_a_thread_that_outlives_its_runtime_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motus.runtime.jobs.THREAD_GRACE", 0.1)
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    @agent_task
    def stuck(other: list[AgentFuture[int]]) -> None:
        begun.set()
        release.wait(10)
        try:
            resolve(box[0])
        except TaskCancelledError:
            ended.set()

    box: list[AgentFuture[int]] = []
    with pytest.warns(RuntimeWarning, match=r"left 1 threads behind.*stuck"):
        async with open_runtime(max_threads=1):
            future = stuck([])
            await anyio.to_thread.run_sync(begun.wait)
            box += [double(1), double(2)]
            for one in (future, *box):
                cancel(one)
    release.set()
    assert await anyio.to_thread.run_sync(ended.wait, 10)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="max_threads must be at least 1"):
        open_runtime(max_threads=limit)


async def test_where_the_system_gives_no_thread_the_tasks_fail_and_later_ones_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def refuse_too(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    async with open_runtime(max_threads=2):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            # trio keeps those that it had.
            patch.setattr(anyio.to_thread, "run_sync", refuse_too)
            # More than there are slots; and an attempt waits for its thread in a way of its own.
            for future in [*(double(i) for i in range(5)), double.policy(retries=1)(5)]:
                with anyio.fail_after(10), pytest.raises(RuntimeError, match="can't start"):
                    await future
        with anyio.fail_after(10):
            assert await total([double(i) for i in range(5)]) == 20


async def test_ctrl_c_while_a_job_is_handed_over_ends_its_task_once() -> None:
    async with open_runtime(max_threads=1) as runtime:
        pool = runtime.scheduler.jobs.pool
        submit = pool.submit

        def interrupted(job: Any) -> None:
            pool.submit = submit  # type: ignore[method-assign]  # as it was
            submit(job)
            raise KeyboardInterrupt

        pool.submit = interrupted  # type: ignore[method-assign]  # as above
        future = double(1)
        with pytest.raises(KeyboardInterrupt):
            await future
        # On the same thread: so the first job, which runs all the same, has reported too.
        assert await double(2) == 4
        with pytest.raises(KeyboardInterrupt):
            await future
        assert runtime.scheduler.graph.unfinished == 0
