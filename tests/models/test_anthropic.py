"""What goes to Anthropic and what comes back, byte for byte."""

from __future__ import annotations

from typing import Any

import attrs
import pydantic
import pytest

from motus.models import (
    AnthropicChatClient,
    CachePolicy,
    ChatCompletion,
    ChatMessage,
    FunctionCall,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelRateLimitError,
    ModelServerError,
    ReasoningConfig,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolDefinition,
)
from tests.models.providers import HELLO, KEY
from tests.models.wire import anthropic as wire
from tests.models.wire.server import Reply, wire_server

pytestmark = pytest.mark.anyio

OPUS = "claude-opus-4-6"
OLDER = "claude-sonnet-4-5-20250929"
PNG = "iVBORw0KGgoAAAANSUhEUg=="
ADD = ToolDefinition(
    "add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
)
SUB = ToolDefinition("sub")
FIVE_MINUTES = {"type": "ephemeral"}
AN_HOUR = {"type": "ephemeral", "ttl": "1h"}


def calls(*ids: str) -> list[ToolCall]:
    return [ToolCall(call_id, FunctionCall("add", '{"a": 1}')) for call_id in ids]


CONVERSATION = [
    ChatMessage.system_message("Be brief."),
    ChatMessage.user_message("First."),
    ChatMessage.assistant_message("Well,", calls("c1", "c2")),
    ChatMessage.tool_message("1", "c1", "add"),
    ChatMessage.tool_message("2", "c2", "add"),
    ChatMessage.assistant_message("Three."),
    ChatMessage.user_message("Second."),
]


async def sent(
    messages: list[ChatMessage], *args: Any, model: str = OPUS, **kwargs: Any
) -> dict[str, Any]:
    """The body of the request for a call of `create`."""
    reply = wire.message(wire.text(0, "Hello!"))
    async with (
        wire_server(reply) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        await client.create(model, messages, *args, **kwargs)
        body: dict[str, Any] = server.last
        assert server.requests[-1].path == "/v1/messages"
    return body


async def received(*replies: Reply, **kwargs: Any) -> ChatCompletion:
    async with (
        wire_server(*replies) as server,
        AnthropicChatClient(KEY, base_url=server.url, max_retries=0) as client,
    ):
        return await client.create(OPUS, HELLO, **kwargs)


async def test_a_conversation() -> None:
    body = await sent(CONVERSATION, [ADD, SUB], cache_policy="none")
    arguments = {"a": 1}
    assert body["system"] == [{"type": "text", "text": "Be brief."}]
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "First."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Well,"},
                {"type": "tool_use", "id": "c1", "name": "add", "input": arguments},
                {"type": "tool_use", "id": "c2", "name": "add", "input": arguments},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "2"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
        {"role": "user", "content": [{"type": "text", "text": "Second."}]},
    ]
    assert body["tools"] == [
        {"name": "add", "description": "Adds.", "input_schema": ADD.parameters},
        {"name": "sub", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert (body["model"], body["max_tokens"], body["stream"]) == (OPUS, 64_000, True)


async def test_a_strict_tool_is_closed() -> None:
    tool = (await sent(HELLO, [attrs.evolve(ADD, strict=True)]))["tools"][0]
    assert tool["strict"] is True
    assert tool["input_schema"]["additionalProperties"] is False


def breakpoints(body: dict[str, Any]) -> dict[str, Any]:
    """Every breakpoint of a request by its place."""
    found = {}
    for part in ("tools", "system"):
        for i, block in enumerate(body.get(part, [])):
            found[f"{part}[{i}]"] = block.get("cache_control")
    for i, message in enumerate(body["messages"]):
        for j, block in enumerate(message["content"]):
            found[f"messages[{i}][{j}]"] = block.get("cache_control")
    return {place: control for place, control in found.items() if control is not None}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("none", {}),
        ("static", {"tools[1]": FIVE_MINUTES, "system[0]": FIVE_MINUTES}),
        (
            "auto",
            {"tools[1]": FIVE_MINUTES, "system[0]": FIVE_MINUTES, "messages[2][1]": FIVE_MINUTES},
        ),
        (
            CachePolicy.AUTO_1H,
            {"tools[1]": AN_HOUR, "system[0]": AN_HOUR, "messages[2][1]": AN_HOUR},
        ),
    ],
)
async def test_breakpoints(policy: Any, expected: dict[str, Any]) -> None:
    body = await sent(CONVERSATION, [ADD, SUB], cache_policy=policy)
    assert breakpoints(body) == expected


