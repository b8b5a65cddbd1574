"""Ctrl+C that arrives only where there is something to wait for.

Raised wherever the program happens to be, `KeyboardInterrupt` would leave a line half drawn, the
cursor hidden, or a connection in an unknown state.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

__all__ = ["CtrlC"]


class CtrlC:
    """While its block runs, SIGINT raises `KeyboardInterrupt` inside of `waiting()` alone.

    One that comes in between is kept, and raised when the next wait begins.
    """

    def __init__(self) -> None:
        self._waiting = False
        self._pending = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what may take long and can be abandoned at any point."""
        self._waiting = True
        try:
            if self._pending:
                self._interrupt()
            yield
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._interrupt()
        self._pending = True

    def _interrupt(self) -> None:
        # At once, so that a second one cannot come while the first is on its way out.
        self._waiting = self._pending = False
        raise KeyboardInterrupt
