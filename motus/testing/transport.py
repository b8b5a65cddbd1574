"""The same below the SDKs: HTTP exchanges, recorded once and replayed without a network.

Needs httpx2, which comes with each of the SDKs.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx2

from motus.testing.cassette import Cassette

__all__ = ["RecordingTransport", "ReplayingTransport"]

# What an SDK goes by; the others may hold what is nobody's business.
_KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms")


def _request(request: httpx2.Request, body: bytes) -> dict[str, Any]:
    """What makes two requests the same: neither keys nor anything else of the headers."""
    try:
        content: Any = json.loads(body) if body else None
    except ValueError:
        content = body.decode("utf-8", "replace")
    # A key may be in the query.
    return {
        "method": request.method,
        "url": str(request.url.copy_with(query=None)),
        "body": content,
    }


class RecordingTransport(httpx2.AsyncBaseTransport):
    """Sends through another transport, and writes down each exchange in a file, begun anew.

    For the `http_client` of a model client: `httpx2.AsyncClient(transport=...)`. A reply is read
    whole before it is passed on, also one that comes in pieces.
    """

    def __init__(
        self, path: str | os.PathLike[str], transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._cassette = Cassette(path, record=True)
        self._transport = transport or httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The real response."""
        number = self._cassette.next_number()
        body = await request.aread()
        response = await self._transport.handle_async_request(request)
        try:
            content = await response.aread()
        finally:
            await response.aclose()
        headers = {
            name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers
        }
        reply = {"status": response.status_code, "headers": headers, "body": content.decode()}
        self._cassette.add(number, _request(request, body), reply)
        return _response(reply, request)

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._transport.aclose()


class ReplayingTransport(httpx2.AsyncBaseTransport):
    """Answers from a file of `RecordingTransport`: `ReplayMissError` for what is not in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._cassette = Cassette(path, record=False)

    @property
    def replies_left(self) -> int:
        """How many recorded replies have not been asked for."""
        return self._cassette.left

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded response."""
        body = await request.aread()
        return _response(self._cassette.find(_request(request, body)), request)


def _response(reply: dict[str, Any], request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(
        reply["status"], headers=reply["headers"], content=reply["body"].encode(), request=request
    )
