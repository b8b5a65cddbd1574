"""What every memory has in common that compacts a conversation: when, where, and what is kept."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, Final

from motus.memory.base import BaseMemory, now
from motus.memory.boundary import CompactionPlan, apply_plan, plan_compaction
from motus.memory.tokens import estimate_text_tokens, truncate
from motus.messages import ChatMessage
from motus.models.errors import ModelError

__all__ = ["CompactionBase"]

# A summary may take so much of what a conversation may have, or it would soon be summarised again.
SUMMARY_SHARE: Final = 0.5
SUMMARY_SUFFIX: Final = "\n[the rest of the summary was too long]"

_log = logging.getLogger("motus.memory")


class CompactionBase(BaseMemory):
    """A memory that compacts at the boundaries of `motus.memory.boundary`.

    A subclass says when (`token_threshold`) and writes the summary (`summarize`).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compaction_count = 0
        self._counted = 0
        self._counted_tokens = 0

    @abstractmethod
    async def summarize(self, messages: list[ChatMessage]) -> str:
        """The summary that is to stand for these messages."""

    def _append_message(self, message: ChatMessage) -> None:
        super()._append_message(message)
        if self._counted == len(self._messages) - 1:
            self._counted += 1
            self._counted_tokens += self.estimate_message_tokens(self._messages[-1])

    def estimate_working_memory_tokens(self) -> int:
        """About how many tokens `get_context` takes."""
        # Counted along with each message: all of them at every step would be quadratic.
        if self._counted != len(self._messages):
            self._counted = len(self._messages)
            self._counted_tokens = sum(map(self.estimate_message_tokens, self._messages))
        system = self.construct_system_prompt()
        return self._counted_tokens + (
            self.estimate_message_tokens(system) if system.content else 0
        )

    async def _auto_compact(self) -> None:
        threshold = self.token_threshold()
        if threshold is None or self.estimate_working_memory_tokens() <= threshold:
            return
        try:
            await self.compact()
        except ModelError as error:
            # An answer that has just come must not be lost for it. The next message tries again;
            # where the model can take no more, an agent tries as well, and says what is wrong.
            _log.warning("the conversation could not be compacted: %s", error)

    async def compact(self, **kwargs: Any) -> str | None:
        """Compact now, at the boundary that the conversation's end allows.

        None if there is none at the moment, or nothing to summarise. When the summary fails or is
        cancelled the conversation is what it was. A summary of more than half the threshold is cut.
        """
        before = self._messages
        plan = plan_compaction(before)
        if plan is None:
            return None
        summary = await self.summarize(before[: plan.messages_summarized])
        if self._messages is not before or len(before) < plan.messages_compacted:
            # Reset, or compacted by somebody else, while the summary was written.
            return None
        threshold = self.token_threshold()
        if threshold is not None:
            summary = truncate(summary, max(1, int(threshold * SUMMARY_SHARE)), SUMMARY_SUFFIX)
        number = self._compaction_count + 1
        stats = {
            "messages_compacted": plan.messages_compacted,
            "messages_replayed": plan.messages_replayed,
            "summary_tokens": estimate_text_tokens(summary),
            "compaction_number": number,
        }
        self._record_compaction(plan, summary, stats)
        self._compaction_count = number
        # Messages that came meanwhile are behind everything the plan speaks of.
        self._replace(apply_plan(self._messages, plan, summary))
        await self._compacted({**stats, "summary": summary})
        return summary

    def _replace(self, messages: list[ChatMessage]) -> None:
        self._messages = messages
        self._counted = -1

    def _record_compaction(self, plan: CompactionPlan, summary: str, stats: dict[str, Any]) -> None:
        """Called before the messages are replaced."""
        self._trace_log.append({"type": "compaction", "timestamp": now(), **stats})

    async def _compacted(self, stats: dict[str, Any]) -> None:
        """Called when they have been."""

    def clear_messages(self) -> None:
        """Forget the messages, and nothing else."""
        self._replace([])

    def reset(self) -> dict[str, int]:
        """Forget the messages, the trace and the count of compactions."""
        count = len(self._messages)
        self._replace([])
        self._trace_log.clear()
        self._compaction_count = 0
        return {"messages": count}
