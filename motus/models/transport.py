"""The connections to the providers: one HTTP client for each event loop that calls come from.

A pooled connection belongs to the loop that opened it, and a model client outlives loops: it is
made at import, say, and used by one `asyncio.run` after another. Loaded with the first SDK.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import attrs
import httpx2

from motus.models.remote import MAX_RETRY_AFTER, retry_after_seconds
from motus.runtime.backends import Backend, loop_identity, make_backend

__all__ = ["LoopClient", "certificates", "responses"]

# How long closing a pool may take when its loop ends, in seconds.
CLOSE_GRACE = 2.0
# The SDKs' own defaults for a client that they make.
LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


@functools.cache
def certificates() -> ssl.SSLContext:
    """The trusted ones: reading them takes as long as a hundred requests, so all clients share."""
    return httpx2.create_ssl_context()


_responses: ContextVar[list[httpx2.Response]] = ContextVar("motus_responses")


@contextlib.contextmanager
def responses() -> Iterator[list[httpx2.Response]]:
    """The responses that the calls in this block have got, for an SDK that does not show its own.

    Nothing may be yielded inside the block.
    """
    opened: list[httpx2.Response] = []
    token = _responses.set(opened)
    try:
        yield opened
    finally:
        _responses.reset(token)


class _Nowhere(httpx2.AsyncBaseTransport):
    """The outer client sends nothing itself, so it needs no certificates and no pool."""


@attrs.frozen
class _Pool:
    client: httpx2.AsyncClient
    backend: Backend
    done: Any

    def release(self) -> None:
        """Have it closed in its loop; from any thread."""
        # A loop that has ended has closed it.
        with contextlib.suppress(RuntimeError):
            self.backend.call(self.done.set)

    async def hold(self) -> None:
        """Own the connections until they are released, or until the loop ends this task."""
        try:
            await self.done.wait()
        finally:
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await self.client.aclose()


# Keyed by the loop (asyncio) or the token of the run (trio).
_Pools = dict[Any, _Pool]


def _forget(pools: _Pools, loop: Any, pool: _Pool) -> None:
    # There may be a new one after `aclose`.
    if pools.get(loop) is pool:
        del pools[loop]


def _release_all(pools: _Pools) -> None:
    for pool in list(pools.values()):
        pool.release()


class LoopClient(httpx2.AsyncClient):
    """What an SDK takes for an ordinary client; each loop's requests go through a pool of its own.

    A pool is closed by `aclose`, when its loop ends, or when this client is dropped. With a
    `given` client, all requests are made and sent by that one, which stays its owner's to close.
    Raises `TypeError` for one of another library.
    """

    def __init__(self, given: Any = None) -> None:
        if not isinstance(given, httpx2.AsyncClient | None):
            kind = f"{type(given).__module__}.{type(given).__name__}"
            raise TypeError(f"http_client must be an httpx2.AsyncClient, not {kind}")
        super().__init__(transport=_Nowhere(), follow_redirects=True)
        self._given: httpx2.AsyncClient | None = given
        self._login: httpx2.BasicAuth | None = None
        if given is None:
            # Now, so that processes forked from this one, each for a turn, need not read them.
            certificates()
        else:
            # The SDKs look at it.
            self.timeout = given.timeout
        self._pools: _Pools = {}
        # At the end of the process there is no loop left to close them in.
        weakref.finalize(self, _release_all, self._pools).atexit = False

    def without_login(self, url: str) -> str:
        """The address without user and password, which go with every request, but into no log."""
        whole = httpx2.URL(url)
        if not whole.userinfo:
            return url
        self._login = httpx2.BasicAuth(whole.username, whole.password)
        return str(whole.copy_with(userinfo=b""))

    def build_request(self, *args: Any, **kwargs: Any) -> httpx2.Request:
        make = super().build_request if self._given is None else self._given.build_request
        return make(*args, **kwargs)

    async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        if self._login is not None:
            kwargs["auth"] = self._login
        client = self._given or self._pool().client
        response = await client.send(request, **kwargs)
        if (retry_after_seconds(response.headers) or 0) > MAX_RETRY_AFTER:
            # An SDK would wait for as long as it is told to; this it takes for a no.
            response.headers["x-should-retry"] = "false"
        if (opened := _responses.get(None)) is not None:
            opened.append(response)
        return response

    def _pool(self) -> _Pool:
        loop = loop_identity()
        pool = self._pools.get(loop)
        if pool is None:
            backend = make_backend()
            client = httpx2.AsyncClient(verify=certificates(), follow_redirects=True, limits=LIMITS)
            pool = self._pools[loop] = _Pool(client, backend, backend.event())
            backend.adopt(pool.hold, functools.partial(_forget, self._pools, loop, pool))
        return pool

    async def aclose(self) -> None:
        """Close the connections of every loop; the next request opens new ones."""
        here = self._pools.pop(loop_identity(), None)
        _release_all(self._pools)
        self._pools.clear()
        if here is not None:
            await here.client.aclose()
            here.release()
