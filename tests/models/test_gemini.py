"""What goes to Gemini and what comes back."""

from __future__ import annotations

import base64
import re
from typing import Any

import anyio
import google.auth.exceptions
import pydantic
import pytest

from motus.models import (
    ChatCompletion,
    ChatMessage,
    FunctionCall,
    GeminiChatClient,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelRateLimitError,
    ReasoningConfig,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolDefinition,
)
from tests.models.providers import HELLO, KEY
from tests.models.wire import gemini as wire
from tests.models.wire.server import Reply, wire_server

pytestmark = pytest.mark.anyio

PRO = "gemini-3-pro-preview"
OLDER = "gemini-2.5-flash"
PNG = "iVBORw0KGgoAAAANSUhEUg=="
ADD = ToolDefinition("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
SIGNATURE = base64.b64encode(b"signed").decode()


def camel(value: Any) -> Any:
    """With every name in one spelling: the API takes both, and the SDK sends both."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"_([a-z])", lambda found: found[1].upper(), name): camel(item)
        for name, item in value.items()
    }


async def sent(
    messages: list[ChatMessage], *args: Any, model: str = PRO, **kwargs: Any
) -> dict[str, Any]:
    """The body of the request for a call of `create`."""
    async with (
        wire_server(wire.content({"text": "Hello!"})) as server,
        GeminiChatClient(KEY, base_url=server.url) as client,
    ):
        await client.create(model, messages, *args, **kwargs)
        body: dict[str, Any] = camel(server.last)
        assert server.requests[-1].path.endswith(f"/models/{model}:generateContent")
        assert server.requests[-1].headers["x-goog-api-key"] == KEY
    return body


async def received(*replies: Reply) -> ChatCompletion:
    async with (
        wire_server(*replies) as server,
        GeminiChatClient(KEY, base_url=server.url) as client,
    ):
        return await client.create(PRO, HELLO)


async def test_a_conversation() -> None:
    calls = [ToolCall(call_id, FunctionCall("add", '{"a": 1}')) for call_id in ("c1", "c2")]
    messages = [
        ChatMessage.system_message("Be brief."),
        ChatMessage.user_message("Add."),
        ChatMessage.assistant_message("Well,", calls),
        ChatMessage.tool_message("1", "c1", "add"),
        ChatMessage.tool_message('{"sum": 2}', "c2", "add"),
        ChatMessage.assistant_message("Three."),
        ChatMessage.user_message("Thanks."),
    ]
    body = await sent(messages, [ADD], model=OLDER)
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    call = {"name": "add", "args": {"a": 1}}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Add."}]},
        {
            "role": "model",
            "parts": [
                {"text": "Well,"},
                {"functionCall": {**call, "id": "c1"}},
                {"functionCall": {**call, "id": "c2"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "add", "response": {"result": 1}}},
                {"functionResponse": {"id": "c2", "name": "add", "response": {"sum": 2}}},
            ],
        },
        {"role": "model", "parts": [{"text": "Three."}]},
        {"role": "user", "parts": [{"text": "Thanks."}]},
    ]
    declaration = body["tools"][0]["functionDeclarations"][0]
    assert declaration["name"] == "add"
    assert declaration["parametersJsonSchema"] == ADD.parameters


async def test_signatures_are_sent_back_where_they_were() -> None:
    first = wire.content(
        {"text": "Hm.", "thought": True},
        {"text": "Adding.", "thoughtSignature": SIGNATURE},
        wire.call("add", {"a": 1}, SIGNATURE),
        wire.call("add", {"a": 2}),
    )
    async with (
        wire_server(first, wire.content({"text": "3"})) as server,
        GeminiChatClient(KEY, base_url=server.url) as client,
    ):
        completion = await client.create(PRO, HELLO, [ADD])
        assert (completion.content, completion.reasoning) == ("Adding.", "Hm.")
        results = [
            ChatMessage.tool_message("1", call.id, "add") for call in completion.tool_calls or []
        ]
        await client.create(PRO, [*HELLO, completion.to_message(), *results], [ADD])
    text, one, two = server.last["contents"][1]["parts"]
    assert text == {"text": "Adding.", "thoughtSignature": SIGNATURE}
    assert (one["functionCall"]["args"], one["thoughtSignature"]) == ({"a": 1}, SIGNATURE)
    assert "thoughtSignature" not in two


async def test_calls_of_another_model_are_accepted() -> None:
    calls = [ToolCall(call_id, FunctionCall("add", "[1]")) for call_id in ("c1", "c2")]
    messages = [
        *HELLO,
        ChatMessage.assistant_message(None, calls, reasoning_details=[{"type": "thinking"}]),
        ChatMessage.tool_message(None, "c1", "add"),
        ChatMessage.tool_message("text", "c2", "add"),
    ]
    contents = (await sent(messages))["contents"]
    first, second = contents[1]["parts"]
    assert base64.b64decode(first["thoughtSignature"]) == b"skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    assert first["functionCall"]["args"] == {"arguments": "[1]"}
    assert [part["functionResponse"]["response"] for part in contents[2]["parts"]] == [
        {"result": None},
        {"result": "text"},
    ]
    assert "thoughtSignature" not in str(await sent(messages, model=OLDER))


async def test_pictures() -> None:
    messages = [
        ChatMessage.user_message("What is it?", PNG),
        ChatMessage.assistant_message(None, [ToolCall("c1", FunctionCall("look", "{}"))]),
        ChatMessage.tool_message("a map", "c1", "look", "data:image/webp;base64,UklGRg=="),
        ChatMessage.tool_message("2", "c2", "look"),
    ]
    contents = (await sent(messages))["contents"]
    assert contents[0]["parts"][1]["inlineData"] == {"mimeType": "image/png", "data": PNG}
    one, two, picture = contents[2]["parts"]
    assert one.keys() == two.keys() == {"functionResponse"}
    assert picture["inlineData"]["mimeType"] == "image/webp"


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        (PRO, ReasoningConfig.auto(), {"includeThoughts": True}),
        (PRO, ReasoningConfig.light(), {"includeThoughts": True, "thinkingLevel": "LOW"}),
        (PRO, ReasoningConfig(effort="max"), {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        (PRO, ReasoningConfig(budget_tokens=99), {"includeThoughts": True}),
        (PRO, ReasoningConfig.disabled(), {"thinkingLevel": "LOW"}),
        ("gemini-3.5-flash", ReasoningConfig.disabled(), {"thinkingLevel": "MINIMAL"}),
        (OLDER, ReasoningConfig.auto(), {"includeThoughts": True}),
        (OLDER, ReasoningConfig.light(), {"includeThoughts": True}),
        (
            OLDER,
            ReasoningConfig(budget_tokens=99),
            {"includeThoughts": True, "thinkingBudget": 99},
        ),
        (OLDER, ReasoningConfig.disabled(), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", ReasoningConfig.disabled(), {"thinkingBudget": 128}),
        ("gemini-2.0-flash", ReasoningConfig(budget_tokens=99), None),
        ("gemini-2.5-flash-image", ReasoningConfig.auto(), None),
        ("gemma-4-31b-it", ReasoningConfig.auto(), None),
        ("gemini-flash-latest", ReasoningConfig.auto(), {"includeThoughts": True}),
    ],
)
async def test_reasoning(model: str, reasoning: ReasoningConfig, expected: Any) -> None:
    body = await sent(HELLO, None, reasoning, model=model)
    assert body.get("generationConfig", {}).get("thinkingConfig") == expected


class Answer(pydantic.BaseModel):
    number: int


async def test_structured_output() -> None:
    reply = wire.content({"text": '{"number": 42}'})
    async with (
        wire_server(reply, reply, reply) as server,
        GeminiChatClient(KEY, base_url=server.url) as client,
    ):
        completion = await client.parse(PRO, HELLO, Answer, [ADD])
        assert completion.parsed == Answer(number=42)
        config = server.last["generationConfig"]
        assert config["responseMimeType"] == "application/json"
        assert config["responseJsonSchema"]["properties"]["number"]["type"] == "integer"
        # Those before 3 take tools or a schema: the schema goes into the prompt.
        assert (await client.parse(OLDER, HELLO, Answer, [ADD])).parsed == Answer(number=42)
        assert "responseMimeType" not in server.last["generationConfig"]
        assert '"number"' in server.last["systemInstruction"]["parts"][0]["text"]
        await client.parse(OLDER, HELLO, Answer)
        assert server.last["generationConfig"]["responseMimeType"] == "application/json"


async def test_a_stream() -> None:
    reply = Reply.events(
        [
            wire.chunk({"text": "Hm", "thought": True}),
            wire.chunk({"text": "a"}, {"text": "b"}),
            wire.chunk({"text": "", "thoughtSignature": SIGNATURE}, finish="STOP"),
        ]
    )
    async with (
        wire_server(reply) as server,
        GeminiChatClient(KEY, base_url=server.url) as client,
    ):
        *deltas, last = [event async for event in client.stream(PRO, HELLO)]
        assert server.requests[-1].path.endswith(":streamGenerateContent?alt=sse")
    assert deltas == [ReasoningDelta("Hm"), TextDelta("a"), TextDelta("b")]
    assert isinstance(last, ChatCompletion)
    assert (last.id, last.model, last.reasoning) == ("resp-1", "gemini-3-pro", "Hm")
    assert last.reasoning_details == [
        {"type": "gemini.signature", "id": None, "signature": SIGNATURE}
    ]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("IMAGE_RECITATION", "content_filter"),
        ("OTHER", "other"),
        ("MALFORMED_FUNCTION_CALL", "malformed_function_call"),
    ],
)
async def test_why_it_stopped(finish: str, expected: str) -> None:
    assert (await received(wire.content({"text": "x"}, finish=finish))).finish_reason == expected


async def test_a_prompt_that_is_blocked() -> None:
    reply = Reply.of({"promptFeedback": {"blockReason": "SAFETY"}})
    completion = await received(reply)
    assert (completion.content, completion.finish_reason) == (None, "content_filter")


async def test_the_delay_that_google_puts_into_the_body() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}
    limit = wire.error(429, "RESOURCE_EXHAUSTED", "Slow down.", info)
    began = anyio.current_time()
    await received(limit, wire.content({"text": "x"}))
    assert 12.5 <= anyio.current_time() - began < 13
    async with (
        wire_server(limit) as server,
        GeminiChatClient(KEY, base_url=server.url, max_retries=0) as client,
    ):
        with pytest.raises(ModelRateLimitError) as caught:
            await client.create(PRO, HELLO)
    assert caught.value.retry_after == 12.5


async def test_keywords_go_to_the_provider() -> None:
    config = (await sent(HELLO, max_tokens=100, temperature=0.5))["generationConfig"]
    assert (config["maxOutputTokens"], config["temperature"]) == (100, 0.5)


async def test_a_server_without_a_key_and_options_of_the_sdk() -> None:
    from google.genai import types  # heavy, and for this test only

    options = types.HttpOptions(headers={"x-team": "7"})
    for given in (options, {"headers": {"x-team": "7"}}):
        async with (
            wire_server(wire.content({"text": "x"})) as server,
            GeminiChatClient(base_url=server.url, http_options=given) as client,
        ):
            await client.create(PRO, HELLO)
            assert server.requests[0].headers["x-team"] == "7"


def test_nothing_is_tried_again_by_two() -> None:
    with pytest.raises(ValueError, match="use max_retries"):
        GeminiChatClient(KEY, http_options={"retry_options": {"attempts": 3}})


class Credentials:
    """Of Google's kind, without Google."""

    quota_project_id = None

    def __init__(self) -> None:
        self.token = ""
        self.refreshed = 0

    @property
    def valid(self) -> bool:
        return bool(self.token)

    @property
    def expired(self) -> bool:
        return not self.token

    def refresh(self, request: object) -> None:
        self.refreshed += 1
        self.token = "a-token"


class Refused(Credentials):
    def refresh(self, request: object) -> None:
        raise google.auth.exceptions.RefreshError("expired")  # type: ignore[no-untyped-call]  # untyped


class Unreachable(Credentials):
    def refresh(self, request: object) -> None:
        raise google.auth.exceptions.TransportError("no route")  # type: ignore[no-untyped-call]  # untyped


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("credentials", "kind"),
    [(Refused(), ModelAuthenticationError), (Unreachable(), ModelConnectionError)],
)
async def test_no_token(credentials: Credentials, kind: type[Exception]) -> None:
    client = GeminiChatClient(
        vertexai=True, project="p", base_url="http://127.0.0.1:9", credentials=credentials,
        max_retries=0,
    )  # fmt: skip
    with pytest.raises(kind, match="gemini: no token: "):
        await client.create(PRO, HELLO)


def test_no_credentials_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(**_: object) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")  # type: ignore[no-untyped-call]  # untyped

    monkeypatch.setattr("google.auth.default", default)
    with pytest.raises(ModelAuthenticationError, match="gemini: no token: none"):
        GeminiChatClient(vertexai=True)


@pytest.mark.realtime
async def test_vertex_ai() -> None:
    credentials = Credentials()
    async with (
        wire_server(wire.content({"text": "x"}), wire.content({"text": "x"})) as server,
        GeminiChatClient(
            vertexai=True, project="p", base_url=server.url, credentials=credentials
        ) as client,
    ):
        for _ in range(2):
            await client.create(
                PRO,
                [
                    *HELLO,
                    ChatMessage.assistant_message(
                        None, [ToolCall("c1", FunctionCall("add", "{}"))]
                    ),
                ],
            )
        path = server.requests[0].path
        assert server.requests[0].headers["authorization"] == "Bearer a-token"
    assert "/projects/p/locations/us-central1/" in path
    assert credentials.refreshed == 1
    assert "id" not in server.last["contents"][1]["parts"][0]["functionCall"]
