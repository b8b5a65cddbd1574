"""The layer around the application that every request passes: access, limits, security headers."""

from __future__ import annotations

import attrs
import sniffio
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    HTTPScope,
    Scope,
)

from motus.serve.access import IN_PROCESS, Access, Refusal, RequestHead, security_headers
from motus.serve.config import ServerConfig
from motus.serve.strict_json import encode_json

__all__ = ["Guard"]

# A body that is not much too long is read, and the connection can go on.
_MAX_EXCESS = 2
# Of each body, so that short ones come through while long ones take all the room there is.
UNCOUNTED_BYTES = 1 << 16
WRONG_LOOP = (
    "motus.serve runs on trio, and this host runs its applications on {}: use "
    "AgentServer.run(), or a host for trio, such as Hypercorn with '--worker-class trio'."
)


class Guard:
    """An ASGI application that lets through to another one what `Access` does not refuse.

    A body beyond twice the limit is refused here, whether the application reads it or not: the
    framework keeps in memory what has not been read. So is one for which the others have left no
    room.
    """

    def __init__(self, app: ASGIFramework, config: ServerConfig) -> None:
        self._app = app
        self._access = Access(config)
        self._max_body_size = config.max_body_size
        # There is always room for one body.
        self._room = _Room(max(config.max_body_total, _MAX_EXCESS * config.max_body_size))

    @property
    def room_for_bodies(self) -> int:
        """For how many more bytes of bodies there is room in memory."""
        return self._room.left

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        library = sniffio.current_async_library()
        if library != "trio":
            await _explain(scope, receive, send, WRONG_LOOP.format(library))
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            # There is nothing to talk to; the host answers the handshake with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": None})

    async def _serve(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        answered = False

        async def send_with_headers(message: ASGISendEvent) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = list(message.get("headers", []))
                message = {**message, "headers": headers + security_headers(headers)}
            await send(message)

        head = _head(scope)
        if (refusal := self._access.judge(head)) is None:
            body = _Body(receive, _declared_length(head), self._max_body_size, self._room)
            try:
                await self._app(_unnamed(scope), body.receive, send_with_headers)
            finally:
                body.release()
            if answered or (refusal := body.refusal) is None:
                return
        async with trio.open_nursery() as nursery:
            # What comes of the body is thrown away; unread it would hold up the answer.
            nursery.start_soon(_discard, receive)
            await _refuse(refusal, send_with_headers)
            nursery.cancel_scope.cancel()


@attrs.define
class _Room:
    """What the bodies of all requests share: how many bytes more may be in memory."""

    left: int


class _Body:
    """The body of a request, on its way to an application that keeps all of it in memory.

    When there is no room for it, or it is far too long, the application is told that the client
    has gone, and `refusal` is what to tell the client. Room is taken for the whole of it, where the
    length is known: of many that come at the same time, some get to their end.
    """

    def __init__(
        self, receive: ASGIReceiveCallable, declared: int, limit: int, room: _Room
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._room = room
        self._declared = declared
        self._received = 0
        self._held = 0
        self.refusal: Refusal | None = None

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.refusal = self._judge()
            if self.refusal is not None:
                return {"type": "http.disconnect"}
        return message

    def _judge(self) -> Refusal | None:
        length = max(self._received, self._declared)
        if length > _MAX_EXCESS * self._limit:
            return Refusal(413, f"Request body is too large (at most {self._limit} bytes)")
        # Only what comes takes room, not the mere word for it.
        counted = length - UNCOUNTED_BYTES if self._received > UNCOUNTED_BYTES else 0
        more = counted - self._held
        if more > self._room.left:
            again = ((b"retry-after", b"1"),)
            return Refusal(503, "There is no room for the request's body", again)
        self._room.left -= more
        self._held += more
        return None

    def release(self) -> None:
        """Nobody has it in memory any more."""
        self._room.left += self._held
        self._held = 0


def _head(scope: HTTPScope) -> RequestHead:
    path = scope["path"]
    root = scope.get("root_path", "")
    target: bytes = scope.get("raw_path") or path.encode()
    if query := scope.get("query_string", b""):
        target += b"?" + query
    # Only a caller in the same process leaves the peer out; a host that does not know it says None.
    client = scope.get("client", (IN_PROCESS, 0))
    return RequestHead(
        method=scope["method"],
        path=path.removeprefix(root) if root else path,
        target=target,
        http_version=scope.get("http_version", "1.1"),
        headers=list(scope["headers"]),
        peer=None if client is None else client[0],
    )


def _unnamed(scope: HTTPScope) -> HTTPScope:
    """The request without the name under which the server was reached.

    The application has no use for it, and its framework fails on a name that is none.
    """
    headers = [field for field in scope["headers"] if field[0].lower() != b"host"]
    return {**scope, "headers": [*headers, (b"host", b"localhost")]}


def _declared_length(head: RequestHead) -> int:
    """What the request says of its body's length; 0 where it does not."""
    values = [value for name, value in head.headers if name.lower() == b"content-length"]
    # Twenty digits are too many already; of thousands Python makes no number.
    return int(values[0][:20]) if len(values) == 1 and values[0].isdigit() else 0


async def _refuse(refusal: Refusal, send: ASGISendCallable) -> None:
    body = encode_json({"detail": refusal.detail})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # Where the next request would begin is not known.
        (b"connection", b"close"),
        *refusal.headers,
    ]
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": headers,
            "trailers": False,
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _discard(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _explain(
    scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable, text: str
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": text})
    elif scope["type"] == "http":
        await _refuse(Refusal(500, text), send)
    else:
        await send({"type": "websocket.close", "code": 1011, "reason": None})
