"""What an agent prints, line by line, for the server's log."""

from __future__ import annotations

import os
from collections.abc import Callable

import anyio
import trio
from anyio.lowlevel import checkpoint

__all__ = ["LineSplitter", "OutputPipe"]

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 8192
# Everything that was written before the writer's end is in the pipe, which holds 64 KiB unless
# someone has enlarged it; a process that escaped could go on for ever.
MAX_DRAIN_READS = 16


class LineSplitter:
    """Bytes in, lines out; a line longer than the limit comes in pieces."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(rest) > MAX_LINE_BYTES:
            self._emit(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest

    def end(self) -> None:
        """Nothing more comes: a last line without its end is a line too."""
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, MAX_LINE_BYTES):
            piece = line[start : start + MAX_LINE_BYTES]
            self.on_line(piece.decode("utf-8", "backslashreplace").rstrip("\r"))


class OutputPipe:
    """The reading end of a pipe into which a process prints, and all that it starts.

    Lines go to `on_line`, which may be replaced at any time. `forward` takes over the descriptor.
    """

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._splitter = LineSplitter(on_line)
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()
        os.set_blocking(descriptor, False)

    def send_lines_to(self, on_line: Callable[[str], None]) -> None:
        self._splitter.on_line = on_line

    def writer_ended(self) -> None:
        """Forward what is left in the pipe, then close it.

        Its end is not waited for, as a process that has escaped may hold it open.
        """
        self._scope.cancel()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def forward(self) -> None:
        """Read until the end of the pipe, or until its writer has ended."""
        try:
            with self._scope:
                while (data := self._read_now()) != b"":
                    if data is None:
                        await trio.lowlevel.wait_readable(self._descriptor)
                    else:
                        self._splitter.feed(data)
                        # An agent that prints without pause must not hold the loop.
                        await checkpoint()
            for _ in range(MAX_DRAIN_READS):
                if not (data := self._read_now()):
                    break
                self._splitter.feed(data)
            self._splitter.end()
        finally:
            os.close(self._descriptor)
            self._closed.set()

    def _read_now(self) -> bytes | None:
        try:
            return os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return None
