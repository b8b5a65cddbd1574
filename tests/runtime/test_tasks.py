"""Calls, futures and results, on trio and on asyncio."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import anyio
import pytest
import sniffio

from motus.runtime import (
    AgentFuture,
    agent_task,
    open_runtime,
    register_agent_task,
    resolve,
)

pytestmark = pytest.mark.anyio

VAR: ContextVar[int] = ContextVar("VAR", default=0)
SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"


class Point(NamedTuple):
    x: Any
    y: Any


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def add(a: int, b: int) -> int:
    return a + b


@agent_task
async def later(x: Any, seconds: float = 1.0) -> Any:
    await anyio.sleep(seconds)
    return x


@agent_task
async def same(x: Any) -> Any:
    return x


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


@agent_task
async def boom(text: str = "boom") -> int:
    raise ValueError(text)


@agent_task
async def boom_later() -> int:
    await anyio.sleep(1)
    raise ValueError("boom")


async def test_a_future_passed_on_is_a_dependency() -> None:
    async with open_runtime():
        assert await add(inc(later(1)), b=inc(3)) == 6


async def test_calls_that_do_not_depend_on_each_other_run_at_the_same_time() -> None:
    async with open_runtime():
        before = anyio.current_time()
        assert await total([later(i, 5.0) for i in range(50)]) == sum(range(50))
        assert anyio.current_time() - before == pytest.approx(5.0)


async def test_futures_are_found_in_nested_containers_which_keep_their_type() -> None:
    async with open_runtime():
        one, two = inc(0), later(2)
        nested = await same({"a": [one, (two, {"b": one})], "p": Point(two, [one]), 3: "x"})
        assert nested == {"a": [1, (2, {"b": 1})], "p": Point(2, [1]), 3: "x"}
        assert type(nested["p"]) is Point


async def test_what_holds_no_future_is_passed_as_it_is() -> None:
    marker: dict[str, Any] = {"list": [1, 2]}
    marker["self"] = marker
    async with open_runtime():
        assert await same(marker) is marker


async def test_a_body_may_return_futures() -> None:
    @agent_task
    async def fib(n: int) -> Any:
        if n < 2:
            return n
        return add(fib(n - 1), fib(n - 2))

    @agent_task
    async def several(n: int) -> Any:
        return {"values": [later(i) for i in range(n)], "point": Point(inc(n), 0)}

    async with open_runtime():
        assert await fib(12) == 144
        assert await several(3) == {"values": [0, 1, 2], "point": Point(4, 0)}


async def test_several_results() -> None:
    @agent_task(num_returns=2)
    async def split(x: int) -> tuple[int, int]:
        await anyio.sleep(1)
        return x, x + 1

    @agent_task(num_returns=3)
    async def listed() -> Any:
        return [inc(0), inc(1), inc(2)]

    async with open_runtime():
        low, high = split(1)
        assert await add(low, high) == 3
        assert [await one for one in listed()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "Task {} declared num_returns=2 but returned int of length N/A"),
        ([1, 2, 3], "Task {} declared num_returns=2 but returned list of length 3"),
        ("ab", "Task {} declared num_returns=2 but returned str of length N/A"),
        ({1: 2, 3: 4}, "Task {} declared num_returns=2 but returned dict of length N/A"),
    ],
)
async def test_another_number_of_results_fails_every_future(value: Any, text: str) -> None:
    async def broken() -> Any:
        return value

    async with open_runtime():
        for future in agent_task(num_returns=2)(broken)():
            with pytest.raises(ValueError) as caught:
                await future
            assert str(caught.value) == text.format(broken.__qualname__)


async def test_an_error_reaches_everything_downstream_as_the_same_object() -> None:
    async with open_runtime():
        failing = boom_later()
        below = [inc(failing), total([inc(1), failing]), add(inc(failing), 1)]
        errors = []
        for future in [failing, *below]:
            with pytest.raises(ValueError) as caught:
                await future
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 1
        with pytest.raises(ValueError, match="boom"):
            await inc(failing)


async def test_an_error_raised_often_does_not_collect_tracebacks() -> None:
    def depth(error: BaseException) -> int:
        count, traceback = 0, error.__traceback__
        while traceback is not None:
            count, traceback = count + 1, traceback.tb_next
        return count

    async with open_runtime():
        failing = boom()
        depths = set()
        for _ in range(5):
            with pytest.raises(ValueError) as caught:
                await failing
            depths.add(depth(caught.value))
        assert len(depths) == 1


async def test_the_note_says_where_the_task_and_those_above_it_were_called() -> None:
    @agent_task
    async def inner() -> int:
        return await boom()

    @agent_task
    async def outer() -> int:
        return await inner()

    async with open_runtime():
        with pytest.raises(ValueError) as caught:
            await outer()
    (note,) = caught.value.__notes__
    lines = note.splitlines()
    assert lines[0].startswith("Task creation chain")
    names = [line.rpartition(" ")[2].rpartition(".")[2] for line in lines[1:]]
    assert names == ["outer", "inner", "boom"]
    assert all("test_tasks.py" in line for line in lines[1:])
    # The body's own frames come first in the traceback, not the runtime's.
    traceback = caught.value.__traceback__
    assert traceback is not None


async def test_a_failure_that_nobody_retrieves_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "motus.runtime"):
        async with open_runtime():
            boom("lost")
            inc(boom("found"))
            with pytest.raises(ValueError, match="asked"):
                await inc(boom("asked"))
        gc.collect()
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert all("test_tasks.py" in text and "boom" in text for text in texts)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_an_exit_in_a_task_is_its_error_and_harms_nobody(error: BaseException) -> None:
    @agent_task
    async def leave(wait: bool) -> None:
        if wait:
            await anyio.sleep(1)
        raise error

    async with open_runtime():
        other = later(5, 2.0)
        for wait in (False, True):
            with pytest.raises(type(error)):
                await leave(wait)
        assert await other == 5


async def test_control_c_in_a_body_that_nobody_awaits_leaves_the_block() -> None:
    @agent_task
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with open_runtime():
            interrupted()


async def test_context_variables_are_those_of_the_call_and_leak_nowhere() -> None:
    @agent_task
    async def read() -> int:
        return VAR.get()

    @agent_task
    async def change(value: int, wait: bool) -> int:
        before = VAR.get()
        if wait:
            await anyio.sleep(0.1)
        VAR.set(value)
        if wait:
            await anyio.sleep(0.1 * (value % 3))
        assert VAR.get() == value
        assert await read() == value
        return before

    async with open_runtime():
        VAR.set(7)
        futures = [change(1000 + i, i % 2 == 0) for i in range(40)]
        VAR.set(8)
        assert [await future for future in futures] == [7] * 40
        assert VAR.get() == 8
        assert await read() == 8


async def test_the_async_library_is_known_inside_a_body(anyio_backend_name: str) -> None:
    @agent_task
    async def who() -> tuple[str, str]:
        before = sniffio.current_async_library()
        await anyio.sleep(0.1)
        return before, sniffio.current_async_library()

    async with open_runtime():
        assert await who() == (anyio_backend_name, anyio_backend_name)


async def test_methods_bind_self() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.start = start

        @agent_task
        async def plus(self, n: int) -> int:
            return self.start + n

        @agent_task(retries=1)
        async def flaky(self) -> int:
            self.start += 1
            if self.start == 1:
                raise ValueError
            return self.start

        @classmethod
        @agent_task
        async def named(cls) -> str:
            return cls.__name__

        @agent_task
        @staticmethod
        async def free(x: int) -> int:
            return x

    counter = Counter(0)
    async with open_runtime():
        assert await counter.plus(inc(1)) == 2
        assert await counter.plus.policy(retries=2)(5) == 5
        assert await Counter.plus(counter, 1) == 1
        assert await counter.flaky() == 2
        assert await Counter.named() == "Counter"
        assert await counter.free(4) == 4
    assert counter.plus.__name__ == "plus"
    assert await counter.plus.unwrap_task()(4) == counter.start + 4


async def test_any_callable_can_be_wrapped() -> None:
    class Doubler:
        async def __call__(self, x: int) -> int:
            return x * 2

    async with open_runtime():
        assert await agent_task(Doubler())(4) == 8
        assert await agent_task(functools.partial(add.unwrap_task(), 1))(2) == 3


async def test_recursion_of_awaited_children() -> None:
    @agent_task
    async def fib(n: int) -> int:
        if n < 2:
            return n
        a, b = fib(n - 1), fib(n - 2)
        return await a + await b

    async with open_runtime():
        assert await fib(12) == 144


async def test_a_task_finishes_after_the_children_it_does_not_wait_for() -> None:
    ended: list[str] = []

    @agent_task
    async def child() -> None:
        await anyio.sleep(5)
        ended.append("child")

    @agent_task
    async def parent() -> str:
        child()
        return "value"

    async with open_runtime():
        assert await parent() == "value"
        assert ended == ["child"]


async def test_leaving_the_block_waits_for_every_task() -> None:
    async with open_runtime():
        future = inc(later(1, 3.0))
    assert future.af_done()
    assert future.af_result() == 2


async def test_a_future_can_be_awaited_by_many_and_again() -> None:
    results: list[int] = []

    async def wait(future: AgentFuture[int]) -> None:
        results.append(await future)

    async with open_runtime():
        future = later(3)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait, future)
        assert await future == 3
    assert results == [3] * 5


async def test_awaiting_is_a_checkpoint() -> None:
    async with open_runtime():
        future = inc(1)
        await future
        with anyio.move_on_after(0) as scope:
            await future
        assert scope.cancelled_caught


async def test_a_timeout_of_one_waiter_cancels_nothing_but_the_wait() -> None:
    async with open_runtime():
        future = later("value", 5.0)
        with anyio.move_on_after(1) as scope:
            await future
        assert scope.cancelled_caught
        assert await future == "value"


@pytest.mark.parametrize("wait", [False, True])
async def test_awaiting_an_ancestor_fails_at_once(wait: bool) -> None:
    holder: list[AgentFuture[int]] = []

    @agent_task
    async def child() -> int:
        if wait:
            await anyio.sleep(1)
        return await holder[0]

    @agent_task
    async def parent() -> int:
        return await child()

    async with open_runtime():
        holder.append(parent())
        with pytest.raises(RuntimeError, match=r"child.*waits for.*parent"):
            await holder[0]


async def test_resolve_in_the_runtimes_own_loop_is_refused_unless_done() -> None:
    async with open_runtime():
        future = inc(1)
        with pytest.raises(RuntimeError, match="Use 'await future' instead"):
            resolve(future)
        await future
        assert resolve([future, future]) == [2, 2]
        assert resolve({"a": future}.values()) == [2]


async def test_a_finished_task_keeps_nothing_but_its_result() -> None:
    class Thing:
        pass

    @agent_task
    async def make() -> Thing:
        return Thing()

    @agent_task
    async def use(thing: Thing) -> weakref.ref[Thing]:
        await anyio.sleep(1)
        return weakref.ref(thing)

    async with open_runtime():
        made = make()
        used = use(made)
        thing = await used
        del made
        gc.collect()
        assert thing() is None
        future = weakref.ref(used)
        del used
        gc.collect()
        assert future() is None


async def test_a_long_graph_runs_in_the_memory_of_a_short_one() -> None:
    count = 1_000_000 if SOAK else 100_000
    async with open_runtime():

        async def run(count: int) -> None:
            for x in range(0, count, 3):
                # Successes, waits, children; none is kept.
                for future in [inc(x), later(x, 0.1), nested(x)]:
                    await future

        await run(10_000)
        gc.collect()
        before = sys.getallocatedblocks()
        await run(count)
        gc.collect()
        grown = sys.getallocatedblocks() - before
    # A block has 512 bytes at most.
    assert grown * 512 < 1 << 20


@agent_task
async def nested(x: int) -> int:
    return await inc(x)


DEPTH = 1_000_000 if SOAK else 100_000


@pytest.mark.parametrize("start", [inc, later])
async def test_a_chain_of_any_length(start: Callable[..., AgentFuture[int]]) -> None:
    async with open_runtime():
        future = start(0)
        for _ in range(DEPTH):
            future = inc(future)
        assert await future == DEPTH + (start is inc)


async def test_a_chain_of_any_length_that_fails() -> None:
    async with open_runtime():
        future = boom_later()
        for _ in range(DEPTH):
            future = inc(future)
        with pytest.raises(ValueError, match="boom"):
            await future


async def test_tasks_that_return_the_futures_of_tasks_that_do_so() -> None:
    """Nobody waits for anybody's stack: each one is over before the next begins."""

    @agent_task
    async def down(n: int) -> Any:
        return down(n - 1) if n else "bottom"

    async with open_runtime():
        assert await down(20_000) == "bottom"


