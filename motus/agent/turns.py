"""The calls of one agent, one after the other."""

from __future__ import annotations

import threading
import weakref

from motus.runtime.node import DONE, Node

__all__ = ["Turns"]


class _Turn:
    __slots__ = ("before", "task")

    def __init__(self, task: Node, before: _Turn | None) -> None:
        # Weak, so that the last result of an agent lives no longer than its future. A task that
        # is gone has finished.
        self.task = weakref.ref(task)
        self.before = before


class Turns:
    """Who is next: tasks take their turns in the order in which they ask, from any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: _Turn | None = None

    async def take(self, task: Node) -> None:
        """Return when every task that asked before this one has finished, with all below it.

        The turn ends when the task does. RuntimeError if the task is below one of those: it would
        wait for itself. A task that is cancelled while it waits lets nobody past the others.
        """
        with self._lock:
            turn = self._last = _Turn(task, self._last)
        while turn.before is not None:
            before = turn.before.task()
            if before is not None and before.af_state < DONE:
                await before.af_runtime.wait(before, for_good=True)
            # Not before: if this wait is cancelled, whoever comes next finds the way here.
            turn.before = turn.before.before
