"""What an agent prints, line by line, for the server's log."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice

import anyio
import trio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

__all__ = ["LineSplitter", "OutputPipe"]

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 8192
# Logging one takes some microseconds, and a read can bring as many as it has bytes.
LINES_AT_A_TIME = 100
# Everything that was written before the writer's end is in the pipe, and comes with one read unless
# someone has enlarged it; a process that escaped could go on for ever.
DRAIN_SECONDS = 0.5


class LineSplitter:
    """Bytes in, lines out; a line longer than the limit comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that end in `data`, to be iterated to the end before the next call."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from _pieces(line)
        while len(rest) > MAX_LINE_BYTES:
            yield from _pieces(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest

    def end(self) -> Iterator[str]:
        """Nothing more comes: a last line without its end is a line too."""
        if self._rest:
            yield from _pieces(self._rest)
            self._rest = b""


def _pieces(line: bytes) -> Iterator[str]:
    for start in range(0, len(line) or 1, MAX_LINE_BYTES):
        piece = line[start : start + MAX_LINE_BYTES]
        yield piece.decode("utf-8", "backslashreplace").rstrip("\r")


class OutputPipe:
    """The reading end of a pipe into which a process prints, and all that it starts.

    Lines go to `on_line`, which may be replaced at any time. `forward` takes over the descriptor.
    """

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._on_line = on_line
        self._splitter = LineSplitter()
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()
        os.set_blocking(descriptor, False)

    def send_lines_to(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

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
                        await self._pass_on(self._splitter.feed(data))
                        await checkpoint_if_cancelled()
            with anyio.move_on_after(DRAIN_SECONDS):
                while data := self._read_now():
                    await self._pass_on(self._splitter.feed(data))
                    await checkpoint_if_cancelled()
            await self._pass_on(self._splitter.end())
        finally:
            os.close(self._descriptor)
            self._closed.set()

    async def _pass_on(self, lines: Iterator[str]) -> None:
        """Call `on_line` with each; an agent that prints without pause must not hold the loop."""
        # What has been read is not lost when the writer ends, or all of us.
        with anyio.CancelScope(shield=True):
            while portion := list(islice(lines, LINES_AT_A_TIME)):
                for line in portion:
                    self._on_line(line)
                await checkpoint()

    def _read_now(self) -> bytes | None:
        try:
            return os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return None
