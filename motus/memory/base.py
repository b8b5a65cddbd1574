"""What an agent needs of a memory: the conversation, and what of it the model is shown."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, Self

import attrs

from motus.memory.state import SessionState
from motus.memory.tokens import estimate_tokens, truncate
from motus.messages import ChatMessage
from motus.models.base import BaseChatClient

__all__ = ["MAX_TOOL_RESULT_TOKENS", "TRUNCATION_SUFFIX", "BaseMemory"]

MAX_TOOL_RESULT_TOKENS: Final = 50_000
TRUNCATION_SUFFIX: Final = "\n\n... [truncated: the tool's result was longer than this]"


class BaseMemory(ABC):
    """A conversation. Of a memory of your own, `compact` and `reset` must be written.

    `_auto_compact` is called after each message and may shorten the conversation;
    `construct_system_prompt` may add to the system prompt. Token counts are estimates.

    Results of tools beyond `max_tool_result_tokens` are cut, and end in
    `tool_result_truncation_suffix`; 0 lets everything through.
    """

    def __init__(
        self,
        *,
        model_name: str | None = None,
        system_prompt: str = "",
        max_tool_result_tokens: int = MAX_TOOL_RESULT_TOKENS,
        tool_result_truncation_suffix: str = TRUNCATION_SUFFIX,
        enable_memory_tools: bool = True,
    ) -> None:
        self._model_name = model_name
        self._system_prompt = system_prompt
        self._messages: list[ChatMessage] = []
        self._trace_log: list[dict[str, Any]] = []
        self._max_tool_result_tokens = max_tool_result_tokens
        self._tool_result_truncation_suffix = tool_result_truncation_suffix
        self._enable_memory_tools = enable_memory_tools
        self._is_settling = False

    # ------------------------------------------------------------------ the conversation

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation without the system prompt; a copy."""
        return self._messages.copy()

    async def add_message(self, message: ChatMessage) -> None:
        """Add a message, and compact the conversation if it has become too long.

        Cancelled, or failed, in the compaction: the message is there, and the conversation is as
        long as it was.
        """
        self._append_message(message)
        if not self._is_settling:
            await self._auto_compact()

    async def add_last_messages(self, messages: Iterable[ChatMessage]) -> None:
        """Add what a run leaves that was stopped: `add_message` for each, without compacting."""
        self._is_settling = True
        try:
            for message in messages:
                await self.add_message(message)
        finally:
            self._is_settling = False

    def load_messages(self, messages: Iterable[ChatMessage]) -> None:
        """Add messages of an earlier conversation: nothing is compacted yet."""
        for message in messages:
            self._append_message(message)

    def _append_message(self, message: ChatMessage) -> None:
        if message.role == "tool" and message.content and self._max_tool_result_tokens > 0:
            cut = truncate(
                message.content, self._max_tool_result_tokens, self._tool_result_truncation_suffix
            )
            if cut is not message.content:
                message = attrs.evolve(message, content=cut)
        self._record_message(message)
        self._messages.append(message)
        self._add_trace_event(message)

    def _record_message(self, message: ChatMessage) -> None:  # noqa: B027  # most keep no record
        """Called before a message is added; what this raises keeps it out."""

    def clear_messages(self) -> None:
        """Forget the messages, and nothing else."""
        self._messages.clear()

    # ------------------------------------------------------------------ what the model is shown

    def set_model(self, *, client: BaseChatClient, model_name: str) -> None:
        """Called by the agent: what it calls. What was given to the memory itself stays."""
        if self._model_name is None:
            self._model_name = model_name

    def set_system_prompt(self, prompt: str) -> None:
        """Called by the agent: what `get_context` begins with; nothing if it is empty."""
        self._system_prompt = prompt

    def construct_system_prompt(self) -> ChatMessage:
        """The message that `get_context` begins with."""
        return ChatMessage.system_message(self._system_prompt)

    def get_context(self) -> list[ChatMessage]:
        """What the model is sent: the system prompt, if there is one, and the messages."""
        system = self.construct_system_prompt()
        return [system, *self._messages] if system.content else self._messages.copy()

    def estimate_message_tokens(self, message: ChatMessage) -> int:
        """About how many tokens one message takes."""
        return estimate_tokens(message)

    def estimate_working_memory_tokens(self) -> int:
        """About how many tokens `get_context` takes."""
        return sum(map(self.estimate_message_tokens, self.get_context()))

    def token_threshold(self) -> int | None:
        """From how many tokens on the conversation is compacted; None if it never is."""
        return None

    def build_tools(self) -> list[Any]:
        """What the memory gives the model to call; the agent adds it to its own tools."""
        return []

    # ------------------------------------------------------------------ compacting

    @abstractmethod
    async def compact(self, **kwargs: Any) -> str | None:
        """Shorten the conversation now; the summary, or None if nothing was done."""

    async def _auto_compact(self) -> None:  # noqa: B027  # most memories need not
        """Called after each message: compact if it is time."""

    # ------------------------------------------------------------------ life

    @abstractmethod
    def reset(self) -> dict[str, int]:
        """Begin anew; how many of what was forgotten, such as `{"messages": 4}`."""

    def fork(self) -> Self:
        """An independent copy of the conversation; clients and stores are shared.

        The messages themselves are copied too: changing one in a fork changes no other.
        """
        clone = copy.copy(self)
        clone._detach()  # noqa: SLF001  # of this very class
        return clone

    def _detach(self) -> None:
        """Called on the copy: give up everything that it shares and must not."""
        self._messages = copy.deepcopy(self._messages)
        self._trace_log = self._trace_log.copy()
        self._is_settling = False

    # ------------------------------------------------------------------ state

    def get_session_state(self) -> SessionState:
        """What the memory is now, to be kept somewhere."""
        return SessionState(self.messages, self._system_prompt)

    # ------------------------------------------------------------------ trace

    def get_memory_trace(self) -> dict[str, Any]:
        """What happened to the conversation: `events`, `total_events`, `total_compactions`."""
        events = self._trace_log.copy()
        compactions = sum(1 for event in events if event["type"] == "compaction")
        return {
            "events": events,
            "total_events": len(events),
            "total_compactions": compactions,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._messages)} messages>"

    def _add_trace_event(self, message: ChatMessage) -> None:
        event: dict[str, Any] = {"type": "message", "timestamp": now(), "role": message.role}
        if message.content:
            event["content"] = message.content
        if message.tool_calls:
            event["tool_calls"] = [
                {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                for call in message.tool_calls
            ]
        if message.role == "tool":
            event["tool_call_id"] = message.tool_call_id
            event["tool_name"] = message.name
        self._trace_log.append(event)


def now() -> str:
    """The time of day as traces and logs write it."""
    return datetime.now(UTC).isoformat()
