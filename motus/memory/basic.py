"""A memory that keeps everything."""

from __future__ import annotations

from typing import Any, Self

from motus.memory.base import BaseMemory
from motus.memory.state import SessionState

__all__ = ["BasicMemory"]


class BasicMemory(BaseMemory):
    """Every message, in order, for ever."""

    async def compact(self, **kwargs: Any) -> str | None:
        """Nothing: this memory forgets only in `reset`."""
        return None

    def reset(self) -> dict[str, int]:
        """Forget the messages and the trace."""
        count = len(self._messages)
        self._messages.clear()
        self._trace_log.clear()
        return {"messages": count}

    @classmethod
    def restore(cls, state: SessionState, **options: Any) -> Self:
        """The memory that the state was taken of; the options are those of the constructor."""
        memory = cls(**options)
        memory.set_system_prompt(state.system_prompt)
        memory._messages = state.messages.copy()
        return memory
