"""The state machine of one session: events in, instructions out.

The rules of this room:

- A session runs at most one turn. A turn has an id of its own; an event that names another turn
  than the running one is an echo of a turn that is over, and changes nothing. So a session that
  is deleted and created again under the same id never sees the outcome of an old turn.
- Only `TurnSucceeded` replaces the state. However else a turn ends, the conversation is as it was
  before the turn.
- A status changes in one synchronous step. Whoever reports that a turn was stopped (`TurnFailed`,
  `TurnCancelled`, `SessionDeleted`) does so when nothing of that turn is alive any more.
- What a client asks at a wrong moment raises and changes nothing.

Statuses and what moves them; a pair that is not in the table is refused or stale:

    idle, error   MessagePosted    -> running
    running       InterruptRaised  -> interrupted
    interrupted   InterruptRaised  -> interrupted
    interrupted   ResumePosted     -> interrupted, or running with the last one
    running, interrupted   TurnSucceeded -> idle;  TurnFailed -> error;  TurnCancelled -> idle
    any           SessionDeleted   -> gone
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import attrs

from motus.errors import MotusError
from motus.messages import ChatMessage
from motus.serve.wire import EMPTY_STATE

__all__ = [
    "AGENT_TIMED_OUT",
    "SHUTTING_DOWN",
    "DeletionRequested",
    "DeliverResume",
    "Event",
    "Instruction",
    "InterruptRaised",
    "MessagePosted",
    "PendingInterrupt",
    "ResumePosted",
    "Session",
    "SessionBusyError",
    "SessionDeleted",
    "SessionDeletedError",
    "SessionNotWaitingError",
    "SessionView",
    "StartTurn",
    "Status",
    "TurnCancelled",
    "TurnFailed",
    "TurnSucceeded",
    "UnknownInterruptError",
    "WakeWaiters",
    "worker_died",
]

AGENT_TIMED_OUT = "Agent timed out"
SHUTTING_DOWN = "Server is shutting down"


def worker_died(cause: str) -> str:
    """The error of a turn whose worker went away by itself; `cause` names signal or exit code."""
    return f"Worker process exited unexpectedly ({cause})"


class Status(enum.StrEnum):
    IDLE = "idle"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class SessionBusyError(MotusError):
    """A message came while a turn is running or waits for a human. Try again when it is over."""


class SessionNotWaitingError(MotusError):
    """A resume came while the session waits for nothing."""


class UnknownInterruptError(MotusError):
    """A resume named an interrupt that does not exist, or that has its value already."""


class SessionDeletedError(MotusError):
    """The session is gone, or about to be."""


# Events: what happened.


@attrs.frozen
class MessagePosted:
    turn_id: str
    message: ChatMessage


@attrs.frozen
class InterruptRaised:
    turn_id: str
    interrupt_id: str
    payload: Mapping[str, Any]


@attrs.frozen
class ResumePosted:
    interrupt_id: str
    value: Any


@attrs.frozen
class TurnSucceeded:
    turn_id: str
    response: ChatMessage
    state: bytes
    message_count: int


@attrs.frozen
class TurnFailed:
    turn_id: str
    error: str


@attrs.frozen
class TurnCancelled:
    turn_id: str


@attrs.frozen
class DeletionRequested:
    """The session takes no more messages; what runs is being stopped."""


@attrs.frozen
class SessionDeleted:
    """Nothing of the session is alive any more."""


Event: TypeAlias = (
    MessagePosted
    | InterruptRaised
    | ResumePosted
    | TurnSucceeded
    | TurnFailed
    | TurnCancelled
    | DeletionRequested
    | SessionDeleted
)


# Instructions: what the driver has to do now.


@attrs.frozen
class StartTurn:
    turn_id: str
    message: ChatMessage
    state: bytes


@attrs.frozen
class DeliverResume:
    turn_id: str
    interrupt_id: str
    value: Any


@attrs.frozen
class StopTurn:
    """End the turn and everything below it, then report `SessionDeleted`."""


@attrs.frozen
class WakeWaiters:
    """The status is no longer running: whoever waited for that gets `view` (None: deleted)."""

    view: SessionView | None


Instruction: TypeAlias = StartTurn | DeliverResume | StopTurn | WakeWaiters


@attrs.frozen
class PendingInterrupt:
    interrupt_id: str
    payload: Mapping[str, Any]

    @property
    def type(self) -> str:
        """What kind of answer is wanted: the payload's own word, or "unknown"."""
        kind = self.payload.get("type")
        return kind if isinstance(kind, str) else "unknown"


@attrs.frozen
class SessionView:
    """A session as clients see it, at one instant."""

    session_id: str
    status: Status
    response: ChatMessage | None = None
    error: str | None = None
    interrupts: tuple[PendingInterrupt, ...] | None = None


# Takes the session and the event; what the table's methods have in common.
_Step: TypeAlias = Callable[[Any, Any], list[Instruction]]

_RESTING = (Status.IDLE, Status.ERROR)
_BUSY = (Status.RUNNING, Status.INTERRUPTED)


