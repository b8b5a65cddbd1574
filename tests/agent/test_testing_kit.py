"""The stand-ins for models that are there for the tests of users."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx2
import pytest
from pydantic import BaseModel

from motus.agent import ReActAgent
from motus.messages import ChatCompletion, ChatMessage, ToolDefinition
from motus.models import OpenAIChatClient
from motus.models.base import BaseChatClient, ReasoningConfig, TextDelta, ToolCallDelta
from motus.models.errors import ModelServerError, StructuredOutputError
from motus.models.remote import RemoteChatClient
from motus.testing import (
    RealModelCallError,
    RecordingClient,
    ReplayingClient,
    ReplayMissError,
    ScriptedClient,
    ScriptExhaustedError,
    UnforeseenError,
    answer_interrupts,
    call,
    forbid_model_calls,
)
from motus.testing.transport import RecordingTransport, ReplayingTransport
from motus.tools import FunctionTool, tool
from tests.agent.models import echo

pytestmark = pytest.mark.anyio

HELLO = [ChatMessage.user_message("hello")]


class Answer(BaseModel):
    value: int


# ---------------------------------------------------------------------- scripted


async def test_replies_come_in_order() -> None:
    whole = ChatCompletion("mine", "other", "whole", usage={"prompt_tokens": 1})
    client = ScriptedClient(
        ["text", call("a", x=1), [call("a"), call("b")], whole, Answer(value=1), {"a": [1]}, []]
    )
    replies = [await client.create("m", HELLO) for _ in range(7)]
    assert [reply.content for reply in replies] == [
        "text",
        None,
        None,
        "whole",
        '{"value": 1}',
        '{"a": [1]}',
        "[]",
    ]
    (first,) = replies[1].tool_calls or []
    assert (first.function.name, first.function.arguments) == ("a", '{"x": 1}')
    ids = [one.id for reply in replies for one in reply.tool_calls or ()]
    assert ids == ["call_1", "call_2", "call_3"]
    assert (replies[3].id, replies[3].model, replies[3].usage) == (
        "mine",
        "other",
        {"prompt_tokens": 1},
    )
    assert replies[0].usage["total_tokens"] > 0
    assert (replies[0].finish_reason, replies[1].finish_reason) == ("stop", "tool_calls")
    assert client.replies_left == 0
    with pytest.raises(ScriptExhaustedError, match=r"no reply to request 8.*hello"):
        await client.create("m", HELLO)


async def test_a_function_may_wait_and_fail() -> None:
    async def script(messages: list[ChatMessage]) -> Any:
        await anyio.sleep(1)
        return ModelServerError("down") if len(messages) > 1 else "up"

    client = ScriptedClient(script, usage={"prompt_tokens": 3})
    reply = await client.create("m", HELLO)
    assert (reply.content, reply.usage) == ("up", {"prompt_tokens": 3})
    with pytest.raises(ModelServerError, match="down"):
        await client.create("m", HELLO * 2)


@pytest.mark.parametrize("replies", ["hello", {"a": 1}])
def test_a_single_reply_is_no_list(replies: Any) -> None:
    with pytest.raises(TypeError, match=r"the replies must be a list: pass \[.*\]"):
        ScriptedClient(replies)


async def test_requests_can_be_looked_at() -> None:
    client = ScriptedClient(echo)
    tools = [ToolDefinition("t")]
    await client.create("m", HELLO, tools, ReasoningConfig.light(), temperature=0)
    (request,) = client.requests
    assert (request.model, request.messages, request.tools) == ("m", HELLO, tools)
    assert (request.reasoning.effort, request.response_format) == ("low", None)
    assert request.options == {"temperature": 0}


async def test_structured_replies_are_checked() -> None:
    client = ScriptedClient([Answer(value=1), '{"value": "x"}', call("a")])
    assert (await client.parse("m", HELLO, Answer)).parsed == Answer(value=1)
    assert client.requests[0].response_format is Answer
    with pytest.raises(StructuredOutputError, match="value"):
        await client.parse("m", HELLO, Answer)
    assert (await client.parse("m", HELLO, Answer)).parsed is None


async def test_replies_can_be_streamed() -> None:
    client = ScriptedClient(["text", call("a", x=1)])
    events = [event async for event in client.stream("m", HELLO)]
    assert events[0] == TextDelta("text")
    assert isinstance(events[-1], ChatCompletion)
    events = [event async for event in client.stream("m", HELLO)]
    assert events[0] == ToolCallDelta(0, "call_1", "a", '{"x": 1}')


async def test_the_end_of_a_specialists_script_is_the_end_of_the_test() -> None:
    specialist = ReActAgent(ScriptedClient([]), "m")
    boss = ReActAgent(
        ScriptedClient([call("specialist", request="x"), "done"]), "m", tools=[specialist]
    )
    with pytest.raises(ScriptExhaustedError):
        await boss("?")


# ---------------------------------------------------------------------- answers of people


@tool(requires_approval=True)
async def release() -> str:
    """Release it."""
    return "it is out"


async def test_a_question_without_an_answer_is_the_end_of_the_test() -> None:
    agent = ReActAgent(ScriptedClient([call("release"), "done"]), "m", tools=[release])
    going_on = False
    with (
        pytest.raises(UnforeseenError, match=r"no answer is left .*'release'"),
        answer_interrupts([]),
    ):
        await agent("?")
        going_on = True
    assert not going_on


async def test_a_question_that_became_a_result_is_so_too() -> None:
    with pytest.raises(UnforeseenError, match="no answer is left"), answer_interrupts([]):
        assert "no answer is left" in await FunctionTool(release).run("{}")


async def test_answers_must_be_asked_for() -> None:
    yes = {"approved": True}
    with (
        pytest.raises(UnforeseenError, match="answers that were not asked for: 1 of 2"),
        answer_interrupts([yes, yes]),
    ):
        await FunctionTool(release).run("{}")
    with answer_interrupts(itertools.repeat(yes)):
        await FunctionTool(release).run("{}")
    # What went wrong before is what is to be seen.
    with pytest.raises(LookupError), answer_interrupts([yes]):
        raise LookupError
    with (
        pytest.raises(TypeError, match=r"must be a list: pass \[{'approved': True}\]"),
        answer_interrupts(yes),
    ):
        pytest.fail("the block has begun")


# ---------------------------------------------------------------------- recorded


async def test_what_was_recorded_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "weather.jsonl"

    async def converse(client: BaseChatClient) -> list[Any]:
        def weather(city: str) -> str:
            """The weather in a city."""
            return "sunny"

        agent = ReActAgent(client, "m", tools=[weather])
        typed = ReActAgent(client, "m", response_format=Answer)
        return [await agent("?"), agent.messages, agent.usage, await typed("?")]

    script = ScriptedClient([call("weather", city="Rome"), "sunny", '{"value": 7}'])
    recorded = await converse(RecordingClient(script, path))
    assert recorded[0] == "sunny"
    assert recorded[3] == Answer(value=7)
    assert len(path.read_text().splitlines()) == 3
    replaying = ReplayingClient(path)
    assert replaying.replies_left == 3
    assert await converse(replaying) == recorded
    assert replaying.replies_left == 0


async def test_a_miss_is_loud_and_says_what_is_different(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(ReplayMissError, match="there is no recording"):
        ReplayingClient(path)
    await RecordingClient(ScriptedClient(["hi"]), path).create("m", HELLO)
    client = ReplayingClient(path)
    with pytest.raises(ReplayMissError) as miss:
        await client.create("m", [ChatMessage.user_message("hullo")])
    assert '-   "content": "hello"' in str(miss.value)
    assert '+   "content": "hullo"' in str(miss.value)
    with pytest.raises(ReplayMissError, match="was not recorded"):
        await client.create("another", HELLO)
    assert (await client.create("m", HELLO)).content == "hi"
    with pytest.raises(ReplayMissError, match="less often"):
        await client.create("m", HELLO)
    RecordingClient(ScriptedClient([]), path)
    with pytest.raises(ReplayMissError, match="nothing was recorded"):
        await ReplayingClient(path).create("m", HELLO)


def completion(content: str) -> dict[str, Any]:
    """A reply as OpenAI's API sends it."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o",
        "choices": [choice], "usage": usage,
    }  # fmt: skip


