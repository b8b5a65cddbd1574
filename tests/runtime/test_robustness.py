"""What is odd, torn down in the middle, or lies about itself harms only its own task."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import pytest
import trio

from motus.runtime import (
    AgentFuture,
    TaskCancelledError,
    agent_task,
    cancel,
    is_initialized,
    open_runtime,
    resolve,
    shutdown,
)
from motus.runtime.runners import Runners

pytestmark = pytest.mark.anyio


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def same(x: Any) -> Any:
    return x


@agent_task
async def nap(seconds: float, value: Any = None) -> Any:
    await anyio.sleep(seconds)
    return value


# ---------------------------------------------------------------------- odd objects


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int = 1


class TakesNoNotesError(Exception):
    def add_note(self, note: str) -> None:
        raise OSError("no notes")


class HasOddNotesError(Exception):
    __notes__ = 5  # type: ignore[assignment]  # the mistake that is tested


class HasNoTextError(RuntimeError):
    def __str__(self) -> str:
        raise OSError("no text")


class HasNoText:
    def __str__(self) -> str:
        raise OSError("no text")


class HasNoClassError(Exception):
    @property  # type: ignore[misc]  # an unbound proxy does this
    def __class__(self) -> type:
        raise OSError("no class")


ODD_ERRORS = [
    FrozenError(),
    TakesNoNotesError(),
    HasOddNotesError(),
    HasNoTextError(),
    RuntimeError(HasNoText()),
]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", [{}, {"retries": 1}, {"timeout": 5}])
async def test_odd_exceptions_are_the_tasks_own(error: Exception, policy: Any) -> None:
    async def raises(wait: bool) -> None:
        if wait:
            await anyio.sleep(0.01)
        raise error

    fails: Callable[..., AgentFuture[None]] = agent_task(**policy)(raises)
    async with open_runtime():
        bystander = nap(1, "fine")
        for wait in (False, True):
            future = fails(wait)
            below = inc(future)
            for one in (future, below, future):
                with pytest.raises(type(error)):
                    await one
        assert await bystander == "fine"


async def test_an_exception_that_lies_about_its_class_harms_nobody() -> None:
    @agent_task
    async def fails() -> None:
        raise HasNoClassError

    async with open_runtime():
        bystander = nap(1, "fine")
        caught: type | None = None
        try:
            await fails()
        except HasNoClassError as error:
            caught = type(error)
        assert caught is HasNoClassError
        assert await bystander == "fine"


@pytest.mark.parametrize(
    ("anyio_backend", "other"), [("trio", asyncio), ("asyncio", trio)], indirect=["anyio_backend"]
)
@pytest.mark.parametrize("policy", [{}, {"retries": 1}])
async def test_a_body_that_calls_the_other_library_is_told_so(
    anyio_backend_name: str, other: Any, policy: Any
) -> None:
    async def calls_it() -> None:
        await other.sleep(0.01)

    wrong: Callable[[], AgentFuture[None]] = agent_task(**policy)(calls_it)

    @agent_task
    async def above() -> None:
        await wrong()

    async with open_runtime():
        with pytest.raises(RuntimeError) as caught:
            await above()
    told = f"runs on {anyio_backend_name} and called {other.__name__}. Use anyio"
    assert [told in note for note in caught.value.__notes__].count(True) == 1


class Liar:
    @property  # type: ignore[misc]  # an unbound proxy does this
    def __class__(self) -> type:
        raise RuntimeError("unbound")


class OddMeta(type):
    def __eq__(cls, other: object) -> bool:
        return cls is other


class Unhashable(metaclass=OddMeta):
    """Not its objects, but the class itself."""


class OddTuple(NamedTuple):
    x: int

    def __iter__(self) -> Any:
        raise OSError("not iterable")


@pytest.mark.realtime
@pytest.mark.parametrize("threaded", [False, True])
async def test_odd_results_and_arguments(threaded: bool) -> None:
    def give(make: Callable[[], Any]) -> Any:
        return make()

    async def at_once(make: Callable[[], Any]) -> Any:
        return make()

    async def give_later(make: Callable[[], Any]) -> Any:
        await anyio.lowlevel.checkpoint()
        return make()

    task: Callable[..., AgentFuture[Any]] = agent_task(give if threaded else give_later)
    async with open_runtime():
        bystander = nap(0.1, "fine")
        assert type(await task(Liar)) is Liar
        mock = Mock(spec=AgentFuture)
        assert await task(lambda: mock) is mock
        assert (await same([mock]))[0] is mock
        with pytest.raises(OSError, match="not iterable"):
            await task(lambda: OddTuple(1))
        with pytest.raises(OSError, match="not iterable"):
            same(OddTuple(1))
        with pytest.raises(TypeError, match="unhashable"):
            await task(Unhashable)
        with pytest.raises(TypeError, match="unhashable"):
            await agent_task(at_once)(Unhashable)
        assert await bystander == "fine"


async def test_what_is_put_into_a_container_after_the_call_stays_a_future() -> None:
    @agent_task
    async def kinds(values: list[Any]) -> list[str]:
        return [type(value).__name__ for value in values]

    async with open_runtime():
        numbers: list[Any] = [nap(1, "early")]
        future = kinds(numbers)
        numbers.append(nap(5, "late"))
        assert await future == ["str", "AgentFuture"]


# ---------------------------------------------------------------------- circles


class Shared:
    """Futures that bodies get hold of by other ways than their arguments."""

    one: AgentFuture[Any]
    two: AgentFuture[Any]


@agent_task
async def awaits(shared: Shared, name: str, before: float = 0.0) -> Any:
    await anyio.sleep(before)
    return await getattr(shared, name)


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
@pytest.mark.parametrize("before", [(0, 0), (1, 2), (2, 1)])
async def test_two_bodies_that_await_each_other_are_told_so(before: tuple[int, int]) -> None:
    shared = Shared()
    async with open_runtime():
        shared.one = awaits(shared, "two", before[0])
        shared.two = awaits(shared, "one", before[1])
        for future in (shared.one, shared.two):
            with pytest.raises(RuntimeError, match=r"waits for itself, by way of 'awaits' \(id="):
                await future


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_circle_through_a_body_and_an_argument_is_found() -> None:
    shared = Shared()

    @agent_task
    async def calls() -> Any:
        await anyio.sleep(1)
        return await same(shared.one)

    async with open_runtime():
        shared.one = awaits(shared, "two")
        shared.two = calls()
        with pytest.raises(RuntimeError, match=r"waits, by way of 'awaits' .*, for '.*calls'"):
            await shared.two


@pytest.mark.parametrize("patient_first", [True, False])
async def test_a_wait_that_can_be_given_up_makes_no_circle(patient_first: bool) -> None:
    shared = Shared()

    @agent_task
    async def gives_up() -> str:
        await anyio.sleep(2 if patient_first else 0)
        with anyio.move_on_after(5):
            return str(await shared.one)
        return "gave up"

    async with open_runtime():
        shared.two = gives_up()
        shared.one = awaits(shared, "two", 1)
        assert [await shared.one, await shared.two] == ["gave up", "gave up"]


async def test_a_wait_that_is_over_makes_no_circle() -> None:
    shared = Shared()

    @agent_task
    async def one() -> str:
        first = await shared.two
        await anyio.sleep(2)
        return str(first)

    async with open_runtime():
        shared.two = nap(1, "first")
        shared.one = one()
        await shared.two
        # It awaited this name before, and now another task that has it awaits the first one.
        shared.two = awaits(shared, "one")
        assert await shared.two == "first"


async def test_a_circle_between_siblings_is_found() -> None:
    box: list[AgentFuture[Any]] = []

    @agent_task
    async def waits() -> Any:
        await anyio.sleep(1)
        return await box[0]

    @agent_task
    async def parent() -> Any:
        one = waits()
        box.append(inc(one))
        return await one

    async with open_runtime():
        with pytest.raises(RuntimeError, match="waits for itself"):
            await parent()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_what_a_finished_task_left_running_may_wait_for_what_needs_it() -> None:
    box: list[AgentFuture[Any]] = []
    tasks: list[asyncio.Task[Any]] = []

    async def detached() -> Any:
        await asyncio.sleep(0.01)
        return await box[0]

    @agent_task
    async def starts() -> str:
        tasks.append(asyncio.create_task(detached()))
        return "started"

    async with open_runtime():
        box.append(same([starts(), nap(0.05, "slow")]))
        assert await box[0] == ["started", "slow"]
        assert await tasks[0] == ["started", "slow"]


# ---------------------------------------------------------------------- torn down


async def test_a_group_may_be_of_any_depth() -> None:
    error: BaseException = ValueError("the innermost")
    for _ in range(5000):
        error = BaseExceptionGroup("", [error])

    @agent_task
    async def raises() -> None:
        raise error

    async with open_runtime():
        with pytest.raises(BaseExceptionGroup):
            await raises()
        assert await inc(1) == 2


async def test_a_runner_that_crashes_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: Runners, node: Any, stage: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    futures: list[AgentFuture[Any]] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_runtime():
            futures += [nap(1000), nap(1000)]
            futures.append(same(futures[0]))
            await anyio.sleep(1)
            monkeypatch.setattr(Runners, "_begin", broken)
            futures.append(inc(1))
            await futures[-1]
    assert caught.group_contains(ZeroDivisionError)
    assert all(future.af_done() for future in futures)
    with pytest.raises((RuntimeError, TaskCancelledError)):
        futures[-1].af_result()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancelling_the_owner_again_while_the_block_closes(times: int) -> None:
    ended: list[str] = []

    @agent_task
    async def slow_cleanup() -> None:
        try:
            await anyio.sleep(1000)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            ended.append("clean")

    async def owner() -> None:
        async with open_runtime():
            slow_cleanup()
            await asyncio.sleep(1)
            raise ValueError

    task = asyncio.ensure_future(owner())
    await asyncio.sleep(1.5)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.5)
    assert not ended
    with pytest.raises((ValueError, asyncio.CancelledError)):
        await task
    assert ended == ["clean"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_runner_that_is_cancelled_before_its_first_step_is_replaced() -> None:
    async with open_runtime():
        future = nap(0.1, "value")
        for task in asyncio.all_tasks():
            if task.get_name() == "motus-runner":
                task.cancel()
        assert await future == "value"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_body_that_cancels_its_asyncio_task_and_returns_harms_no_other() -> None:
    @agent_task
    async def rude() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 1

    async with open_runtime():
        for _ in range(20):
            futures = [rude(), nap(0.01, "fine"), rude(), nap(0.01, "fine")]
            assert [await future for future in futures] == [1, "fine", 1, "fine"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_eager_task_factory_changes_nothing() -> None:
    # It came with Python 3.12; before, this sets what is set already.
    factory = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(factory)
    async with open_runtime():
        futures = [nap(0.01, i) for i in range(500)]
        assert [await future for future in futures] == list(range(500))


@pytest.mark.realtime
async def test_shutdown_in_a_loop_and_then_a_task_at_once() -> None:
    assert await inc(1) == 2
    left = nap(1000)
    shutdown()
    assert not is_initialized()
    assert await inc(2) == 3
    with pytest.raises(RuntimeError, match="shutting down"):
        await left


@pytest.mark.realtime
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_interrupt_in_an_adopted_runtime_is_only_logged(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    @agent_task
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        interrupted()
        assert await inc(1) == 2
        shutdown()
        assert await inc(1) == 2

    with caplog.at_level(logging.ERROR, "motus.runtime"):
        await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=backend))
        gc.collect()
    assert any("nobody asked" in record.getMessage() for record in caplog.records)


@pytest.mark.realtime
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_threads_that_call_tasks_while_their_loop_ends(backend: str) -> None:
    def one_round() -> None:
        futures: list[AgentFuture[int]] = []
        stop = threading.Event()

        def hammer() -> None:
            while not stop.is_set():
                futures.append(inc(first[0]))

        first: list[AgentFuture[int]] = []

        async def main() -> None:
            first.append(inc(0))
            context_thread = threading.Thread(target=hammer)
            threads.append(context_thread)
            context_thread.start()
            await anyio.sleep(0.005)

        threads: list[threading.Thread] = []
        anyio.run(main, backend=backend)
        stop.set()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        shutdown()
        for future in [*first, *futures]:
            try:
                future.af_result(10)
            except (RuntimeError, TaskCancelledError):
                continue

    for _ in range(5):
        await anyio.to_thread.run_sync(one_round)


# ---------------------------------------------------------------------- logs and waits


async def test_an_error_in_the_cleanup_of_a_cancelled_attempt_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @agent_task(retries=2)
    async def messy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    with caplog.at_level(logging.DEBUG, "motus.runtime"):
        async with open_runtime():
            future = messy()
            await anyio.sleep(1)
            cancel(future)
            with pytest.raises(TaskCancelledError):
                await future
        del future
        gc.collect()
    assert not caplog.records


@pytest.mark.realtime
async def test_abandoned_waits_are_forgotten() -> None:
    async with open_runtime():
        future = nap(1000)
        for _ in range(50):
            with anyio.move_on_after(0):
                await future
        extra = future.af_extra
        assert extra is None or not extra.waiters

        def elsewhere() -> None:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    resolve(future, timeout=0.001)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        while thread.is_alive():  # noqa: ASYNC110  # nothing but the thread itself tells
            await anyio.sleep(0.001)
        await nap(0.01)
        assert future.af_extra is not None
        assert not future.af_extra.waiters
        cancel(future)


async def test_a_failure_through_deep_recursion_is_not_quadratic() -> None:
    depth = 2000
    notes: list[int] = []

    @agent_task
    async def down(n: int) -> int:
        if n == 0:
            raise ValueError("bottom")
        return await down(n - 1)

    async with open_runtime():
        with pytest.raises(ValueError, match="bottom") as caught:
            await down(depth)
    notes += [len(note.splitlines()) for note in caught.value.__notes__]
    assert notes == [depth + 2]


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_stack_that_overflows_in_a_call_harms_only_the_call(resumed: bool) -> None:
    def descend(frames: int, last: AgentFuture[int]) -> None:
        # So that it is another function each time that finds no room.
        if frames:
            descend(frames - 1, last)
        else:
            last = inc(last)
            same([last])
            descend(0, last)

    @agent_task
    async def body(frames: int) -> int:
        if resumed:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(RecursionError):
            descend(frames, nap(0.01, 1))
        # Whoever wakes the runtime was not left halfway through either.
        return await inc(await nap(0.01, 1))

    for frames in range(12):
        async with open_runtime():
            assert await body(frames) == 2


@pytest.mark.realtime
@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError])
async def test_a_call_that_breaks_off_while_it_wakes_the_loop(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls() -> int:
        with monkeypatch.context() as patch:

            def breaks_off(_: object) -> None:
                patch.undo()
                raise error

            patch.setattr(scheduler.backend, "call", breaks_off)
            with pytest.raises(error):
                inc(1)
        return resolve(inc(2), timeout=10)

    async with open_runtime() as runtime:
        scheduler = runtime.scheduler
        assert await inc(0) == 1
        assert await anyio.to_thread.run_sync(calls) == 3
        assert runtime.is_open


# ---------------------------------------------------------------------- the process

PROGRAMS = {
    "a thread that waits does not keep the process": """
