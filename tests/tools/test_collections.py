"""What users call tools, and how names, prefixes and lists make a collection of it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from motus.guardrails import ToolInputGuardrailTripped
from motus.runtime import agent_task
from motus.tools import (
    DictTools,
    FunctionTool,
    InputSchema,
    Tool,
    Tools,
    normalize_tools,
    tool,
    tools,
    tools_from,
)

pytestmark = pytest.mark.anyio


async def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


class Calculator:
    """Methods of every kind."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.attribute = add

    async def plus(self, x: int) -> int:
        """Add to the base."""
        return self.base + x

    @agent_task
    async def times(self, x: int) -> int:
        return self.base * x

    @staticmethod
    async def static(x: int) -> int:
        return x

    @classmethod
    async def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @functools.cache  # noqa: B019  # it is what is tested
    def cached(self, x: int) -> int:
        return x

    @property
    def expensive(self) -> int:
        raise AssertionError("a property was asked for its value")

    async def _private(self, x: int) -> int:
        return x

    class Inner:
        pass


class Loud(Calculator):
    async def plus(self, x: int) -> int:
        """Add loudly."""
        return self.base + x + 1000

    async def shout(self) -> str:
        return "!"

    times = None  # type: ignore[assignment]  # taken away


def names(source: Any) -> list[str]:
    return list(normalize_tools(source))


# ---------------------------------------------------------------------- normalize_tools


async def test_everything_that_can_be_a_tool() -> None:
    class Agent:
        def as_tool(self) -> Tool:
            return FunctionTool(add, "agent")

        def method(self) -> None: ...

    class Callable_:  # noqa: N801  # `callable` is taken
        async def __call__(self, x: int) -> int:
            return x

    found = normalize_tools(
        [
            add,
            FunctionTool(add, "tool"),
            Calculator(3),
            {"named": add, "lambda": lambda: 1, "object": Callable_(), "an-agent": Agent()},
            None,
            [[Agent()]],
        ]
    )
    assert list(found) == [
        *("add", "tool", "plus", "times", "static", "of_class", "cached"),
        *("named", "lambda", "object", "an-agent", "agent"),
    ]
    assert await found.run("plus", '{"x": 1}') == "4"
    assert await found.run("times", '{"x": 2}') == "6"
    assert await found.run("static", '{"x": 2}') == "2"
    assert await found.run("of_class", '{"x": 2}') == "Calculator 2"
    assert await found.run("object", '{"x": 2}') == "2"
    assert found["named"].definition().name == "named"
    assert [one.name for one in found.definitions()] == list(found)


def test_nothing_and_what_is_one_already() -> None:
    assert names(None) == []
    assert isinstance(normalize_tools(None), DictTools)
    collection = DictTools([FunctionTool(add)])
    assert normalize_tools(collection) is collection
    assert isinstance(collection, Tools)
    assert isinstance(collection, Mapping)
    assert repr(collection) == "DictTools(add)"
    assert DictTools(owned_sessions=[1]).owned_sessions == [1]
    assert names(DictTools({"plus": collection["add"]})) == ["plus"]
    assert names({add, }) == ["add"]  # fmt: skip


async def test_what_a_model_is_told_is_what_it_can_call() -> None:
    called = FunctionTool(add)
    found = normalize_tools([called])
    tool(called, name="sum")
    [definition] = found.definitions()
    assert await found.run(definition.name, '{"a": 1, "b": 2}') == "3"


def test_a_name_in_a_mapping_leaves_the_tool_as_it_is() -> None:
    original = FunctionTool(add)
    renamed = normalize_tools({"plus": original})["plus"]
    assert (original.name, renamed.name) == ("add", "plus")
    assert renamed.json_schema == original.json_schema


@pytest.mark.parametrize(
    ("source", "error", "reason"),
    [
        ([add, add], ValueError, "Duplicate tool name: add"),
        ([add, {"add": Calculator.static}], ValueError, "Duplicate tool name: add"),
        ([lambda: 1], ValueError, "Tool is missing a name"),
        (functools.partial(print), ValueError, None),
        (5, TypeError, r"Cannot use int \(5\) as a tool"),
        (["add"], TypeError, r"Cannot use str \('add'\) as a tool"),
        (Calculator, TypeError, r"Cannot use type \(<class .*Calculator'>\) as a tool: pass an"),
        (object(), TypeError, r"Cannot use object \(<object.*>\) as a tool"),
        ({"many": Calculator()}, TypeError, "there must be one tool for 'many', not 5"),
    ],
    ids=range(9),
)
def test_what_cannot_be_a_tool(source: Any, error: type[Exception], reason: str | None) -> None:
    if reason is None:
        assert names(source) == ["print"]
        return
    with pytest.raises(error, match=reason):
        normalize_tools(source)


# ---------------------------------------------------------------------- @tool


async def test_a_decorated_function_is_still_a_function() -> None:
    @tool
    async def bare(x: int) -> int:
        return x

    @tool(name="other", description="Another one.")
    async def named(x: int) -> int:
        """Not this."""
        return x

    assert await bare(3) == await named(3) == 3
    found = normalize_tools([bare, named])
    assert list(found) == ["bare", "other"]
    assert found["other"].description == "Another one."
    assert tool(named, description="Again.") is named
    assert normalize_tools(named)["other"].description == "Again."


