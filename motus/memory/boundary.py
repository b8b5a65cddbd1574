"""Where a conversation is cut when it is compacted. Nothing here waits, stores or asks a model.

The beginning becomes a summary, the end stays as it is. The one rule: a tool call and its results
are never on two sides of the cut, because no provider accepts half of a step.

* The user has just asked something: all before it becomes the summary, and the request is put into
  the same message, so that the model has something to answer.
* The results of a step have just arrived: that step stays, all before it becomes the summary.
* The assistant has answered: everything becomes the summary.
* A step is still open: not now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from motus.messages import ChatMessage

__all__ = [
    "CompactionPlan",
    "apply_plan",
    "calls_of_results",
    "continuation",
    "is_continuation",
    "plan_compaction",
]

_OPENING: Final = (
    "This session continues a previous conversation that has become too long to be shown. What "
    "follows is a summary of it.\n\n<context_summary>\n"
)
_CLOSING: Final = "\n</context_summary>"
_NOTHING_PENDING: Final = "\n\nGo on from there; do not ask again for what the summary says."
_PENDING: Final = "\n\nThe user's request, which has not been answered yet:\n\n"


@attrs.frozen
class CompactionPlan:
    """`messages_compacted` messages from the beginning go, `messages_replayed` stay.

    With `has_request` the last one that goes is the user's request, which is put behind the summary
    word by word instead of being summarised.
    """

    messages_compacted: int
    messages_replayed: int
    has_request: bool = False

    @property
    def messages_summarized(self) -> int:
        """How many messages the summary is made of."""
        return self.messages_compacted - self.has_request


def plan_compaction(messages: Sequence[ChatMessage]) -> CompactionPlan | None:
    """Where to cut now; None if this is no moment for it, or there is nothing to summarise."""
    if not messages:
        return None
    origins = calls_of_results(messages)
    last, count = messages[-1], len(messages)
    if _is_open(messages, origins):
        return None
    if last.role == "tool":
        cut = _step_start(count - 1, origins)
        plan = CompactionPlan(cut, count - cut)
    else:
        plan = CompactionPlan(count, 0, has_request=last.role == "user")
    summarized = messages[: plan.messages_summarized]
    # A summary of nothing but a summary would only lose something.
    if not summarized or (len(summarized) == 1 and is_continuation(summarized[0])):
        return None
    return plan


def calls_of_results(messages: Sequence[ChatMessage]) -> dict[int, int]:
    """For each tool result, by index, the index of the message that has its call.

    A result belongs to the last call before it that has its id; one without a call is left out.
    """
    called: dict[str, int] = {}
    origins: dict[int, int] = {}
    for index, message in enumerate(messages):
        for call in message.tool_calls or ():
            called[call.id] = index
        if message.role == "tool" and message.tool_call_id in called:
            origins[index] = called[message.tool_call_id]
    return origins


def _is_open(messages: Sequence[ChatMessage], origins: dict[int, int]) -> bool:
    """Whether results of the last message with calls are still to come."""
    for index in range(len(messages) - 1, -1, -1):
        calls = messages[index].tool_calls
        if calls:
            answered = {
                messages[result].tool_call_id
                for result, origin in origins.items()
                if origin == index
            }
            return any(call.id not in answered for call in calls)
    return False


def _step_start(cut: int, origins: dict[int, int]) -> int:
    """The latest cut, at or before this index, that separates no call from its results."""
    # Each result after the cut whose call is before it moves the cut to that call, which may
    # bring other results behind it; so from the end to the beginning, once.
    for index in sorted(origins, reverse=True):
        if origins[index] < cut <= index:
            cut = origins[index]
    return cut


def apply_plan(
    messages: Sequence[ChatMessage], plan: CompactionPlan, summary: str
) -> list[ChatMessage]:
    """The conversation after the compaction."""
    request = messages[plan.messages_compacted - 1] if plan.has_request else None
    return [continuation(summary, request), *messages[plan.messages_compacted :]]


def continuation(summary: str, request: ChatMessage | None = None) -> ChatMessage:
    """The user's message that a compacted conversation begins with; it carries the request."""
    text = _OPENING + summary + _CLOSING
    if request is None:
        return ChatMessage.user_message(text + _NOTHING_PENDING)
    return attrs.evolve(request, content=text + _PENDING + (request.content or ""))


def is_continuation(message: ChatMessage) -> bool:
    """Whether it is a message of `continuation` that carries no request."""
    text = message.content or ""
    return message.role == "user" and text.startswith(_OPENING) and text.endswith(_NOTHING_PENDING)
