"""Where tasks run: in a block, in a loop that is there, or behind synchronous code."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
import sniffio
import trio

import motus
from motus.runtime import (
    AgentFuture,
    TaskCancelledError,
    agent_task,
    cancel,
    get_runtime,
    init,
    is_initialized,
    open_runtime,
    resolve,
    runners,
    shutdown,
)

pytestmark = pytest.mark.realtime

BACKENDS = ["trio", "asyncio"]


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
def double(x: int) -> int:
    return 2 * x


@agent_task
async def later(x: int, seconds: float = 0.01) -> int:
    await anyio.sleep(seconds)
    return x


@agent_task
async def forever() -> int:
    await anyio.sleep_forever()
    return 0


@agent_task
def nap(seconds: float) -> None:
    time.sleep(seconds)


@agent_task
def meet(barrier: threading.Barrier) -> int:
    return barrier.wait(10)


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


@agent_task
async def library() -> str:
    return sniffio.current_async_library()


@pytest.fixture(params=BACKENDS)
def background(request: pytest.FixtureRequest) -> Iterator[str]:
    """A background runtime on either backend."""
    init(backend=request.param)
    yield request.param
    shutdown()


def run(backend: str, function: Any, *args: Any) -> Any:
    return anyio.run(function, *args, backend=backend)


def test_synchronous_code_needs_no_setup() -> None:
    assert not is_initialized()
    assert resolve(inc(double(later(1)))) == 3
    assert is_initialized()
    shutdown()
    assert not is_initialized()
    assert resolve(library()) == "trio"
    shutdown()


def test_background_results_errors_and_cancellation(background: str) -> None:
    assert resolve(library()) == background
    future = inc(0)
    for _ in range(3000):
        future = inc(future)
    assert resolve(future) == 3001
    assert resolve(total([inc(i) for i in range(3000)])) == sum(range(1, 3001))
    assert resolve([inc(1), double(2)]) == [2, 4]
    barrier = threading.Barrier(3)
    # All of them are called before the first is waited for.
    assert sorted(resolve(meet(barrier) for _ in range(3))) == [0, 1, 2]
    endless = forever()
    below = inc(endless)
    assert cancel(endless)
    for one in (endless, below):
        with pytest.raises(TaskCancelledError):
            resolve(one)
    with pytest.raises(TypeError):
        resolve(inc(inc("x")))


def test_a_timeout_of_resolve_leaves_the_task_alone(background: str) -> None:
    endless = forever()
    with pytest.raises(TimeoutError, match="no result of task 'forever'"):
        resolve(endless, timeout=0.01)
    assert not endless.af_done()
    cancel(endless)
    with pytest.raises(TaskCancelledError):
        endless.af_result(timeout=10)


def test_the_variable_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTUS_BACKEND", "asyncio")
    assert resolve(library()) == "asyncio"
    shutdown()
    monkeypatch.setenv("MOTUS_BACKEND", "twisted")
    with pytest.raises(ValueError, match="MOTUS_BACKEND must be 'trio' or 'asyncio'"):
        inc(1)


def test_init_twice_is_refused_and_shutdown_twice_is_not() -> None:
    runtime = init()
    assert get_runtime() is runtime
    with pytest.raises(RuntimeError, match="already initialized"):
        init()
    shutdown()
    shutdown()
    init()
    shutdown()


def test_init_takes_the_number_of_threads() -> None:
    here: set[int] = set()
    most = 0

    @agent_task
    def body(number: int) -> None:
        nonlocal most
        here.add(number)
        most = max(most, len(here))
        threading.Event().wait(0.001)
        here.remove(number)

    with pytest.raises(ValueError, match="max_threads must be at least 1, not 0"):
        init(max_threads=0)
    assert not is_initialized()
    init(max_threads=1)
    try:
        resolve([body(number) for number in range(20)])
    finally:
        shutdown()
    assert most == 1


def test_shutdown_fails_what_is_left_and_wakes_who_waits(background: str) -> None:
    running = forever()
    pending = inc(running)
    outcomes: list[BaseException] = []

    def wait() -> None:
        try:
            resolve(pending)
        except RuntimeError as error:
            outcomes.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    resolve(inc(1))
    shutdown()
    waiter.join(10)
    assert not waiter.is_alive()
    assert [str(error) for error in outcomes] == ["Motus runtime is shutting down"]
    for future in (running, pending):
        with pytest.raises(RuntimeError, match="Motus runtime is shutting down"):
            future.af_result()
    assert resolve(inc(1)) == 2


def test_a_runtime_that_crashes_taking_in_a_task_leaves_nobody_waiting(
    background: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = get_runtime()
    wire = runtime.scheduler.graph.wire
    broken: list[Any] = []

    def breaks_once(node: Any, dependencies: Any) -> None:
        if not broken:
            broken.append(node)
            raise ZeroDivisionError("a mistake of ours")
        wire(node, dependencies)

    crashes: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    waiting = later(1, 1000)
    monkeypatch.setattr(runtime.scheduler, "_wire", breaks_once)
    # The one itself, and what stands behind it in the queue.
    futures = [inc(0)]
    for future in (*futures, waiting):
        with pytest.raises((RuntimeError, TaskCancelledError)):
            future.af_result(timeout=10)
    # Until its thread has ended.
    runtime.shutdown()
    assert len(crashes) == 1
    assert len(broken) == 1
    # The next task starts a new runtime.
    assert inc(1).af_result() == 2


def test_a_task_called_in_a_thread_of_another_loop(background: str) -> None:
    async def elsewhere() -> tuple[str, str]:
        future = library()
        return await future, sniffio.current_async_library()

    for backend in BACKENDS:
        with anyio.from_thread.start_blocking_portal(backend) as portal:
            # In a loop of its own, the task is run by that loop.
            assert portal.call(elsewhere) == (backend, backend)


@pytest.mark.parametrize("here", BACKENDS)
def test_futures_cross_runtimes(background: str, here: str) -> None:
    slow, failing, endless = later(1), inc("x"), forever()

    async def main() -> None:
        async with open_runtime():
            assert await slow == 1
            assert await total([inc(slow), later(2), slow]) == 5
            crossing = inc(later(5, 0.05))
            assert await crossing == 6
            with pytest.raises(TypeError):
                await inc(failing)
            below = inc(endless)
            cancel(endless)
            with pytest.raises(TaskCancelledError):
                await below
            with pytest.raises(TaskCancelledError):
                await endless

    run(here, main)
    # And the other way round: a future of a loop that is over.
    holder: list[AgentFuture[int]] = []

    async def make() -> None:
        async with open_runtime():
            holder.append(inc(1))

    run(here, make)
    assert resolve(inc(holder[0])) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_task_in_a_running_loop_is_run_by_that_loop(backend: str) -> None:
    async def main() -> list[Any]:
        assert not is_initialized()
        thread = threading.get_ident()

        @agent_task
        async def where() -> bool:
            return threading.get_ident() == thread

        results = [await library(), await where(), await inc(double(later(1)))]
        assert is_initialized()
        return results

    for _ in range(2):
        # A second loop in the same process finds nothing of the first.
        assert run(backend, main) == [backend, True, 3]
    assert not is_initialized()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adopted_runtime_ends_with_its_loop(backend: str) -> None:
    ended: list[str] = []
    futures: list[AgentFuture[Any]] = []

    @agent_task
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    async def main() -> None:
        futures.append(endless())
        futures.append(inc(futures[0]))
        await inc(1)
        await anyio.sleep(0.01)

    run(backend, main)
    assert ended == ["endless"]
    assert all(future.af_done() for future in futures)
    with pytest.raises(TaskCancelledError):
        resolve(futures[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", [inc, double])
def test_a_loop_that_ends_while_its_runner_pauses(
    backend: str, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes where the last runner has done its work, and not yet said so."""
    monkeypatch.setattr(runners, "SLICE", -1.0)
    monkeypatch.setattr(runners, "IDLE", 1000.0)

    async def main() -> None:
        with anyio.fail_after(10):
            assert await task(task(1)) in (3, 4)

    for _ in range(50):
        run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_that_ends_at_once_leaves_no_future_open(backend: str) -> None:
    futures: list[AgentFuture[Any]] = []

    async def main() -> None:
        futures.append(later(1, 100))
        futures.append(inc(futures[0]))

    run(backend, main)
    assert all(future.af_done() for future in futures)


