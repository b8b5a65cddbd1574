"""The server's side of the workers: a fresh child process for each turn.

Each worker is one `anyio.run_process` in a task group of its own scope, in a session and process
group of its own. When the scope is left, in whatever way, the whole group has been killed and
every stream is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import trio

from motus.errors import MotusError, ProtocolError
from motus.serve.agents import AgentLoadError, AgentTarget
from motus.serve.wire import (
    FROM_WORKER,
    Failure,
    FrameDecoder,
    FromWorker,
    Hello,
    Ready,
)
from motus.serve.workers.output import forward_lines

__all__ = ["Worker", "WorkerDiedError", "WorkerPool"]

READ_BYTES = 1 << 16
# A killed group needs the kernel's attention, not ours; what is left after that long is stuck in
# the kernel, and waiting for it would stop the server.
GROUP_EXIT_SECONDS = 2.0
# From the end of the stream to the exit of a process that did not close it on purpose.
EXIT_AFTER_END_SECONDS = 1.0


class WorkerDiedError(MotusError):
    """The worker ended its side without an answer; the message names signal or exit code."""


class Worker:
    """One running child: messages in and out, and its end.

    Made by `WorkerPool.worker` only.
    """

    def __init__(self, stream: trio.SocketStream, child_end: socket.socket) -> None:
        self._stream = stream
        self._child_end = child_end
        self._decoder = FrameDecoder(FROM_WORKER)
        # Of the process and its group; known once the worker has said Hello.
        self._pid: int | None = None
        self._returncode: int | None = None
        self._start_error: OSError | None = None
        self._exited = anyio.Event()
        self._sending = anyio.Lock()
        # Only `stop` ends the process: it kills the group first, whoever is being cancelled.
        self._process_scope = anyio.CancelScope(shield=True)

    async def send(self, frame: bytes) -> None:
        """Write a frame. A worker that is gone is not an error here: `receive` says so.

        Cancelling may leave half a frame written: the worker is of no use then.
        """
        async with self._sending:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(frame)

    async def receive(self) -> FromWorker:
        """The next message, Hello excepted.

        Raises `WorkerDiedError` when there is none any more, `ProtocolError` when what came is
        not one, `OSError` when the process could not be started. Cancelling loses nothing.
        """
        while True:
            while (message := self._decoder.next_message()) is not None:
                if not isinstance(message, Hello):
                    return message
                self._meet(message)
            try:
                data = await self._stream.receive_some(self._decoder.wanted)
            except trio.BrokenResourceError:
                # A unix socket's peer that dies with unread data in its buffer is a reset here,
                # reported before what it had still sent.
                data = _receive_now(self._stream)
            if not data:
                with anyio.move_on_after(EXIT_AFTER_END_SECONDS):
                    await self._exited.wait()
                if self._start_error is not None:
                    raise self._start_error
                raise WorkerDiedError(self._cause())
            self._decoder.feed(data)

    async def wait_exited(self) -> None:
        """Wait until the child process is gone; what it started may still be there."""
        await self._exited.wait()

    def _meet(self, hello: Hello) -> None:
        if self._pid is not None:
            raise ProtocolError("a second hello")
        self._pid = hello.pid
        # From now on the child alone holds its end, and closing it there ends the stream here.
        self._child_end.close()

    def _cause(self) -> str:
        if self._returncode is None:
            return "it closed its channel"
        if self._returncode < 0:
            try:
                return signal.Signals(-self._returncode).name
            except ValueError:
                return f"signal {-self._returncode}"
        return f"exit code {self._returncode}"

    async def run(self, command: list[str], errors: int) -> None:
        """Run the child until it exits or `stop` is called."""
        try:
            with self._process_scope:
                done = await anyio.run_process(
                    command,
                    stdin=self._child_end.fileno(),
                    stdout=self._child_end.fileno(),
                    stderr=errors,
                    check=False,
                    start_new_session=True,
                )
                self._returncode = done.returncode
        except OSError as error:
            self._start_error = error
        finally:
            self._exited.set()
            self._child_end.close()
            # A process that the agent started may hold the channel, so that the end would never
            # come: what is queued can still be read, then the end.
            with contextlib.suppress(OSError):
                self._stream.socket.shutdown(socket.SHUT_RDWR)

    async def stop(self) -> None:
        """Kill the process group, and return when it is gone. Not to be cancelled: shielded."""
        with anyio.CancelScope(shield=True):
            # Before run_process is cancelled: it kills and reaps the leader only, and would do so
            # also for a leader whose hello is still unread.
            self._look_for_hello()
            self._kill_group()
            self._process_scope.cancel()
            await self._exited.wait()
            # A hello that came between the look and the kill; and members that lived on.
            self._look_for_hello()
            await self._end_group()
            await self._stream.aclose()

    def _look_for_hello(self) -> None:
        while self._pid is None:
            try:
                data = _receive_now(self._stream)
                if not data:
                    return
                self._decoder.feed(data)
                message = self._decoder.next_message()
            except ProtocolError:
                return
            if isinstance(message, Hello):
                self._meet(message)

    def _kill_group(self) -> bool:
        """Whether there was a group to kill."""
        if self._pid is None:
            return False
        if self._exited.is_set() and _exists(self._pid):
            # The leader has been reaped, so its number is another process's by now, which the
            # kernel allows only after the last member of the group is gone.
            return False
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Every member has become another user's; nothing more can be done from here.
            return False
        return True

    async def _end_group(self) -> None:
        pause = 0.001
        with anyio.move_on_after(GROUP_EXIT_SECONDS):
            # Rare: only when the agent left processes behind. Nothing announces their end, as
            # they are not our children.
            while self._kill_group() and _has_live_members(self._pid or 0):
                await anyio.sleep(pause)
                pause = min(pause * 2, 0.05)


def _receive_now(stream: trio.SocketStream) -> bytes:
    """What is readable without waiting; nothing at the end of the stream or on an error."""
    try:
        return os.read(stream.socket.fileno(), READ_BYTES)
    except OSError:
        return b""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _has_live_members(group: int) -> bool:
    """Whether any process of the group is more than a zombie that waits for its new parent."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(errors="replace")
        except OSError:
            continue  # gone meanwhile
        # After the name, which is in parentheses and may contain anything.
        state, _, process_group = text.rpartition(")")[2].split()[:3]
        if int(process_group) == group and state not in "ZX":
            return True
    return False


