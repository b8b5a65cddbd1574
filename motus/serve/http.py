"""Hypercorn's HTTP on connections that are ours.

Hypercorn's own loop for trio shields what it sends: a client that does not read would keep the
server from ever stopping. So connections are accepted, counted and, at the end, closed here.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

__all__ = ["HttpServer"]


class HttpServer:
    """Serves one ASGI application on one listening socket, once."""

    def __init__(self, app: ASGIFramework, listener: socket.socket) -> None:
        self._config = Config()
        self._config.errorlog = logging.getLogger("motus.serve.http")
        self._config.include_server_header = False
        self._app = wrap_app(app, self._config.wsgi_max_body_size, "asgi")
        self._listener = listener
        self._stopping = trio.Event()
        self._drained = trio.Event()
        self._stopped = trio.Event()
        self._streams: set[trio.SocketStream] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop_accepting`, then until the last connection is closed.

        The application's startup comes before the first connection, its shutdown after the last
        one. Cancelling it closes the connections.
        """
        state: LifespanState = {}
        lifespan = Lifespan(self._app, self._config, state)
        context = WorkerContext(None)

        async def converse(stream: trio.SocketStream) -> None:
            self._streams.add(stream)
            try:
                await TCPServer(
                    self._app,
                    self._config,
                    context,
                    ConnectionState(state.copy()),
                    stream,  # type: ignore[arg-type]  # the annotation knows TLS only
                )
            finally:
                self._streams.discard(stream)
                if self._stopping.is_set() and not self._streams:
                    self._drained.set()

        try:
            async with trio.open_nursery() as application:
                await application.start(lifespan.handle_lifespan)
                await lifespan.wait_for_startup()
                async with trio.open_nursery() as connections:
                    try:
                        await self._accept(converse, connections, task_status)
                        await context.terminated.set()
                        if self._streams:
                            await self._drained.wait()
                    finally:
                        self.close_connections()
                await lifespan.wait_for_shutdown()
                application.cancel_scope.cancel()
        finally:
            self._stopped.set()

    async def _accept(
        self,
        converse: Callable[[trio.SocketStream], Awaitable[None]],
        connections: trio.Nursery,
        task_status: trio.TaskStatus[None],
    ) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, converse, [listener], handler_nursery=connections)
            )
            task_status.started()
            await self._stopping.wait()
            accepting.cancel_scope.cancel()

    def stop_accepting(self) -> None:
        """Take no more connections; close those that are idle, and the others when they are."""
        self._stopping.set()

    def close_connections(self) -> None:
        """Close every connection, whatever is being said on it."""
        for stream in list(self._streams):
            stream.socket.close()

    async def wait_stopped(self) -> None:
        """Wait until `run` is over."""
        await self._stopped.wait()