import threading
from motus import agent_task, resolve
import anyio
@agent_task
async def forever(): await anyio.sleep_forever()
future = forever()
def wait():
    try: resolve(future)
    except RuntimeError as error: print(error)
threading.Thread(target=wait).start()
""",
    "nor does an executor": """
from concurrent.futures import ThreadPoolExecutor
from motus import agent_task, resolve
import anyio
@agent_task
async def forever(): await anyio.sleep_forever()
future = forever()
def wait():
    try: resolve(future)
    except RuntimeError as error: print(error)
ThreadPoolExecutor(1).submit(wait)
""",
    "a forked child does not wait for a thread of its parent": """
import os
from motus import agent_task, resolve
import anyio
@agent_task
async def inc(x): return x + 1
@agent_task
async def forever(): await anyio.sleep_forever()
left = forever()
assert resolve(inc(1)) == 2
pid = os.fork()
if pid == 0:
    try: resolve(left)
    except RuntimeError as error: print(error, flush=True)
    os._exit(0 if resolve(inc(2)) == 3 else 1)
assert os.waitpid(pid, 0)[1] == 0
""",
    "nor for a block of its parent, in which it was forked": """
import os
from motus import agent_task, open_runtime, resolve
import anyio
@agent_task
async def inc(x): return x + 1
@agent_task
async def forever(): await anyio.sleep_forever()
@agent_task
def forks():
    pid = os.fork()
    if pid == 0:
        try: resolve(left)
        except RuntimeError as error: print(error, flush=True)
        os._exit(0 if resolve(inc(2)) == 3 else 1)
    return os.waitpid(pid, 0)[1]
