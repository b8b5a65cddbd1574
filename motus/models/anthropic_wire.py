"""The messages of Anthropic: from a conversation to a request, from events to a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall
from motus.models.base import ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from motus.models.options import CachePolicy, ReasoningConfig, cache_control, thinks_adaptively
from motus.models.wire import decoded_arguments, details, make_usage, split_image

__all__ = ["ReplyAccumulator", "add_breakpoints", "wire_messages", "wire_thinking"]

# The least that the API takes.
MIN_BUDGET = 1024

# The models that came before extended thinking.
_NO_THINKING = re.compile(r"claude-(2|instant|3-(5|haiku|opus|sonnet))", re.ASCII)
_ALWAYS_THINKING = re.compile(r"claude-(fable|mythos)", re.ASCII)
_THINKING = ("thinking", "redacted_thinking")
# What stands, among the reasoning details, for a block whose content is in the message itself, and
# its field that says which.
_PLACES = {"text": "text", "tool_use": "id"}

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def wire_thinking(
    model: str, reasoning: ReasoningConfig, max_tokens: int
) -> tuple[dict[str, Any] | None, str | None]:
    """The parameter `thinking`, and the effort, as far as the model knows them."""
    if thinks_adaptively(model):
        if not reasoning.enabled:
            # Those that cannot be told not to think can be told to think the least.
            always = _ALWAYS_THINKING.search(model)
            return (None, "low") if always else ({"type": "disabled"}, None)
        return {"type": "adaptive"}, reasoning.effort
    effort = reasoning.effort if "claude-opus-4-5" in model and reasoning.enabled else None
    budget = reasoning.budget_tokens
    # Without a budget these do not think, and with it they must have something left to say.
    if not reasoning.enabled or budget is None or _NO_THINKING.search(model):
        return None, effort
    if max_tokens <= MIN_BUDGET:
        return None, effort
    budget = max(MIN_BUDGET, min(budget, max_tokens - 1))
    return {"type": "enabled", "budget_tokens": budget}, effort


def add_breakpoints(request: dict[str, Any], policy: CachePolicy) -> None:
    """The end of what stays: tools, system prompt, and the conversation up to the turn before."""
    control = cache_control(policy)
    if control is None:
        return
    for part in ("tools", "system"):
        if request.get(part) and isinstance(request[part], list):
            # A copy: it may be the caller's.
            *rest, last = request[part]
            request[part] = [*rest, {**last, "cache_control": control}]
    if policy is not CachePolicy.STATIC:
        turns = [message for message in request["messages"] if message["role"] == "user"]
        for turn in turns[-2:-1]:
            turn["content"][-1]["cache_control"] = control


def wire_messages(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation as this API wants it: users and assistants in turn.

    Results of tools belong to the user, all those of a step in one message. A picture of an
    assistant's is shown by the user after it.
    """
    result: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []

    def add(role: str, blocks: list[dict[str, Any]]) -> None:
        if not blocks:
            return
        if result and result[-1]["role"] == role:
            result[-1]["content"].extend(blocks)
        else:
            result.append({"role": role, "content": blocks})

    for message in messages:
        if message.role == "assistant":
            add("user", pictures)
            add("assistant", _assistant_blocks(message))
            pictures = [_picture(message.base64_image)] if message.base64_image else []
        elif message.role == "tool":
            add("user", [_tool_result(message)])
        elif message.role == "user":
            shown = [_picture(message.base64_image)] if message.base64_image else []
            add("user", [*pictures, *shown, *_text(message.content)])
            pictures = []
    add("user", pictures)
    return result


def _text(text: str | None) -> list[dict[str, Any]]:
    # Empty blocks are refused.
    return [{"type": "text", "text": text}] if text and text.strip() else []


def _picture(image: str) -> dict[str, Any]:
    media_type, data = split_image(image)
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": data},
    }


def _tool_result(message: ChatMessage) -> dict[str, Any]:
    content: Any = message.content or ""
    if message.base64_image:
        content = [*_text(message.content), _picture(message.base64_image)]
    return {
        "type": "tool_result",
        "tool_use_id": _wire_id(message.tool_call_id or ""),
        "content": content,
    }


def _wire_id(call_id: str) -> str:
    # Those of other providers may have characters that are refused here.
    return re.sub(r"[^A-Za-z0-9_-]", "_", call_id)


