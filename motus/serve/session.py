"""The state machine of one session: events in, instructions out.

The rules of this room:

- A session runs at most one turn. A turn has an id of its own; an event that names another turn
  than the running one is an echo of a turn that is over, and changes nothing. So a session that
  is deleted and created again under the same id never sees the outcome of an old turn.
- Only `TurnSucceeded` replaces the state. However else a turn ends, the conversation is as it was
  before the turn.
- The first word about how a turn ends is the last one. After the worker's answer nothing can stop
  the turn; once it is being stopped, for whatever reason, its worker is not heard any more.
- A status changes in one synchronous step. A turn that does not answer leaves it with `TurnEnded`,
  which is reported when nothing of that turn is alive any more.
- What a client asks at a wrong moment raises and changes nothing.

Statuses and what moves them; a pair that is not in the table is refused or stale:

    idle, error            MessagePosted    -> running
    running                InterruptRaised  -> interrupted
    interrupted            InterruptRaised  -> interrupted
    interrupted            ResumePosted     -> interrupted, or running with the last one
    running, interrupted   TurnSucceeded    -> idle
    running, interrupted   TurnFailed       -> error
    running, interrupted   CancelRequested, StopRequested: the same status, being stopped
    running, interrupted   TurnEnded        -> idle when it was cancelled, otherwise error
    any                    SessionDeleted   -> gone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import attrs

from motus.errors import MotusError
from motus.messages import ChatMessage
from motus.serve.events import (
    CallWebhook,
    CancelRequested,
    DeletionRequested,
    DeliverResume,
    Event,
    Instruction,
    InterruptRaised,
    MessagePosted,
    PauseTurn,
    PendingInterrupt,
    ResumePosted,
    SessionDeleted,
    SessionView,
    StartTurn,
    Status,
    StopRequested,
    StopTurn,
    TurnEnded,
    TurnFailed,
    TurnSucceeded,
    WakeWaiters,
    Webhook,
)
from motus.serve.wire import EMPTY_STATE

__all__ = [
    "Session",
    "SessionBusyError",
    "SessionDeletedError",
    "SessionNotWaitingError",
    "UnknownInterruptError",
]


class SessionBusyError(MotusError):
    """A message came while a turn is running or waits for a human. Try again when it is over."""


class SessionNotWaitingError(MotusError):
    """A resume came while the session waits for nothing."""


class UnknownInterruptError(MotusError):
    """A resume named an interrupt for which nobody waits: never raised, resumed, or given up."""


class SessionDeletedError(MotusError):
    """The session is gone, or about to be."""


@attrs.frozen
class _Stopping:
    """How the turn will have ended; without an error it was cancelled by a client."""

    error: str | None


# Takes the session and the event; what the table's methods have in common.
_Step: TypeAlias = Callable[[Any, Any], list[Instruction]]

_RESTING = (Status.IDLE, Status.ERROR)
_BUSY = (Status.RUNNING, Status.INTERRUPTED)
_FROM_CLIENT = (MessagePosted, ResumePosted, CancelRequested)
_FROM_WORKER = (InterruptRaised, TurnSucceeded, TurnFailed)


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
        self._webhook: Webhook | None = None
        self._stopping: _Stopping | None = None
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

    @property
    def cancelling(self) -> bool:
        """Whether the turn is being stopped because a client cancelled it."""
        return self._stopping == _Stopping(None) and not self._deleting

    @property
    def pending(self) -> Mapping[str, PendingInterrupt]:
        """The interrupts that wait for a value, in the order in which they were raised."""
        return self._interrupts

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
        resting = self._status in _RESTING and not self._deleting
        return self._last_activity + ttl if resting else None

    def abandoned_at(self, interrupt_ttl: float) -> float | None:
        """When `interrupt_ttl` seconds without interrupt or resume are over; None if none waits."""
        waiting = self._status is Status.INTERRUPTED and self._stopping is None
        return self._last_activity + interrupt_ttl if waiting else None

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in what happened and say what is to be done, in this order.

        Raises `SessionBusyError`, `SessionNotWaitingError`, `UnknownInterruptError` or
        `SessionDeletedError`, each with the text for the client, when a client asked for what
        cannot be now; the session is unchanged then.
        """
        from_client = isinstance(event, _FROM_CLIENT)
        if from_client and self._deleting:
            raise SessionDeletedError("Session deleted")
        step = self._transitions.get((self._status, type(event)))
        if step is None:
            self._refuse(event)
            return []
        if not from_client and getattr(event, "turn_id", self._turn_id) != self._turn_id:
            return []
        if self._stopping is not None and isinstance(event, _FROM_WORKER):
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
        self._webhook = event.webhook
        self._response = None
        self._error = None
        return [StartTurn(event.turn_id, event.message, self._state)]

    def _interrupt(self, event: InterruptRaised) -> list[Instruction]:
        self._interrupts[event.interrupt_id] = PendingInterrupt(event.interrupt_id, event.payload)
        if self._status is Status.INTERRUPTED:
            return []
        self._status = Status.INTERRUPTED
        return [PauseTurn(event.turn_id), WakeWaiters(self.view())]

    def _resume(self, event: ResumePosted) -> list[Instruction]:
        assert self._turn_id is not None
        if self._stopping is not None:
            raise UnknownInterruptError("Session not actively waiting for resume")
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
        return self._rest(Status.ERROR, event.error)

    def _cancel(self, event: CancelRequested) -> list[Instruction]:
        return self._stop(_Stopping(None))

    def _stop_turn(self, event: StopRequested) -> list[Instruction]:
        return self._stop(_Stopping(event.error))

    def _stop(self, stopping: _Stopping) -> list[Instruction]:
        if self._stopping is not None:
            return []
        self._stopping = stopping
        return [StopTurn()]

    def _end(self, event: TurnEnded) -> list[Instruction]:
        error = event.error if self._stopping is None else self._stopping.error
        return self._rest(Status.IDLE if error is None else Status.ERROR, error)

    def _rest(self, status: Status, error: str | None = None) -> list[Instruction]:
        turn_id, webhook = self._turn_id, self._webhook
        assert turn_id is not None
        self._status = status
        self._error = error
        self._turn_id = self._webhook = self._stopping = None
        self._interrupts.clear()
        if self._deleting:
            # Whoever waits for a session that is being deleted hears of the deletion.
            return []
        view = self.view()
        instructions: list[Instruction] = [WakeWaiters(view)]
        if webhook is not None:
            instructions.append(CallWebhook(webhook, turn_id, view, self._state))
        return instructions

    def _request_deletion(self, event: DeletionRequested) -> list[Instruction]:
        if self._deleting:
            return []
        self._deleting = True
        if self._turn_id is not None and self._stopping is None:
            self._stopping = _Stopping(None)
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
        (_BUSY, CancelRequested, _cancel),
        (_BUSY, StopRequested, _stop_turn),
        (_BUSY, TurnEnded, _end),
        (tuple(Status), DeletionRequested, _request_deletion),
        (tuple(Status), SessionDeleted, _delete),
    )
