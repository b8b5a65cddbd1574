"""HTTP on connections that are ours: accepted, counted, and at the end closed here."""

from __future__ import annotations

import gc
import logging
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from motus.serve.config import ServerConfig
from motus.serve.connection import Connection, Roster, say_goodbye

__all__ = ["HttpServer", "allow_descriptors", "collecting_rarely"]

logger = logging.getLogger("motus.serve")

# Beside the connections: workers, webhooks, what the program itself has open.
RESERVED_DESCRIPTORS = 512
# Each time 7,000 more objects have been made than dropped (on Python 3.13, 20,000), the younger
# ones are looked through.
COLLECTIONS_BEFORE_A_FULL_ONE = 100
# How many connections that are about to be closed are not counted.
MAX_LEAVING = 256
# How many are told that there is no room for them; beyond that they are not told.
MAX_TURNED_AWAY = 64

NO_ROOM = (
    b"HTTP/1.1 503 \r\ncontent-type: application/json\r\ncontent-length: 34\r\nretry-after: 1\r\n"
    b'connection: close\r\n\r\n{"detail": "Too many connections"}'
)


def allow_descriptors(connections: int) -> None:
    """Let this process have as many descriptors as that takes, as far as it may. For programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Have the garbage collector look at everything less often meanwhile. For programs.

    With thousands of connections that takes a third of a second, in which nobody is served; and it
    is done again whenever their objects have grown by a quarter. What is there before the first
    one is not looked at again, and the rest after 700,000 new objects (on Python 3.13, 2,000,000).

    Afterwards nothing is frozen, not even what was before: that cannot be told apart (Python 3.12
    begins with some), and what stays frozen is never freed.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*before[:2], COLLECTIONS_BEFORE_A_FULL_ONE)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _room(connections: int) -> int:
    """How many of them this process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return min(connections, soft - min(RESERVED_DESCRIPTORS, soft // 2))


class HttpServer:
    """Serves one ASGI application on one listening socket, once.

    With `max_connections` open, a new one takes the place of the one that has waited longest for a
    request; when all of them are being served, it is answered 503.
    """

    def __init__(self, app: ASGIFramework, listener: socket.socket, limits: ServerConfig) -> None:
        self._http = Config()
        self._http.errorlog = logging.getLogger("motus.serve.http")
        self._http.include_server_header = False
        self._http.h11_max_incomplete_size = limits.max_header_size
        self._http.keep_alive_max_requests = sys.maxsize
        self._limits = limits
        self._room = _room(limits.max_connections)
        self._app = wrap_app(app, self._http.wsgi_max_body_size, "asgi")
        self._listener = listener
        self._stopping = trio.Event()
        self._drained = trio.Event()
        self._stopped = trio.Event()
        self._connections: set[Connection] = set()
        self._roster = Roster()
        self._turning_away: set[trio.SocketStream] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop_accepting`, then until the last connection is closed.

        The application's startup comes before the first connection, its shutdown after the last
        one. Cancelling it closes the connections.
        """
        state: LifespanState = {}
        lifespan = Lifespan(self._app, self._http, state)
        context = WorkerContext(None)
        if self._room < self._limits.max_connections:
            logger.info("at most %d connections: the limit of open files is lower", self._room)
        try:
            async with trio.open_nursery() as application:
                await application.start(lifespan.handle_lifespan)
                await lifespan.wait_for_startup()
                async with trio.open_nursery() as connections:
                    try:
                        await self._accept(context, state, connections, task_status)
                        await context.terminated.set()
                        for connection in list(self._roster.waiting):
                            connection.stop()
                        if self._connections:
                            await self._drained.wait()
                    finally:
                        self.close_connections()
                await lifespan.wait_for_shutdown()
                application.cancel_scope.cancel()
        finally:
            self._stopped.set()

    async def _accept(
        self,
        context: WorkerContext,
        state: LifespanState,
        connections: trio.Nursery,
        task_status: trio.TaskStatus[None],
    ) -> None:
        async def converse(stream: trio.SocketStream) -> None:
            if not self._make_room():
                await self._turn_away(stream)
                return
            connection = Connection(stream, self._app, self._http, self._limits, self._roster)
            self._connections.add(connection)
            try:
                await connection.run(context, ConnectionState(state.copy()))
            # A mistake of ours on one connection must not end all the others.
            except Exception:  # as said above; it is logged
                logger.exception("connection failed inside the server")
            finally:
                self._connections.discard(connection)
                if self._stopping.is_set() and not self._connections:
                    self._drained.set()

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, converse, [listener], handler_nursery=connections)
            )
            task_status.started()
            await self._stopping.wait()
            accepting.cancel_scope.cancel()

    def _make_room(self) -> bool:
        leaving = min(len(self._roster.leaving), MAX_LEAVING)
        if len(self._connections) - leaving < self._room:
            return True
        oldest = next(iter(self._roster.waiting), None)
        if oldest is not None:
            oldest.abort()
        return oldest is not None

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        try:
            if len(self._turning_away) < MAX_TURNED_AWAY:
                self._turning_away.add(stream)
                await stream.send_all(NO_ROOM)
                await say_goodbye(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # gone before it was told
        finally:
            self._turning_away.discard(stream)
            await trio.aclose_forcefully(stream)

    def stop_accepting(self) -> None:
        """Take no more connections; close those that are idle, and the others when they are."""
        self._stopping.set()

    def close_connections(self) -> None:
        """Close every connection, whatever is being said on it."""
        for connection in list(self._connections):
            connection.abort()
        for stream in self._turning_away:
            stream.socket.close()

    async def wait_stopped(self) -> None:
        """Wait until `run` is over."""
        await self._stopped.wait()
