"""One turn as long as something of it may be alive, and the words for why it gave no answer."""

from __future__ import annotations

import math
from collections import deque

import anyio
import attrs
from anyio.abc import TaskGroup

from motus.errors import ProtocolError
from motus.serve.agents import AgentLoadError
from motus.serve.session import Session
from motus.serve.wire import Resume
from motus.serve.workers.pool import Worker, WorkerDiedError

__all__ = ["LiveTurn", "explained"]


@attrs.define(eq=False)
class LiveTurn:
    """A turn of which something may be alive: the scope it runs in, and what it holds."""

    session: Session
    turn_id: str
    # Seconds that are left of the turn's time, while its deadline stands still.
    time_left: float
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    ended: anyio.Event = attrs.field(factory=anyio.Event)
    has_slot: bool = False
    worker: Worker | None = None
    tasks: TaskGroup | None = None
    # Values on their way to the worker, the one that is being sent included.
    deliveries: deque[Resume] = attrs.field(factory=deque)

    @property
    def answered(self) -> bool:
        return self.session.turn_id != self.turn_id

    def set_clock(self) -> None:
        """Have the deadline come nearer only while the turn has a slot."""
        running = self.has_slot and not self.answered
        if running and self.scope.deadline == math.inf:
            self.scope.deadline = anyio.current_time() + self.time_left
        elif not running and self.scope.deadline != math.inf:
            self.time_left = self.scope.deadline - anyio.current_time()
            self.scope.deadline = math.inf

    @property
    def ids(self) -> dict[str, str]:
        """For log records."""
        return {"session_id": self.session.session_id, "turn_id": self.turn_id}


def explained(problem: WorkerDiedError | ProtocolError | OSError | AgentLoadError) -> str:
    """Why there is no answer, for the client."""
    match problem:
        case WorkerDiedError():
            # Which says the signal or the exit code.
            return f"Worker process exited unexpectedly ({problem})"
        case ProtocolError():
            return f"Worker broke the protocol: {problem}"
        case OSError():
            return f"Worker could not be started: {problem.strerror}"
        case _:
            return str(problem)