async def test_breakpoints_move_with_the_conversation() -> None:
    # By default; the results of one step are the end of one turn.
    assert breakpoints(await sent(CONVERSATION[:2])) == {"system[0]": FIVE_MINUTES}
    assert breakpoints(await sent(CONVERSATION[:5])) == {
        "system[0]": FIVE_MINUTES,
        "messages[0][0]": FIVE_MINUTES,
    }
    assert breakpoints(await sent(HELLO)) == {}


async def test_what_the_caller_gives_is_not_changed() -> None:
    system = [{"type": "text", "text": "Mine."}]
    body = await sent(HELLO, system=system)
    assert body["system"] == [{**system[0], "cache_control": FIVE_MINUTES}]
    assert system == [{"type": "text", "text": "Mine."}]


async def test_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match="always"):
        await AnthropicChatClient(KEY).create(OPUS, HELLO, cache_policy="always")


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        (OPUS, ReasoningConfig.auto(), {"type": "adaptive"}, None),
        ("claude-sonnet-4-6", ReasoningConfig.auto(), {"type": "adaptive"}, None),
        ("claude-opus-4-7", ReasoningConfig(effort="max"), {"type": "adaptive"}, "max"),
        (OPUS, ReasoningConfig.light(), {"type": "adaptive"}, "low"),
        (OPUS, ReasoningConfig(budget_tokens=5000), {"type": "adaptive"}, None),
        (OPUS, ReasoningConfig.disabled(), {"type": "disabled"}, None),
        ("claude-fable-5", ReasoningConfig.auto(), {"type": "adaptive"}, None),
        ("claude-fable-5", ReasoningConfig.disabled(), None, "low"),
        ("claude-mythos-preview", ReasoningConfig.disabled(), None, "low"),
        (OLDER, ReasoningConfig.auto(), None, None),
        (OLDER, ReasoningConfig(effort="high"), None, None),
        (OLDER, ReasoningConfig(budget_tokens=5000), 5000, None),
        (OLDER, ReasoningConfig(budget_tokens=5), 1024, None),
        (OLDER, ReasoningConfig(budget_tokens=999_999), 63_999, None),
        (OLDER, ReasoningConfig.disabled(), None, None),
        ("claude-opus-4-5", ReasoningConfig(effort="high"), None, "high"),
        ("claude-3-5-haiku-20241022", ReasoningConfig(budget_tokens=5000), None, None),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK, for old models
async def test_reasoning(
    model: str, reasoning: ReasoningConfig, thinking: Any, effort: str | None
) -> None:
    body = await sent(HELLO, None, reasoning, model=model)
    if isinstance(thinking, int):
        thinking = {"type": "enabled", "budget_tokens": thinking}
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


async def test_a_budget_leaves_something_to_say() -> None:
    thinks = ReasoningConfig(budget_tokens=5000)
    haiku = "claude-haiku-4-5"
    body = await sent(HELLO, None, thinks, model=haiku, max_tokens=1500)
    assert body["thinking"]["budget_tokens"] == 1499
    # The least budget would be more than all that there is.
    assert "thinking" not in await sent(HELLO, None, thinks, model=haiku, max_tokens=1024)


async def test_thoughts_are_sent_back_as_they_came() -> None:
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    first = wire.message(
        wire.thinking(0, "Let me add.", "sig=="),
        wire.block(1, redacted),
        wire.text(2, "Adding."),
        wire.tool_use(3, "c1", "add", '{"a": 1}'),
        stop_reason="tool_use",
    )
    async with (
        wire_server(first, wire.message(wire.text(0, "1"))) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        completion = await client.create(OPUS, HELLO, [ADD])
        assert completion.reasoning == "Let me add."
        result = ChatMessage.tool_message("1", "c1", "add")
        await client.create(OPUS, [*HELLO, completion.to_message(), result], [ADD])
    assert server.last["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Let me add.", "signature": "sig=="},
        redacted,
        {"type": "text", "text": "Adding."},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
    ]