async def test_bodies_nested_500_deep() -> None:
    @agent_task
    async def down(n: int) -> int:
        return 0 if n == 0 else 1 + await down(n - 1)

    async with open_runtime():
        assert await down(500) == 500


async def test_wrong_arguments_are_the_tasks_error() -> None:
    async with open_runtime():
        with pytest.raises(TypeError) as caught:
            await inc()
        assert "test_tasks.py" in caught.value.__notes__[0]


async def test_a_repr_does_not_wait() -> None:
    async with open_runtime():
        future = later(1)
        assert repr(future) == f"<AgentFuture 'later' id={future.af_id} ready>"
        await future
        assert repr(future).endswith("done>")


async def test_a_body_that_leaves_a_cancel_scope_open_harms_no_other() -> None:
    """Its runner would otherwise run the next nodes inside the stray scope."""
    stray: list[anyio.CancelScope] = []

    @agent_task
    async def careless() -> None:
        scope = anyio.CancelScope()
        scope.__enter__()
        stray.append(scope)
        await anyio.sleep(0.1)

    async with open_runtime():
        future = careless()
        with contextlib.suppress(RuntimeError):  # asyncio's scopes notice it
            await future
        stray[0].cancel()
        assert await total([later(i, 0.1) for i in range(20)]) == 190


