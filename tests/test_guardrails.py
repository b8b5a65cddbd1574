"""Guardrails: what they see, what their answers change, and how they stop a value."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from motus.errors import MotusError
from motus.guardrails import (
    Guardrail,
    GuardrailTripped,
    InputGuardrailTripped,
    OutputGuardrailTripped,
    ToolInputGuardrailTripped,
    ToolOutputGuardrailTripped,
    ToolRejected,
    run_guardrails,
    run_structured_output_guardrails,
    run_tool_input_guardrails,
    run_tool_output_guardrails,
)

pytestmark = pytest.mark.anyio


def test_the_family_of_errors() -> None:
    assert str(GuardrailTripped()) == GuardrailTripped().message == "Guardrail tripped"
    assert InputGuardrailTripped("no").message == str(InputGuardrailTripped("no")) == "no"
    for one in (
        InputGuardrailTripped,
        OutputGuardrailTripped,
        ToolInputGuardrailTripped,
        ToolOutputGuardrailTripped,
    ):
        assert issubclass(one, GuardrailTripped)
    assert issubclass(ToolRejected, ToolInputGuardrailTripped)
    assert issubclass(GuardrailTripped, MotusError)


async def test_each_one_sees_what_the_one_before_has_returned() -> None:
    seen: list[Any] = []

    def plain(value: str) -> str:
        seen.append(value)
        return value + "1"

    async def waits(value: str) -> str:
        await anyio.sleep(1)
        seen.append(value)
        return value + "2"

    def nothing(value: str) -> None:
        seen.append(value)

    assert await run_guardrails([plain, waits, nothing], "x") == "x12"
    assert seen == ["x", "x1", "x12"]
    assert await run_guardrails(None, "x") == "x"
    # None lets the value through; whatever else is false does not.
    assert await run_guardrails([lambda value: ""], "x") == ""


async def test_only_those_that_ask_for_the_agent_get_it() -> None:
    agent = object()

    def asks(value: str, agent: object) -> list[object]:
        return [value, agent]

    class Asks:
        def __call__(self, value: Any, *, agent: Any = None) -> Any:
            return [*value, agent]

    def any_keywords(value: Any, **others: Any) -> Any:
        assert others == {}

    result = await run_guardrails([asks, Asks(), any_keywords], "x", agent=agent)
    assert result == ["x", agent, agent]
    assert await run_guardrails([partial(asks, agent=1)], "x", agent=2) == ["x", 2]
    # Of which Python knows no parameters.
    assert await run_guardrails([str], 5, agent=agent) == "5"


async def test_what_is_raised_ends_it() -> None:
    def trips(value: str) -> None:
        raise InputGuardrailTripped(f"not {value}")

    with pytest.raises(InputGuardrailTripped, match=r"^not x$"):
        await run_guardrails([trips, pytest.fail], "x")


async def test_in_parallel_they_run_together_on_the_same_value() -> None:
    seen: list[str] = []

    async def slow(value: str) -> str:
        await anyio.sleep(1)
        seen.append(value)
        return "counts for nothing"

    begin = anyio.current_time()
    assert await run_guardrails([slow] * 5, "x", parallel=True) == "x"
    assert anyio.current_time() - begin == pytest.approx(1)
    assert seen == ["x"] * 5


async def test_in_parallel_the_first_error_cancels_the_others_and_comes_alone() -> None:
    cancelled: list[bool] = []

    async def slow(value: str) -> None:
        try:
            await anyio.sleep(10)
        finally:
            cancelled.append(True)

    async def trips(value: str) -> None:
        await anyio.sleep(1)
        raise OutputGuardrailTripped("no")

    begin = anyio.current_time()
    with pytest.raises(OutputGuardrailTripped, match=r"^no$"):
        await run_guardrails([slow, trips, slow], "x", parallel=True)
    assert anyio.current_time() - begin == pytest.approx(1)
    assert cancelled == [True, True]


async def test_guardrails_can_be_cancelled() -> None:
    for parallel in (False, True):
        with anyio.move_on_after(1) as scope:
            await run_guardrails([lambda _: anyio.sleep(10)], "x", parallel=parallel)
        assert scope.cancelled_caught


async def test_arguments_of_tools_go_by_name() -> None:
    def one(city: str) -> dict[str, str]:
        assert city == "rome"
        return {"city": "Rome"}

    async def two(*, days: int, city: str) -> None:
        assert (days, city) == (3, "Rome")

    def all_of_them(**kwargs: Any) -> dict[str, Any]:
        assert kwargs == {"city": "Rome", "days": 3}
        return {"unit": "C"}

    def some_and_all(city: str, **kwargs: Any) -> None:
        assert (city, kwargs) == ("Rome", {"city": "Rome", "days": 3, "unit": "C"})

    def by_position(days: int, /, *rest: Any) -> dict[str, Any]:
        return {"days": days + len(rest) + 1}

    given = {"city": "rome", "days": 3}
    guardrails: list[Guardrail] = [one, two, all_of_them, by_position]
    assert await run_tool_input_guardrails(guardrails, given) == {
        "city": "Rome",
        "days": 4,
        "unit": "C",
    }
    assert given == {"city": "rome", "days": 3}
    assert await run_tool_input_guardrails(None, given) == given


async def test_one_that_needs_what_is_not_there_is_skipped() -> None:
    def needs(missing: int) -> None:
        pytest.fail("called")

    def can_do_without(missing: int = 5) -> dict[str, int]:
        return {"found": missing}

    assert await run_tool_input_guardrails([needs, can_do_without], {}) == {"found": 5}


async def test_an_input_guardrail_must_return_a_dict() -> None:
    def wrong(city: str) -> str:
        return city

    with pytest.raises(TypeError, match=r"guardrail .*wrong must return a dict .*, not str"):
        await run_tool_input_guardrails([wrong], {"city": "Rome"})


async def test_results_of_tools_are_replaced() -> None:
    async def upper(value: str) -> str:
        return value.upper()

    assert await run_tool_output_guardrails([lambda _: None, upper, lambda v: v + "!"], "x") == "X!"
    assert await run_tool_output_guardrails(None, 0) == 0


async def test_fields_of_answers_go_by_name_too() -> None:
    def shorten(summary: str) -> dict[str, str]:
        return {"summary": summary[:3]}

    def with_agent(score: int, agent: str) -> dict[str, Any]:
        return {"score": f"{score} by {agent}"}

    def not_here(other: int) -> None:
        pytest.fail("called")

    fields = {"summary": "long", "score": 5}
    assert await run_structured_output_guardrails(
        [shorten, with_agent, not_here], fields, agent="me"
    ) == {"summary": "lon", "score": "5 by me"}
    # A field of that name is what is meant.
    assert await run_structured_output_guardrails(
        [with_agent], {"score": 1, "agent": "field"}, agent="me"
    ) == {"score": "1 by field", "agent": "field"}
