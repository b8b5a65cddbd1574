"""The server's side of one worker: messages in and out, and its end."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Callable

import anyio
import trio

from motus.errors import MotusError
from motus.serve.agents import AgentLoadError
from motus.serve.wire import (
    FROM_WORKER,
    Failure,
    FrameDecoder,
    FromWorker,
    Interrupt,
    Ready,
)
from motus.serve.workers.output import OutputPipe

__all__ = ["TemplateGoneError", "Worker", "WorkerDiedError", "describe_status"]

logger = logging.getLogger("motus.serve.workers")

# From the end of the stream to the exit of a process that did not close it on purpose.
EXIT_AFTER_END_SECONDS = 1.0
# For an agent that learns, while it waits for a human, that its turn is over.
CLEAN_UP_SECONDS = 0.2
# What is killed needs the kernel's attention, not ours; what is left after that long is stuck in
# the kernel, and waiting for it would stop the server.
REAP_SECONDS = 5.0
# A template is told of a death by a signal, and reaps at once. One that has not after that long has
# been stopped, or traced.
REPORT_SECONDS = 1.0


class WorkerDiedError(MotusError):
    """The worker ended its side without an answer; the message names signal or exit code."""


class TemplateGoneError(MotusError):
    """The template died before it made the worker: ask the next one."""


def describe_status(status: int | None) -> str:
    """A signal's name, or the exit code."""
    if status is None:
        return "it was lost"
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


