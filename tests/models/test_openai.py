"""What goes to OpenAI, and to the servers that speak like it, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pydantic
import pytest

from motus.models import (
    ChatCompletion,
    ChatMessage,
    FunctionCall,
    ModelBadRequestError,
    ModelRateLimitError,
    ModelServerError,
    OpenAIChatClient,
    ReasoningConfig,
    ReasoningDelta,
    StructuredOutputError,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolDefinition,
)
from tests.models.providers import HELLO, KEY
from tests.models.wire import openai as wire
from tests.models.wire.server import HANG, Reply, wire_server

pytestmark = pytest.mark.anyio

PNG = "iVBORw0KGgoAAAANSUhEUg=="
ADD = ToolDefinition(
    "add",
    "Adds.",
    {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}},
)


async def sent(
    messages: list[ChatMessage], *args: Any, model: str = "gpt-5.2", **kwargs: Any
) -> dict[str, Any]:
    """The body of the request for a call of `create`."""
    async with (
        wire_server(wire.completion()) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        await client.create(model, messages, *args, **kwargs)
        body: dict[str, Any] = server.last
        assert server.requests[-1].path == "/v1/chat/completions"
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    return body


async def received(reply: Reply) -> ChatCompletion:
    async with (
        wire_server(reply) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1", max_retries=0) as client,
    ):
        return await client.create("gpt-4o", HELLO)


async def streamed(reply: Reply) -> list[Any]:
    async with (
        wire_server(reply) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1", max_retries=0) as client,
    ):
        events = [event async for event in client.stream("gpt-4o", HELLO)]
        assert server.last["stream_options"] == {"include_usage": True}
    return events


async def test_a_conversation() -> None:
    call = ToolCall("c1", FunctionCall("add", '{"a": 1}'))
    messages = [
        ChatMessage.system_message("Be brief."),
        ChatMessage("user", "Add.", name="Ada"),
        ChatMessage.assistant_message("", [call]),
        ChatMessage.tool_message("1", "c1", "add"),
        ChatMessage.assistant_message("One."),
    ]
    body = await sent(messages, [ADD])
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add.", "name": "Ada"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "One."},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "add", "description": "Adds.", "parameters": ADD.parameters},
        }
    ]
    assert body.keys() == {"model", "messages", "tools"}


async def test_a_strict_tool() -> None:
    strict = ToolDefinition("add", "Adds.", ADD.parameters, strict=True)
    [tool] = (await sent(HELLO, [strict]))["tools"]
    assert tool["function"]["strict"] is True


async def test_pictures_follow_the_results_of_their_step() -> None:
    calls = [ToolCall(call_id, FunctionCall("look", "{}")) for call_id in ("c1", "c2")]
    messages = [
        ChatMessage.user_message("Look.", PNG),
        ChatMessage.assistant_message(None, calls),
        ChatMessage.tool_message("seen", "c1", "look", "/9j/4AAQ"),
        ChatMessage.tool_message("nothing", "c2", "look"),
    ]
    wired = (await sent(messages))["messages"]
    assert [message["role"] for message in wired] == ["user", "assistant", "tool", "tool", "user"]
    assert wired[0]["content"] == [
        {"type": "text", "text": "Look."},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    assert wired[4]["content"] == [
        {"type": "text", "text": "Picture from the tool look:"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
    ]


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        ("gpt-5.2", ReasoningConfig.auto(), None),
        ("gpt-5.2", ReasoningConfig.light(), "low"),
        ("gpt-5.2", ReasoningConfig(effort="max"), "xhigh"),
        ("gpt-5.2", ReasoningConfig.disabled(), "none"),
        ("gpt-5", ReasoningConfig.disabled(), "minimal"),
        ("gpt-5-mini-2025-08-07", ReasoningConfig(effort="max"), "high"),
        ("o3-mini", ReasoningConfig(effort="max"), "high"),
        ("o3", ReasoningConfig.disabled(), None),
        ("gpt-4o", ReasoningConfig(effort="high"), None),
        ("gpt-4.1-mini", ReasoningConfig.disabled(), None),
        ("openai/gpt-oss-20b", ReasoningConfig(effort="medium"), "medium"),
        ("gpt-5.2", ReasoningConfig(budget_tokens=5000), None),
    ],
)
async def test_reasoning(model: str, reasoning: ReasoningConfig, expected: str | None) -> None:
    assert (await sent(HELLO, None, reasoning, model=model)).get("reasoning_effort") == expected


async def test_structured_output() -> None:
    class Inner(pydantic.BaseModel):
        names: list[str]

    class Answer(pydantic.BaseModel):
        inner: Inner
        note: str | None = None

    text = '{"inner": {"names": ["a"]}, "note": null}'
    async with (
        wire_server(wire.completion(text), wire.completion("{}"), wire.completion(None)) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        completion = await client.parse("gpt-4o", HELLO, Answer)
        assert completion.parsed == Answer(inner=Inner(names=["a"]))
        assert completion.content == text
        wanted = server.last["response_format"]["json_schema"]
        for _ in range(2):
            with pytest.raises(StructuredOutputError, match=r"openai: .* no Answer") as caught:
                await client.parse("gpt-4o", HELLO, Answer)
            assert caught.value.completion.usage["total_tokens"] == 120
    assert (wanted["name"], wanted["strict"]) == ("Answer", True)
    schema = wanted["schema"]
    assert schema["required"] == ["inner", "note"]
    assert schema["properties"]["inner"]["additionalProperties"] is False
    assert "$ref" not in str(schema)


async def test_a_type_that_may_be_anything_is_not_strict() -> None:
    class Anything(pydantic.BaseModel):
        values: list[Any]

    async with (
        wire_server(wire.completion('{"values": [1, "a"]}')) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        completion = await client.parse("gpt-4o", HELLO, Anything)
    assert completion.parsed == Anything(values=[1, "a"])
    assert server.last["response_format"]["json_schema"]["strict"] is False


async def test_a_type_that_strict_mode_does_not_know() -> None:
    class Table(pydantic.BaseModel):
        rows: dict[str, int]

    async with (
        wire_server(wire.completion('{"rows": {"a": 1}}')) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        completion = await client.parse("gpt-4o", HELLO, Table)
    assert completion.parsed == Table(rows={"a": 1})
    assert server.last["response_format"]["json_schema"]["strict"] is False


async def test_a_refusal() -> None:
    completion = await received(wire.completion(None, refusal="I will not."))
    assert (completion.content, completion.finish_reason) == ("I will not.", "content_filter")
    *_, last = await streamed(wire.stream(wire.chunk({"refusal": "No."})))
    assert (last.content, last.finish_reason) == ("No.", "content_filter")


async def test_a_reply_that_calls_tools_has_nothing_parsed() -> None:
    reply = wire.completion(None, wire.call("c1", "add", "{}"))
    async with (
        wire_server(reply) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        completion = await client.parse("gpt-4o", HELLO, int, [ADD])
    assert completion.parsed is None
    assert completion.tool_calls == [ToolCall("c1", FunctionCall("add", "{}"))]


async def test_a_stream_of_tool_calls() -> None:
    def piece(index: int | None, arguments: str, **first: str) -> bytes:
        call: dict[str, Any] = {"function": {"arguments": arguments}}
        if index is not None:
            call["index"] = index
        if first:
            call["id"] = first["id"]
            call["function"]["name"] = first["name"]
        return wire.chunk({"tool_calls": [call]})

    *deltas, last = await streamed(
        wire.stream(
            wire.chunk({"role": "assistant", "content": None}),
            piece(0, "", id="c1", name="add"),
            piece(0, '{"a"'),
            piece(1, "{", id="c2", name="sub"),
            piece(0, ": 1}"),
            piece(1, "}"),
            finish="tool_calls",
        )
    )
    assert deltas == [
        ToolCallDelta(0, "c1", "add"),
        ToolCallDelta(0, arguments='{"a"'),
        ToolCallDelta(1, "c2", "sub", "{"),
        ToolCallDelta(0, arguments=": 1}"),
        ToolCallDelta(1, arguments="}"),
    ]
    assert last.tool_calls == [
        ToolCall("c1", FunctionCall("add", '{"a": 1}')),
        ToolCall("c2", FunctionCall("sub", "{}")),
    ]
    assert last.finish_reason == "tool_calls"
    # Without indices, as some servers send it.
    *_, last = await streamed(
        wire.stream(
            piece(None, "{", id="c1", name="add"),
            piece(None, "}"),
            piece(None, "{}", id="c2", name="sub"),
        )
    )
    assert [call.function.arguments for call in last.tool_calls] == ["{}", "{}"]


async def test_calls_that_all_have_the_same_index() -> None:
    calls = [{**wire.call(f"c{n}", "add", f'{{"a": {n}}}'), "index": 0} for n in (1, 2)]
    *deltas, last = await streamed(wire.stream(*(wire.chunk({"tool_calls": [c]}) for c in calls)))
    assert [delta.index for delta in deltas] == [0, 1]
    assert [call.function.arguments for call in last.tool_calls] == ['{"a": 1}', '{"a": 2}']


async def test_calls_without_ids_get_them() -> None:
    calls = [wire.call("", "add", '{"a": 1}'), wire.call("", "add", '{"a": 2}')]
    completion = await received(wire.completion(None, *calls))
    made = completion.tool_calls or []
    assert [call.function.arguments for call in made] == ['{"a": 1}', '{"a": 2}']
    assert len({call.id for call in made}) == 2
    assert all(call.id for call in made)
    [delta, last] = await streamed(wire.stream(wire.chunk({"tool_calls": calls[:1]})))
    assert delta.id == last.tool_calls[0].id


@pytest.mark.parametrize("finish", ["stop", "function_call"])
async def test_a_forced_call_ends_the_reply_as_any_other(finish: str) -> None:
    reply = wire.completion(None, wire.call("c1", "add", "{}"), finish=finish)
    assert (await received(reply)).finish_reason == "tool_calls"


async def test_thoughts_go_back_to_the_servers_that_want_them() -> None:
    call = wire.call("c1", "add", "{}")
    async with (
        wire_server(
            wire.completion(None, call, reasoning_content="Hm."),
            wire.stream(
                wire.chunk({"reasoning_content": "H"}),
                wire.chunk({"reasoning_content": "a!"}),
                wire.chunk({"content": "1"}),
            ),
            wire.completion(),
        ) as server,
        OpenAIChatClient(KEY, f"{server.url}/v1") as client,
    ):
        first = (await client.create("deepseek-v4", HELLO, [ADD])).to_message()
        conversation = [*HELLO, first, ChatMessage.tool_message("1", "c1", "add")]
        async with client.stream("deepseek-v4", conversation) as stream:
            async for _ in stream:
                pass
        assert stream.completion is not None
        await client.create("deepseek-v4", [*conversation, stream.completion.to_message()])
        thoughts = [m.get("reasoning_content") for m in server.last["messages"]]
    assert thoughts == [None, "Hm.", None, "Ha!"]


async def test_openai_itself_is_sent_no_thoughts() -> None:
    bodies = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(418, json={})

    details = [{"type": "reasoning.text", "text": "Hm."}, {"type": "reasoning_content"}]
    message = ChatMessage.assistant_message("1", reasoning="Hm.", reasoning_details=details)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        for url in (None, "https://ours.openai.azure.com/openai/v1", "https://models.test/v1"):
            client = OpenAIChatClient(KEY, url, http, max_retries=0)
            with pytest.raises(ModelBadRequestError):
                await client.create("gpt-5.2", [*HELLO, message])
    sent_back = [body["messages"][1].keys() - {"role", "content"} for body in bodies]
    assert sent_back == [set(), set(), {"reasoning_details", "reasoning_content"}]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_of_other_servers(field: str) -> None:
    completion = await received(wire.completion("42", **{field: "Hm."}))
    assert completion.reasoning == "Hm."
    chunks = [wire.chunk({field: "Hm"}), wire.chunk({field: "."}), wire.chunk({"content": "42"})]
    *deltas, last = await streamed(wire.stream(*chunks))
    assert deltas == [ReasoningDelta("Hm"), ReasoningDelta("."), TextDelta("42")]
    assert last.reasoning == "Hm."


async def test_errors_of_a_stream() -> None:
    error = {"message": "Sorry.", "code": 429}
    for body, kind in ((error, ModelRateLimitError), ({"message": "Sorry."}, ModelServerError)):
        pieces = [wire.chunk({"content": "x"}), wire.event({"error": body, "choices": []})]
        with pytest.raises(kind, match=r"openai: .*Sorry"):
            await streamed(Reply.events(pieces))
    with pytest.raises(ModelServerError, match="not JSON"):
        await streamed(Reply.events([wire.chunk({"content": "x"}), b"data: {\n\n"]))


async def test_comments_and_other_fields_of_a_stream_are_skipped() -> None:
    pieces = [b": PROCESSING\n\n", b"event: message\nid: 1\n", wire.chunk({"content": "x"})]
    *deltas, _ = await streamed(wire.stream(*pieces))
    assert deltas == [TextDelta("x")]


async def test_a_server_that_does_not_say_why_it_stopped() -> None:
    *_, last = await streamed(Reply.events([wire.chunk({"content": "x"}), wire.DONE]))
    assert (last.content, last.finish_reason) == ("x", "stop")


@pytest.mark.parametrize("end", [b"\n", HANG])
async def test_a_body_that_goes_on_after_the_last_event(end: bytes | str) -> None:
    pieces = [wire.chunk({"content": "x"}, "stop"), wire.DONE, end]
    *_, last = await streamed(Reply.events(pieces))
    assert last.content == "x"


async def test_parts_and_objects_where_there_should_be_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "42"}]
    call = wire.call("c1", "add", "")
    call["function"]["arguments"] = {"a": 1}
    completion = await received(wire.completion(parts, call))  # type: ignore[arg-type]  # of a server
    assert completion.content == "42"
    assert completion.tool_calls == [ToolCall("c1", FunctionCall("add", '{"a": 1}'))]


async def test_a_name_that_would_be_refused_is_left_out() -> None:
    [message] = (await sent([ChatMessage("user", "Hi.", name="Ada Lovelace")]))["messages"]
    assert "name" not in message


async def test_a_server_without_a_key() -> None:
    async with (
        wire_server(wire.completion(), wire.stream(wire.chunk({"content": "x"}))) as server,
        OpenAIChatClient(base_url=f"{server.url}/v1") as client,
    ):
        await client.create("llama", HELLO, extra_headers={"x-team": "7"})
        assert [event async for event in client.stream("llama", HELLO)]
    assert "authorization" not in server.requests[0].headers
    assert "authorization" not in server.requests[1].headers
    assert server.requests[0].headers["x-team"] == "7"


async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire_server(wire.completion()) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v2")
        async with OpenAIChatClient() as client:
            await client.create("gpt-4o", HELLO)
        assert server.requests[0].headers["authorization"] == "Bearer from-the-environment"
        assert server.requests[0].path == "/v2/chat/completions"