@attrs.define
class Provider(httpx2.AsyncBaseTransport):
    """A provider that answers everything alike."""

    asked: int = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.asked += 1
        headers = {"x-request-owner": "nobody's business"}
        return httpx2.Response(200, json=completion("hi"), headers=headers, request=request)


@pytest.mark.realtime
async def test_http_is_recorded_below_the_sdk(tmp_path: Path) -> None:
    path = tmp_path / "http.jsonl"
    provider = Provider()

    async def ask(transport: httpx2.AsyncBaseTransport, text: str) -> str | None:
        async with httpx2.AsyncClient(transport=transport) as http:
            client = OpenAIChatClient(
                api_key="sk-very-secret", base_url="https://models.test/v1", http_client=http
            )
            reply = await client.create("gpt-4o", [ChatMessage.user_message(text)])
            return reply.content

    assert await ask(RecordingTransport(path, provider), "hello") == "hi"
    assert provider.asked == 1
    text = path.read_text()
    assert "secret" not in text
    assert "nobody" not in text
    assert json.loads(text)["request"]["url"] == "https://models.test/v1/chat/completions"
    replaying = ReplayingTransport(path)
    assert replaying.replies_left == 1
    assert await ask(replaying, "hello") == "hi"
    assert provider.asked == 1
    # No SDK takes it for a failure of the network that it may try again.
    with pytest.raises(ReplayMissError, match="less often"):
        await ask(replaying, "hello")
    with pytest.raises(ReplayMissError, match="hullo"):
        await ask(ReplayingTransport(path), "hullo")


# ---------------------------------------------------------------------- forbidden


async def test_real_model_calls_are_forbidden_in_the_block() -> None:
    create = RemoteChatClient.create
    with forbid_model_calls():
        client = OpenAIChatClient(api_key="k", base_url="http://127.0.0.1:1/v1")
        agent = ReActAgent(client, "gpt-4o")
        with pytest.raises(RealModelCallError, match=r"OpenAIChatClient\.create.*'gpt-4o'"):
            await agent("?")
        typed = ReActAgent(client, "gpt-4o", response_format=Answer)
        with pytest.raises(RealModelCallError, match=r"OpenAIChatClient\.parse"):
            await typed("?")
        with pytest.raises(RealModelCallError, match=r"OpenAIChatClient\.stream"):
            client.stream("gpt-4o", HELLO)
        assert await ReActAgent(ScriptedClient(echo), "m")("a") == "1: a"
    assert RemoteChatClient.create is create