async def test_thoughts_keep_their_places() -> None:
    blocks = [
        wire.thinking(0, "One.", "s1"),
        wire.text(1, "First, "),
        wire.thinking(2, "Two.", "s2"),
        wire.text(3, "then."),
        wire.tool_use(4, "c1", "add"),
    ]
    completion = await received(wire.message(*blocks, stop_reason="tool_use"))
    assert completion.content == "First, then."
    assert completion.reasoning == "One.\n\nTwo."
    message = completion.to_message()
    content = (await sent([*HELLO, message], cache_policy="none"))["messages"][1]["content"]
    kinds = [block["type"] for block in content]
    assert kinds == ["thinking", "text", "thinking", "text", "tool_use"]
    assert content[3] == {"type": "text", "text": "then."}
    # Somebody has changed the text: its places are gone, the thoughts stay.
    changed = attrs.evolve(message, content="Then.")
    content = (await sent([*HELLO, changed], cache_policy="none"))["messages"][1]["content"]
    assert [block["type"] for block in content] == ["thinking", "thinking", "text", "tool_use"]


async def test_pictures() -> None:
    shown = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    messages = [
        ChatMessage.user_message("What is it?", PNG),
        ChatMessage.assistant_message(None, calls("c1"), base64_image=PNG),
        ChatMessage.tool_message("a map", "c1", "add", f"data:image/png;base64,{PNG}"),
        ChatMessage.user_message(None, "/9j/4AAQ"),
    ]
    body = await sent(messages, cache_policy="none")
    assert body["messages"][0]["content"] == [shown, {"type": "text", "text": "What is it?"}]
    result, picture, jpeg = body["messages"][2]["content"]
    assert result["content"] == [{"type": "text", "text": "a map"}, shown]
    assert picture == shown
    assert jpeg["source"]["media_type"] == "image/jpeg"


async def test_what_another_provider_has_left_is_made_valid() -> None:
    messages = [
        ChatMessage.user_message("Add."),
        ChatMessage.assistant_message(
            "  ",
            [ToolCall("call:1.x", FunctionCall("add", "{not json"))],
            reasoning_details=[{"type": "reasoning.text", "text": "hm"}],
        ),
        ChatMessage.tool_message("", "call:1.x", "add"),
        ChatMessage.assistant_message(""),
        ChatMessage.user_message("Again."),
    ]
    body = await sent(messages, cache_policy="none")
    first, assistant, user = body["messages"]
    assert first["role"] == "user"
    assert assistant["content"] == [
        {"type": "tool_use", "id": "call_1_x", "name": "add", "input": {"arguments": "{not json"}}
    ]
    assert user["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1_x", "content": ""},
        {"type": "text", "text": "Again."},
    ]


