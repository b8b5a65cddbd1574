"""The HTTP bodies, both ways, and what is wrong with those that clients send."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import attrs
from cattrs import BaseValidationError

from motus.errors import MotusError, ProtocolError
from motus.messages import ChatMessage, make_converter, structure_problems
from motus.serve.session import Session, SessionView
from motus.serve.wire import decode_json, encode_json, encode_state

__all__ = [
    "MAX_WAIT_SECONDS",
    "Health",
    "MessageAccepted",
    "NewSession",
    "RequestError",
    "SessionResponse",
    "SessionSummary",
    "parse_message",
    "parse_new_session",
    "parse_wait",
    "to_json",
]

T = TypeVar("T")

MAX_WAIT_SECONDS = 300.0
_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}

_converter = make_converter()


class RequestError(MotusError):
    """The request cannot be served; `detail` is the body's `detail`, a text or a list."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


@attrs.frozen
class NewSession:
    """A session to be, with its state encoded already."""

    state: bytes
    message_count: int


@attrs.frozen
class _CreateSessionBody:
    state: list[ChatMessage] | None = None


@attrs.frozen
class Health:
    status: str
    max_workers: int
    running_workers: int
    total_sessions: int


@attrs.frozen
class InterruptInfo:
    interrupt_id: str
    type: str
    payload: Mapping[str, Any]


@attrs.frozen
class SessionResponse:
    session_id: str
    status: str
    response: ChatMessage | None
    error: str | None
    interrupts: list[InterruptInfo] | None

    @classmethod
    def of(cls, view: SessionView) -> SessionResponse:
        interrupts = [
            InterruptInfo(pending.interrupt_id, pending.type, pending.payload)
            for pending in view.interrupts or ()
        ]
        return cls(view.session_id, view.status, view.response, view.error, interrupts or None)


@attrs.frozen
class SessionSummary:
    session_id: str
    total_messages: int
    status: str

    @classmethod
    def of(cls, session: Session) -> SessionSummary:
        return cls(session.session_id, session.message_count, session.status)


@attrs.frozen
class MessageAccepted:
    session_id: str
    status: str = "running"


def to_json(body: object) -> bytes:
    """A response body. Raises `ProtocolError` for what JSON cannot say."""
    return encode_json(_converter.unstructure(body))


def parse_new_session(data: bytes, content_type: str) -> NewSession:
    """The body of a request that makes a session; it may be absent. Raises `RequestError`."""
    body = _structure(_parse(data, content_type), _CreateSessionBody) if data else None
    messages = body.state if body is not None and body.state is not None else []
    return NewSession(encode_state(messages), len(messages))


def parse_message(data: bytes, content_type: str) -> ChatMessage:
    """The body of a request that sends a message. Raises `RequestError`."""
    body = _parse(data, content_type)
    if isinstance(body, dict):
        body = {"role": "user", **body}
        if body.get("webhook") is not None:
            # Not to be ignored as other unknown keys are: the client would wait for the call.
            _unprocessable(["body", "webhook"], "webhooks are not supported by this server")
    return _structure(body, ChatMessage)


def parse_wait(arguments: Mapping[str, str]) -> float | None:
    """Seconds to wait for the end of a turn; None for an answer at once. Raises `RequestError`."""
    wait = arguments.get("wait", "false").lower()
    if wait not in _TRUE | _FALSE:
        _unprocessable(["query", "wait"], "expected true or false")
    text = arguments.get("timeout")
    seconds = MAX_WAIT_SECONDS
    if text is not None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            _unprocessable(["query", "timeout"], "expected a number of seconds")
    return min(seconds, MAX_WAIT_SECONDS) if wait in _TRUE else None


def _parse(data: bytes, content_type: str) -> Any:
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise RequestError(415, "Content-Type must be application/json")
    try:
        return decode_json(data)
    except ProtocolError as error:
        raise RequestError(400, f"Request body is {_as_predicate(error)}") from error


def _as_predicate(error: ProtocolError) -> str:
    text = str(error)
    return text if text.startswith(("not ", "nested ")) else f"not valid: {text}"


def _structure(value: object, kind: type[T]) -> T:
    try:
        return _converter.structure(value, kind)
    except (BaseValidationError, TypeError, ValueError) as error:
        raise RequestError(
            422,
            [_problem(["body", *p.path], p.message) for p in structure_problems(error)],
        ) from error


def _problem(location: list[str | int], message: str) -> dict[str, Any]:
    return {"loc": location, "msg": message, "type": "value_error"}


def _unprocessable(location: list[str | int], message: str) -> NoReturn:
    raise RequestError(422, [_problem(location, message)])