def test_asyncio_run_twice() -> None:
    async def main() -> int:
        return await inc(await inc(1))

    assert asyncio.run(main()) == 3
    assert asyncio.run(main()) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_shutdown_inside_a_loop(backend: str) -> None:
    async def main() -> None:
        endless = forever()
        await inc(1)
        shutdown()
        with pytest.raises(RuntimeError, match="shutting down"):
            await endless
        assert not is_initialized()
        assert await inc(1) == 2
        init_again = get_runtime()
        assert init_again.is_open

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_blocks_share_nothing(backend: str) -> None:
    async def one(seen: list[Any]) -> None:
        async with open_runtime() as runtime:
            seen.append(runtime.scheduler)
            assert await total([later(i) for i in range(20)]) == 190

    async def main() -> None:
        seen: list[Any] = []
        async with anyio.create_task_group() as group:
            group.start_soon(one, seen)
            group.start_soon(one, seen)
        assert len({id(scheduler) for scheduler in seen}) == 2

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_called_after_the_block_is_refused_with_advice(backend: str) -> None:
    async def main() -> None:
        async def late() -> None:
            await left.wait()
            with pytest.raises(RuntimeError, match="inside its block"):
                inc(1)

        left = anyio.Event()
        async with anyio.create_task_group() as group:
            async with open_runtime():
                group.start_soon(late)
                assert await inc(1) == 2
            left.set()

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_is_entered_once(backend: str) -> None:
    async def main() -> None:
        block = open_runtime()
        async with block:
            with pytest.raises(RuntimeError, match="opened before"):
                await block.__aenter__()

    run(backend, main)


