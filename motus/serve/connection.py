"""One connection: Hypercorn's HTTP/1.1 on a stream with limits in time.

Hypercorn's own connection for trio has one timer for everything that is not a request, waits for
ever for a client that does not read, and speaks HTTP/2 to whoever asks for it. So its protocol is
driven from here. A connection waits for a request (`idle_timeout`), then for the rest of its head
(`header_timeout`), then for the application; what is sent must be taken in portions, each within
`idle_timeout`.
"""

from __future__ import annotations

import math
import socket

import attrs
import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from motus.serve.config import ServerConfig

__all__ = ["Connection", "Roster", "say_goodbye"]

READ_BYTES = 1 << 16
SEND_BYTES = 1 << 16
# Of a body. The protocol copies what it is given, and the copy is there for as long as the client
# takes to read: of a part, not of the whole, which many may share.
BODY_BYTES = 1 << 18
# What the kernel holds for a client that does not read; it would go up to megabytes by itself, and
# report no progress until a third of them has been read.
KERNEL_SEND_BYTES = 1 << 17
# Closing a socket with unread data in it makes the kernel take back what was sent last. So the
# other side has this long to close first, and this much to send.
LINGER_SECONDS = 1.0
LINGER_BYTES = 32 << 20

TIMED_OUT = b"HTTP/1.1 408 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Http1(H11Protocol):
    # What is given out now is the head of an answer.
    in_head = False

    async def stream_send(self, event: StreamEvent) -> None:
        self.in_head = isinstance(event, Response)
        if not isinstance(event, Body) or len(event.data) <= BODY_BYTES:
            await super().stream_send(event)
            return
        # As what is sent is: cancelling must not leave half of it.
        with trio.CancelScope(shield=True):
            for start in range(0, len(event.data), BODY_BYTES):
                part = event.data[start : start + BODY_BYTES]
                await super().stream_send(Body(stream_id=event.stream_id, data=part))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1; Hypercorn would switch to HTTP/2 here, without any of the limits."""

    async def _create_stream(self, request: h11.Request) -> None:
        # An offer to speak something else may be ignored, and is: Hypercorn's handshake for
        # WebSockets leaves a connection that never ends when it is a wrong one.
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[field for field in request.headers if field[0] != b"upgrade"],
                http_version=request.http_version,
            )
        await super()._create_stream(request)


@attrs.define
class Roster:
    """What the connections of a server are doing; each keeps its own place in it.

    `waiting` for a request or the rest of one, the longest waiting first; `leaving`: closed but for
    what the other side may still want to hear.
    """

    waiting: dict[Connection, None] = attrs.field(factory=dict)
    leaving: set[Connection] = attrs.field(factory=set)


class Connection:
    """Serves one stream until either side closes it."""

    def __init__(
        self,
        stream: trio.SocketStream,
        app: AppWrapper,
        http: Config,
        limits: ServerConfig,
        roster: Roster,
    ) -> None:
        self._stream = stream
        self._app = app
        self._http = http
        self._limits = limits
        self._roster = roster
        self._waiting = roster.waiting
        self._protocol: _Http1
        self._sending = trio.Lock()
        # The head of an answer, which goes out with the beginning of its body: as one packet, for
        # which the client wakes once.
        self._head = b""
        self._serving = trio.CancelScope()
        self._receiving: trio.CancelScope | None = None
        self._deadline = math.inf
        self._head_has_begun = False
        # The client has closed its side, or is not to be waited for.
        self._abrupt = False

    async def run(self, context: WorkerContext, state: ConnectionState) -> None:
        """Serve until the connection is closed. Cancelling closes it at once."""
        try:
            await self._converse(context, state)
        except OSError:
            self._abrupt = True  # the client is gone, perhaps before it was greeted
        finally:
            self._waiting.pop(self, None)
            self._roster.leaving.add(self)
            try:
                if not self._abrupt:
                    await say_goodbye(self._stream)
            finally:
                await trio.aclose_forcefully(self._stream)
                self._roster.leaving.discard(self)

    def stop(self) -> None:
        """Close it unless a request is being served; `context.terminated` closes it after that."""
        if self in self._waiting:
            self.abort()

    def abort(self) -> None:
        """Close it now, whatever is being said on it."""
        self._abrupt = True
        self._waiting.pop(self, None)
        self._roster.leaving.add(self)
        self._serving.cancel()
        self._stream.socket.close()

    async def _converse(self, context: WorkerContext, state: ConnectionState) -> None:
        ours = self._stream.socket
        async with TaskGroup() as tasks:
            self._protocol = _Http1(
                self._app,
                self._http,
                context,
                tasks,
                state,
                False,
                parse_socket_addr(ours.family, ours.getpeername()),
                parse_socket_addr(ours.family, ours.getsockname()),
                self._take,
            )
            # Everything is a small write here; without this each would wait for the last one's
            # acknowledgement.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_SEND_BYTES)
            if ours.family in {socket.AF_INET, socket.AF_INET6}:
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wait_for_request()
            with self._serving:
                await self._read()
            # The application hears that nobody listens any more.
            await self._protocol.handle(Closed())

    async def _read(self) -> None:
        while True:
            limit = self._limits.max_header_size if self in self._waiting else READ_BYTES
            data = b""
            with trio.CancelScope(deadline=self._deadline) as self._receiving:
                try:
                    data = bytes(await self._stream.receive_some(limit))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._abrupt = True
                    return
            if self._receiving.cancelled_caught:
                if self._head_has_begun:
                    await self._send(TIMED_OUT)
                return
            if self in self._waiting and not self._head_has_begun:
                self._head_has_begun = True
                self._deadline = trio.current_time() + self._limits.header_timeout
            await self._protocol.handle(RawData(data))
            if not data:
                self._abrupt = True
                return

    def _wait_for_request(self) -> None:
        self._waiting[self] = None
        # Of a client that did not wait for the answer.
        self._head_has_begun = bool(self._protocol.connection.trailing_data[0])
        limits = self._limits
        seconds = limits.header_timeout if self._head_has_begun else limits.idle_timeout
        self._deadline = trio.current_time() + seconds
        if self._receiving is not None:
            self._receiving.deadline = self._deadline

    async def _take(self, event: Event) -> None:
        """What the protocol wants of the connection."""
        match event:
            case RawData(data=data) if self._protocol.in_head:
                self._head = data
            case RawData(data=data):
                head, self._head = self._head, b""
                await self._send(head + data)
            case Updated(idle=True):
                self._wait_for_request()
            case Updated():
                self._waiting.pop(self, None)
                self._deadline = math.inf
            case Closed():
                self._serving.cancel()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            view = memoryview(data)
            try:
                for start in range(0, len(data), SEND_BYTES):
                    # Half a message cannot be taken back: cancelling whoever sends must not leave
                    # one. `abort` ends it, and time.
                    deadline = trio.current_time() + self._limits.idle_timeout
                    with trio.CancelScope(deadline=deadline, shield=True) as scope:
                        await self._stream.send_all(view[start : start + SEND_BYTES])
                    if scope.cancelled_caught:
                        self.abort()
                        break
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._abrupt = True
                self._serving.cancel()


async def say_goodbye(stream: trio.SocketStream) -> None:
    """End what we say, and wait a moment for the client to have heard it."""
    try:
        with trio.move_on_after(LINGER_SECONDS):
            await stream.send_eof()
            left = LINGER_BYTES
            while left > 0 and (data := await stream.receive_some(READ_BYTES)):
                left -= len(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        return
