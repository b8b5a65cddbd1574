"""What happens to a session, what there is to do about it, and how it looks from outside.

The words between the session machine, which takes events and returns instructions, and whoever
drives it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from motus.messages import ChatMessage

__all__ = [
    "AGENT_TIMED_OUT",
    "SHUTTING_DOWN",
    "CallWebhook",
    "CancelRequested",
    "DeletionRequested",
    "DeliverResume",
    "Event",
    "Instruction",
    "InterruptRaised",
    "MessagePosted",
    "PauseTurn",
    "PendingInterrupt",
    "ResumePosted",
    "SessionDeleted",
    "SessionView",
    "StartTurn",
    "Status",
    "StopRequested",
    "StopTurn",
    "TurnEnded",
    "TurnFailed",
    "TurnSucceeded",
    "WakeWaiters",
    "Webhook",
]

AGENT_TIMED_OUT = "Agent timed out"
SHUTTING_DOWN = "Server is shutting down"


class Status(enum.StrEnum):
    IDLE = "idle"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@attrs.frozen
class Webhook:
    """Whom to call when the turn is over, with which bearer token, and how much to tell."""

    url: str
    token: str | None = attrs.field(default=None, repr=False)
    include_messages: bool = False


# Events: what happened.


@attrs.frozen
class MessagePosted:
    turn_id: str
    message: ChatMessage
    webhook: Webhook | None = None


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
    """The worker answered."""

    turn_id: str
    response: ChatMessage
    state: bytes
    message_count: int


@attrs.frozen
class TurnFailed:
    """The worker answered with an error."""

    turn_id: str
    error: str


@attrs.frozen
class CancelRequested:
    """The client wants the turn stopped, whatever it has done so far."""


@attrs.frozen
class StopRequested:
    """The server wants the turn stopped, and `error` says why."""

    turn_id: str
    error: str


@attrs.frozen
class TurnEnded:
    """Nothing of the turn is alive any more; `error` is why, unless it was being stopped."""

    turn_id: str
    error: str


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
    | CancelRequested
    | StopRequested
    | TurnEnded
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
class PauseTurn:
    """A human is waited for: others may have the worker slot, and the deadline stands still."""

    turn_id: str


@attrs.frozen
class DeliverResume:
    turn_id: str
    interrupt_id: str
    value: Any


@attrs.frozen
class StopTurn:
    """End whatever lives of the session's turns, then report `TurnEnded`."""


@attrs.frozen
class WakeWaiters:
    """The status is no longer running: whoever waited for that gets `view` (None: deleted)."""

    view: SessionView | None


@attrs.frozen
class CallWebhook:
    """Tell the webhook how the turn ended; `state` is the conversation after it, encoded."""

    webhook: Webhook
    turn_id: str
    view: SessionView
    state: bytes = attrs.field(repr=False)


Instruction: TypeAlias = (
    StartTurn | PauseTurn | DeliverResume | StopTurn | WakeWaiters | CallWebhook
)


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
