"""The worker slots of a server: how many turns run at the same time, and who is next."""

from __future__ import annotations

from collections import deque

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

__all__ = ["Slots"]


class Slots:
    """`total` permits, handed out in order; whoever only continues goes ahead of who begins.

    Unlike a capacity limiter, a permit has no owner: a turn gives its own back while it waits for
    a human, from wherever that is noticed.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._beginning: deque[anyio.Event] = deque()
        self._continuing: deque[anyio.Event] = deque()

    @property
    def taken(self) -> int:
        return self._total - self._free

    @property
    def free(self) -> int:
        return self._free

    @property
    def waiting(self) -> int:
        return len(self._beginning) + len(self._continuing)

    async def take(self, *, ahead: bool = False) -> None:
        """Wait for a slot, `ahead` of all who do not say so. Cancelled, it has taken none."""
        await checkpoint_if_cancelled()
        # One is free only while nobody waits: `give` hands it on directly.
        if self._free:
            self._free -= 1
            return
        queue = self._continuing if ahead else self._beginning
        turn = anyio.Event()
        queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give()
            else:
                queue.remove(turn)
            raise

    def give(self) -> None:
        """Give back a slot that was taken; who is next has it at once."""
        if queue := self._continuing or self._beginning:
            queue.popleft().set()
        else:
            self._free += 1
