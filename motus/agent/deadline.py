"""The deadline of a run, which stands still while a human is asked."""

from __future__ import annotations

import math
from _thread import get_ident
from collections.abc import Callable

import anyio

from motus.runtime.scheduler import GraphScheduler

__all__ = ["Deadline"]


class Deadline:
    """So many seconds from now on; `scope` is cancelled when they are over.

    A `motus.serve.interrupt.Clock`: while somebody has stopped it, no time passes. Made in the
    loop of its runtime.
    """

    def __init__(self, seconds: float, runtime: GraphScheduler) -> None:
        self._runtime = runtime
        self._now = runtime.backend.now
        self._began = self._now()
        # How often it has been stopped, and not yet been let go on.
        self._stops = 0
        self._stopped_at = 0.0
        self.scope = anyio.CancelScope(deadline=self._began + seconds)
        self._left = seconds

    @property
    def elapsed(self) -> float:
        """The seconds that have passed, without those in which it stood still."""
        return (self._stopped_at if self._stops else self._now()) - self._began

    def stop(self) -> None:
        """Let no time pass until `go_on`; from any thread."""
        self._in_its_loop(self._stop)

    def go_on(self) -> None:
        """Take back one `stop`."""
        self._in_its_loop(self._go_on)

    def _in_its_loop(self, change: Callable[[], None]) -> None:
        if self._runtime.thread_id == get_ident():
            change()
        else:
            self._runtime.post(lambda _one, _two: change(), None, None)

    def _stop(self) -> None:
        self._stops += 1
        if self._stops == 1:
            self._stopped_at = self._now()
            self._left = self.scope.deadline - self._stopped_at
            self.scope.deadline = math.inf

    def _go_on(self) -> None:
        self._stops -= 1
        if not self._stops:
            now = self._now()
            # As if it had begun so much later.
            self._began += now - self._stopped_at
            self.scope.deadline = now + self._left
