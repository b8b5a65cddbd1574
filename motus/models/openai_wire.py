"""OpenAI's chat completions: from a conversation to a request, from chunks to a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import attrs

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition
from motus.models.base import ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from motus.models.options import ReasoningConfig
from motus.models.wire import make_usage, split_image, token_count

__all__ = ["ReplyAccumulator", "as_chunk", "wire_effort", "wire_messages", "wire_tool"]

# The families that came before the models that think; all that come after do.
_NO_REASONING = re.compile(
    r"(^|/)(gpt-3|gpt-4|chatgpt|davinci|babbage|gpt-5[\w.-]*-chat)", re.ASCII
)
_O_SERIES = re.compile(r"(^|/)o\d", re.ASCII)
_FIRST_GPT_5 = re.compile(r"(^|/)gpt-5(-(mini|nano|pro|codex|20)|$)", re.ASCII)
# Names of speakers that are none of these are refused.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def wire_effort(model: str, reasoning: ReasoningConfig) -> str | None:
    """What the model is told of how much to think; `None` for nothing."""
    if _NO_REASONING.search(model):
        return None
    if not reasoning.enabled:
        if _O_SERIES.search(model):
            return None
        return "minimal" if _FIRST_GPT_5.search(model) else "none"
    if reasoning.effort == "max":
        early = _O_SERIES.search(model) or _FIRST_GPT_5.search(model)
        return "high" if early else "xhigh"
    return reasoning.effort


def as_chunk(body: dict[str, Any]) -> dict[str, Any]:
    """A whole reply, as if it had been streamed in one piece."""
    choice = body["choices"][0]
    return {**body, "choices": [{**choice, "delta": choice["message"]}]}


def _reasoning_text(message: dict[str, Any]) -> str | None:
    # Not a field of OpenAI's; its name depends on the server.
    return message.get("reasoning") or message.get("reasoning_content")


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    prompt = usage.get("prompt_tokens_details") or {}
    output = usage.get("completion_tokens_details") or {}
    cached = token_count(prompt.get("cached_tokens"))
    written = token_count(prompt.get("cache_write_tokens"))
    return make_usage(
        token_count(usage.get("prompt_tokens")) - cached - written,
        usage.get("completion_tokens"),
        cache_read=cached,
        cache_creation=written,
        reasoning=output.get("reasoning_tokens"),
    )


def wire_tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def wire_messages(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation as this API wants it.

    Only a user can show a picture: those of tools and assistants follow in a user's message, after
    all results of that step, which must come right after the calls.
    """
    result: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []

    def show() -> None:
        if pictures:
            result.append({"role": "user", "content": list(pictures)})
            pictures.clear()

    for message in messages:
        if message.role != "tool":
            show()
        result.append(_wire_message(message))
        if message.base64_image and message.role != "user":
            source = f"tool {message.name}" if message.role == "tool" else message.role
            pictures.append({"type": "text", "text": f"Picture from the {source}:"})
            pictures.append(_picture(message.base64_image))
    show()
    return result


def _picture(image: str) -> dict[str, Any]:
    media_type, data = split_image(image)
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _wire_message(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.role == "tool":
        wire["tool_call_id"] = message.tool_call_id
        return wire
    if message.name and _NAME.fullmatch(message.name):
        wire["name"] = message.name
    if message.role == "user" and message.base64_image:
        text = [{"type": "text", "text": message.content}] if message.content else []
        wire["content"] = [*text, _picture(message.base64_image)]
    if message.role == "assistant":
        if message.tool_calls:
            wire["tool_calls"] = [attrs.asdict(call) for call in message.tool_calls]
            wire["content"] = message.content or None
        if details := own_details(message.reasoning_details):
            wire["reasoning_details"] = details
    return wire


def own_details(details: Any) -> list[dict[str, Any]]:
    """Those that came through this API: a conversation may have begun with another provider."""
    if not isinstance(details, list):
        return []
    return [
        detail
        for detail in details
        if isinstance(detail, dict) and str(detail.get("type", "")).startswith("reasoning.")
    ]


def _plain(content: Any) -> str:
    """The text of a reply, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


class ReplyAccumulator:
    """Puts the chunks of a stream, or its only one, together."""

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.text: list[str] = []
        self.refused = False
        self.reasoning: list[str] = []
        self.details: list[dict[str, Any]] = []
        self.calls: dict[int, ToolCall] = {}
        self.finish_reason: str | None = None
        self.usage: dict[str, int] = {}

    def add(self, chunk: dict[str, Any]) -> list[StreamEvent]:
        self.id = chunk.get("id") or self.id
        self.model = chunk.get("model") or self.model
        if chunk.get("usage"):
            self.usage = _usage(chunk["usage"])
        events: list[StreamEvent] = []
        for choice in (chunk.get("choices") or [])[:1]:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            events += self._delta(choice.get("delta") or {})
        return events

    def _delta(self, delta: dict[str, Any]) -> Iterable[StreamEvent]:
        if thought := _reasoning_text(delta):
            self.reasoning.append(thought)
            yield ReasoningDelta(thought)
        for detail in delta.get("reasoning_details") or []:
            self._detail(detail)
        refusal = delta.get("refusal")
        self.refused = self.refused or bool(refusal)
        if text := _plain(delta.get("content")) or refusal:
            self.text.append(text)
            yield TextDelta(text)
        for piece in delta.get("tool_calls") or []:
            yield self._call(piece)

    def _call(self, piece: dict[str, Any]) -> StreamEvent:
        call_id, function = piece.get("id"), piece.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        index = piece.get("index")
        if index is None:
            # A whole reply has none, and so have the streams of some servers: an id begins a call.
            index = len(self.calls) if call_id or not self.calls else len(self.calls) - 1
        call = self.calls.get(index)
        if call is None:
            self.calls[index] = ToolCall(call_id or "", FunctionCall(name or "", arguments))
            return ToolCallDelta(index, call_id, name, arguments)
        call.function.arguments += arguments
        return ToolCallDelta(index, arguments=arguments)

    def _detail(self, detail: dict[str, Any]) -> None:
        # Pieces of one block follow each other with its index, and its signature comes last.
        last = self.details[-1] if self.details else None
        same = last is not None and (
            (last.get("index"), last.get("type")) == (detail.get("index"), detail.get("type"))
        )
        if last is None or not same or detail.get("type") == "reasoning.encrypted":
            self.details.append(dict(detail))
            return
        for key, value in detail.items():
            if key in ("text", "summary") and isinstance(last.get(key), str):
                last[key] += value or ""
            elif value is not None:
                last[key] = value

    def completion(self) -> ChatCompletion:
        return ChatCompletion(
            self.id,
            self.model,
            content="".join(self.text) or None,
            reasoning="".join(self.reasoning) or None,
            reasoning_details=self.details or None,
            tool_calls=[self.calls[index] for index in sorted(self.calls)] or None,
            finish_reason="content_filter" if self.refused else self.finish_reason or "stop",
            usage=self.usage,
        )