def test_init_inside_a_loop_takes_that_loop() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="running event loop decides"):
            init(backend="trio")
        init(asyncio.get_running_loop())
        with pytest.raises(RuntimeError, match="already initialized"):
            init()
        assert await inc(1) == 2

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="takes the running event loop only"):
        init(object())


def test_resolve_in_another_loop_warns(background: str) -> None:
    future = later(1, 0.05)

    async def main() -> int:
        with pytest.warns(UserWarning, match="async context"):
            return resolve(future)

    assert trio.run(main) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A done future blocks nobody.
        assert trio.run(main_quiet, future) == 1


async def main_quiet(future: AgentFuture[int]) -> int:
    return resolve(future)


def test_copying_and_inspecting_a_future_adds_no_task(background: str) -> None:
    future = inc(1)
    resolve(future)
    unfinished = get_runtime().scheduler.graph.unfinished
    assert not hasattr(future, "__array__")
    assert copy.copy(future) is future
    assert copy.deepcopy([future])[0] is future
    with pytest.raises(TypeError, match="send its value"):
        future.__reduce__()
    assert get_runtime().scheduler.graph.unfinished == unfinished


PROGRAM = """
import atexit, sys, time, threading
from motus import agent_task, resolve
import anyio

@agent_task
async def inc(x): return x + 1

@agent_task
async def forever(): await anyio.sleep_forever()

@agent_task
def stuck(): time.sleep(60)

futures = [forever(), inc(forever())]
{stuck}
print(resolve(inc(1)))
def wait():
    try: resolve(futures[1])
    except RuntimeError as error: print(error, flush=True)
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.1)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_interpreter_exits_with_open_tasks(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(stuck="")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "MOTUS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "2"
    (line,) = done.stderr.splitlines()
    assert "unfinished tasks dropped: 3. The first is 'forever'" in line


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stuck_thread_delays_the_exit_by_a_few_seconds_at_most(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(stuck="stuck()")],
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, "MOTUS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr


DROPPED = "Motus runtime shut down, unfinished tasks dropped: "


@agent_task
async def parent() -> list[AgentFuture[int]]:
    return [inc(forever()), forever()]


@agent_task
async def starts_one() -> None:
    forever()


@agent_task(num_returns=2)
async def pair() -> tuple[int, int]:
    await anyio.sleep_forever()
    return 1, 2


@agent_task(retries=1)
async def stubborn() -> int:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.3)
    return 1


def started(future: AgentFuture[Any]) -> AgentFuture[Any]:
    while not any(state in repr(future) for state in ("running", "settling")):
        time.sleep(0.001)
    return future


def cancelled(future: AgentFuture[Any], *others: AgentFuture[Any]) -> None:
    for one in (future, *others):
        assert cancel(one)


# What is open at a shutdown, how many tasks are lost by that, and which of them is named.
OPEN: list[tuple[str, Callable[[], object], int, str]] = [
    ("one that waits for another", lambda: inc(forever()), 2, "forever"),
    ("two that wait for the same", lambda: [inc(one) for one in [forever()] * 2], 3, "forever"),
    ("an operator", lambda: inc(started(forever())) + 1, 3, "forever"),
    ("a body on a thread", lambda: started(nap(0.1)), 1, "nap"),
    ("futures that a body has returned", lambda: started(parent()), 4, "parent"),
    ("a child of a body that is over", lambda: started(starts_one()), 2, "starts_one"),
    ("several results", lambda: pair(), 1, "pair"),
    ("nothing", lambda: resolve(inc(1)), 0, ""),
    ("one of two cancelled", lambda: cancelled(inc(forever())), 1, "forever"),
    ("cancelled", lambda: cancelled(started(forever()), later(1, 10)), 0, ""),
    ("children of what was cancelled", lambda: cancelled(started(parent())), 0, ""),
    ("a thread's body that was cancelled", lambda: cancelled(started(nap(0.1))), 0, ""),
    ("what waits for what stops slowly", lambda: inc(slowly_cancelled()), 0, ""),
]


def slowly_cancelled() -> AgentFuture[int]:
    future = started(stubborn())
    assert cancel(future)
    return future


@pytest.mark.parametrize(
    ("make", "count", "first"), [row[1:] for row in OPEN], ids=[row[0] for row in OPEN]
)
def test_a_shutdown_says_what_it_drops(
    make: Callable[[], object],
    count: int,
    first: str,
    background: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = make()
    shutdown()
    shutdown()
    texts = [record.getMessage() for record in caplog.records]
    if count:
        (text,) = texts
        assert text.startswith(f"{DROPPED}{count}. The first is '{first}' (id=")
        assert f', called at File "{__file__}", line ' in text
        assert text.endswith("resolve() the futures that matter.")
    else:
        assert not texts
    del kept


def test_what_was_cancelled_just_before_a_shutdown_was_not_dropped(
    background: str, caplog: pytest.LogCaptureFixture
) -> None:
    family = started(starts_one())
    below = inc(family)
    runtime, both_are_posted = get_runtime(), threading.Event()
    runtime.scheduler.post(lambda *_: both_are_posted.wait(10), None, None)
    cancel(family)
    runtime.scheduler.shut_down(warn=True)
    both_are_posted.set()
    runtime.shutdown()
    assert below.af_done()
    assert not caplog.records


LAST_WORDS = """
import time
import anyio
from motus import agent_task

