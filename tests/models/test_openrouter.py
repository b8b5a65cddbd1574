"""What is different where OpenAI's words are spoken by OpenRouter."""

from __future__ import annotations

from typing import Any

import pytest

from motus.models import (
    ChatMessage,
    FunctionCall,
    ModelRateLimitError,
    ModelServerError,
    OpenRouterChatClient,
    ReasoningConfig,
    ToolCall,
)
from tests.models.providers import HELLO, KEY
from tests.models.wire import openai as wire
from tests.models.wire.server import Reply, wire_server

pytestmark = pytest.mark.anyio

CLAUDE = "anthropic/claude-opus-4.6"
TEXT = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
WHOLE = {**TEXT, "text": "Let me see.", "signature": "sig"}


async def sent(
    messages: list[ChatMessage], *args: Any, model: str = CLAUDE, **kwargs: Any
) -> dict[str, Any]:
    async with (
        wire_server(wire.completion()) as server,
        OpenRouterChatClient(KEY, f"{server.url}/v1") as client,
    ):
        await client.create(model, messages, *args, **kwargs)
        body: dict[str, Any] = server.last
    return body


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        (CLAUDE, ReasoningConfig.auto(), {"enabled": True}),
        ("anthropic/claude-sonnet-4.5", ReasoningConfig.auto(), None),
        ("openai/gpt-4o", ReasoningConfig.auto(), None),
        ("openai/gpt-5.2", ReasoningConfig(effort="max"), {"effort": "xhigh"}),
        ("openai/gpt-5.2", ReasoningConfig.light(), {"effort": "low"}),
        (CLAUDE, ReasoningConfig(budget_tokens=5000), {"max_tokens": 5000}),
        (CLAUDE, ReasoningConfig.disabled(), {"enabled": False}),
    ],
)
async def test_reasoning(model: str, reasoning: ReasoningConfig, expected: Any) -> None:
    body = await sent(HELLO, None, reasoning, model=model)
    assert body.get("reasoning") == expected
    assert "reasoning_effort" not in body


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_details_are_sent_back_as_they_came(streamed: bool) -> None:
    call = wire.call("c1", "add", "{}")
    encrypted = {"type": "reasoning.encrypted", "data": "x", "index": 1}
    first = wire.completion(None, call, reasoning_details=[WHOLE, encrypted])
    if streamed:
        first = wire.stream(
            wire.chunk({"reasoning_details": [{**TEXT, "text": "Let me "}]}),
            wire.chunk({"reasoning_details": [{**TEXT, "text": "see."}]}),
            wire.chunk({"reasoning_details": [{**TEXT, "text": "", "signature": "sig"}]}),
            wire.chunk({"reasoning_details": [encrypted]}),
            wire.chunk({"tool_calls": [{"index": 0, **call}]}),
        )
    async with (
        wire_server(first, wire.completion()) as server,
        OpenRouterChatClient(KEY, f"{server.url}/v1") as client,
    ):
        if streamed:
            async for _ in (stream := client.stream(CLAUDE, HELLO)):
                pass
            completion = stream.completion
        else:
            completion = await client.create(CLAUDE, HELLO)
        assert completion is not None
        result = ChatMessage.tool_message("1", "c1", "add")
        await client.create(CLAUDE, [*HELLO, completion.to_message(), result])
    assert server.last["messages"][1]["reasoning_details"] == [WHOLE, encrypted]


async def test_details_of_other_providers_stay_here() -> None:
    foreign = ChatMessage.assistant_message("x", reasoning_details=[{"type": "thinking"}])
    assert "reasoning_details" not in (await sent([*HELLO, foreign]))["messages"][1]


CALL = ToolCall("c1", FunctionCall("add", "{}"))
CONVERSATION = [
    ChatMessage.system_message("Be brief."),
    ChatMessage.user_message("First."),
    ChatMessage.assistant_message(None, [CALL]),
    ChatMessage.tool_message("1", "c1", "add"),
    ChatMessage.assistant_message("One."),
    ChatMessage.user_message("Second."),
]
MARK = {"type": "ephemeral"}


async def test_breakpoints_for_claude_only() -> None:
    wired = (await sent(CONVERSATION))["messages"]
    marked = {
        i: message["content"]
        for i, message in enumerate(wired)
        if "cache_control" in str(message["content"])
    }
    assert marked == {
        0: [{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        3: [{"type": "text", "text": "1", "cache_control": MARK}],
    }
    assert "cache_control" not in str(await sent(CONVERSATION, model="openai/gpt-4o"))
    assert "cache_control" not in str(await sent(CONVERSATION, cache_policy="none"))
    static = (await sent(CONVERSATION, cache_policy="static"))["messages"]
    assert "cache_control" in str(static[0])
    assert "cache_control" not in str(static[1:])


async def test_an_error_of_the_provider_behind_it_comes_with_status_200() -> None:
    reply = Reply.of({"error": {"code": 429, "message": "Slow down."}})
    async with (
        wire_server(reply) as server,
        OpenRouterChatClient(KEY, f"{server.url}/v1") as client,
    ):
        with pytest.raises(ModelRateLimitError, match="openrouter: 429: Slow down"):
            await client.create(CLAUDE, HELLO)


async def test_an_error_in_the_place_of_the_reply() -> None:
    choice = {"index": 0, "finish_reason": "error", "message": {"role": "assistant"}}
    choice["error"] = {"code": 502, "message": "It broke down."}
    async with (
        wire_server(Reply.of({"id": "1", "choices": [choice]})) as server,
        OpenRouterChatClient(KEY, f"{server.url}/v1") as client,
    ):
        with pytest.raises(ModelServerError, match="openrouter: 502: It broke down"):
            await client.create(CLAUDE, HELLO)


async def test_what_the_caller_adds_to_the_body_leaves_the_reasoning() -> None:
    body = await sent(HELLO, extra_body={"provider": {"sort": "price"}}, transforms=[])
    assert body["reasoning"] == {"enabled": True}
    assert body["provider"] == {"sort": "price"}
    assert body["transforms"] == []


async def test_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire_server(wire.completion()) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
        monkeypatch.setenv("OPENROUTER_BASE_URL", f"{server.url}/v1")
        async with OpenRouterChatClient() as client:
            await client.create(CLAUDE, HELLO)
        assert "authorization" not in server.requests[0].headers
        monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
        server.replies.append(wire.completion())
        async with OpenRouterChatClient() as client:
            await client.create(CLAUDE, HELLO)
        assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"
