"""The HTTP bodies, both ways, and what is wrong with those that clients send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import attrs
from cattrs import BaseValidationError

from motus.errors import MotusError, ProtocolError
from motus.messages import ChatMessage, make_converter, message_to_json, structure_problems
from motus.serve.events import CallWebhook, SessionView, Status, Webhook
from motus.serve.session import Session
from motus.serve.strict_json import MAX_VALUES, check_list, decode_json, encode_json
from motus.serve.webhook_rules import MAX_WEBHOOK_LENGTH, WEBHOOK_TOKEN, WEBHOOK_URL
from motus.serve.wire import encode_state, pass_json_through

__all__ = [
    "FALSE_WORDS",
    "MAX_WAIT_SECONDS",
    "SESSION_UUID",
    "TRUE_WORDS",
    "Cancelled",
    "CreateSessionBody",
    "ErrorBody",
    "Health",
    "InterruptInfo",
    "NewMessage",
    "NewSession",
    "RequestError",
    "ResumeBody",
    "SessionResponse",
    "SessionStatus",
    "SessionSummary",
    "ShapeErrorBody",
    "ShapeProblem",
    "WebhookField",
    "parse_message",
    "parse_new_session",
    "parse_resume",
    "parse_wait",
    "to_json",
    "webhook_payload",
]

T = TypeVar("T")

MAX_WAIT_SECONDS = 300.0
TRUE_WORDS = ("true", "1", "yes", "on", "y", "t")
FALSE_WORDS = ("false", "0", "no", "off", "n", "f")
# A UUID with its hyphens or without any, no braces and such; letters may be of either case.
_GROUPS = [f"[0-9A-Fa-f]{{{length}}}" for length in (8, 4, 4, 4, 12)]
SESSION_UUID = f"({'-'.join(_GROUPS)}|{''.join(_GROUPS)})"

_converter = make_converter()
_session_converter = pass_json_through(make_converter())


class RequestError(MotusError):
    """The request cannot be served; `detail` is the body's `detail`, a text or a list."""

    def __init__(self, status: int, detail: str | list[ShapeProblem]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


@attrs.frozen
class NewSession:
    """A session to be, with its state encoded already."""

    state: bytes
    message_count: int


@attrs.frozen
class NewMessage:
    """What a client says, and whom to call when the turn is over."""

    message: ChatMessage
    webhook: Webhook | None


# What clients send. A message's body is a ChatMessage whose role may be missing, and a webhook.


@attrs.frozen
class CreateSessionBody:
    state: list[ChatMessage] | None = None


@attrs.frozen
class WebhookField:
    webhook: Webhook | None = None


@attrs.frozen
class ResumeBody:
    interrupt_id: str
    value: Any


# What they get.


@attrs.frozen
class Health:
    status: str
    max_workers: int
    running_workers: int
    total_sessions: int
    queued_turns: int
    interrupted_sessions: int
    workers_mode: str | None


@attrs.frozen
class InterruptInfo:
    interrupt_id: str
    type: str
    payload: dict[str, Any]


@attrs.frozen
class SessionResponse:
    session_id: str
    status: Status
    response: ChatMessage | None
    error: str | None
    interrupts: list[InterruptInfo] | None

    @classmethod
    def of(cls, view: SessionView) -> SessionResponse:
        interrupts = [
            InterruptInfo(pending.interrupt_id, pending.type, dict(pending.payload))
            for pending in view.interrupts or ()
        ]
        return cls(view.session_id, view.status, view.response, view.error, interrupts or None)


@attrs.frozen
class SessionSummary:
    session_id: str
    total_messages: int
    status: Status

    @classmethod
    def of(cls, session: Session) -> SessionSummary:
        return cls(session.session_id, session.message_count, session.status)


@attrs.frozen
class SessionStatus:
    session_id: str
    status: Status


@attrs.frozen
class Cancelled:
    session_id: str
    status: Status
    cancelled: bool


@attrs.frozen
class ErrorBody:
    detail: str


@attrs.frozen
class ShapeProblem:
    loc: list[str | int]
    msg: str
    type: str = "value_error"


@attrs.frozen
class ShapeErrorBody:
    detail: list[ShapeProblem]


def to_json(body: object) -> bytes:
    """A response body. Raises `ProtocolError` for what JSON cannot say."""
    converter = _session_converter if isinstance(body, SessionResponse) else _converter
    return encode_json(converter.unstructure(body))


def webhook_payload(call: CallWebhook) -> bytes:
    """The body with which a webhook is called: what is null is left out.

    Raises `ProtocolError` where a worker has left as its state what is none.
    """
    view = call.view
    fields: dict[str, Any] = {"session_id": view.session_id, "status": view.status}
    if view.response is not None:
        fields["response"] = message_to_json(view.response, omit_none=True)
    if view.error is not None:
        fields["error"] = view.error
    body = encode_json(fields)
    if call.webhook.include_messages:
        # The state is kept in the very form that belongs here, however long it is. But that is a
        # worker's word, which must not become the server's on anything else in the body.
        check_list(call.state)
        body = body[:-1] + b',"messages":' + call.state + b"}"
    return body


def parse_new_session(data: bytes, content_type: str, *, max_state_size: int) -> NewSession:
    """The body of a request that makes a session; it may be absent. Raises `RequestError`."""
    value = _parse(data, content_type) if data else None
    body = CreateSessionBody() if value is None else _structure(value, CreateSessionBody)
    messages = body.state or []
    state = encode_state(messages)
    if len(state) > max_state_size:
        raise RequestError(413, f"The state is too large (at most {max_state_size} bytes)")
    return NewSession(state, len(messages))


def parse_message(data: bytes, content_type: str) -> NewMessage:
    """The body of a request that sends a message. Raises `RequestError`."""
    body = _parse(data, content_type)
    if isinstance(body, dict):
        body = {"role": "user", **body}
    message = _structure(body, ChatMessage)
    webhook = _structure(body, WebhookField).webhook
    if webhook is not None:
        if len(webhook.url) > MAX_WEBHOOK_LENGTH or not re.fullmatch(WEBHOOK_URL, webhook.url):
            _unprocessable(
                ["body", "webhook", "url"],
                "expected an http or https URL, in ASCII, without user name and password",
            )
        token = webhook.token
        if token is not None and not re.fullmatch(WEBHOOK_TOKEN, token):
            _unprocessable(["body", "webhook", "token"], "expected visible ASCII characters")
    return NewMessage(message, webhook)


def parse_resume(data: bytes, content_type: str) -> ResumeBody:
    """The body of a request that answers an interrupt. Raises `RequestError`."""
    return _structure(_parse(data, content_type), ResumeBody)


def parse_wait(arguments: Mapping[str, str]) -> float | None:
    """Seconds to wait for the end of a turn; None for an answer at once. Raises `RequestError`."""
    wait = arguments.get("wait", "false").lower()
    if wait not in TRUE_WORDS + FALSE_WORDS:
        _unprocessable(["query", "wait"], "expected true or false")
    text = arguments.get("timeout")
    seconds = MAX_WAIT_SECONDS if text is None else _seconds(text)
    return min(seconds, MAX_WAIT_SECONDS) if wait in TRUE_WORDS else None


def _seconds(text: str) -> float:
    try:
        value = decode_json(text.encode())
    except (ProtocolError, UnicodeEncodeError):
        value = None
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        _unprocessable(["query", "timeout"], "expected a number of seconds")
    return value


def _parse(data: bytes, content_type: str) -> Any:
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise RequestError(415, "Content-Type must be application/json")
    try:
        return decode_json(data, max_values=MAX_VALUES)
    except ProtocolError as error:
        raise RequestError(400, f"Request body is {_as_predicate(error)}") from error


def _as_predicate(error: ProtocolError) -> str:
    text = str(error)
    return text if text.startswith(("not ", "nested ", "of ")) else f"not valid: {text}"


def _structure(value: object, kind: type[T]) -> T:
    try:
        return _converter.structure(value, kind)
    except (BaseValidationError, TypeError, ValueError) as error:
        problems = [
            ShapeProblem(["body", *problem.path], problem.message)
            for problem in structure_problems(error)
        ]
        raise RequestError(422, problems) from error


def _unprocessable(location: list[str | int], message: str) -> NoReturn:
    raise RequestError(422, [ShapeProblem(location, message)])
