"""Gemini's contents: from a conversation to a request, from chunks to a reply."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition
from motus.models.base import ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from motus.models.options import ReasoningConfig
from motus.models.wire import decoded_arguments, details, make_usage, split_image, token_count

__all__ = ["ReplyAccumulator", "model_version", "wire_contents", "wire_thinking", "wire_tool"]

_VERSION = re.compile(r"gemini-(?P<major>\d+)(?:\.(?P<minor>\d+))?", re.ASCII)
# Those of 2.5 that draw or speak do not think.
_SPECIAL = re.compile(r"image|tts|audio|live", re.ASCII)
# What the API takes for the signature of a call that another model has made.
_FOREIGN = b"skip_thought_signature_validator"
_SIGNATURE = "gemini.signature"

_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "MODEL_ARMOR": "content_filter",
}


def model_version(model: str) -> tuple[int, int]:
    """As its name tells; newer than all others for one whose name does not."""
    found = _VERSION.search(model)
    return (int(found["major"]), int(found["minor"] or 0)) if found is not None else (99, 0)


def wire_thinking(
    model: str, version: tuple[int, int], reasoning: ReasoningConfig
) -> dict[str, Any] | None:
    """What the model is told of how much to think; `None` for nothing."""
    if version < (2, 5) or (version < (3, 0) and _SPECIAL.search(model)):
        return None
    if "gemini" not in model:
        # Others that Google serves, such as Gemma, refuse to be told.
        return None
    if version >= (3, 0):
        if not reasoning.enabled:
            # It cannot be turned off: this is the least.
            return {"thinking_level": "MINIMAL" if "flash" in model else "LOW"}
        if reasoning.effort is None:
            return {"include_thoughts": True}
        level = "HIGH" if reasoning.effort == "max" else reasoning.effort.upper()
        return {"include_thoughts": True, "thinking_level": level}
    if not reasoning.enabled:
        return {"thinking_budget": 128 if "pro" in model else 0}
    thinking: dict[str, Any] = {"include_thoughts": True}
    if reasoning.budget_tokens is not None:
        thinking["thinking_budget"] = reasoning.budget_tokens
    return thinking


def wire_tool(tool: ToolDefinition) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters.get("properties"):
        declaration["parameters_json_schema"] = tool.parameters
    return declaration


def wire_contents(
    messages: Iterable[ChatMessage], *, signed: bool, with_ids: bool
) -> list[dict[str, Any]]:
    """The conversation as this API wants it: user and model in turn.

    `signed`: the model refuses calls without a signature; `with_ids`: calls may have ids.
    """
    result: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []

    def add(role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if result and result[-1]["role"] == role:
            result[-1]["parts"].extend(parts)
        else:
            result.append({"role": role, "parts": parts})

    def show() -> None:
        # Those of a step's results come after all of them.
        add("user", list(pictures))
        pictures.clear()

    for message in messages:
        if message.role == "system":
            continue
        if message.role != "tool":
            show()
        if message.role == "assistant":
            add("model", _model_parts(message, signed=signed, with_ids=with_ids))
        elif message.role == "tool":
            add("user", [_function_response(message, with_ids=with_ids)])
        elif message.content:
            add("user", [{"text": message.content}])
        if message.base64_image:
            pictures.append(_picture(message.base64_image))
    show()
    return result


def _picture(image: str) -> dict[str, Any]:
    media_type, data = split_image(image)
    return {"inline_data": {"mime_type": media_type, "data": base64.b64decode(data)}}


def _function_response(message: ChatMessage, *, with_ids: bool) -> dict[str, Any]:
    try:
        value = json.loads(message.content or "null")
    except ValueError:
        value = message.content
    response: dict[str, Any] = {
        "name": message.name or "tool",
        "response": value if isinstance(value, dict) else {"result": value},
    }
    if with_ids:
        response["id"] = message.tool_call_id
    return {"function_response": response}


def _model_parts(message: ChatMessage, *, signed: bool, with_ids: bool) -> list[dict[str, Any]]:
    signatures = _signatures(message)
    parts: list[dict[str, Any]] = []
    if message.content:
        parts.append({"text": message.content})
        if None in signatures:
            parts[0]["thought_signature"] = signatures[None]
    for index, call in enumerate(message.tool_calls or []):
        function: dict[str, Any] = {"name": call.function.name, "args": decoded_arguments(call)}
        if with_ids:
            function["id"] = call.id
        part: dict[str, Any] = {"function_call": function}
        if call.id in signatures:
            part["thought_signature"] = signatures[call.id]
        elif index == 0 and signed:
            part["thought_signature"] = _FOREIGN
        parts.append(part)
    return parts


def _signatures(message: ChatMessage) -> dict[str | None, bytes]:
    """Those of its calls, by id, and that of its text, by `None`."""
    found: dict[str | None, bytes] = {}
    for detail in details(message):
        if detail["type"] == _SIGNATURE:
            # What is none must not keep the conversation from going on.
            with contextlib.suppress(LookupError, TypeError, ValueError):
                found[detail["id"]] = base64.b64decode(detail["signature"])
    return found


class ReplyAccumulator:
    """Puts the chunks of a stream, or its only one, together."""

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.parts = 0
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.details: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, int] = {}

    def add(self, chunk: Any) -> list[StreamEvent]:
        self.id = chunk.response_id or self.id
        self.model = chunk.model_version or self.model
        if chunk.usage_metadata is not None:
            self.usage = _usage(chunk.usage_metadata)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self.finish_reason = "content_filter"
        events: list[StreamEvent] = []
        for candidate in (chunk.candidates or [])[:1]:
            if candidate.finish_reason is not None:
                name = candidate.finish_reason.value
                self.finish_reason = _FINISH_REASONS.get(name, name.lower())
            for part in (candidate.content.parts if candidate.content else None) or []:
                self.parts += 1
                events += self._part(part)
        return events

    def _part(self, part: Any) -> Iterable[StreamEvent]:
        call_id = None
        if part.function_call is not None:
            call_id = part.function_call.id or f"call_{uuid.uuid4().hex}"
            arguments = json.dumps(part.function_call.args or {})
            call = ToolCall(call_id, FunctionCall(part.function_call.name, arguments))
            self.calls.append(call)
            yield ToolCallDelta(len(self.calls) - 1, call_id, call.function.name, arguments)
        elif part.text and part.thought:
            self.reasoning.append(part.text)
            yield ReasoningDelta(part.text)
        elif part.text:
            self.text.append(part.text)
            yield TextDelta(part.text)
        if part.thought_signature:
            signature = base64.b64encode(part.thought_signature).decode()
            self.details.append({"type": _SIGNATURE, "id": call_id, "signature": signature})

    def completion(self) -> ChatCompletion:
        finish_reason = self.finish_reason or "stop"
        return ChatCompletion(
            self.id,
            self.model,
            content="".join(self.text) or None,
            reasoning="".join(self.reasoning) or None,
            reasoning_details=self.details or None,
            tool_calls=self.calls or None,
            finish_reason="tool_calls" if self.calls and finish_reason == "stop" else finish_reason,
            usage=self.usage,
        )


def _usage(usage: Any) -> dict[str, int]:
    cached = token_count(usage.cached_content_token_count)
    thoughts = token_count(usage.thoughts_token_count)
    prompt = token_count(usage.prompt_token_count)
    return make_usage(
        prompt + token_count(usage.tool_use_prompt_token_count) - cached,
        token_count(usage.candidates_token_count) + thoughts,
        cache_read=cached,
        reasoning=thoughts,
    )
