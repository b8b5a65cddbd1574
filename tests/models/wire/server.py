"""A small HTTP server in the test's own loop that answers model calls from a script."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import attrs
import h11
from anyio.abc import ByteStream, SocketAttribute

__all__ = ["CUT", "HANG", "Reply", "Request", "WireServer", "wire_server"]

# In the place of a piece of a body: the connection is closed; nothing more comes until the client
# has closed it.
CUT: Final = "cut"
HANG: Final = "hang"


@attrs.frozen
class Request:
    """What came over the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Reply:
    """An answer: all at once, or in pieces if there are several."""

    pieces: tuple[bytes | str, ...]
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """A JSON value; `retry_after="3"` is the header Retry-After."""
        more = tuple((name.replace("_", "-"), text) for name, text in headers.items())
        content = (("content-type", "application/json"), *more)
        return cls((json.dumps(value).encode(),), status, content)

    @classmethod
    def events(cls, pieces: Iterable[bytes | str]) -> Reply:
        """Server-sent events."""
        return cls(tuple(pieces), headers=(("content-type", "text/event-stream"),))


class WireServer:
    """Answers each request with the next reply; `requests` are those that came."""

    def __init__(self, port: int, replies: Iterable[Reply]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.replies = deque(replies)
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        # Set when the script has come to a HANG, and when the client has closed that connection.
        self.hangs = anyio.Event()
        self.disconnected = anyio.Event()

    @property
    def last(self) -> Any:
        """The JSON body of the last request."""
        return self.requests[-1].json

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        self.open_connections += 1
        connection = h11.Connection(h11.SERVER)
        try:
            async with stream:
                while await self._exchange(connection, stream):
                    connection.start_next_cycle()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, h11.RemoteProtocolError):
            pass
        finally:
            self.open_connections -= 1
            if self.hangs.is_set():
                self.disconnected.set()

    async def _exchange(self, connection: h11.Connection, stream: ByteStream) -> bool:
        request = await _receive(connection, stream)
        if request is None:
            return False
        self.requests.append(request)
        if not self.replies:
            self.replies.append(Reply.of({"error": {"message": "the script has ended"}}, 418))
        reply = self.replies.popleft()
        length = (("content-length", str(len(reply.pieces[0]))),) if len(reply.pieces) == 1 else ()
        head = h11.Response(status_code=reply.status, headers=[*reply.headers, *length])
        await stream.send(connection.send(head))
        for piece in reply.pieces:
            if piece == CUT:
                return False
            if piece == HANG:
                self.hangs.set()
                await _until_closed(stream)
                return False
            assert isinstance(piece, bytes)
            await stream.send(connection.send(h11.Data(data=piece)))
        await stream.send(connection.send(h11.EndOfMessage()))
        return connection.our_state is h11.DONE


async def _until_closed(stream: ByteStream) -> None:
    try:
        while True:
            await stream.receive()
    except anyio.EndOfStream:
        return


async def _receive(connection: h11.Connection, stream: ByteStream) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive())
            except anyio.EndOfStream:
                return None
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode().lower(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, body)
        else:
            return None


@asynccontextmanager
async def wire_server(*replies: Reply, port: int = 0) -> AsyncIterator[WireServer]:
    """Serve on a port of the loopback, a free one unless given, for as long as the block lasts."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    server = WireServer(listener.extra(SocketAttribute.local_port), replies)
    failure: Exception | None = None
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        try:
            yield server
        except Exception as error:  # noqa: BLE001  # raised below
            # The test expects its own error, and not a group with it.
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