def _assistant_blocks(message: ChatMessage) -> list[dict[str, Any]]:
    calls = {call.id: _tool_use(call) for call in message.tool_calls or []}
    order = [
        detail
        for detail in details(message)
        if detail["type"] in _THINKING
        or isinstance(detail.get(_PLACES.get(detail["type"], "")), str)
    ]
    thoughts = [detail for detail in order if detail["type"] in _THINKING]
    places = [detail for detail in order if detail["type"] in _PLACES]
    said = "".join(place["text"] for place in places if place["type"] == "text")
    called = [place["id"] for place in places if place["type"] == "tool_use"]
    if places and said == (message.content or "") and called == list(calls):
        return [
            calls[detail["id"]] if detail["type"] == "tool_use" else dict(detail)
            for detail in order
            if detail["type"] != "text" or detail["text"].strip()
        ]
    return [*map(dict, thoughts), *_text(message.content), *calls.values()]


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": _wire_id(call.id),
        "name": call.function.name,
        "input": decoded_arguments(call),
    }


class ReplyAccumulator:
    """Puts the events of a stream together."""

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.blocks: dict[int, dict[str, Any]] = {}
        self.stop_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.ended = False

    def add(self, event: Any) -> Iterable[StreamEvent]:
        if event.type == "message_start":
            self.id, self.model = event.message.id, event.message.model
            self._count(event.message.usage)
        elif event.type == "content_block_start":
            self.blocks[event.index] = block = event.content_block.to_dict(warnings=False)
            if block["type"] == "tool_use":
                block["json"] = ""
                return [ToolCallDelta(self._call_index(event.index), block["id"], block["name"])]
        elif event.type == "content_block_delta":
            return self._delta(event.index, event.delta)
        elif event.type == "message_delta":
            self.stop_reason = event.delta.stop_reason or self.stop_reason
            self._count(event.usage)
        elif event.type == "message_stop":
            self.ended = True
        return ()

    def _delta(self, index: int, delta: Any) -> Iterable[StreamEvent]:
        block = self.blocks[index]
        if delta.type == "text_delta":
            block["text"] += delta.text
            return [TextDelta(delta.text)]
        if delta.type == "thinking_delta":
            block["thinking"] += delta.thinking
            return [ReasoningDelta(delta.thinking)]
        if delta.type == "signature_delta":
            block["signature"] = delta.signature
        elif delta.type == "input_json_delta" and block["type"] == "tool_use":
            block["json"] += delta.partial_json
            return [ToolCallDelta(self._call_index(index), arguments=delta.partial_json)]
        return ()

    def _call_index(self, index: int) -> int:
        earlier = (self.blocks[i]["type"] == "tool_use" for i in self.blocks if i < index)
        return sum(earlier)

    def _count(self, usage: Any) -> None:
        # The last event counts again what it knows better.
        if usage is not None:
            counts = usage.to_dict(warnings=False)
            self.usage.update({key: value for key, value in counts.items() if value is not None})

    def completion(self) -> ChatCompletion:
        blocks = [self.blocks[index] for index in sorted(self.blocks)]
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
        calls = [
            ToolCall(block["id"], FunctionCall(block["name"], _arguments(block)))
            for block in blocks
            if block["type"] == "tool_use"
        ]
        usage = self.usage
        output = usage.get("output_tokens_details") or {}
        created = usage.get("cache_creation") or {}
        return ChatCompletion(
            self.id,
            self.model,
            content="".join(texts) or None,
            reasoning="\n\n".join(filter(None, thoughts)) or None,
            reasoning_details=_details(blocks),
            tool_calls=calls or None,
            finish_reason=_FINISH_REASONS.get(self.stop_reason or "", self.stop_reason or "stop"),
            usage=make_usage(
                usage.get("input_tokens"),
                usage.get("output_tokens"),
                cache_read=usage.get("cache_read_input_tokens"),
                cache_creation=usage.get("cache_creation_input_tokens"),
                cache_creation_1h=created.get("ephemeral_1h_input_tokens"),
                reasoning=output.get("thinking_tokens"),
            ),
        )


def _arguments(block: dict[str, Any]) -> str:
    return block["json"] or json.dumps(block.get("input") or {})


def _details(blocks: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The thinking, to be sent back as it came.

    Signatures hold for the order too: where something else came before a thought, every block has
    its place here.
    """
    kinds = [block["type"] in _THINKING for block in blocks]
    if not any(kinds):
        return None
    if kinds == sorted(kinds, reverse=True):
        return [block for block in blocks if block["type"] in _THINKING]
    places: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] in _THINKING:
            places.append(block)
        elif block["type"] == "text" and block["text"]:
            places.append({"type": "text", "text": block["text"]})
        elif block["type"] == "tool_use":
            places.append({"type": "tool_use", "id": block["id"]})
    return places
