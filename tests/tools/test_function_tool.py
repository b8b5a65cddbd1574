"""One call of a tool: arguments in, result out, and everything that can go wrong on the way."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from pydantic import BaseModel

from motus.guardrails import ToolOutputGuardrailTripped
from motus.runtime import (
    TaskCancelledError,
    agent_task,
    cancel,
    open_runtime,
    resolve,
)
from motus.tools import DictTools, FunctionTool, InputSchema, Tool
from tests.tools.support import error_of

pytestmark = pytest.mark.anyio


class Color(Enum):
    RED = "red"


class Place(BaseModel):
    name: str


@dataclasses.dataclass
class Span:
    start: datetime
    days: int = 1


@attrs.define
class Point:
    x: float
    place: Place | None = None


async def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


# ---------------------------------------------------------------------- calls and results


async def test_text_in_and_text_out() -> None:
    called = FunctionTool(double)
    assert (called.name, called.description) == ("double", "Twice as much.")
    assert await called('{"x": 4}') == "8"
    # Models write numbers as texts.
    assert await called('{"x": "4"}') == "8"
    assert repr(called) == "<FunctionTool 'double'>"
    definition = called.definition()
    assert (definition.name, definition.description) == ("double", "Twice as much.")
    assert (definition.parameters, definition.strict) == (called.json_schema, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, "é"], '[1, "é"]'),
        ({"a": (1, 2)}, '{"a": [1, 2]}'),
        ({1}, "[1]"),
        (Color.RED, '"red"'),
        (Place(name="x"), '{"name": "x"}'),
        (Span(datetime(2026, 1, 2, tzinfo=UTC)), '{"start": "2026-01-02T00:00:00Z", "days": 1}'),
        ([Point(1, Place(name="x"))], '[{"x": 1, "place": {"name": "x"}}]'),
        (Path("a/b"), '"a/b"'),
        (Decimal("1.10"), '"1.10"'),
        (b"bytes", '"bytes"'),
        ([float("nan"), float("inf")], '["NaN", "Infinity"]'),
    ],
    ids=repr,
)
async def test_results_are_written_as_json(value: Any, text: str) -> None:
    async def give() -> Any:
        return value

    assert await FunctionTool(give)("{}") == text
    assert await FunctionTool(give).run("{}") == text


async def test_texts_stay_as_they_are_in_a_conversation_and_are_quoted_outside() -> None:
    async def give() -> str:
        return 'two\nlines, "quoted"'

    assert await FunctionTool(give).run("{}") == 'two\nlines, "quoted"'
    assert await FunctionTool(give)("{}") == '"two\\nlines, \\"quoted\\""'


async def test_what_cannot_be_sent_is_escaped() -> None:
    async def give() -> Any:
        return "a\udcffb"

    assert await FunctionTool(give).run("{}") == "a\\udcffb"


class Unknown:
    def __repr__(self) -> str:
        return "<Unknown>"


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize("value", [Unknown(), [Unknown()], b"\xff", _circle(), {1: object()}])
async def test_a_result_that_json_has_no_word_for_is_an_error(value: Any) -> None:
    async def give() -> Any:
        return value

    message = await error_of(FunctionTool(give), "{}")
    assert f"the result is a {type(value).__name__} that cannot be written as JSON" in message


async def test_arguments_become_what_the_signature_says() -> None:
    async def f(
        place: Place, span: Span, points: list[Point], color: Color, pair: tuple[int, str] = (1, "")
    ) -> str:
        assert (type(span), span.days) == (Span, 1)
        return repr((place, str(span.start), points, color, pair))

    given = {
        "place": {"name": "Rome"},
        "span": {"start": "2026-01-02T00:00:00Z"},
        "points": [{"x": 1, "place": {"name": "y"}}],
        "color": "red",
        "pair": [2, "z"],
    }
    expected = (
        Place(name="Rome"),
        "2026-01-02 00:00:00+00:00",
        [Point(1.0, Place(name="y"))],
        Color.RED,
        (2, "z"),
    )
    assert await FunctionTool(f).run(json.dumps(given)) == repr(expected)


async def test_every_kind_of_parameter() -> None:
    async def f(a: int, /, b: int, *args: int, c: int = 3, _d: int = 4, **more: int) -> Any:
        return [a, b, args, c, _d, more]

    called = FunctionTool(f)
    assert await called.run('{"b": 2, "a": 1}') == "[1, 2, [], 3, 4, {}]"
    assert "_d: there is no such parameter" in await error_of(called, '{"a": 1, "b": 2, "_d": 5}')


async def test_defaults_are_those_of_the_function() -> None:
    marker = object()

    async def f(a: list[int] = [], b: Any = marker) -> bool:  # noqa: B006  # that is the point
        a.append(1)
        return b is marker

    called = FunctionTool(f)
    assert await called.run("{}") == "true"
    assert await called.run('{"a": [5]}') == "true"
    assert f.__defaults__ is not None
    assert f.__defaults__[0] == [1]


async def test_a_schema_of_ones_own_checks_and_converts() -> None:
    class Arguments(InputSchema):
        city: str
        days: int = 7

    async def f(city: str, days: int = 1) -> str:
        return f"{city} {days!r}"

    called = FunctionTool(f, schema=Arguments)
    assert called.schema_model is Arguments
    assert await called.run('{"city": "Rome", "days": "2"}') == "Rome 2"
    # What the model has been told is what holds.
    assert await called.run('{"city": "Rome"}') == "Rome 7"
    assert "city: missing" in await error_of(called, "{}")


async def test_a_json_schema_is_told_and_the_signature_checks() -> None:
    called = FunctionTool(double, schema={"type": "object", "properties": {"x": {}}})
    assert await called.run('{"x": "3"}') == "6"
    assert "x: " in await error_of(called, '{"x": "three"}')


async def test_a_strict_tool_takes_null_for_what_is_left_out() -> None:
    async def f(a: int, b: int = 3, c: str | None = None, d: Span | None = None) -> str:
        return f"{a} {b} {c} {d and d.days}"

    called = FunctionTool(f, strict=True)
    given = {"a": 1, "b": None, "c": None, "d": {"start": "2026-01-02", "days": None}}
    assert await called.run(json.dumps(given)) == "1 3 None 1"
    assert "a: " in await error_of(called, '{"a": null}')


async def test_nothing_is_as_good_as_an_empty_object() -> None:
    async def f() -> str:
        return "done"

    for text in ("", "  \n", "{}"):
        assert await FunctionTool(f).run(text) == "done"
    assert await FunctionTool(f)() == '"done"'


# ---------------------------------------------------------------------- what can be a tool


@pytest.mark.realtime
async def test_plain_functions_run_on_threads() -> None:
    def f(x: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await FunctionTool(f)('{"x": 1}') == "false"


@pytest.mark.realtime
async def test_threads_never_run_out() -> None:
    depth = 30

    def f(n: int) -> int:
        # Each one holds a thread until the one below it is done.
        return 0 if n == depth else int(resolve(called(json.dumps({"n": n + 1})))) + 1

    called = FunctionTool(f)
    async with open_runtime(max_threads=2):
        assert await called('{"n": 0}') == str(depth)


async def test_tasks_methods_partials_and_objects() -> None:
    @agent_task(retries=2)
    async def unreliable(x: int) -> int:
        """Sometimes."""
        tried.append(x)
        if len(tried) < 3:
            raise ConnectionError("not yet")
        return x + 1

    @agent_task(num_returns=2)
    async def pair(x: int) -> tuple[int, int]:
        return x, -x

    class Object:
        """An object that can be called."""

        async def __call__(self, x: int) -> int:
            return x + 2

        async def method(self, x: int) -> int:
            """Of an object."""
            return x + 3

        @agent_task
        async def task(self, x: int) -> int:
            return x + 4

        @staticmethod
        async def static(x: int) -> int:
            return x + 5

    @functools.wraps(double)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await double(*args, **kwargs) + 6

    tried: list[int] = []
    cases: list[tuple[Any, str, str]] = [
        (FunctionTool(unreliable), "2", "Sometimes."),
        (FunctionTool(pair), "[1, -1]", ""),
        (FunctionTool(Object(), "o"), "3", "An object that can be called."),
        (FunctionTool(Object().method), "4", "Of an object."),
        (FunctionTool(Object().task), "5", ""),
        (FunctionTool(Object.static), "6", ""),
        (FunctionTool(functools.partial(double)), "2", "Twice as much."),
        (FunctionTool(wrapped), "8", "Twice as much."),
    ]
    for called, result, description in cases:
        assert await called('{"x": 1}') == result
        assert called.description == description
        assert list(called.json_schema["properties"]) == ["x"]
    assert tried == [1, 1, 1]


async def test_what_a_partial_has_set_is_not_for_the_model() -> None:
    async def read(root: str, path: str, limit: int = 5, *, user: str = "nobody") -> str:
        return f"{root}/{path} {limit} {user}"

    for bound in (
        functools.partial(read, "safe", user="me"),
        functools.partial(read, root="safe", user="me"),
        functools.partial(functools.partial(agent_task(read), user="me"), root="safe"),
        agent_task(functools.partial(read, root="safe", user="me")),
    ):
        called = FunctionTool(bound, "read")
        assert list(called.json_schema["properties"]) == ["path", "limit"]
        assert await called.run('{"path": "x"}') == "safe/x 5 me"
        for name in ("root", "user"):
            assert f"{name}: there is no such parameter" in await error_of(
                called, json.dumps({"path": "x", name: "other"})
            )


async def test_a_function_that_returns_something_to_be_awaited() -> None:
    @agent_task
    async def task() -> str:
        return "from a task"

    async def f() -> Any:
        return task()

    async def nested() -> Any:
        return {"both": [task(), task()]}

    # Whatever a body returns, its futures are waited for.
    assert await FunctionTool(f).run("{}") == "from a task"
    assert await FunctionTool(nested).run("{}") == '{"both": ["from a task", "from a task"]}'


@pytest.mark.parametrize(
    ("function", "name", "reason"),
    [
        (lambda: None, None, "Tool is missing a name"),
        (double, "", "Tool is missing a name"),
        (double, "get weather", "Invalid tool name 'get weather'"),
        (double, "x" * 65, "Invalid tool name"),
        (double, "1st", "Invalid tool name"),
        (double, "-x", "Invalid tool name"),
        (double, "d\u043euble", "Invalid tool name"),
    ],
)
def test_names(function: Any, name: str | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FunctionTool(function, name)


async def test_a_tool_of_ones_own_needs_one_method() -> None:
    class Echo(Tool):
        async def invoke(self, arguments: dict[str, Any]) -> Any:
            return arguments

    assert await Echo("echo", "Says it again.").run('{"x": [1]}') == '{"x": [1]}'
    assert await error_of(Echo("echo"), "[1]") == "the arguments must be one JSON object, not list"


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"x": ', "the arguments are not valid JSON: EOF while parsing a value at line 1"),
        ('{"x": 1} {"x": 2}', "the arguments are not valid JSON: trailing characters at line 1"),
        ("[1]", "the arguments must be one JSON object, not list"),
        ("null", "the arguments must be one JSON object, not null"),
        ('{"x": NaN}', "the arguments are not valid JSON: expected value at line 1 column 7"),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion limit exceeded"),
        ("{}", "invalid arguments: x: missing. The parameters are: x (required)"),
        ('{"x": "a"}', "x: Input should be a valid integer"),
        ('{"x": null}', "x: Input should be a valid integer, got None"),
        ('{"y": 1, "x": 1}', "y: there is no such parameter. The parameters are: x (required)"),
        ('{"x": "\\ud800"}', "the arguments are not valid JSON: "),
    ],
    ids=range(11),
)
async def test_bad_arguments_are_errors_that_help(arguments: str, expected: str) -> None:
    message = await error_of(FunctionTool(double), arguments)
    assert expected in message
    assert len(message) < 500


async def test_many_problems_are_not_all_told() -> None:
    async def f(xs: list[int]) -> None: ...

    message = await error_of(FunctionTool(f), json.dumps({"xs": ["a" * 1000] * 50}))
    assert message.count("Input should be") == 10
    assert "and 40 more" in message
    assert "a" * 100 not in message


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("no such city"), "no such city"),
        (KeyError("city"), "KeyError: 'city'"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "the tool exited with 3"),
        (TaskCancelledError("other", 5), "Task 'other' was cancelled (id=5)"),
        (ExceptionGroup("two", [ValueError("a"), ExceptionGroup("", [OSError("b")])]), "a; b"),
        (ToolOutputGuardrailTripped("refused"), "refused"),
        (StopIteration("x"), None),
        (StopAsyncIteration("x"), None),
        (TimeoutError("slow \udcff"), "slow \\udcff"),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("on_thread", [False, True])
@pytest.mark.realtime
async def test_what_a_tool_raises_is_told_and_ends_nothing(
    raised: BaseException, message: str | None, on_thread: bool
) -> None:
    async def in_loop() -> None:
        raise raised

    def in_thread() -> None:
        raise raised

    told = await error_of(FunctionTool(in_thread if on_thread else in_loop), "{}")
    assert message is None or told == message
    assert told


async def test_a_failing_tool_harms_no_other() -> None:
    async def f(x: int) -> int:
        await anyio.sleep(x)
        if x == 2:
            raise ValueError("two")
        return x

    called = FunctionTool(f)
    begin = anyio.current_time()
    futures = [called.run(json.dumps({"x": x})) for x in range(5)]
    assert [await one for one in futures] == ["0", "1", '{"error": "two"}', "3", "4"]
    assert anyio.current_time() - begin == pytest.approx(4)


async def test_an_unknown_tool_is_an_error_that_names_the_known_ones() -> None:
    tools = DictTools([FunctionTool(double), FunctionTool(double, "triple")])
    assert await tools.run("double", '{"x": 1}') == "2"
    assert json.loads(await tools.run("dubble", "not even JSON")) == {
        "error": "there is no tool 'dubble': did you mean 'double'? The tools are double, triple"
    }
    unlike = json.loads(await tools.run("qqq", "{}"))["error"]
    assert unlike == "there is no tool 'qqq'. The tools are double, triple"
    assert "there are none at all" in await DictTools().run("x" * 1000, "{}")
    assert len(await tools.run("x" * 1000, "{}")) < 400


async def test_cancelling_a_call_cancels_the_tool_and_is_no_result() -> None:
    ended: list[str] = []

    @agent_task
    async def below() -> None:
        try:
            await anyio.sleep(10)
        finally:
            ended.append("below")

    async def f() -> None:
        try:
            await below()
        finally:
            ended.append("tool")

    async with open_runtime():
        future = FunctionTool(f).run("{}")
        await anyio.wait_all_tasks_blocked()
        assert cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
    assert sorted(ended) == ["below", "tool"]


async def test_leaving_the_runtime_cancels_tools() -> None:
    ended: list[bool] = []

    async def f() -> None:
        try:
            await anyio.sleep(10)
        finally:
            ended.append(True)

    with anyio.move_on_after(1) as scope:
        async with open_runtime():
            for _ in range(10):
                FunctionTool(f).run("{}")
    assert scope.cancelled_caught
    assert ended == [True] * 10


async def test_a_task_that_takes_too_long_is_an_error_and_stopped() -> None:
    ended: list[float] = []

    @agent_task(timeout=5)
    async def slow(x: int) -> None:
        try:
            await anyio.sleep(x)
        finally:
            ended.append(anyio.current_time())

    begin = anyio.current_time()
    called = FunctionTool(slow)
    late, in_time = called.run('{"x": 100}'), called.run('{"x": 1}')
    assert "timed out after 5 seconds" in json.loads(await late)["error"]
    assert await in_time == "null"
    assert [at - begin for at in ended] == pytest.approx([1, 5])


async def test_ten_calls_take_the_time_of_one() -> None:
    async def slow(x: int) -> int:
        await anyio.sleep(10)
        return x

    begin = anyio.current_time()
    futures = [FunctionTool(slow).run(json.dumps({"x": x})) for x in range(10)]
    assert [await one for one in futures] == [str(x) for x in range(10)]
    assert anyio.current_time() - begin == pytest.approx(10)
