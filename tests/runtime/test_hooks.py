"""Hooks: which, when, in which order, and that they change nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import anyio
import pytest

from motus.runtime import (
    AgentRuntime,
    HookEvent,
    HookManager,
    TaskCancelledError,
    agent_task,
    cancel,
    hooks,
    open_runtime,
    register_agent_task,
)
from motus.runtime import hooks as process_hooks
from motus.runtime.hooks import (
    EVENT_TYPES,
    agent_task_hook,
    global_hook,
    model_task_hook,
    register_agent_hook,
    register_hook,
    register_model_hook,
    register_task_hook,
    register_tool_hook,
    register_type_hook,
    task_hook,
    tool_task_hook,
    type_hook,
)
from motus.runtime.types import AGENT_CALL, MAGIC_TASK, MODEL_CALL, TOOL_CALL

pytestmark = pytest.mark.anyio


class Log:
    """Remembers events as `type name`."""

    def __init__(self) -> None:
        self.events: list[HookEvent] = []

    def __call__(self, event: HookEvent) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return [f"{e.event_type} {(e.name or '').rpartition('.')[2]}" for e in self.events]

    def listen(self, manager: HookManager) -> Log:
        for event in EVENT_TYPES:
            manager.register(event, self)
        return self


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    assert process_hooks.size == 0


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def forever() -> None:
    await anyio.sleep_forever()


@agent_task
async def boom() -> None:
    raise ValueError("boom")


async def test_events_of_a_task_that_ends() -> None:
    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        future = inc(inc(1))
        assert await future == 3
        first, second = log.events[2:]
        assert log.lines == ["task_start inc", "task_end inc"] * 2
    assert (first.event_type, first.args, first.kwargs) == ("task_start", (2,), {})
    assert (second.event_type, second.result, second.error) == ("task_end", 3, None)
    assert second.task_id == future.af_id
    assert second.task_type == "normal_task"
    assert second.metadata == {}
    (line,) = first.metadata["parent_stack"]
    assert "test_hooks.py" in line


async def test_every_task_that_starts_ends_in_exactly_one_way() -> None:
    @agent_task(retries=1)
    async def fails_twice() -> None:
        raise ValueError

    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        endless = forever()
        futures = [boom(), inc(boom()), forever(), endless, inc(endless), fails_twice()]
        assert await inc(1) == 2
        await anyio.sleep(1)
        for future in futures:
            cancel(future)
        for future in futures:
            with pytest.raises((ValueError, TaskCancelledError)):
                await future
    ends: dict[int | None, list[str]] = {}
    for event in log.events:
        ends.setdefault(event.task_id, []).append(event.event_type)
    kinds = sorted(tuple(kinds) for kinds in ends.values())
    assert kinds == sorted(
        [
            ("task_start", "task_error"),
            ("task_start", "task_error"),
            ("task_start", "task_error"),
            ("task_start", "task_cancelled"),
            ("task_start", "task_cancelled"),
            ("task_start", "task_end"),
        ]
    )


async def test_errors_and_cancellations_carry_the_exception() -> None:
    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        with pytest.raises(ValueError, match="boom"):
            await boom()
        future = forever()
        await anyio.sleep(1)
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
    assert [type(event.error) for event in log.events if event.error] == [
        ValueError,
        TaskCancelledError,
    ]


async def test_the_order_is_global_name_type_and_the_tasks_own() -> None:
    seen: list[str] = []

    def note(text: str) -> Any:
        return lambda event: seen.append(text)

    @agent_task(
        task_type=TOOL_CALL, on_start=[note("own 1"), note("own 2")], on_end=note("own end")
    )
    async def tool() -> None:
        seen.append("body")

    name = tool.unwrap_task().__qualname__
    async with open_runtime() as runtime:
        runtime.hooks.register_type_hook(TOOL_CALL, "task_start", note("type"))
        runtime.hooks.register_name_hook(tool, "task_start", [note("name 2"), note("name 3")])
        runtime.hooks.register_name_hook(name, "task_start", [note("name 0"), note("name 1")], True)
        runtime.hooks.register("task_start", note("global 2"))
        runtime.hooks.register("task_start", note("global 1"), prepend=True)
        await tool()
        await inc(1)
    assert seen == [
        *["global 1", "global 2", "name 0", "name 1", "name 2", "name 3", "type", "own 1", "own 2"],
        *["body", "own end"],
        *["global 1", "global 2"],
    ]


async def test_hooks_fire_when_the_future_is_done_and_before_its_waiters_go_on() -> None:
    async with open_runtime() as runtime:
        done: list[bool] = []
        futures: list[Any] = []
        runtime.hooks.register("task_end", lambda _: done.append(futures[0].af_done()))
        futures.append(inc(1))
        await futures[0]
        assert done == [True]


async def test_asynchronous_hooks_are_called_in_order_and_waited_for() -> None:
    seen: list[str] = []

    async def slow(event: HookEvent) -> None:
        await anyio.sleep(1)
        seen.append(f"slow {event.event_type} {event.task_id}")

    def fast(event: HookEvent) -> None:
        seen.append(f"fast {event.event_type} {event.task_id}")

    async with open_runtime() as runtime:
        runtime.hooks.register("task_end", slow)
        runtime.hooks.register("task_end", fast)
        # A synchronous function may return what is to be awaited.
        runtime.hooks.register("task_end", lambda event: slow(event))
        one, two = inc(1), inc(2)
        assert await one + await two == 5
    first, second = one.af_id, two.af_id
    assert seen == [
        f"{kind} task_end {number}"
        for number in (first, second)
        for kind in ("slow", "fast", "slow")
    ]


async def test_a_hook_that_never_ends_does_not_keep_the_runtime_open() -> None:
    async def hangs(event: HookEvent) -> None:
        await anyio.sleep_forever()

    start = anyio.current_time()
    async with open_runtime() as runtime:
        runtime.hooks.register("task_end", hangs)
        assert await inc(1) == 2
    assert anyio.current_time() - start == pytest.approx(5)


@pytest.mark.parametrize("error", [ValueError("in a hook"), SystemExit(3)])
async def test_what_a_hook_raises_is_logged_and_changes_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(event: HookEvent) -> None:
        raise error

    async def worse(event: HookEvent) -> None:
        raise error

    with caplog.at_level(logging.ERROR, "motus.runtime"):
        async with open_runtime() as runtime:
            log = Log()
            for callback in (bad, worse, log):
                runtime.hooks.register("task_start", callback)
            assert await inc(1) == 2
    assert log.lines == ["task_start inc"]
    assert len(caplog.records) == 2


async def test_hooks_of_a_task_do_not_accumulate() -> None:
    seen: list[int | None] = []
    async with open_runtime():
        for _ in range(3):
            future = register_agent_task(
                inc.unwrap_task(), 1, on_end=lambda event: seen.append(event.task_id)
            )
            assert await future == 2
        assert len(seen) == 3
        assert await register_agent_task(add_both, 1, b=2, num_returns=1) == 3
        one, two = register_agent_task(pair, num_returns=2)
        assert (await one, await two) == (1, 2)


async def add_both(a: int, b: int) -> int:
    return a + b


async def pair() -> tuple[int, int]:
    return 1, 2


async def test_several_results_are_one_task_and_operators_are_magic() -> None:
    @agent_task(num_returns=2)
    async def two() -> tuple[int, int]:
        return 1, 2

    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        a, b = two()
        assert await a + await b == 3
        assert log.lines == ["task_start two", "task_end two"]
        assert await (inc(1) + 1) == 3
        assert log.events[-1].task_type == MAGIC_TASK
        assert log.events[-1].name == "__add__"


async def test_methods_are_named_after_their_object() -> None:
    class Agent:
        name = "researcher"

        @agent_task
        async def run(self) -> None:
            pass

        @agent_task
        @staticmethod
        async def free(x: Any) -> None:
            pass

    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        await Agent().run()
        await Agent.free(Agent())
    assert log.lines == [
        *["task_start researcher", "task_end researcher"],
        *["task_start free", "task_end free"],
    ]


async def test_process_wide_hooks_hold_for_every_runtime() -> None:
    log = Log()
    register_hook("task_end", log)
    try:
        for _ in range(2):
            async with open_runtime() as runtime:
                own = Log().listen(runtime.hooks)
                await inc(1)
            assert own.lines == ["task_start inc", "task_end inc"]
    finally:
        assert hooks.deregister("task_end", log)
    assert log.lines == ["task_end inc"] * 2
    assert not hooks.deregister("task_end", log)


def test_the_functions_register_where_they_say() -> None:
    log = Log()
    register_task_hook(inc, "task_start", log)
    register_type_hook("x", "task_start", log)
    register_model_hook("task_start", log)
    register_tool_hook("task_start", log)
    register_agent_hook("task_start", log)
    assert hooks.list_name_hooks("inc", "task_start") == [log]
    for kind in ("x", MODEL_CALL, TOOL_CALL, AGENT_CALL):
        assert hooks.list_type_hooks(kind, "task_start") == [log]
    assert hooks.list_hooks("task_start") == []
    assert hooks.deregister("task_start", log)
    decorators = [
        global_hook("task_end"),
        task_hook("inc", "task_end"),
        type_hook("x", "task_end"),
        model_task_hook("task_end"),
        tool_task_hook("task_end"),
        agent_task_hook("task_end"),
    ]
    for decorator in decorators:
        assert decorator(log) is log
    assert hooks.size == 6
    assert hooks.deregister("task_end", log)


def test_everything_can_be_given_by_name() -> None:
    first, second = Log(), Log()
    register_hook(event_type="task_end", callback=first)
    global_hook("task_end", prepend=True)(second)
    assert hooks.list_hooks(event_type="task_end") == [second, first]
    register_task_hook(task_name=inc, event_type="task_end", callback=first)
    task_hook(task_name="inc", event_type="task_end", prepend=True)(second)
    assert hooks.list_name_hooks(name="inc", event_type="task_end") == [second, first]
    register_type_hook(task_type=TOOL_CALL, event_type="task_end", callback=[first])
    tool_task_hook(event_type="task_end", prepend=True)(second)
    assert hooks.list_type_hooks(task_type=TOOL_CALL, event_type="task_end") == [second, first]
    for register, decorator, kind in (
        (register_model_hook, model_task_hook, MODEL_CALL),
        (register_agent_hook, agent_task_hook, AGENT_CALL),
    ):
        register(event_type="task_end", callback=first)
        decorator(event_type="task_end", prepend=True)(second)
        assert hooks.list_type_hooks(kind, "task_end") == [second, first]
    for log in (first, second):
        assert hooks.deregister(event_type="task_end", callback=log)
    assert hooks.size == 0


def test_what_can_be_called_is_one_callback() -> None:
    mock = MagicMock()
    manager = HookManager()
    manager.register("task_end", mock)
    manager.register_name_hook("inc", "task_end", mock)
    manager.register_type_hook(TOOL_CALL, "task_end", [mock, mock])
    assert manager.size == 4


async def test_emit_calls_what_is_registered() -> None:
    manager = HookManager()
    log = Log().listen(manager)
    await manager.emit(HookEvent("task_end", name="x"))
    assert log.lines == ["task_end x"]


@pytest.mark.parametrize("mistake", ["event", "callback", "own"])
def test_mistakes_are_found_when_registering(mistake: str) -> None:
    manager = HookManager()
    if mistake == "event":
        with pytest.raises(ValueError, match="unknown event 'task_begin'"):
            manager.register("task_begin", print)
    elif mistake == "callback":
        with pytest.raises(TypeError, match="must be callable"):
            manager.register("task_end", 3)  # type: ignore[arg-type]  # the mistake that is tested
    else:
        with pytest.raises(TypeError, match="must be callable"):
            agent_task(on_start=[3])(print)  # type: ignore[list-item]  # the mistake that is tested


async def test_a_runtime_that_is_shut_down_reports_cancelled_tasks() -> None:
    async with open_runtime() as runtime:
        log = Log().listen(runtime.hooks)
        forever()
        await anyio.sleep(1)
        AgentRuntime(runtime.scheduler).shutdown()
    assert log.lines == ["task_start forever", "task_cancelled forever"]