@agent_task
async def fails(): raise ValueError("the reason")

@agent_task
async def forever(): await anyio.sleep_forever()

fails()
kept = fails()
while not kept.af_done(): time.sleep(0.001)
forever()
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_that_waits_for_nothing_ends_with_the_truth(backend: str) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "MOTUS_BACKEND": backend},
    )
    assert time.monotonic() - begun < 5
    assert (done.returncode, done.stdout) == (0, "")
    said = [line for line in done.stderr.splitlines() if "(id=" in line]
    assert len(said) == 3, done.stderr
    assert [DROPPED in line for line in said] == [False, False, True]
    assert all("failed, and nobody asked for its result" in line for line in said[:2])
    assert "line 15, in <module>: forever" in said[2]
    assert done.stderr.count("ValueError: the reason") == 2


def test_the_names_of_the_package_are_those_of_the_runtime() -> None:
    for name in motus.__all__:
        assert getattr(motus, name) is not None
    assert motus.agent_task is agent_task
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = motus.nothing


ELSEWHERE = """
import sys
from motus import _ELSEWHERE as elsewhere
before = set(sys.modules)
for home, names in elsewhere.items():
    for name in names:
        try:
            exec(f"from motus import {name}")
        except ImportError as error:
            assert str(error) == f"{name} is in {home}: from {home} import {name}"
        else:
            raise AssertionError(name)
assert set(sys.modules) == before
for home, names in elsewhere.items():
    for name in names:
        exec(f"from {home} import {name}")
"""


def test_names_of_other_packages_lead_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
