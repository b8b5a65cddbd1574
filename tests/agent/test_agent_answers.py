"""Answers of a type, and guardrails around prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import attrs
import pytest
from pydantic import BaseModel, Field, computed_field

from motus.agent import ReActAgent
from motus.guardrails import (
    InputGuardrailTripped,
    OutputGuardrailTripped,
    ToolInputGuardrailTripped,
)
from motus.messages import ChatCompletion, ChatMessage
from motus.models.errors import StructuredOutputError
from motus.testing import ScriptedClient, call
from motus.tools import tool
from tests.agent.models import Journal, assert_valid, echo

pytestmark = pytest.mark.anyio


class City(BaseModel):
    name: str
    people: int


@dataclass
class CityData:
    name: str
    people: int


@attrs.frozen
class CityRecord:
    name: str
    people: int


TYPES: list[type[Any]] = [City, CityData, CityRecord]
ROME = '{"name": "Rome", "people": 3}'


# ---------------------------------------------------------------------- structured output


@pytest.mark.parametrize("kind", TYPES)
async def test_an_answer_is_an_object_of_the_type(kind: type[Any]) -> None:
    journal = Journal()
    client = ScriptedClient([call("work", name="a"), ROME])
    agent = ReActAgent(client, "m", tools=[journal.work], response_format=kind)
    answer = await agent("?")
    assert answer == kind(name="Rome", people=3)
    assert client.requests[0].response_format is kind
    assert agent.messages[-1].content == ROME
    assert agent.response_format is kind


@pytest.mark.parametrize("kind", TYPES)
async def test_one_that_does_not_fit_goes_back_once(kind: type[Any]) -> None:
    client = ScriptedClient(['{"name": "Rome", "people": "many"}', ROME], usage={"total_tokens": 5})
    agent = ReActAgent(client, "m", response_format=kind, max_steps=1)
    assert (await agent("?")).people == 3
    asked = client.requests[1].messages
    assert [message.role for message in asked] == ["user", "assistant", "user"]
    assert "people" in str(asked[-1].content)
    assert agent.usage["total_tokens"] == 10


async def test_then_it_is_an_error() -> None:
    client = ScriptedClient(["Rome, I think", "Rome!"])
    agent = ReActAgent(client, "m", response_format=City)
    with pytest.raises(StructuredOutputError, match="City") as caught:
        await agent("?")
    assert caught.value.completion.content == "Rome!"
    assert len(client.requests) == 2
    assert [message.role for message in agent.messages] == ["user", "assistant"] * 2


async def test_a_client_that_does_not_check_is_no_answer() -> None:
    class Careless(ScriptedClient):
        async def parse(self, *args: Any, **kwargs: Any) -> ChatCompletion:
            return ChatCompletion("1", "m", "text")

    agent = ReActAgent(Careless([]), "m", response_format=City)
    with pytest.raises(StructuredOutputError, match="no structured output"):
        await agent("?")


# ---------------------------------------------------------------------- guardrails


async def test_input_guardrails_change_or_refuse_the_prompt() -> None:
    seen: list[Any] = []

    def mask(prompt: str, agent: ReActAgent[str]) -> str:
        seen.append(agent)
        return prompt.replace("4711", "****")

    async def polite(prompt: str) -> None:
        if "please" not in prompt:
            raise InputGuardrailTripped("say please")

    agent = ReActAgent(ScriptedClient(echo), "m", input_guardrails=[mask, polite])
    assert await agent("4711, please") == "1: ****, please"
    assert seen == [agent]
    with pytest.raises(InputGuardrailTripped, match="say please"):
        await agent("now")
    assert len(agent.messages) == 2
    picture = ChatMessage.user_message("4711 please", "aW1n")
    await agent(picture)
    assert agent.messages[2] == ChatMessage.user_message("**** please", "aW1n")
    with pytest.raises(TypeError, match="a prompt is text or a ChatMessage, not int"):
        await ReActAgent(ScriptedClient([]), "m", input_guardrails=[lambda _: None])(5)
    # Nothing to look at.
    await agent(ChatMessage.user_message(None, "aW1n"))
    await agent.add_user_message("4711")
    assert await agent() == "7: 4711"


async def test_output_guardrails_see_answers_before_they_are_remembered() -> None:
    def mask(text: str) -> str | None:
        return text.replace("4711", "****") if "4711" in text else None

    def secret(text: str) -> None:
        if "secret" in text:
            raise OutputGuardrailTripped("no secrets")

    client = ScriptedClient(["it is 4711", "a secret", "fine"])
    agent = ReActAgent(client, "m", output_guardrails=[mask, secret])
    assert await agent("?") == "it is ****"
    assert agent.messages[-1].content == "it is ****"
    with pytest.raises(OutputGuardrailTripped, match="no secrets"):
        await agent("?")
    assert await agent() == "fine"
    assert "secret" not in str(agent.messages)


@pytest.mark.parametrize("kind", TYPES)
async def test_output_guardrails_name_the_fields_they_want(kind: type[Any]) -> None:
    seen: list[Any] = []

    def rounded(people: int) -> dict[str, int]:
        return {"people": people // 10 * 10}

    def named(name: str, agent: Any) -> None:
        seen.append((name, agent.model_name))

    def unconcerned(area: int) -> None:
        raise AssertionError

    client = ScriptedClient(['{"name": "Rome", "people": 37}'])
    agent = ReActAgent(
        client, "m", response_format=kind, output_guardrails=[rounded, named, unconcerned]
    )
    assert await agent("?") == kind(name="Rome", people=30)
    assert seen == [("Rome", "m")]
    assert agent.messages[-1].content == '{"name": "Rome", "people": 30}'


async def test_what_was_taken_out_is_not_in_the_models_thoughts_either() -> None:
    details = [{"type": "text", "text": "it is 4711"}]
    said = ChatCompletion("1", "m", "it is 4711", reasoning="4711, then", reasoning_details=details)
    client = ScriptedClient([said, said])
    agent = ReActAgent(client, "m", output_guardrails=[lambda text: text.replace("4711", "****")])
    await agent("?")
    assert "4711" not in str(agent.messages)
    # What nobody changed stays whole.
    plain = ReActAgent(client, "m", output_guardrails=[lambda text: None])
    await plain("?")
    assert plain.messages[-1].reasoning_details == details


class Priced(BaseModel, extra="forbid"):
    amount: int = Field(alias="Amount")
    city: City

    @computed_field  # type: ignore[prop-decorator]  # pydantic's way
    @property
    def double(self) -> int:
        return 2 * self.amount


async def test_guardrails_change_models_with_aliases_and_computed_fields() -> None:
    def changed(amount: int, double: int, city: dict[str, Any]) -> dict[str, Any]:
        assert double == 2 * amount
        return {"amount": amount + 1, "city": {**city, "name": "Roma"}}

    reply = '{"Amount": 1, "city": {"name": "Rome", "people": 3}}'
    agent = ReActAgent(
        ScriptedClient([reply]), "m", response_format=Priced, output_guardrails=[changed]
    )
    answer = await agent("?")
    assert (answer.amount, answer.city) == (2, City(name="Roma", people=3))
    assert '"Amount": 2' in str(agent.messages[-1].content)


async def test_a_reply_that_does_not_fit_and_calls_tools_is_no_open_step() -> None:
    class Odd(ScriptedClient):
        async def parse(
            self, model: str, messages: Any, *args: Any, **kwargs: Any
        ) -> ChatCompletion:
            reply = await super().create(model, messages)
            if reply.tool_calls:
                raise StructuredOutputError("calls and text", reply)
            reply.parsed = City(name="Rome", people=3)
            return reply

    agent = ReActAgent(Odd([call("work", name="a"), ROME]), "m", response_format=City)
    assert (await agent("?")).people == 3
    assert_valid(agent.messages)


async def test_what_a_guardrail_puts_in_is_checked() -> None:
    def nonsense(people: int) -> dict[str, str]:
        return {"people": "many"}

    agent = ReActAgent(
        ScriptedClient([ROME]), "m", response_format=City, output_guardrails=[nonsense]
    )
    with pytest.raises(ValueError, match="people"):
        await agent("?")


async def test_the_guardrails_of_tools_are_for_the_model() -> None:
    def no_rome(city: str) -> None:
        if city == "Rome":
            raise ToolInputGuardrailTripped("not Rome")

    @tool(input_guardrails=[no_rome])
    def weather(city: str) -> str:
        return f"sunny in {city}"

    client = ScriptedClient([[call("weather", city="Rome"), call("weather", city="Bonn")], "x"])
    agent = ReActAgent(client, "m", tools=[weather])
    assert await agent("?") == "x"
    results = [message.content for message in agent.messages if message.role == "tool"]
    assert results == ['{"error": "not Rome"}', "sunny in Bonn"]
    assert_valid(agent.messages)
