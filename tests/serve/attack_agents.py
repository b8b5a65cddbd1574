"""Agents that mean harm; the message names one."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from motus.messages import ChatMessage
from motus.serve.wire import Ready, Turn, encode_frame

Answer = tuple[ChatMessage, list[ChatMessage]]

REPLY = ChatMessage.assistant_message("fine")


class _ExitsWhenShown(Exception):  # noqa: N818  # not an error of anybody's
    def __str__(self) -> str:
        raise SystemExit(3)


class _FailsWhenLookedAt(list[ChatMessage]):
    def __iter__(self) -> Iterator[ChatMessage]:
        raise ValueError("looked at")


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"deeper": value}
    return value


def fine() -> Answer:
    return REPLY, []


def long_traceback() -> NoReturn:
    raise ValueError("\n" * 3_000_000)


def long_name() -> NoReturn:
    raise type("E" * 1_000_000, (Exception,), {})("\udcff")


def exit_when_shown() -> NoReturn:
    raise _ExitsWhenShown


def fail_when_looked_at() -> Answer:
    return REPLY, _FailsWhenLookedAt([REPLY])


def deep_state() -> Answer:
    return REPLY, [ChatMessage("assistant", "deep", user_params=_nested(100))]


def deep_reply() -> Answer:
    return ChatMessage("assistant", "deep", user_params=_nested(100)), []


def bottomless_reply() -> Answer:
    return ChatMessage("assistant", "deep", user_params=_nested(100_000)), []


def bottomless_state() -> Answer:
    return REPLY, [ChatMessage("assistant", "deep", user_params=_nested(100_000))]


def say_ready_without_end() -> NoReturn:
    frames = encode_frame(Ready()) * 1000
    channel = next(n for n in range(200, 1000) if _is_socket(n))
    while True:
        os.write(channel, frames)


def _say(header: bytes, state: bytes) -> NoReturn:
    """End the turn with a Result of one's own making."""
    # The turn's id is nowhere in the agent's reach but in the objects of the worker.
    [turn] = [one for one in gc.get_objects() if type(one) is Turn and one.turn_id != "t"]
    text = b'{"type":"result","turn_id":"%s",%s}' % (turn.turn_id.encode(), header)
    body = text + b"\n" + state
    channel = next(n for n in range(200, 1000) if _is_socket(n))
    with socket.socket(fileno=channel) as server:
        server.sendall(len(body).to_bytes(4, "big") + body)
        os._exit(0)


RESPONSE = b'"response":{"role":"assistant","content":"fine"}'


def forge_a_state() -> NoReturn:
    _say(RESPONSE + b',"message_count":0', b'[],"session_id":"another"')


def forge_a_count() -> NoReturn:
    _say(RESPONSE + b',"message_count":1' + b"0" * 4000, b"[]")


def flood_with_values() -> NoReturn:
    values = b"[" + b",".join([b"[]"] * 8_000_000) + b"]"
    response = b'"response":{"role":"assistant","user_params":{"x":%s}}' % values
    _say(response + b',"message_count":0', b"[]")


def _is_socket(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)):
            return str(Path(f"/proc/self/fd/{number}").readlink()).startswith("socket:")
    except OSError:
        return False


def stop_the_template() -> Answer:
    os.kill(os.getppid(), signal.SIGSTOP)
    return REPLY, []


async def agent(message: ChatMessage, state: list[ChatMessage]) -> Answer:
    found: Answer = globals()[message.content or ""]()
    return found
