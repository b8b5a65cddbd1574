"""Agents that mean harm; the message names one."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from motus.messages import ChatMessage
from motus.serve.wire import Ready, encode_frame

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
