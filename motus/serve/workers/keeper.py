"""The server's side of a template: one child process that makes the workers."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import sys
import uuid
from collections import deque
from collections.abc import Mapping

import anyio
import trio

from motus.errors import ProtocolError
from motus.serve.agents import AgentLoadError
from motus.serve.wire import (
    FROM_TEMPLATE,
    Changed,
    Exited,
    Failure,
    Fork,
    Forked,
    FrameDecoder,
    FromTemplate,
    NotForked,
    Prepared,
    encode_frame,
)
from motus.serve.workers.output import OutputPipe
from motus.serve.workers.process import WORKER_VARIABLE, WorkerMark
from motus.serve.workers.settings import WorkerSettings
from motus.serve.workers.worker import TemplateGoneError, Worker, describe_status

__all__ = ["TemplateProcess"]

logger = logging.getLogger("motus.serve.workers")
agent_logger = logging.getLogger("motus.serve.agent")

READ_BYTES = 1 << 16
MODULE = "motus.serve.workers.template"


class TemplateProcess:
    """A template from its start to its end, and the workers that it has made."""

    def __init__(self, settings: WorkerSettings, environment: Mapping[str, str]) -> None:
        self.mode: str | None = None
        # Whether it has ever made a worker.
        self.has_forked = False
        self._settings = settings
        self._environment = {**environment, WORKER_VARIABLE: WorkerMark.PLACEHOLDER}
        self._workers: dict[str, Worker] = {}
        self._tasks: trio.Nursery | None = None
        self._control: trio.socket.SocketType | None = None
        self._sending = anyio.Lock()
        self._decoder = FrameDecoder(FROM_TEMPLATE)
        # None for one that this process had no room for.
        self._received: deque[int | None] = deque()
        # Ends the process in the middle of whatever it does.
        self._process_scope = anyio.CancelScope()
        self._failure: Failure | None = None
        self._problem: str | None = None
        self._listened = anyio.Event()
        self._announced = anyio.Event()
        self._news = anyio.Event()
        self._ended = anyio.Event()
        self._gone = anyio.Event()
        self._retired = False
        self._stopping = False

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone; its workers may go on."""
        return self._ended.is_set()

    async def wait_gone(self) -> None:
        """Wait until neither the process nor a worker of it is left."""
        await self._gone.wait()

    async def wait_prepared(self) -> None:
        """Wait until it can make workers.

        Raises `AgentLoadError`, with the agent's own words, and `TemplateGoneError` with the cause
        when the process ended without a word.
        """
        await self._announced.wait()
        if self.mode is not None:
            return
        if self._failure is not None:
            for line in self._failure.traceback_lines:
                agent_logger.warning("%s", line)
            raise AgentLoadError(self._failure.error)
        raise TemplateGoneError(str(self._problem))

    async def wait_news(self) -> None:
        """Wait until the process is gone, or the files that it has imported have changed."""
        await self._news.wait()

    @property
    def has_news(self) -> bool:
        """Whether `wait_news` would return at once."""
        return self._news.is_set()

    def forget_news(self) -> None:
        """Have `wait_news` wait for the next change."""
        if not self.has_ended:
            self._news = anyio.Event()

    async def fork(self) -> Worker:
        """A worker to be: `Worker.wait_forked` waits until it is there.

        Raises `OSError` when not even a socket can be had, `TemplateGoneError` when the process
        is not there any more. Not to be cancelled halfway: it does not take long.
        """
        if self._stopping or self.has_ended or self._tasks is None:
            raise TemplateGoneError("the template is gone")
        worker_id = uuid.uuid4().hex
        with contextlib.ExitStack() as theirs:
            ours, channel = socket.socketpair()
            theirs.enter_context(channel)
            try:
                reader, writer = os.pipe()
            except OSError:
                ours.close()
                raise
            theirs.callback(os.close, writer)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            output = OutputPipe(reader, _log_line)
            worker = self._workers[worker_id] = Worker(worker_id, stream, output, self.kill)
            self._tasks.start_soon(output.forward)
            await self._send(Fork(worker_id), (channel.fileno(), writer))
        return worker

    def retire(self) -> None:
        """Make no more workers, and end when the last one has."""
        self._retired = True
        self._end_if_idle()

    def kill(self) -> None:
        """End the process at once; its workers go on."""
        self._process_scope.cancel()

    def stop(self) -> None:
        """Kill every worker and end, at once."""
        self._stopping = True
        if self.mode is None or self._control is None:
            self._process_scope.cancel()
        else:
            # It hears of that, does the rest and says what it has done.
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    async def run(self) -> None:
        """Be the home of the process and of what serves its workers, until all is gone.

        Cancelling it kills the process, and the kernel its workers with it.
        """
        try:
            ours, theirs = socket.socketpair()
            self._control = trio.socket.from_stdlib_socket(ours)
            lifeline, held = os.pipe()
            with (
                self._control,
                theirs,
                open(held, "wb", 0),  # noqa: ASYNC230, PTH123  # a pipe, by descriptor
                open(lifeline, "rb", 0),  # noqa: ASYNC230, PTH123  # as above
            ):
                await self._live(theirs, lifeline)
        except OSError as error:
            self._problem = error.strerror
        finally:
            self._end()
            self._gone.set()

    async def _live(self, theirs: socket.socket, lifeline: int) -> None:
        assert self._control is not None
        reader, writer = os.pipe()
        output = OutputPipe(reader, _log_line)
        with open(writer, "wb", 0) as errors:  # noqa: ASYNC230, PTH123  # a pipe, by descriptor
            try:
                async with trio.open_nursery() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(output.forward)
                    tasks.start_soon(self._listen)
                    status = await self._run_process(theirs, errors.fileno(), lifeline)
                    errors.close()
                    output.writer_ended()
                    # What it has said last is read first.
                    with contextlib.suppress(OSError):
                        self._control.shutdown(socket.SHUT_RDWR)
                    await self._listened.wait()
                    if self._problem is None:
                        self._problem = describe_status(status)
                    self._end(tasks)
            finally:
                self._tasks = None

    async def _run_process(self, theirs: socket.socket, errors: int, lifeline: int) -> int | None:
        """Run it to its end; its status, None if it had to be killed."""
        with self._process_scope, theirs:
            try:
                done = await anyio.run_process(
                    [sys.executable, "-m", MODULE, self._settings.to_argument(), str(lifeline)],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors,
                    check=False,
                    env=self._environment,
                    start_new_session=True,
                    pass_fds=[lifeline],
                )
            except OSError as error:
                self._problem = error.strerror
            else:
                return done.returncode
        return None

    def _end(self, orphanage: trio.Nursery | None = None) -> None:
        """The process is gone: see to the workers that it has left."""
        if self.has_ended:
            return
        self._ended.set()
        self._announced.set()
        self._news.set()
        while self._received:
            _close(self._received.popleft())
        for worker in list(self._workers.values()):
            if not worker.is_forked:
                worker.not_forked(TemplateGoneError("the template is gone"))
            elif orphanage is None:
                worker.exited(None)
            else:
                orphanage.start_soon(worker.watch_alone)
        self._workers.clear()

    def _end_if_idle(self) -> None:
        if self._retired and not self._workers:
            self.stop()

    async def _send(self, message: Fork, descriptors: tuple[int, ...]) -> None:
        frame = encode_frame(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        assert self._control is not None
        # Half a frame would be the end of the template.
        with anyio.CancelScope(shield=True):
            async with self._sending:
                try:
                    sent = await self._control.sendmsg([frame], rights)
                    while sent < len(frame):
                        sent += await self._control.send(frame[sent:])
                except OSError:
                    # It has just gone; whoever waits for the worker will hear.
                    return

    async def _listen(self) -> None:
        try:
            while data := await self._receive():
                self._decoder.feed(data)
                while (message := self._decoder.next_message()) is not None:
                    self._take(message)
        except ProtocolError as error:
            logger.error("the template broke the protocol: %s", error)  # noqa: TRY400  # no traceback wanted
            self._process_scope.cancel()
        finally:
            self._listened.set()

    async def _receive(self) -> bytes:
        """What the template has sent, nothing at the end; descriptors are put aside."""
        size = socket.CMSG_SPACE(array.array("i").itemsize)
        assert self._control is not None
        try:
            data, ancillary, flags, _ = await self._control.recvmsg(
                READ_BYTES, size, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            # Its death with something of ours unread is a reset, not an end.
            return b""
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._received.extend(array.array("i", content))
        if flags & socket.MSG_CTRUNC:
            self._received.append(None)
        return data

    def _take(self, message: FromTemplate) -> None:
        match message:
            case Prepared(mode):
                self.mode = mode
                self._announced.set()
            case Failure():
                self._failure = message
            case Changed():
                self._news.set()
            case Forked(worker_id, pid, has_descriptor):
                self.has_forked = True
                if has_descriptor and not self._received:
                    raise ProtocolError("a worker without its descriptor")
                process = self._received.popleft() if has_descriptor else None
                if (worker := self._workers.get(worker_id)) is None:
                    _close(process)
                else:
                    worker.forked(pid, process)
            case NotForked(worker_id, number):
                if (worker := self._workers.pop(worker_id, None)) is not None:
                    worker.not_forked(OSError(number, os.strerror(number)))
                self._end_if_idle()
            case Exited(worker_id, status):
                if (worker := self._workers.pop(worker_id, None)) is not None:
                    worker.exited(status)
                self._end_if_idle()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _log_line(line: str) -> None:
    agent_logger.info("%s", line)