class Worker:
    """One process that serves one turn. Made by a template, used by one turn.

    `kill_template` is called when the template does not see to the dead.
    """

    def __init__(
        self,
        worker_id: str,
        stream: trio.SocketStream,
        output: OutputPipe,
        kill_template: Callable[[], None],
    ) -> None:
        self.worker_id = worker_id
        self._kill_template = kill_template
        self.output = output
        self.pid: int | None = None
        self._process: int | None = None
        self._stream = stream
        self._decoder = FrameDecoder(FROM_WORKER)
        self._sending = anyio.Lock()
        self._has_interrupted = False
        self._status: int | None = None
        self._forked = anyio.Event()
        self._fork_error: OSError | TemplateGoneError | None = None
        self._exited = anyio.Event()

    async def send(self, frame: bytes) -> None:
        """Write a frame. A worker that is gone is not an error here: `receive` says so.

        Cancelling may leave half a frame written: the worker is of no use then.
        """
        async with self._sending:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(frame)

    async def receive(self) -> FromWorker:
        """The next message.

        Raises `WorkerDiedError` when there is none any more, `ProtocolError` when what came is
        not one. Cancelling loses nothing.
        """
        while (message := self._decoder.next_message()) is None:
            try:
                data = await self._stream.receive_some(self._decoder.wanted)
            except trio.BrokenResourceError:
                # A unix socket's peer that dies with unread data in its buffer is a reset here,
                # reported before what it had still sent.
                data = self._receive_now()
            if not data:
                with anyio.move_on_after(EXIT_AFTER_END_SECONDS):
                    await self._exited.wait()
                if self._is_dead():
                    # How it died is known to the template alone, for which the machine is too busy.
                    with anyio.move_on_after(REPORT_SECONDS):
                        await self._exited.wait()
                raise WorkerDiedError(self._cause())
            self._decoder.feed(data)
        if isinstance(message, Interrupt):
            self._has_interrupted = True
        return message

    async def wait_exited(self) -> None:
        """Wait until nothing of the worker is alive, nor anything that it has started."""
        await self._exited.wait()

    @property
    def has_exited(self) -> bool:
        return self._exited.is_set()

    async def stop(self) -> None:
        """End whatever is alive of the worker, and close its streams. Not to be cancelled."""
        with anyio.CancelScope(shield=True):
            if not self.has_exited and self._has_interrupted:
                # Its agent may be waiting for a human, and is told that there is none any more.
                self._shut_down(socket.SHUT_WR)
                with anyio.move_on_after(CLEAN_UP_SECONDS):
                    await self._exited.wait()
            with anyio.move_on_after(REAP_SECONDS):
                await self._forked.wait()
                self.kill()
                with anyio.move_on_after(REPORT_SECONDS):
                    await self._exited.wait()
                if self._is_unreaped():
                    logger.error("the template does not see to the dead, and is killed")
                    self._kill_template()
                await self._exited.wait()
            if not self.has_exited:
                logger.error("worker %s does not end, though it was killed", self.pid)
                self.exited(None)
            await self.output.wait_closed()
            await self._stream.aclose()

    def kill(self) -> None:
        """Kill the process; the template ends the rest when it hears of that."""
        if self.has_exited or self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            else:
                # There is no descriptor. The number is its own until it is reaped, and that is
                # reported.
                os.kill(self.pid, signal.SIGKILL)

    async def wait_forked(self) -> None:
        """Wait until the process is there.

        Raises `OSError` when it could not be made, `TemplateGoneError` when nobody could make it.
        """
        await self._forked.wait()
        if self._fork_error is not None:
            raise self._fork_error

    async def wait_ready(self, seconds: float) -> None:
        """Wait until an exec'd worker has the agent.

        Raises `AgentLoadError` if it has not after `seconds`, otherwise what `receive` raises.
        """
        said = None
        with anyio.move_on_after(seconds):
            said = await self.receive()
        match said:
            case None:
                raise AgentLoadError(f"The agent was not imported within {seconds:g} seconds")
            case Ready():
                return
            case Failure():
                for line in said.traceback_lines:
                    logger.warning("%s", line)
                raise AgentLoadError(said.error)
            case _:
                raise AgentLoadError("The worker did not say whether it has the agent")

    @property
    def is_forked(self) -> bool:
        return self._forked.is_set()

    def forked(self, pid: int, process: int | None) -> None:
        """The process is there; `process` is a descriptor that stands for it, if there is one."""
        if self.has_exited and process is not None:
            # It was given up before; its channel is closed, which ends it.
            os.close(process)
            return
        self.pid, self._process = pid, process
        self._forked.set()

    def not_forked(self, error: OSError | TemplateGoneError) -> None:
        """There is no process, and will be none."""
        self._fork_error = error
        self._forked.set()
        self.exited(None)

    def exited(self, status: int | None) -> None:
        """Nothing of it is alive. `status` is an exit code, a signal's negative number, or None."""
        if self.has_exited:
            return
        self._status = status
        self._exited.set()
        self.output.writer_ended()
        if self._process is not None:
            os.close(self._process)
            self._process = None
        # A process that has escaped may hold the channel, so that the end would never come: what
        # is queued can still be read, then the end.
        self._shut_down(socket.SHUT_RDWR)

    async def watch_alone(self) -> None:
        """Report the end of a worker whose template is gone."""
        try:
            if self._process is not None and self.pid is not None:
                await trio.lowlevel.wait_readable(self._process)
                # Nobody sees to the rest of its group any more. The number is not another's:
                # numbers are given out in turn, and this one was in use a moment ago.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
        finally:
            self.exited(None)

    def _is_dead(self) -> bool:
        """Whether the process is known to have died, though nobody has said so."""
        if self._process is None:
            return False
        ended = select.poll()
        ended.register(self._process, select.POLLIN)
        return bool(ended.poll(0))

    def _is_unreaped(self) -> bool:
        """Whether the process is dead and nobody has taken note of it."""
        if self._process is None:
            return False
        try:
            # What has been reaped cannot be signalled any more.
            signal.pidfd_send_signal(self._process, 0)
        except ProcessLookupError:
            return False
        return self._is_dead()

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._stream.socket.shutdown(how)

    def _cause(self) -> str:
        return describe_status(self._status) if self.has_exited else "it closed its channel"

    def _receive_now(self) -> bytes:
        """What is readable without waiting; nothing at the end of the stream or on an error."""
        try:
            return os.read(self._stream.socket.fileno(), self._decoder.wanted)
        except OSError:
            return b""
