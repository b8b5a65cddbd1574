"""What the server says to its workers and their template: closed unions of messages, in frames.

A frame is a 4-byte big-endian length, then that many bytes: a JSON object on one line, and, for
the messages that carry a session's state, a newline and the state. The state is a JSON list of
messages without their nulls; it is a raw section so that the server can keep and forward it
without decoding it, however long it is. JSON made by this module contains no raw newline, so the
first one ends the header.

The server does not trust a worker, whose process runs the agent's code: tags stand for classes
in a fixed table, nothing is guessed, and whatever is malformed raises `ProtocolError` only.
"""

from __future__ import annotations

from functools import partial
from operator import is_
from typing import Any, Generic, TypeAlias, TypeVar, cast

import attrs
from cattrs import BaseValidationError, Converter

from motus.errors import ProtocolError
from motus.messages import (
    ChatMessage,
    make_converter,
    messages_from_json,
    messages_to_json,
    structure_problems,
)
from motus.serve.strict_json import MAX_DEPTH, MAX_VALUES, check_depth, decode_json, encode_json

__all__ = [
    "EMPTY_STATE",
    "FROM_TEMPLATE",
    "FROM_WORKER",
    "MAX_FRAME_BYTES",
    "TO_TEMPLATE",
    "TO_WORKER",
    "Changed",
    "Exited",
    "Failure",
    "Fork",
    "Forked",
    "FrameDecoder",
    "FromTemplate",
    "FromWorker",
    "Interrupt",
    "Message",
    "NotForked",
    "Prepared",
    "Ready",
    "Result",
    "Resume",
    "ToTemplate",
    "ToWorker",
    "Turn",
    "decode_state",
    "encode_frame",
    "encode_state",
    "pass_json_through",
]

MAX_FRAME_BYTES = 64 * 1024 * 1024
# A message stands a few levels deep in the frame that carries it.
MAX_FRAME_DEPTH = MAX_DEPTH + 8
# Of what goes into the log and stays with the session, and is read by people.
MAX_ERROR_CHARACTERS = 10_000
MAX_TRACEBACK_CHARACTERS = 32_768
MAX_TRACEBACK_LINES = 1000
MAX_ID_CHARACTERS = 64
EMPTY_STATE = b"[]"
LENGTH_BYTES = 4
MIN_READ_BYTES = 1 << 16
MAX_READ_BYTES = 1 << 20


def _repr_state(state: bytes) -> str:
    return f"<{len(state)} bytes>"


@attrs.frozen
class Turn:
    """To the worker: answer this message. `state` is as `encode_state` makes it."""

    session_id: str
    turn_id: str
    message: ChatMessage
    state: bytes = attrs.field(default=EMPTY_STATE, repr=_repr_state)


@attrs.frozen
class Resume:
    """To the worker: the value that an interrupt waits for."""

    turn_id: str
    interrupt_id: str
    value: Any


@attrs.frozen
class Ready:
    """The worker has imported the agent; one that was forked says nothing."""


@attrs.frozen
class Interrupt:
    """The agent waits for a value from outside."""

    turn_id: str
    interrupt_id: str = attrs.field(validator=attrs.validators.max_len(MAX_ID_CHARACTERS))
    payload: dict[str, Any]


@attrs.frozen
class Result:
    """The turn's answer. `message_count` is the length of the state, which stays encoded."""

    turn_id: str
    response: ChatMessage
    message_count: int = attrs.field(
        validator=[attrs.validators.ge(0), attrs.validators.le(MAX_FRAME_BYTES)]
    )
    state: bytes = attrs.field(default=EMPTY_STATE, repr=_repr_state)


@attrs.frozen
class Failure:
    """The turn has no answer: `error` is for the client, `traceback` for the log.

    `turn_id` is None where the agent could not be imported; the template says so, too.
    """

    turn_id: str | None
    error: str = attrs.field(validator=attrs.validators.max_len(MAX_ERROR_CHARACTERS))
    traceback: str = attrs.field(validator=attrs.validators.max_len(MAX_TRACEBACK_CHARACTERS))

    @classmethod
    def of(cls, turn_id: str | None, error: str, traceback: str = "") -> Failure:
        """With what a frame can carry of any text: the middle of a long one is left out."""
        return cls(
            turn_id,
            _shortened(error, MAX_ERROR_CHARACTERS),
            _shortened(traceback, MAX_TRACEBACK_CHARACTERS),
        )

    @property
    def traceback_lines(self) -> list[str]:
        """For the log; the last of them where there are very many."""
        return self.traceback.splitlines()[-MAX_TRACEBACK_LINES:]