async def test_a_tool_is_changed_where_it_stands() -> None:
    class Arguments(InputSchema):
        a: str
        b: str

    def refuse(**kwargs: Any) -> None:
        raise ToolInputGuardrailTripped("refused")

    one = FunctionTool(add)
    ended: list[Any] = []
    assert tool(one, name="sum", description="d", on_end=lambda e: ended.append(e.result)) is one
    assert (one.name, one.description, one.requires_approval) == ("sum", "d", False)
    assert await one('{"a": 1, "b": 2}') == "3"
    assert ended == ["3"]
    tool(one, schema=Arguments)
    assert await one.run('{"a": "1", "b": "2"}') == "12"
    tool(one, input_guardrails=[refuse])
    assert "refused" in await one('{"a": "1", "b": "2"}')
    tool(one, strict=True, requires_approval=True)
    assert one.definition().strict
    assert list(one.json_schema["properties"].values()) == [{"type": "string"}] * 2
    assert one.requires_approval
    with pytest.raises(ValueError, match="Invalid tool name"):
        tool(one, name="no good")


def test_what_tool_does_not_take() -> None:
    with pytest.raises(TypeError, match="Calculator is a class: use @tools"):
        tool(Calculator)
    with pytest.raises(TypeError, match="takes a function or a Tool, not int"):
        tool(5)
    with pytest.raises(TypeError, match="takes no attributes"):
        tool(Calculator().plus, name="x")
    with pytest.raises(TypeError, match="nmae"):
        tool(add, nmae="x")


def test_tasks_can_be_decorated_on_both_sides() -> None:
    @tool(name="outside")
    @agent_task
    async def one() -> None: ...

    @agent_task
    @tool(name="inside")
    async def two() -> None: ...

    assert names([one, two]) == ["outside", "inside"]


async def test_what_a_method_says_is_not_lost_on_its_way_to_the_instance() -> None:
    """Least of all that a human is to be asked."""

    class Files:
        @tool(requires_approval=True)
        @staticmethod
        def static() -> None: ...

        @tool(requires_approval=True)
        @classmethod
        def of_class(cls) -> None: ...

        @staticmethod
        @tool(requires_approval=True)
        def inside() -> None: ...

        @tool(requires_approval=True)
        @agent_task
        async def task(self) -> None: ...

        @agent_task
        @tool(requires_approval=True)
        async def task_inside(self) -> None: ...

        @tool(requires_approval=True)
        @functools.cache  # noqa: B019  # it is what is tested
        def cached(self) -> None: ...

    files = Files()
    found = normalize_tools(files)
    assert [one.requires_approval for one in found.values()] == [True] * 6
    again: list[Any] = [
        files.static, files.of_class, files.inside, files.task, files.cached,
        files.task.policy(retries=1), functools.partial(files.task),
        functools.partial(files.static),
    ]  # fmt: skip
    assert all(FunctionTool(one).requires_approval for one in again)
    assert all(FunctionTool(one, "renamed").requires_approval for one in again)
    assert all(one.renamed(f"my_{name}").requires_approval for name, one in found.items())


async def test_what_can_be_gone_through_once_is_there_for_every_tool() -> None:
    def refuse(**kwargs: Any) -> None:
        raise ToolInputGuardrailTripped("refused")

    heard: list[str] = []
    function = tool(
        functools.partial(add),
        input_guardrails=(one for one in [refuse]),
        output_guardrails=iter(()),
        on_error=(one for one in [lambda event: heard.append(event.name)]),
    )
    for name in ("one", "two"):
        assert "refused" in await FunctionTool(function, name).run('{"a": 1, "b": 2}')
    called = FunctionTool(add, "three", input_guardrails=(one for one in [refuse]))
    tool(called, on_error=(one for one in [lambda event: heard.append(event.name)]))
    for _ in range(2):
        assert "refused" in await called.renamed("four").run('{"a": 1, "b": 2}')
    assert heard == ["one", "two", "four", "four"]


async def test_a_change_that_is_refused_changes_nothing() -> None:
    called = FunctionTool(add)
    before = dict(vars(called))
    cases: list[dict[str, Any]] = [
        {"requires_approval": True, "name": "no good"},
        {"description": "x", "on_start": 5},
        {"input_guardrails": 5, "name": "other"},
    ]
    for wrong in cases:
        with pytest.raises((TypeError, ValueError)):
            called.configure(**wrong)
    assert vars(called) == before

    class Own(Tool):
        async def invoke(self, arguments: dict[str, Any]) -> Any: ...

    for option in ({"schema": {"type": "object"}}, {"strict": True}):
        with pytest.raises(TypeError, match="<Own 'own'> has a schema of its own"):
            tool(Own("own"), **option)


# ---------------------------------------------------------------------- @tools and tools_from


