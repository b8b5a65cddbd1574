"""What makes a conversation one that every provider accepts: each call has its result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from motus.memory.boundary import calls_of_results
from motus.messages import ChatMessage, ToolCall

__all__ = ["NOT_FINISHED", "closing_messages", "open_calls", "tool_error", "with_calls_closed"]

NOT_FINISHED = "the run was stopped before this call had finished"


def open_calls(messages: Sequence[ChatMessage]) -> list[ToolCall]:
    """The calls of the last message that has any, as far as no result follows."""
    answered: set[str | None] = set()
    for message in reversed(messages):
        if message.role == "tool":
            answered.add(message.tool_call_id)
        elif message.tool_calls:
            return [call for call in message.tool_calls if call.id not in answered]
    return []


def tool_error(reason: str) -> str:
    """The result of a call that has no better one."""
    return json.dumps({"error": reason}, ensure_ascii=False)


def closing_messages(
    messages: Sequence[ChatMessage],
    results: Mapping[str, str] | None = None,
    reason: str = NOT_FINISHED,
) -> list[ChatMessage]:
    """What must follow so that no call is without a result.

    That is the result in `results`, by the call's id, where there is one, else the error.
    """
    known = results or {}
    return [
        ChatMessage.tool_message(
            known[call.id] if call.id in known else tool_error(reason), call.id, call.function.name
        )
        for call in open_calls(messages)
    ]


def with_calls_closed(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The conversation with exactly one result for each call, right behind it.

    A conversation that is so already stays as it is. Results that come late are moved, those that
    are missing become errors, and what is the result of nothing is left out.
    """
    origins = calls_of_results(messages)
    results: dict[int, list[ChatMessage]] = {}
    for index, origin in origins.items():
        results.setdefault(origin, []).append(messages[index])
    closed: list[ChatMessage] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            continue
        closed.append(message)
        if message.tool_calls:
            by_id: dict[str | None, ChatMessage] = {}
            for result in results.get(index, ()):
                by_id.setdefault(result.tool_call_id, result)
            step = [message, *by_id.values()]
            closed += [*step[1:], *closing_messages(step)]
    return closed
