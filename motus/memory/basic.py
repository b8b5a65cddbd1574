"""A memory that keeps everything."""

from __future__ import annotations

from typing import Any

from motus.memory.base import BaseMemory

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