async def main():
    global left
    async with open_runtime():
        left = forever()
        assert await forks() == 0
        left.af_cancel()
anyio.run(main, backend=os.environ["MOTUS_BACKEND"])
""",
    "nor for what another thread held": """
import os, threading
from motus import agent_task, resolve
from motus.runtime.scheduler import GraphScheduler
import anyio
@agent_task
async def inc(x): return x + 1
@agent_task
async def forever(): await anyio.sleep_forever()
left = forever()
held, done = threading.Event(), threading.Event()
def hold():
    with GraphScheduler.closing_lock:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    try: resolve(left)
    except RuntimeError as error: print(error, flush=True)
    os._exit(0 if resolve(inc(2)) == 3 else 1)
assert os.waitpid(pid, 0)[1] == 0
done.set()
""",
}


@pytest.mark.realtime
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_end_of_the_process(name: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAMS[name]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "MOTUS_BACKEND": backend},
    )
    assert (done.returncode, done.stdout) == (0, "Motus runtime is shutting down\n"), done.stderr


@pytest.mark.realtime
def test_the_end_of_the_process_is_quiet_where_a_task_has_used_asyncios_threads() -> None:
    program = """
import asyncio
from motus import agent_task, resolve
@agent_task
async def five(): return await asyncio.to_thread(lambda: 5)
print(resolve(five()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "MOTUS_BACKEND": "asyncio"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
