"""Models that send what no schema allows, and tools that return and raise what nobody expects."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import attrs
import pytest
from pydantic import BaseModel, Field

from motus.guardrails import ToolInputGuardrailTripped
from motus.runtime import AgentFuture, agent_task, open_runtime
from motus.tools import DictTools, FunctionTool, Tool, normalize_tools
from tests.tools.support import error_of

pytestmark = pytest.mark.anyio


async def echo(x: Any) -> Any:
    return x


async def add(a: int, b: int = 0) -> int:
    return a + b


class Echo(Tool):
    """A tool that takes whatever JSON there is."""

    async def invoke(self, arguments: dict[str, Any]) -> Any:
        return arguments


# ---------------------------------------------------------------------- what models send


@pytest.mark.parametrize("called", [FunctionTool(add), Echo("echo")], ids=["function", "own"])
@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": "\\ud800"}',
        '{"a": "\ud800"}',
        '{"\\udfff": 1, "a": 1}',
        '{"a": -Infinity}',
        '{"a": NaN}',
        '{"a": ' + "[" * 250 + "]" * 250 + "}",
        '{"a": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
        '{"a": 1,}',
        "{'a': 1}",
        '{"a": 1} // done',
        '{"a": 0x10}',
        '{"a": 01}',
        '{"a": "\n"}',
        "\ufeff{}",
        '"{\\"a\\": 1}"',
        "```json\n{}\n```",
        "null",
        "1e400",
        "\0",
    ],
    ids=range(19),
)
async def test_what_is_no_json_object_is_refused_by_every_tool(
    called: Tool, arguments: str
) -> None:
    message = await error_of(called, arguments)
    assert message.startswith("the arguments ")
    assert len(message) < 300


async def test_of_a_name_that_comes_twice_the_last_value_counts() -> None:
    for called in (FunctionTool(echo), Echo("echo")):
        assert '"last"' in await called('{"x": "first", "x": "last"}')


async def test_names_that_only_look_the_same_are_others() -> None:
    async def delete(path: str) -> str:
        return path

    tools = normalize_tools(delete)
    # Cyrillic, full width, with an invisible mark.
    for name in ("d\u0435lete", "\uff44elete", "delete\u200b", "DELETE", " delete", ""):
        assert "there is no tool" in await tools.run(name, '{"path": "x"}')
    for key in ("p\u0430th", "\uff50ath", "path ", "Path"):
        message = await error_of(tools["delete"], json.dumps({key: "x"}))
        assert "path: missing" in message
        assert "there is no such parameter" in message


async def test_an_error_is_short_whatever_was_sent() -> None:
    class Nested(BaseModel):
        n: dict[str, int]

    async def f(a: int, nested: Nested | None = None) -> None: ...

    called = FunctionTool(f)
    long = "k" * 1_000_000
    for sent in (
        {"a": 1, **{f"{long}{n}": 1 for n in range(12)}},
        {"a": 1, "nested": {"n": {f"{long}{n}": long for n in range(12)}}},
        {"a": [long] * 10},
        {"a": "9" * 100_000},
    ):
        assert len(await called.run(json.dumps(sent))) < 6000
    assert len(await DictTools([called]).run(long, "{}")) < 500


@pytest.mark.parametrize("text", ['"NaN"', '"Infinity"', '"-inf"', "1e999", "-1e999"])
async def test_no_number_slips_through_a_comparison(text: str) -> None:
    def at_most_100(amount: float) -> None:
        if amount > 100:
            raise ToolInputGuardrailTripped("at most 100")

    async def pay(amount: float, also: list[float] | None = None) -> str:
        return f"paid {amount}"

    called = FunctionTool(pay, input_guardrails=[at_most_100])
    assert "finite number" in await error_of(called, f'{{"amount": {text}}}')
    assert "finite number" in await error_of(called, f'{{"amount": 1, "also": [{text}]}}')

    # For those who want them.
    async def any_number(x: Annotated[float, Field(allow_inf_nan=True)]) -> bool:
        return math.isfinite(x)

    assert await FunctionTool(any_number).run(f'{{"x": {text}}}') == "false"


async def test_thousands_of_calls_at_once() -> None:
    tools = normalize_tools([add, echo])
    async with open_runtime():
        calls = [tools.run("add", json.dumps({"a": n})) for n in range(2000)]
        unknown = [tools.run(f"add{n}", "{}") for n in range(500)]
        assert [await one for one in calls] == [str(n) for n in range(2000)]
        assert [await one for one in unknown if "there is no tool" not in await one] == []


# ---------------------------------------------------------------------- what tools return


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


async def _asynchronous() -> AsyncIterator[int]:
    yield 1


@dataclasses.dataclass
class Holder:
    value: Any


def _loop() -> Holder:
    holder = Holder(None)
    holder.value = [holder]
    return holder


class Refusing:
    def __getattribute__(self, name: str) -> Any:
        raise PermissionError("hands off")


class RefusingModel(BaseModel):
    x: Any


@pytest.mark.parametrize(
    "make",
    [
        lambda: _deep(100_000),
        lambda: {"a": _deep(300)},
        _asynchronous,
        lambda: [Refusing()],
        lambda: RefusingModel(x=Refusing()),
        lambda: Holder(Holder(object())),
        lambda: {object(): 1},
        lambda: memoryview(b"x"),
        lambda: open,
        lambda: 10**5000,
        lambda: [10**5000, float("nan")],
        lambda: {"cycle": _loop()},
    ],
    ids=range(12),
)
async def test_what_cannot_be_written_is_an_error(make: Callable[[], Any]) -> None:
    async def give() -> Any:
        return make()

    assert "cannot be written as JSON" in await error_of(FunctionTool(give), "{}")


async def test_a_result_that_lets_nobody_look_at_it_is_an_error() -> None:
    async def give() -> Any:
        return Refusing()

    assert await error_of(FunctionTool(give), "{}") == "hands off"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Unit(str, enum.Enum):  # noqa: UP042  # with the str() of an Enum, unlike StrEnum
    METRE = "m"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Text("mine"), "mine"),
        (Unit.METRE, "m"),
        ({"a": "\ud800"}, '{"a": "\\ud800"}'),
        (["\ud800", math.nan], '["\\ud800", "NaN"]'),
        ({1: "a", None: "b", Unit.METRE: 2}, '{"1": "a", "None": "b", "m": 2}'),
        ({math.inf}, '["Infinity"]'),
        (2**2000, str(2**2000)),
        (bytearray(b"ab"), '"ab"'),
        (ValueError, None),
        (range(3), None),
    ],
    ids=range(10),
)
async def test_odd_values_are_told(value: Any, text: str | None) -> None:
    async def give() -> Any:
        return value

    result = await FunctionTool(give).run("{}")
    result.encode()
    assert text is None or result == text


@pytest.mark.realtime
async def test_a_generator_is_the_list_of_what_it_gives() -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    assert await FunctionTool(count).run('{"n": 3}') == "[0, 1, 2]"


async def test_futures_are_waited_for_wherever_they_are_found() -> None:
    @agent_task
    async def task(x: int) -> int:
        await anyio.sleep(1)
        return x

    async def give() -> Any:
        return {"a": [task(1), (task(2),)]}

    async def hide() -> Any:
        return Holder(task(3))

    async def fail() -> Any:
        return [task(1), broken()]

    @agent_task
    async def broken() -> AgentFuture[int]:
        raise ValueError("of the task")

    assert await FunctionTool(give).run("{}") == '{"a": [1, [2]]}'
    # Not looked into; and not waited for either.
    assert "AgentFuture" in await error_of(FunctionTool(hide), "{}")
    assert await error_of(FunctionTool(fail), "{}") == "of the task"


# ---------------------------------------------------------------------- what tools raise


class Mute(Exception):  # noqa: N818  # that is the point
    def __str__(self) -> str:
        raise RuntimeError("no comment")


class Wordless(Exception):  # noqa: N818  # that is the point
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # that is the point


class Panic(BaseException):
    """What libraries written in Rust raise is no Exception either."""


def _groups(depth: int) -> BaseExceptionGroup[BaseException]:
    group = BaseExceptionGroup[BaseException]("", [Panic("inside")])
    for _ in range(depth):
        group = BaseExceptionGroup("", [group])
    return group


class Exit(SystemExit):
    @property
    def code(self) -> Any:  # type: ignore[override]  # that is the point
        raise RuntimeError("no code")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Mute, "Mute"),
        (Wordless, "Wordless"),
        (lambda: ExceptionGroup("", [Mute(), ValueError("b")]), "Mute; b"),
        (lambda: Panic("at the disco"), "at the disco"),
        (lambda: _groups(50), "inside"),
        (
            lambda: BaseExceptionGroup("", [SystemExit(2), OSError("c")]),
            "the tool exited with 2; c",
        ),
        (Exit, "Exit"),
        (lambda: ValueError("\ud800"), "\\ud800"),
        (lambda: ValueError(["a"]), "['a']"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("on_thread", [False, True])
@pytest.mark.realtime
async def test_whatever_a_tool_raises_ends_nothing(
    make: Callable[[], BaseException], told: str, on_thread: bool
) -> None:
    async def in_loop() -> None:
        raise make()

    def in_thread() -> None:
        raise make()

    called = FunctionTool(in_thread if on_thread else in_loop)
    assert await error_of(called, "{}") == told


async def test_ctrl_c_is_no_result() -> None:
    async def f() -> None:
        raise KeyboardInterrupt

    async def g() -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])

    for function in (f, g):
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
            async with open_runtime():
                await FunctionTool(function).run("{}")


async def test_a_tool_that_stops_itself_is_stopped_alone() -> None:
    async def own_scope() -> str:
        with anyio.move_on_after(1):
            await anyio.sleep(10)
        return "given up"

    async def slow() -> str:
        await anyio.sleep(5)
        return "done"

    tools = normalize_tools([own_scope, slow])
    futures = [tools.run("own_scope", "{}"), tools.run("slow", "{}")]
    assert [await one for one in futures] == ["given up", "done"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_cancellation_out_of_nowhere_is_an_error() -> None:
    async def stray() -> str:
        raise asyncio.CancelledError

    async def cancelled_below() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task

    async def slow() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    tools = normalize_tools([stray, cancelled_below, slow])
    results = [tools.run(name, "{}") for name in tools]
    assert [await one for one in results][2] == "done"
    for one in results[:2]:
        assert "was cancelled" in json.loads(await one)["error"]


@attrs.define
class Account:
    balance: float = attrs.field(validator=attrs.validators.ge(0))


async def test_what_a_class_refuses_is_an_error_of_the_argument() -> None:
    async def f(account: Account) -> float:
        return account.balance

    assert "account" in await error_of(FunctionTool(f), '{"account": {"balance": -1}}')
    assert "finite number" in await error_of(FunctionTool(f), '{"account": {"balance": "nan"}}')