async def test_structured_output() -> None:
    class Answer(pydantic.BaseModel):
        number: int = pydantic.Field(ge=1)

    reply = wire.message(wire.text(0, '{"number": 42}'))
    async with (
        wire_server(reply) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        completion = await client.parse(OPUS, HELLO, Answer, [ADD], ReasoningConfig.light())
    assert completion.parsed == Answer(number=42)
    config = server.last["output_config"]
    assert config["effort"] == "low"
    assert config["format"]["type"] == "json_schema"
    assert config["format"]["schema"]["additionalProperties"] is False
    assert "minimum" not in config["format"]["schema"]["properties"]["number"]


@pytest.mark.parametrize("kind", [dict[str, int], list[Any], tuple[int, str]])
async def test_a_type_that_strict_mode_does_not_know(kind: Any) -> None:
    """A schema without its open parts would allow nothing in their place."""
    text = {dict: '{"a": 1}', list: '{"value": [1]}', tuple: '{"value": [1, "a"]}'}
    reply = wire.message(wire.text(0, text[kind.__origin__]))
    async with (
        wire_server(reply) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        completion = await client.parse(OPUS, HELLO, kind)
    assert completion.parsed in ({"a": 1}, [1], (1, "a"))
    assert "output_config" not in server.last
    assert "JSON that fits this schema" in server.last["system"][-1]["text"]


async def test_other_settings_of_the_output_go_with_a_schema() -> None:
    async with (
        wire_server(wire.message(wire.text(0, '{"value": 1}'))) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        await client.parse(OPUS, HELLO, int, output_config={"effort": "medium"})
    assert server.last["output_config"].keys() == {"format", "effort"}


async def test_a_server_without_a_key() -> None:
    async with (
        wire_server(wire.message(wire.text(0, "x"))) as server,
        AnthropicChatClient(base_url=server.url) as client,
    ):
        await client.create(OPUS, HELLO, extra_headers={"x-team": "7"})
    headers = server.requests[0].headers
    assert not headers.keys() & {"authorization", "x-api-key"}
    assert headers["x-team"] == "7"


async def test_other_ways_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-the-environment")
    replies = [wire.message(wire.text(0, "x")), wire.error(401, "x", "Who is a-token?")]
    async with (
        wire_server(*replies) as server,
        AnthropicChatClient(base_url=server.url, auth_token="a-token") as client,
    ):
        await client.create(OPUS, HELLO)
        with pytest.raises(ModelAuthenticationError, match=r"Who is \*\*\*\?"):
            await client.create(OPUS, HELLO)
    assert server.requests[0].headers["authorization"] == "Bearer a-token"
    assert "x-api-key" not in server.requests[0].headers


async def test_a_stream_of_everything() -> None:
    reply = wire.message(
        wire.thinking(0, "Hm.", "sig"),
        wire.text(1, "We", "ll"),
        wire.tool_use(2, "c1", "add", '{"a"', ": 1}"),
        wire.tool_use(3, "c2", "sub"),
        stop_reason="tool_use",
    )
    async with (
        wire_server(reply) as server,
        AnthropicChatClient(KEY, base_url=server.url) as client,
    ):
        *deltas, last = [event async for event in client.stream(OPUS, HELLO)]
    assert deltas == [
        ReasoningDelta("Hm."),
        TextDelta("We"),
        TextDelta("ll"),
        ToolCallDelta(0, "c1", "add"),
        ToolCallDelta(0, arguments='{"a"'),
        ToolCallDelta(0, arguments=": 1}"),
        ToolCallDelta(1, "c2", "sub"),
    ]
    assert isinstance(last, ChatCompletion)
    assert [call.function.arguments for call in last.tool_calls or []] == ['{"a": 1}', "{}"]


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
async def test_why_it_stopped(stop_reason: str, expected: str) -> None:
    reply = wire.message(wire.text(0, "..."), stop_reason=stop_reason)
    assert (await received(reply)).finish_reason == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", ModelServerError),
        ("rate_limit_error", ModelRateLimitError),
        ("api_error", ModelServerError),
        ("something_new", ModelServerError),
    ],
)
async def test_an_error_in_mid_stream(kind: str, expected: type[Exception]) -> None:
    body = {"type": kind, "message": "Sorry."}
    reply = Reply.events([wire.start(), *wire.text(0, "x"), wire.event("error", error=body)])
    with pytest.raises(expected, match=r"anthropic: .*Sorry"):
        await received(reply)


async def test_a_stream_without_its_last_event_is_not_whole() -> None:
    with pytest.raises(ModelConnectionError, match="before the reply was whole"):
        await received(Reply.events([wire.start(), *wire.text(0, "x"), *wire.end("end_turn")[:1]]))


async def test_usage_of_the_long_cache() -> None:
    created = {"ephemeral_1h_input_tokens": 7, "ephemeral_5m_input_tokens": 3}
    usage = {"output_tokens": 20, "cache_creation": created}
    delta = wire.event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    reply = Reply.events([wire.start(), *wire.text(0, "x"), delta, wire.event("message_stop")])
    assert (await received(reply)).usage["cache_creation_1h_input_tokens"] == 7


async def test_keywords_go_to_the_provider() -> None:
    body = await sent(HELLO, max_tokens=100, temperature=0.5, top_k=3)
    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (100, 0.5, 3)