class WorkerPool:
    """Starts workers for one agent."""

    def __init__(self, target: AgentTarget) -> None:
        self._command = [
            sys.executable,
            "-m",
            "motus.serve.workers.child",
            target.import_path,
            *([target.search_path] if target.search_path is not None else []),
        ]

    @asynccontextmanager
    async def worker(self, on_output: Callable[[str], None]) -> AsyncIterator[Worker]:
        """A fresh worker; on leaving, its process group is dead and its streams are closed.

        `on_output` is called with each line that the agent prints. Raises `OSError` where not
        even a socket can be had.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            read_end, write_end = os.pipe()
            with open(read_end, "rb", 0) as output, open(write_end, "wb", 0) as errors:  # noqa: ASYNC230, PTH123  # pipes, by descriptor
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
                worker = Worker(stream, theirs)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(worker.run, self._command, errors.fileno())
                    tasks.start_soon(forward_lines, output.fileno(), worker.wait_exited, on_output)
                    try:
                        yield worker
                    finally:
                        await worker.stop()

    async def check(self, on_output: Callable[[str], None]) -> None:
        """Import the agent in a worker and end that. Raises `AgentLoadError`."""
        async with self.worker(on_output) as worker:
            try:
                answer = await worker.receive()
                problem = answer.error if isinstance(answer, Failure) else None
                details = answer.traceback if isinstance(answer, Failure) else ""
                if problem is None and not isinstance(answer, Ready):
                    problem = "The worker did not say whether it has the agent"
            except (WorkerDiedError, ProtocolError, OSError) as error:
                problem, details = f"The agent could not be imported: {error}", ""
        if problem is not None:
            for line in details.splitlines():
                on_output(line)
            raise AgentLoadError(problem)