def test_the_methods_of_a_model_are_those_that_its_author_wrote() -> None:
    class Settings(BaseModel):
        size: int = 1

        def double(self) -> int:
            return 2 * self.size

    assert names(Settings()) == ["double"]


def test_the_methods_of_an_instance() -> None:
    assert [one.name for one in tools_from(Calculator())] == [
        *("plus", "times", "static", "of_class", "cached"),
    ]
    # As Python would find them: overridden, inherited, taken away.
    found = {one.name: one for one in tools_from(Loud())}
    assert list(found) == ["plus", "static", "of_class", "cached", "shout"]
    assert found["plus"].description == "Add loudly."


def test_prefix_private_aliases_and_lists() -> None:
    def of(**options: Any) -> list[str]:
        return [one.name for one in tools_from(Calculator(), **options)]

    everything = ["plus", "times", "static", "of_class", "cached"]
    assert of(prefix="calc_") == ["calc_" + name for name in everything]
    assert of(include_private=True) == [*everything, "_private"]
    assert of(allowlist=["times", "_private"]) == ["times", "_private"]
    assert of(blocklist=["times", "cached"]) == ["plus", "static", "of_class"]
    assert of(method_aliases={"plus": "add"}, allowlist={"plus"}, prefix="c_") == ["c_add"]
    for option in (
        {"allowlist": ["puls"]},
        {"blocklist": ["puls"]},
        {"method_aliases": {"puls": "x"}},
    ):
        with pytest.raises(ValueError, match="Calculator has no methods puls: it has plus, times"):
            of(**option)


async def test_options_of_the_class_the_instance_and_the_call() -> None:
    class Arguments(InputSchema):
        text: str

    @tools(prefix="box_", blocklist=["hidden"], method_schemas={"echo": Arguments})
    class Box:
        async def echo(self, text: str) -> str:
            return text

        @tool(name="called")
        async def named(self) -> None: ...

        @tool(name="not_this")
        async def aliased(self) -> None: ...

        def hidden(self) -> None: ...

    class Inherits(Box):
        pass

    assert names(Box()) == ["box_echo", "box_called", "box_not_this"]
    assert names(Inherits()) == names(Box())
    box = tools(Box(), prefix="my_", method_aliases={"aliased": "this"})
    assert isinstance(box, Box)
    assert names(box) == ["my_echo", "my_called", "my_this", "my_hidden"]
    assert names(Box()) == ["box_echo", "box_called", "box_not_this"]
    assert [one.name for one in tools_from(Box(), prefix="", allowlist=["echo"])] == ["echo"]
    [echo] = tools_from(Box(), allowlist=["echo"])
    assert isinstance(echo, FunctionTool)
    assert echo.schema_model is Arguments


async def test_guardrails_of_a_class_hold_where_a_method_has_none_of_its_own() -> None:
    def of_class(**kwargs: Any) -> dict[str, Any]:
        return {"x": kwargs["x"] + 100}

    def of_method(x: int) -> dict[str, Any]:
        return {"x": x + 1}

    @tools(input_guardrails=[of_class], output_guardrails=[lambda value: -value])
    class Guarded:
        async def plain(self, x: int) -> int:
            return x

        @tool(input_guardrails=[of_method])
        async def own(self, x: int) -> int:
            return x

        @tool(input_guardrails=[], output_guardrails=[])
        async def free(self, x: int) -> int:
            return x

    found = normalize_tools(Guarded())
    results = {name: await found.run(name, '{"x": 1}') for name in found}
    assert results == {"plain": "-101", "own": "-2", "free": "1"}


def test_an_allowlist_wins_over_a_blocklist_and_says_so() -> None:
    with pytest.warns(UserWarning, match="beside an allowlist, the blocklist is ignored"):

        @tools(allowlist=["a"], blocklist=["a"])
        class Both:
            def a(self) -> None: ...
            def b(self) -> None: ...

    assert names(Both()) == ["a"]
    with pytest.warns(UserWarning, match="the blocklist is ignored"):
        found = tools_from(Calculator(), allowlist=["plus"], blocklist=["plus"])
    assert [one.name for one in found] == ["plus"]


def test_what_tools_and_tools_from_do_not_take() -> None:
    with pytest.raises(TypeError, match=r"Calculator is a class: pass Calculator\(\.\.\.\)"):
        tools_from(Calculator)
    with pytest.raises(TypeError, match="takes a class or an instance that takes attributes"):
        tools(5)
    with pytest.raises(TypeError, match=r"instance, not <function add .*>: use @tool"):
        tools(add)


# ---------------------------------------------------------------------- the package


@pytest.fixture
def fresh() -> Callable[[str], str]:
    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.realtime
def test_the_names_that_motus_has_too(fresh: Callable[[str], str]) -> None:
    program = """
import sys, motus
assert "motus.tools" not in sys.modules
from motus import FunctionTool, InputSchema, Tools, normalize_tools, tool, tools_from
from motus import tools

@tools(prefix="x_")
class A:
    def f(self): ...

import motus.tools
assert motus.tools.tool is tool
print(*normalize_tools(A()))
"""
    assert fresh(program) == "x_f"
