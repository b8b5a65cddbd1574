"""The same things of each provider, for tests of what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from motus.models import (
    AnthropicChatClient,
    ChatMessage,
    GeminiChatClient,
    OpenAIChatClient,
    OpenRouterChatClient,
)
from motus.models.remote import RemoteChatClient
from tests.models.wire import anthropic, gemini, openai
from tests.models.wire.server import Reply

__all__ = ["HELLO", "KEY", "PROVIDERS", "Provider"]

KEY = "sk-a-very-secret-key"
HELLO = [ChatMessage.user_message("Hello?")]


@attrs.frozen
class Provider:
    """How to make its client, and its replies.

    `partial` is a stream that says "Hel" and then goes on with what is given; `error` is an answer
    with a status, the provider's name for the case, and a message.
    """

    name: str
    make: Callable[..., RemoteChatClient]
    model: str
    path: str
    text: Callable[[], Reply]
    calls: Callable[[], Reply]
    call_stream: Callable[[], Reply]
    partial: Callable[[str], Reply]
    error: Callable[..., Reply]
    overflow: Callable[[], Reply]
    bad_key: Callable[[], Reply]
    streams: Callable[[], Reply]

    def __str__(self) -> str:
        return self.name

    def client(self, url: str, **options: Any) -> RemoteChatClient:
        return self.make(KEY, base_url=url + self.path, **options)


def _openai_error(status: int, message: str, **headers: str) -> Reply:
    return openai.error(status, message, **headers)


def _anthropic_error(status: int, message: str, **headers: str) -> Reply:
    return anthropic.error(status, "api_error", message, **headers)


def _gemini_error(status: int, message: str, **headers: str) -> Reply:
    return gemini.error(status, "UNAVAILABLE", message, **headers)


def _openai_call_stream() -> Reply:
    def piece(index: int, arguments: str, **first: str) -> bytes:
        call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
        if first:
            call["id"] = first["id"]
            call["function"]["name"] = first["name"]
        return openai.chunk({"tool_calls": [call]})

    return openai.stream(
        piece(0, "", id="c1", name="add"),
        piece(0, '{"a"'),
        piece(0, ": 1}"),
        piece(1, '{"b": 2}', id="c2", name="sub"),
        finish="tool_calls",
    )


def _anthropic_calls() -> Reply:
    return anthropic.message(
        anthropic.tool_use(0, "c1", "add", '{"a"', ": 1}"),
        anthropic.tool_use(1, "c2", "sub", '{"b": 2}'),
        stop_reason="tool_use",
    )


def _gemini_calls(streamed: bool) -> Reply:
    calls = [gemini.call("add", {"a": 1}, signature="c2ln"), gemini.call("sub", {"b": 2})]
    if not streamed:
        return gemini.content(*calls)
    return Reply.events([gemini.chunk(calls[0]), gemini.chunk(calls[1], finish="STOP")])


def _openai(name: str, make: Callable[..., RemoteChatClient]) -> Provider:
    return Provider(
        name=name,
        make=make,
        model="gpt-4o",
        path="/v1",
        text=lambda: openai.completion("Hello!"),
        streams=lambda: openai.stream(
            openai.chunk({"role": "assistant", "content": "Hel"}), openai.chunk({"content": "lo!"})
        ),
        calls=lambda: openai.completion(
            None,
            openai.call("c1", "add", '{"a": 1}'),
            openai.call("c2", "sub", '{"b": 2}'),
        ),
        call_stream=_openai_call_stream,
        partial=lambda then: Reply.events([openai.chunk({"content": "Hel"}), then]),
        error=_openai_error,
        overflow=lambda: openai.error(400, "This is too much.", "context_length_exceeded"),
        bad_key=lambda: openai.error(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"),
    )


ANTHROPIC = Provider(
    name="anthropic",
    make=AnthropicChatClient,
    model="claude-opus-4-6",
    path="",
    text=lambda: anthropic.message(anthropic.text(0, "Hello!")),
    streams=lambda: anthropic.message(anthropic.text(0, "Hel", "lo!")),
    calls=_anthropic_calls,
    call_stream=_anthropic_calls,
    partial=lambda then: Reply.events([anthropic.start(), *anthropic.text(0, "Hel"), then]),
    error=_anthropic_error,
    overflow=lambda: anthropic.error(
        400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"
    ),
    bad_key=lambda: anthropic.error(401, "authentication_error", f"invalid x-api-key {KEY}"),
)

GEMINI = Provider(
    name="gemini",
    make=GeminiChatClient,
    model="gemini-3-pro",
    path="",
    text=lambda: gemini.content({"text": "Hello!"}),
    streams=lambda: Reply.events(
        [gemini.chunk({"text": "Hel"}), gemini.chunk({"text": "lo!"}, finish="STOP")]
    ),
    calls=lambda: _gemini_calls(streamed=False),
    call_stream=lambda: _gemini_calls(streamed=True),
    partial=lambda then: Reply.events([gemini.chunk({"text": "Hel"}), then]),
    error=_gemini_error,
    overflow=lambda: gemini.error(
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    bad_key=lambda: gemini.error(
        400,
        "INVALID_ARGUMENT",
        f"API key not valid: {KEY}",
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
    ),
)

PROVIDERS = [
    _openai("openai", OpenAIChatClient),
    _openai("openrouter", OpenRouterChatClient),
    ANTHROPIC,
    GEMINI,
]
