"""The layer around the application that every request passes: access, limits, security headers."""

from __future__ import annotations

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

WRONG_LOOP = (
    "motus.serve runs on trio, and this host runs its applications on {}: use "
    "AgentServer.run(), or a host for trio, such as Hypercorn with '--worker-class trio'."
)


class Guard:
    """An ASGI application that lets through to another one what `Access` does not refuse.

    A body beyond twice the limit is cut off, whether the application reads it or not: the framework
    keeps in memory what has not been read.
    """

    def __init__(self, app: ASGIFramework, config: ServerConfig) -> None:
        self._app = app
        self._access = Access(config)
        self._max_received = 2 * config.max_body_size

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
        async def send_with_headers(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                message = {**message, "headers": headers + security_headers(headers)}
            await send(message)

        if (refusal := self._access.judge(_head(scope))) is None:
            await self._app(scope, self._limited(receive), send_with_headers)
            return
        async with trio.open_nursery() as nursery:
            # What comes of the body is thrown away; unread it would hold up the answer.
            nursery.start_soon(_discard, self._limited(receive))
            await _refuse(refusal, send_with_headers)
            nursery.cancel_scope.cancel()

    def _limited(self, receive: ASGIReceiveCallable) -> ASGIReceiveCallable:
        received = 0

        async def receive_limited() -> ASGIReceiveEvent:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_received:
                    return {"type": "http.disconnect"}
            return message

        return receive_limited


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
