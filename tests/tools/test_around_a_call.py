"""What is around a call: guardrails, hooks, and the order of it all."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import anyio
import pytest

from motus.guardrails import ToolInputGuardrailTripped, ToolOutputGuardrailTripped, ToolRejected
from motus.runtime import HookEvent, agent_task, cancel, open_runtime
from motus.testing import answer_interrupts
from motus.tools import FunctionTool, LocalShell, Tool, builtin_tools, normalize_tools, tool
from tests.tools.support import error_of

pytestmark = pytest.mark.anyio


async def double(x: int) -> int:
    return 2 * x


async def test_guardrails_change_and_refuse() -> None:
    def at_most_ten(x: int) -> dict[str, int]:
        if x < 0:
            raise ToolInputGuardrailTripped("only positive numbers")
        return {"x": min(x, 10)}

    def no_zero(value: int) -> int | None:
        if value == 0:
            raise ToolOutputGuardrailTripped("nothing to see")
        return value + 1 if value == 20 else None

    called = FunctionTool(double, input_guardrails=[at_most_ten], output_guardrails=[no_zero])
    assert await called('{"x": 3}') == "6"
    assert await called('{"x": 30}') == "21"
    assert await error_of(called, '{"x": -1}') == "only positive numbers"
    assert await error_of(called, '{"x": 0}') == "nothing to see"


async def test_guardrails_may_give_what_the_model_must_not() -> None:
    async def f(x: int, _user: str) -> str:
        return f"{x} {_user}"

    called = FunctionTool(f, input_guardrails=[lambda: {"_user": "me"}])
    assert await called.run('{"x": 1}') == "1 me"
    assert "_user" in await error_of(FunctionTool(f), '{"x": 1}')


def seen(event: HookEvent) -> tuple[Any, ...]:
    return event.event_type, event.name, event.task_type


async def test_hooks_of_a_tool_are_its_own() -> None:
    got: list[tuple[Any, ...]] = []

    @tool(
        on_start=lambda event: got.append(seen(event)),
        on_end=[lambda event: got.append((*seen(event), event.result))],
        on_error=lambda event: got.append((*seen(event), str(event.error))),
    )
    async def f(x: int) -> int:
        if x == 0:
            raise ValueError("zero")
        return x

    async def other(x: int) -> int:
        return x

    await FunctionTool(f).run('{"x": 1}')
    await FunctionTool(other).run('{"x": 1}')
    await FunctionTool(f, "g").run('{"x": 0}')
    await FunctionTool(f).run("{}")
    assert [one[:3] for one in got] == [
        ("task_start", "f", "tool_call"),
        ("task_end", "f", "tool_call"),
        ("task_start", "g", "tool_call"),
        ("task_error", "g", "tool_call"),
        ("task_start", "f", "tool_call"),
        ("task_error", "f", "tool_call"),
    ]
    assert got[1][3] == "1"
    assert got[3][3] == "zero"
    assert got[5][3].startswith("invalid arguments: x: missing")


async def test_hooks_see_one_task_for_each_call() -> None:
    got: list[tuple[Any, ...]] = []
    async with open_runtime() as runtime:
        for event in ("task_start", "task_end", "task_error", "task_cancelled"):
            runtime.hooks.register(event, lambda event: got.append(seen(event)))
            runtime.hooks.register_name_hook("double", event, lambda event: got.append(("named",)))
        called = FunctionTool(double)
        await called.run('{"x": 1}')
        await called.run("{}")
    assert got == [
        ("task_start", "double", "tool_call"),
        ("named",),
        ("task_end", "double", "tool_call"),
        ("named",),
        ("task_start", "double", "tool_call"),
        ("named",),
        ("task_error", "double", "tool_call"),
        ("named",),
    ]


async def test_the_order_of_everything_around_a_call() -> None:
    order: list[str] = []

    def mark(name: str) -> Any:
        return lambda *args: order.append(name)

    def guard(name: str) -> Any:
        def run(x: int) -> dict[str, int]:
            order.append(f"{name} {x}")
            return {"x": x + 1}

        return run

    def check(name: str) -> Any:
        def run(value: int) -> int:
            order.append(f"{name} {value}")
            return value * 10

        return run

    @tool(
        requires_approval=True,
        input_guardrails=[guard("first"), guard("second")],
        output_guardrails=[check("third"), check("fourth")],
        on_start=[mark("own start"), mark("own start too")],
        on_end=mark("own end"),
    )
    async def f(x: int) -> int:
        order.append(f"body {x}")
        return x

    def approve(payload: dict[str, Any]) -> dict[str, bool]:
        order.append(f"asked {payload['tool_args']['x']}")
        return {"approved": True}

    async with open_runtime() as runtime:
        for event, when in (("task_start", "start"), ("task_end", "end")):
            runtime.hooks.register_type_hook("tool_call", event, mark(f"type {when}"))
            runtime.hooks.register_name_hook("f", event, mark(f"name {when}"))
            runtime.hooks.register(event, mark(f"global {when}"))
        with answer_interrupts(approve):
            assert await FunctionTool(f).run('{"x": 1}') == "300"
    assert order == [
        *("global start", "name start", "type start", "own start", "own start too"),
        *("first 1", "second 2", "asked 3", "body 3", "third 3", "fourth 30"),
        *("global end", "name end", "type end", "own end"),
    ]


def test_a_hook_must_be_callable() -> None:
    with pytest.raises(TypeError, match="a hook must be callable, not int"):
        tool(on_start=5)  # type: ignore[call-overload]  # that is the point


async def test_the_error_says_where_the_tool_was_called() -> None:
    errors: list[Any] = []

    @tool(on_error=lambda event: errors.append(event.error))
    async def f() -> None:
        raise ValueError("x")

    @agent_task
    async def caller() -> str:
        return await FunctionTool(f).run("{}")  # here

    await caller()  # and here
    [note] = errors[0].__notes__
    _, outer, inner = note.splitlines()
    # Of the call, two lines, and none of ours.
    assert f"line {_line('# and here')}," in outer
    assert f"line {_line('# here')}," in inner
    assert inner.endswith("caller: f")


# ---------------------------------------------------------------------- the log


class Secretive(Tool):
    async def invoke(self, arguments: dict[str, Any]) -> Any:
        return {}[arguments["key"]]


@pytest.mark.realtime
async def test_what_a_tool_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    @tool(output_guardrails=[lambda value: value])
    async def guarded() -> str:
        raise SystemExit(3)

    async def odd() -> object:
        return object()

    def on_thread() -> str:
        raise LookupError("of the thread")

    assert await error_of(Secretive("own"), '{"key": 5}') == "KeyError: 5"
    assert await error_of(FunctionTool(guarded), "{}") == "the tool exited with 3"
    assert "cannot be written" in await error_of(FunctionTool(odd), "{}")
    assert await error_of(FunctionTool(on_thread), "{}") == "of the thread"
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("motus.tools", "WARNING")
    ] * 4
    said = [record.getMessage().partition(" failed")[0] for record in caplog.records]
    assert said == ["tool 'own'", "tool 'guarded'", "tool 'odd'", "tool 'on_thread'"]
    assert 'return {}[arguments["key"]]' in caplog.text
    assert "KeyError: 5" in caplog.text


@pytest.mark.realtime
async def test_what_is_for_the_model_alone_is_not_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def never(**arguments: Any) -> None:
        raise ValueError("never")

    @agent_task
    async def slow() -> None:
        await anyio.sleep_forever()

    async def waits() -> None:
        task = slow()
        cancel(task)
        await task

    async def rejects() -> str:
        raise ToolRejected("no")

    tools = normalize_tools([double, waits, rejects])
    assert "x: missing" in await tools.run("double", "{}")
    assert "not valid JSON" in await tools.run("double", "{")
    assert "there is no tool" in await tools.run("triple", "{}")
    assert "was cancelled" in await tools.run("waits", "{}")
    assert await tools.run("rejects", "{}") == '{"error": "no"}'
    for guarded in (
        FunctionTool(double, input_guardrails=[never]),
        FunctionTool(double, output_guardrails=[lambda value: never()]),
    ):
        assert await error_of(guarded, '{"x": 1}') == "never"
    # Written for a model, all of them.
    files = builtin_tools(LocalShell(cwd=tmp_path))
    assert "nowhere" in await error_of(files.read_file, '{"path": "nowhere"}')
    assert caplog.records == []


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_asyncio_on_trio_is_explained_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong_loop() -> None:
        await asyncio.sleep(1)

    @agent_task
    async def below() -> None:
        await asyncio.sleep(1)

    for function in (wrong_loop, below):
        caplog.clear()
        assert await error_of(FunctionTool(function), "{}") == "no running event loop"
        assert caplog.text.count("runs on trio and called asyncio. Use anyio") == 1


def test_a_parameter_that_nobody_can_set_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def add(a: int, b, c, d=1, *rest, _e) -> int:  # type: ignore[no-untyped-def]  # that is the point
        return a

    FunctionTool(add, input_guardrails=[lambda: {"b": 1, "c": 1}])
    FunctionTool(functools.partial(add, b=1, c=2))
    FunctionTool(double)
    assert caplog.records == []
    FunctionTool(add)
    [record] = caplog.records
    assert record.name == "motus.tools"
    assert "'add' cannot be called" in record.getMessage()
    assert record.getMessage().endswith("no default for b, c")


def _line(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(text))
