"""`AgentServer`: an agent over HTTP, as a program or inside a trio application."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
from quart_trio import QuartTrio

from motus.errors import MotusError
from motus.serve.agents import locate_agent
from motus.serve.app import create_app
from motus.serve.http import HttpServer
from motus.serve.logs import configure_logging
from motus.serve.store import MemoryStore
from motus.serve.turns import Turns
from motus.serve.workers.pool import WorkerPool

__all__ = ["AddressError", "AgentServer", "Serving"]

logger = logging.getLogger("motus.serve")

FALLBACK_WORKERS = 4
BACKLOG = 1024
# For answers that are on their way when the last turn is over.
HTTP_GRACE_SECONDS = 0.8


class AddressError(MotusError):
    """The address cannot be listened on: take another one, or stop who has it."""


@attrs.frozen
class Serving:
    """Where a server accepts connections; `port` is the real one when 0 was asked for."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class AgentServer:
    """Serves an agent: sessions over HTTP, each turn in a process of its own.

    `agent_fn` is an import path ("package.module:name"), or a function, class or object that
    exists at module level, where the workers can import it. Raises `ValueError` otherwise.

    `max_workers` limits the turns that run at the same time (default: one for each CPU).
    `timeout` is for one turn, `ttl` for a session without activity, `shutdown_timeout` for the
    turns that run when the server is told to stop, all in seconds, with 0 for no limit.
    """

    def __init__(
        self,
        agent_fn: object,
        *,
        max_workers: int | None = None,
        ttl: float = 0,
        timeout: float = 0,
        max_sessions: int = 0,
        shutdown_timeout: float = 0,
        allow_custom_ids: bool = False,
    ) -> None:
        workers = (os.cpu_count() or FALLBACK_WORKERS) if max_workers is None else max_workers
        if workers < 1:
            raise ValueError(f"max_workers must be at least 1, got {workers}")
        for name, value in {
            "ttl": ttl,
            "timeout": timeout,
            "max_sessions": max_sessions,
            "shutdown_timeout": shutdown_timeout,
        }.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must not be negative or infinite, got {value}")
        self._target = locate_agent(agent_fn)
        self._pool = WorkerPool(self._target)
        self._shutdown_timeout = shutdown_timeout
        store = MemoryStore(max_sessions)
        self._turns = Turns(self._pool, store, max_workers=workers, timeout=timeout, ttl=ttl)
        self._app = create_app(
            self._turns,
            store,
            allow_custom_ids=allow_custom_ids,
            shutdown_timeout=shutdown_timeout,
        )

    @property
    def app(self) -> QuartTrio:
        """The ASGI application, for trio servers; turns run between its startup and shutdown."""
        return self._app

    def run(self, host: str = "0.0.0.0", port: int = 8000, log_level: str = "info") -> None:  # noqa: S104  # the documented default
        """Serve until SIGTERM or SIGINT, then let running turns finish; a second signal ends them.

        Prints one line with the address to stdout once connections are accepted, and configures
        logging. Raises `AgentLoadError` when the agent cannot be imported, `AddressError` when
        the address cannot be had.
        """
        configure_logging(log_level)
        trio.run(self._run, host, port)

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Serving]:
        """Serve while the block runs, from the moment it is entered.

        On leaving, running turns may finish within `shutdown_timeout`; when the block is left by
        an exception or cancelled, they are stopped at once. Raises as `run` does; what the block
        raises comes out in an exception group, as from every nursery.
        """
        await self._pool.check(partial(logger.warning, "%s"))
        with _listen(host, port) as listener:
            http = HttpServer(self._app, listener)
            async with trio.open_nursery() as nursery:
                await nursery.start(http.run)
                try:
                    yield Serving(host, listener.getsockname()[1])
                    http.stop_accepting()
                    await self._turns.drain(self._shutdown_timeout)
                finally:
                    http.stop_accepting()
                    self._turns.stop_all()
                    with trio.CancelScope(shield=True):
                        await self._turns.drain(0)
                        # Who waited for the last turn is answered; who does not read is not.
                        with trio.move_on_after(HTTP_GRACE_SECONDS):
                            await http.wait_stopped()
                        http.close_connections()
                        with trio.move_on_after(HTTP_GRACE_SECONDS):
                            await http.wait_stopped()
                    nursery.cancel_scope.cancel()

    async def _run(self, host: str, port: int) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            stopping = trio.Event()
            serving_now = trio.Event()
            starting = trio.CancelScope()

            async def obey() -> None:
                async for number in signals:
                    name = signal.Signals(number).name
                    if stopping.is_set():
                        logger.warning("%s again: ending all turns", name)
                        self._turns.stop_all()
                        continue
                    logger.info("%s: no new turns; waiting for those that run", name)
                    stopping.set()
                    if not serving_now.is_set():
                        starting.cancel()

            async with _ending_nursery() as nursery:
                nursery.start_soon(obey)
                with starting:
                    async with self.serving(host, port) as serving:
                        serving_now.set()
                        _announce(f"Serving {self._target.import_path} on {serving.url}")
                        await stopping.wait()


@asynccontextmanager
async def _ending_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block; an error in the block comes out as it is."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        # Carried past the nursery, which would wrap it in a group; raised again below.
        except Exception as caught:  # noqa: BLE001  # as said above
            error = caught
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


def _listen(host: str, port: int) -> socket.socket:
    # Not left to Hypercorn, whose nurseries would wrap the error and hide the free port's number.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # `strerror` of this call repeats the address; the codes of look-ups are negative.
        code = error.errno or 0
        reason = os.strerror(code) if code > 0 else error.strerror
        raise AddressError(f"Could not listen on {host}:{port}: {reason}") from error


def _announce(line: str) -> None:
    # Not a log record: scripts wait for this line, whatever the log level.
    with contextlib.suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
