"""Running commands: with a deadline, with a bounded output, and with nothing left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import anyio.abc
import attrs

__all__ = ["Finished", "run_command"]

# How long the output is still read after the command has ended: whoever has left its process group
# may hold the pipe for ever. In seconds.
_DRAIN: Final = 0.5
# How long a killed process may take to go: one that waits for a dead disk does not go at all.
_REAP: Final = 5.0


@attrs.frozen
class Finished:
    """How a command ended, and what it wrote; `exit_code` is that of `subprocess`, negative for a
    signal, and None if its time was up. `omitted` is how many bytes of the output were too many.
    """

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    omitted: int


@attrs.define
class _Output:
    """The beginning of a stream."""

    limit: int
    kept: bytearray = attrs.field(factory=bytearray)
    omitted: int = 0

    async def read_from(self, stream: anyio.abc.ByteReceiveStream) -> None:
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                data = await stream.receive()
                room = self.limit - len(self.kept)
                self.kept += data[:room]
                # Read on: a command that cannot write would wait for ever.
                self.omitted += len(data) - len(data[:room])


async def run_command(
    command: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str],
    input: bytes = b"",  # noqa: A002  # as subprocess calls it
    timeout: float | None = None,  # noqa: ASYNC109  # of the command, not of the call
    max_output: int,
    merged: bool = False,
) -> Finished:
    """Run a command, without a shell, and wait until it has ended.

    It gets a process group of its own, which is killed when the command has ended, when `timeout`
    (seconds) is over, and when this call is cancelled: nothing that it has started runs on, but
    for what has left the group. `merged` sends its errors to `stdout`. At most `max_output` bytes
    of each stream are kept. Raises `OSError` if it cannot be started.
    """
    stdout, stderr = _Output(max_output), _Output(max_output)
    process = await anyio.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    try:
        async with anyio.create_task_group() as tasks:
            if process.stdin is not None:
                tasks.start_soon(_feed, process.stdin, input)
            for output, stream in ((stdout, process.stdout), (stderr, process.stderr)):
                if stream is not None:
                    tasks.start_soon(output.read_from, stream)
            with anyio.move_on_after(timeout) as deadline:
                await process.wait()
            _kill_group(process.pid)
            tasks.cancel_scope.deadline = anyio.current_time() + _DRAIN
    finally:
        _kill_group(process.pid)
        with anyio.move_on_after(_REAP, shield=True):
            await process.aclose()
    return Finished(
        None if deadline.cancelled_caught else process.returncode,
        bytes(stdout.kept),
        bytes(stderr.kept),
        stdout.omitted + stderr.omitted,
    )


async def _feed(stream: anyio.abc.ByteSendStream, data: bytes) -> None:
    # A command need not read what it is given.
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        if data:
            await stream.send(data)
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.aclose()


def _kill_group(group: int) -> None:
    # Gone already, or all of it is about to be reaped.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
