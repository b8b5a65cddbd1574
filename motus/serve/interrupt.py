"""Asking a human, or whoever uses the session, from inside a turn.

`await interrupt({"type": ..., ...})` shows the payload to the session's clients and returns the
value that one of them posts. It may be called from anywhere in the agent, several times at once,
on trio and on asyncio, and from worker threads through `anyio.from_thread.run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from motus.errors import ProtocolError
from motus.serve.strict_json import MAX_DEPTH, decode_json, encode_json

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Clock",
    "InterruptPort",
    "clocks",
    "interrupt",
    "interrupts_through",
]

# Of the payload, as JSON in UTF-8.
MAX_MESSAGE_BYTES = 16384


class InterruptPort(Protocol):
    """Where interrupts go: to the server, or to a test."""

    async def ask(self, payload: dict[str, Any]) -> Any:
        """The answer to this payload, which has been checked."""
        ...


class Clock(Protocol):
    """What measures time in which a human's does not count; called from any thread, in pairs."""

    def stop(self) -> None: ...
    def go_on(self) -> None: ...


# Those of the agents' runs that this code is a part of.
clocks: Final[ContextVar[tuple[Clock, ...]]] = ContextVar("motus_clocks", default=())

# One for the process, not a context variable: agents start threads, which inherit none.
_port: InterruptPort | None = None


@contextmanager
def interrupts_through(port: InterruptPort) -> Iterator[None]:
    """Send the interrupts of this process to `port` while the block runs."""
    global _port
    before, _port = _port, port
    try:
        yield
    finally:
        _port = before


async def interrupt(payload: dict[str, Any]) -> Any:
    """Show `payload` to the session's clients, and return the JSON value that one of them posts.

    The session is `interrupted` meanwhile; the time counts neither as the turn's, nor as that of
    an agent's run, nor against the server's worker slots. Cancelling it is clean: a value that
    comes later is dropped.

    Raises `TypeError` for a payload that is no dict or holds what JSON has no word for, and
    `ValueError` for one of more than `MAX_MESSAGE_BYTES` bytes, nested deeper than 64, or with
    NaN, infinities or lone surrogates in it. Raises `RuntimeError` outside of a worker, and
    `EOFError` when the turn is ended while it waits.
    """
    port = _port
    if port is None:
        error = RuntimeError("interrupt() called outside motus serve worker subprocess")
        error.add_note(
            "Serve the agent with `motus serve start`; in a test, motus.testing.answer_interrupts "
            "answers."
        )
        raise error
    _check(payload)
    running = clocks.get()
    for clock in running:
        clock.stop()
    try:
        return await port.ask(payload)
    finally:
        for clock in running:
            clock.go_on()


def _check(payload: object) -> None:
    if not isinstance(payload, dict):
        raise TypeError(f"interrupt() takes a dict, got {type(payload).__name__}")
    try:
        encoded = encode_json(payload)
        if len(encoded) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"Interrupt message too large: {len(encoded)} bytes (max {MAX_MESSAGE_BYTES})"
            )
        # What the other side would refuse is refused here, where the traceback leads to the cause.
        decode_json(encoded, max_depth=MAX_DEPTH)
    except ProtocolError as error:
        kind = TypeError if isinstance(error.__cause__, TypeError) else ValueError
        raise kind(f"Interrupt payload is {error}") from error