def test_the_runtime_is_not_needed_to_define_tasks() -> None:
    before = threading.active_count()
    agent_task(retries=3)(lambda: None)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"retries": -1}, "retries must be a whole number"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": "1"}, "timeout must be a positive number"),
        ({"retry_delay": -1}, "retry_delay must be a number of at least 0"),
        ({"num_returns": 0}, "num_returns must be a whole number of at least 1"),
    ],
)
def test_bad_policies_are_refused_where_they_are_written(
    arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        agent_task(**arguments)(lambda: None)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown policy retires"):
        inc.policy(retires=1)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(TypeError, match="is a task already"):
        agent_task(inc)
    with pytest.raises(TypeError, match="takes a callable"):
        agent_task(3)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(TypeError, match="takes a future"):
        resolve(3)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(TypeError, match="takes a future"):
        resolve({"a": 1})  # type: ignore[arg-type]  # the mistake that is tested


def test_unknown_options_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(TypeError, match=r"unknown option retry: .* num_returns, .* retries"):
        agent_task(retry=2)  # type: ignore[call-overload]  # the mistake that is tested


def test_an_async_generator_function_is_refused() -> None:
    async def ticks(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    for wrong in (ticks, functools.partial(ticks, 3)):
        with pytest.raises(TypeError, match=r"ticks' cannot be a task: .* Return a list"):
            agent_task(wrong)
        with pytest.raises(TypeError, match="cannot be a task"):
            register_agent_task(wrong)


def test_recursion_limits_are_left_alone() -> None:
    assert sys.getrecursionlimit() >= 1000