@attrs.frozen
class Fork:
    """To the template: make a worker. Its channel and where it prints come with the frame."""

    worker_id: str


@attrs.frozen
class Prepared:
    """The template can make workers; `mode` is "fork" or "exec"."""

    mode: str = attrs.field(validator=attrs.validators.in_(("fork", "exec")))


@attrs.frozen
class Forked:
    """The worker's process is there, and so with the frame a descriptor that stands for it.

    None comes where the system knows of no such descriptors, or has no room for one.
    """

    worker_id: str
    pid: int = attrs.field(validator=attrs.validators.ge(2))
    has_descriptor: bool = True


@attrs.frozen
class NotForked:
    """There is no such worker; `error_number` is the system's reason."""

    worker_id: str
    error_number: int = attrs.field(validator=attrs.validators.ge(1))


@attrs.frozen
class Exited:
    """Nothing of the worker is alive. `status` is its exit code, or a signal's negative number."""

    worker_id: str
    status: int


@attrs.frozen
class Changed:
    """The files that the template has imported are not what they were."""


ToWorker: TypeAlias = Turn | Resume
FromWorker: TypeAlias = Ready | Interrupt | Result | Failure
ToTemplate: TypeAlias = Fork
FromTemplate: TypeAlias = Prepared | Failure | Forked | NotForked | Exited | Changed
Message: TypeAlias = ToWorker | FromWorker | ToTemplate | FromTemplate

TO_WORKER: dict[str, type[ToWorker]] = {"turn": Turn, "resume": Resume}
FROM_WORKER: dict[str, type[FromWorker]] = {
    "ready": Ready,
    "interrupt": Interrupt,
    "result": Result,
    "failure": Failure,
}
TO_TEMPLATE: dict[str, type[ToTemplate]] = {"fork": Fork}
FROM_TEMPLATE: dict[str, type[FromTemplate]] = {
    "prepared": Prepared,
    "failure": Failure,
    "forked": Forked,
    "not_forked": NotForked,
    "exited": Exited,
    "changed": Changed,
}
_TAGS: dict[type[Any], str] = {
    kind: tag for kinds in (TO_WORKER, FROM_WORKER, TO_TEMPLATE, FROM_TEMPLATE)
    for tag, kind in cast(dict[str, type[Any]], kinds).items()
}  # fmt: skip
_WITH_STATE = (Turn, Result)

M = TypeVar("M")


def pass_json_through(converter: Converter) -> Converter:
    """Have it not look for objects in lists and dicts of anything.

    For what has been decoded from JSON, as all that the server passes on: there may be much of it.
    """
    for kind in (dict, list):
        converter.register_unstructure_hook_func(partial(is_, kind), lambda value: value)
    return converter


_converter = make_converter(forbid_extra_keys=True)
_server_converter = pass_json_through(make_converter(forbid_extra_keys=True))


def _shortened(text: str, limit: int) -> str:
    """At most `limit` characters of it, with lone surrogates, as in file names, written out."""
    text = _without_middle(text, limit).encode("utf-8", "backslashreplace").decode("utf-8")
    return _without_middle(text, limit)


def _without_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    gap = f" ... {len(text) - limit} characters and more ... "
    half = (limit - len(gap)) // 2
    return text[:half] + gap + text[-half:]


def encode_state(messages: list[ChatMessage]) -> bytes:
    """A session's state as frames and the store carry it.

    Raises `ProtocolError` for what could not be decoded again.
    """
    try:
        value = messages_to_json(messages, omit_none=True)
    except RecursionError as error:
        raise ProtocolError(f"nested deeper than {MAX_FRAME_DEPTH}") from error
    state = encode_json(value)
    check_depth(value, state, MAX_FRAME_DEPTH)
    return state


def decode_state(state: bytes) -> list[ChatMessage]:
    """The messages of an encoded state. Raises `ProtocolError`."""
    try:
        return messages_from_json(decode_json(state, max_depth=MAX_FRAME_DEPTH))
    except ValueError as error:
        raise ProtocolError(f"malformed state: {error}") from error


