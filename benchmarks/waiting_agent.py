"""An agent that answers at once, or, told `wait PATH`, when that file is there."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.echo_agent import agent as echo
from motus.models import ChatMessage

__all__ = ["agent"]


def agent(message: ChatMessage, state: list[ChatMessage]) -> tuple[ChatMessage, list[ChatMessage]]:
    word, _, path = (message.content or "").partition(" ")
    while word == "wait" and not Path(path).exists():
        time.sleep(0.005)
    return echo(message, state)
