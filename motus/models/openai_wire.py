"""OpenAI's chat completions: from a conversation to a request, from chunks to a reply."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

import attrs

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition
from motus.models.base import ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from motus.models.options import ReasoningConfig
from motus.models.wire import details, make_usage, split_image, token_count

__all__ = [
    "ReplyAccumulator",
    "as_chunk",
    "failure",
    "wire_effort",
    "wire_messages",
    "wire_tool",
]

# The families that came before the models that think; all that come after do.
_NO_REASONING = re.compile(
    r"(^|/)(gpt-3|gpt-4|chatgpt|davinci|babbage|gpt-5[\w.-]*-chat)", re.ASCII
)
_O_SERIES = re.compile(r"(^|/)o\d", re.ASCII)
_FIRST_GPT_5 = re.compile(r"(^|/)gpt-5(-(mini|nano|pro|codex|20)|$)", re.ASCII)
# The reasoning detail of a reply whose thoughts its server wants back as `reasoning_content`.
_CONTENT = "reasoning_content"
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
    message = choice["message"]
    calls = [{**call, "index": i} for i, call in enumerate(message.get("tool_calls") or [])]
    return {**body, "choices": [{**choice, "delta": {**message, "tool_calls": calls}}]}


def failure(body: dict[str, Any]) -> Any:
    """The error that an answer with status 200 holds, as a whole or in the place of its reply."""
    choices = body.get("choices") or [{}]
    return body.get("error") or choices[0].get("error")


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


def wire_messages(messages: Iterable[ChatMessage], *, with_thoughts: bool) -> list[dict[str, Any]]:
    """The conversation as this API wants it, `with_thoughts` for a server that wants them back.

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
        if with_thoughts and message.role == "assistant":
            result[-1].update(_thoughts(message))
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
    if message.role == "assistant" and message.tool_calls:
        wire["tool_calls"] = [attrs.asdict(call) for call in message.tool_calls]
        wire["content"] = message.content or None
    return wire


def _thoughts(message: ChatMessage) -> dict[str, Any]:
    """Those that came through this API: a conversation may have begun with another provider."""
    own = [detail for detail in details(message) if detail["type"].startswith("reasoning.")]
    thoughts: dict[str, Any] = {"reasoning_details": own} if own else {}
    if message.reasoning and {"type": _CONTENT} in details(message):
        thoughts["reasoning_content"] = message.reasoning
    return thoughts


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
        self.calls: list[ToolCall] = []
        # Where the calls are that the server has given an index.
        self.places: dict[int | None, int] = {}
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
        # Neither is a field of OpenAI's; the name depends on the server.
        if thought := delta.get("reasoning") or delta.get("reasoning_content"):
            self.reasoning.append(thought)
            yield ReasoningDelta(thought)
        for detail in delta.get("reasoning_details") or []:
            self._detail(detail)
        if delta.get("reasoning_content") and not self.details:
            self.details.append({"type": _CONTENT})
        refusal = delta.get("refusal")
        self.refused = self.refused or bool(refusal)
        if text := _plain(delta.get("content")) or refusal:
            self.text.append(text)
            yield TextDelta(text)
        for piece in delta.get("tool_calls") or []:
            yield self._call(piece)

    def _call(self, piece: dict[str, Any]) -> StreamEvent:
        index, call_id, function = piece.get("index"), piece.get("id"), piece.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        place = self.places.get(index)
        # Some servers give no index, or all calls the same one: then another id is another call.
        if place is None or (call_id and call_id != self.calls[place].id):
            place = self.places[index] = len(self.calls)
            # And some no id, without which no result can name the call.
            call_id = call_id or f"call_{uuid.uuid4().hex}"
            self.calls.append(ToolCall(call_id, FunctionCall(name or "", arguments)))
            return ToolCallDelta(place, call_id, name, arguments)
        self.calls[place].function.arguments += arguments
        return ToolCallDelta(place, arguments=arguments)

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
            tool_calls=self.calls or None,
            finish_reason=self._finish_reason(),
            usage=self.usage,
        )

    def _finish_reason(self) -> str:
        if self.refused:
            return "content_filter"
        reason = self.finish_reason or "stop"
        # Where a call was forced, OpenAI itself says "stop".
        return "tool_calls" if self.calls and reason in ("stop", "function_call") else reason
