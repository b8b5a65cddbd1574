"""What an agent prints, line by line, for the server's log."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["LineSplitter", "forward_lines"]

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 8192
# Everything that was written before the worker's end is in the pipe, which holds 64 KiB unless
# someone has enlarged it; a process that escaped the worker's group could go on for ever.
MAX_DRAIN_READS = 16


class LineSplitter:
    """Bytes in, lines out; a line longer than the limit comes in pieces."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
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
            self._on_line(piece.decode("utf-8", "backslashreplace").rstrip("\r"))


async def forward_lines(
    pipe: int, wait_exited: Callable[[], Awaitable[None]], on_line: Callable[[str], None]
) -> None:
    """Read the pipe until the process that writes has exited, then what is left in it.

    It does not wait for the end of the pipe, which a grandchild may hold open. Not cancelled from
    outside: it ends with the process.
    """
    splitter = LineSplitter(on_line)
    os.set_blocking(pipe, False)
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:

            async def stop_at_exit() -> None:
                await wait_exited()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_at_exit)
            while True:
                data = _read_now(pipe)
                if data is None:
                    await anyio.wait_readable(pipe)
                else:
                    splitter.feed(data)
                    # An agent that prints without pause must not hold the loop.
                    await checkpoint()
        for _ in range(MAX_DRAIN_READS):
            if not (data := _read_now(pipe)):
                break
            splitter.feed(data)
        splitter.end()


def _read_now(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, READ_BYTES)
    except BlockingIOError:
        return None