def encode_frame(message: Message, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The message as a whole frame. Raises `ProtocolError` for what no decoder would accept."""
    try:
        converter = _server_converter if isinstance(message, ToWorker) else _converter
        fields = converter.unstructure(message)
    except RecursionError as error:
        raise ProtocolError(f"nested deeper than {MAX_FRAME_DEPTH}") from error
    state = fields.pop("state", None)
    body = encode_json({"type": _TAGS[type(message)], **fields})
    check_depth(fields, body, MAX_FRAME_DEPTH)
    # A state can be long: it is copied once.
    parts = [body] if state is None else [body, b"\n", state]
    length = sum(map(len, parts))
    if length > max_frame_bytes:
        raise ProtocolError(f"a message of {length} bytes (at most {max_frame_bytes})")
    return b"".join([length.to_bytes(LENGTH_BYTES, "big"), *parts])


def _decode(header: bytes, state: bytes | None, kinds: dict[str, type[M]]) -> M:
    # A worker is not to make the server build what takes more memory and time than it has.
    max_values = MAX_VALUES if kinds is FROM_WORKER else None
    fields = decode_json(header, max_depth=MAX_FRAME_DEPTH, max_values=max_values)
    if not isinstance(fields, dict):
        raise ProtocolError("a message is not an object")
    tag = fields.pop("type", None)
    kind = kinds.get(tag) if isinstance(tag, str) else None
    if kind is None:
        raise ProtocolError(f"unknown message type {tag!r:.40}")
    carries_state = issubclass(kind, _WITH_STATE)
    if (state is not None) != carries_state or "state" in fields:
        raise ProtocolError(f"a {tag!r} message {'without' if carries_state else 'with'} a state")
    try:
        message = _converter.structure(fields, kind)
    except (BaseValidationError, TypeError, ValueError) as error:
        problems = "; ".join(map(str, structure_problems(error)))
        raise ProtocolError(f"malformed {tag!r} message: {problems:.500}") from error
    if carries_state:
        # A type checker cannot see that M is one of the classes with a state here.
        return cast(M, attrs.evolve(cast(Any, message), state=state))
    return message


class FrameDecoder(Generic[M]):
    """Bytes in, in any portions; whole messages out.

    After it has raised `ProtocolError` it raises the same again: where a frame would begin can no
    longer be known. The messages before the malformed one come out first.
    """

    def __init__(
        self, kinds: dict[str, type[M]], *, max_frame_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        self._kinds = kinds
        self._limit = max_frame_bytes
        self._buffer = bytearray()
        self._broken: str | None = None

    @property
    def wanted(self) -> int:
        """How many bytes to read next: a long frame in large portions, never the whole at once.

        A read sets aside what it may return, so the other side's word for a length is not enough.
        """
        if len(self._buffer) < LENGTH_BYTES:
            return MIN_READ_BYTES
        missing = self._length() + LENGTH_BYTES - len(self._buffer)
        return min(max(missing, MIN_READ_BYTES), MAX_READ_BYTES)

    def feed(self, data: bytes) -> None:
        """Take bytes off the stream; ignored once the decoder has failed."""
        if self._broken is None:
            self._buffer += data

    def next_message(self) -> M | None:
        """The next message, or None until more bytes come. Raises `ProtocolError`."""
        if self._broken is not None:
            raise ProtocolError(self._broken)
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = self._length()
        try:
            # Before the body is waited for, so that a lie about the length costs no memory.
            if length > self._limit:
                raise ProtocolError(f"a frame of {length} bytes (at most {self._limit})")  # noqa: TRY301  # one place marks the decoder broken
            end = LENGTH_BYTES + length
            if len(self._buffer) < end:
                return None
            split = self._buffer.find(b"\n", LENGTH_BYTES, end)
            # The state can be long: it is copied once.
            with memoryview(self._buffer) as view:
                header = bytes(view[LENGTH_BYTES : split if split >= 0 else end])
                state = bytes(view[split + 1 : end]) if split >= 0 else None
            del self._buffer[:end]
            return _decode(header, state, self._kinds)
        except ProtocolError as error:
            self._broken = str(error)
            self._buffer.clear()
            raise

    def _length(self) -> int:
        return int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