def _table(
    *rows: tuple[tuple[Status, ...], type[Event], _Step],
) -> dict[tuple[Status, type[Any]], _Step]:
    return {(status, event): step for statuses, event, step in rows for status in statuses}


class Session:
    """One conversation. `handle` is the only thing that changes it.

    `now` is a number of seconds on any clock that does not go back.
    """

    def __init__(
        self, session_id: str, now: float, *, state: bytes = EMPTY_STATE, message_count: int = 0
    ) -> None:
        self.session_id = session_id
        self._status = Status.IDLE
        self._state = state
        self._message_count = message_count
        self._response: ChatMessage | None = None
        self._error: str | None = None
        self._interrupts: dict[str, PendingInterrupt] = {}
        self._turn_id: str | None = None
        self._last_activity = now
        self._deleting = False

    @property
    def status(self) -> Status:
        return self._status

    @property
    def turn_id(self) -> str | None:
        """The turn that is running or interrupted."""
        return self._turn_id

    @property
    def state(self) -> bytes:
        """The conversation, encoded."""
        return self._state

    @property
    def message_count(self) -> int:
        return self._message_count

    @property
    def deleting(self) -> bool:
        return self._deleting

    def view(self) -> SessionView:
        return SessionView(
            self.session_id,
            self._status,
            self._response,
            self._error,
            tuple(self._interrupts.values()) or None,
        )

    def expires_at(self, ttl: float) -> float | None:
        """When `ttl` seconds without activity are over; None while a turn is not."""
        resting = self._status in (Status.IDLE, Status.ERROR) and not self._deleting
        return self._last_activity + ttl if resting else None

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in what happened and say what is to be done, in this order.

        Raises `SessionBusyError`, `SessionNotWaitingError`, `UnknownInterruptError` or
        `SessionDeletedError`, each with the text for the client, when a client asked for what
        cannot be now; the session is unchanged then.
        """
        step = self._transitions.get((self._status, type(event)))
        if step is None:
            self._refuse(event)
            return []
        if isinstance(event, MessagePosted | ResumePosted):
            if self._deleting:
                raise SessionDeletedError("Session deleted")
        elif getattr(event, "turn_id", self._turn_id) != self._turn_id:
            return []
        instructions = step(self, event)
        self._last_activity = now
        return instructions

    def _refuse(self, event: Event) -> None:
        if isinstance(event, MessagePosted):
            raise SessionBusyError(f"Session is {self._status}")
        if isinstance(event, ResumePosted):
            raise SessionNotWaitingError(f"Session is {self._status}, not interrupted")

    def _start(self, event: MessagePosted) -> list[Instruction]:
        self._status = Status.RUNNING
        self._turn_id = event.turn_id
        self._response = None
        self._error = None
        return [StartTurn(event.turn_id, event.message, self._state)]

    def _interrupt(self, event: InterruptRaised) -> list[Instruction]:
        self._interrupts[event.interrupt_id] = PendingInterrupt(event.interrupt_id, event.payload)
        first = self._status is Status.RUNNING
        self._status = Status.INTERRUPTED
        return [WakeWaiters(self.view())] if first else []

    def _resume(self, event: ResumePosted) -> list[Instruction]:
        assert self._turn_id is not None
        if event.interrupt_id not in self._interrupts:
            raise UnknownInterruptError(f"Unknown interrupt_id: {event.interrupt_id}")
        del self._interrupts[event.interrupt_id]
        if not self._interrupts:
            self._status = Status.RUNNING
        return [DeliverResume(self._turn_id, event.interrupt_id, event.value)]

    def _succeed(self, event: TurnSucceeded) -> list[Instruction]:
        self._response = event.response
        self._state = event.state
        self._message_count = event.message_count
        return self._rest(Status.IDLE)

    def _fail(self, event: TurnFailed) -> list[Instruction]:
        self._error = event.error
        return self._rest(Status.ERROR)

    def _cancel(self, event: TurnCancelled) -> list[Instruction]:
        return self._rest(Status.IDLE)

    def _rest(self, status: Status) -> list[Instruction]:
        self._status = status
        self._turn_id = None
        self._interrupts.clear()
        # Whoever waits for a session that is being deleted hears of the deletion.
        return [] if self._deleting else [WakeWaiters(self.view())]

    def _stop(self, event: DeletionRequested) -> list[Instruction]:
        if self._deleting:
            return []
        self._deleting = True
        return [StopTurn()]

    def _delete(self, event: SessionDeleted) -> list[Instruction]:
        self._deleting = True
        self._turn_id = None
        return [WakeWaiters(None)]

    _transitions: ClassVar[dict[tuple[Status, type[Any]], _Step]] = _table(
        (_RESTING, MessagePosted, _start),
        (_BUSY, InterruptRaised, _interrupt),
        ((Status.INTERRUPTED,), ResumePosted, _resume),
        (_BUSY, TurnSucceeded, _succeed),
        (_BUSY, TurnFailed, _fail),
        (_BUSY, TurnCancelled, _cancel),
        (tuple(Status), DeletionRequested, _stop),
        (tuple(Status), SessionDeleted, _delete),
    )
