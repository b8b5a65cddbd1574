"""`AgentServer`: an agent over HTTP, as a program or inside a trio application."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from difflib import get_close_matches
from typing import Unpack

import attrs
import sniffio
import trio
from quart_trio import QuartTrio

from motus.errors import MotusError
from motus.serve.agents import locate_agent
from motus.serve.app import create_app
from motus.serve.config import LOG_FORMATS, LOG_LEVELS, MoreSettings, ServerConfig, settings
from motus.serve.guard import Guard
from motus.serve.http import HttpServer, allow_descriptors, collecting_rarely
from motus.serve.logs import logging_to
from motus.serve.store import MemoryStore
from motus.serve.turns import Turns
from motus.serve.webhooks import Webhooks
from motus.serve.workers.pool import WorkerPool
from motus.serve.workers.process import unreadable_by_others

__all__ = ["AddressError", "AgentServer", "Serving", "UnsupportedSystemError"]

logger = logging.getLogger("motus.serve")

STDERR = 2
# With two that programs know from elsewhere; there is nothing below debug.
LEVEL_NAMES = {**{name: name for name in LOG_LEVELS}, "critical": "critical", "trace": "debug"}
BACKLOG = 1024
# For answers that are on their way when the last turn is over.
HTTP_GRACE_SECONDS = 0.5
# For webhooks, within what `shutdown_timeout` leaves; and for those of turns that it has ended.
WEBHOOK_GRACE_SECONDS = 10.0
LAST_WEBHOOK_SECONDS = 0.3
# The same signal again within so long is one that was sent to a process and to its group.
ECHO_SECONDS = 0.2
# Hosts that stand for all addresses, and an address at which this machine reaches a server there.
ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # not bound to here


class AddressError(MotusError):
    """The address cannot be listened on: take another one, or stop who has it."""


class UnsupportedSystemError(MotusError):
    """There is no server for this system: start it on another one, also in a container there."""


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
    exists at module level, where the workers can import it. Raises `ValueError` otherwise, and
    `TypeError` for a keyword that is none.

    `max_workers` limits the turns that run at the same time (default: one for each CPU).
    `timeout` is for one turn, `ttl` for a session without activity, `shutdown_timeout` for the
    turns that run when the server is told to stop, all in seconds, with 0 for no limit. The other
    keywords are those of `motus.serve.config.ServerConfig`; `auth_token` and `webhook_secret` are
    taken from the environment when they are not given.
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
        **more: Unpack[MoreSettings],
    ) -> None:
        if platform.system() != "Linux":
            raise UnsupportedSystemError(
                "The server needs Linux for its workers. Tasks, agents and the client commands "
                "run elsewhere too."
            )
        _refuse_unknown(more)
        if more.get("auth_token") is None:
            more["auth_token"] = os.environ.get("MOTUS_AUTH_TOKEN") or None
        if more.get("webhook_secret") is None:
            more["webhook_secret"] = os.environ.get("MOTUS_WEBHOOK_SECRET") or None
        self._config = config = ServerConfig(
            max_workers=max_workers,
            ttl=ttl,
            timeout=timeout,
            max_sessions=max_sessions,
            shutdown_timeout=shutdown_timeout,
            allow_custom_ids=allow_custom_ids,
            **more,
        )
        self._target = locate_agent(agent_fn)
        self._pool = WorkerPool(self._target, config)
        store = MemoryStore(config.max_sessions)
        self._webhooks = Webhooks(config)
        self._turns = Turns(self._pool, store, config, self._webhooks)
        self._app = create_app(self._turns, store, config)
        # Quart's place for a layer around the application.
        self._app.asgi_app = Guard(self._app.asgi_app, config)  # type: ignore[method-assign]  # as said
        self._app.before_serving(self._start_workers)
        self._app.before_serving(self._start_webhooks)
        # After the function of `create_app` that ends the turns.
        self._app.after_serving(self._drain_webhooks)
        self._app.after_serving(self._stop_workers)

    def __repr__(self) -> str:
        return f"<AgentServer of {self._target.import_path}>"

    async def _start_workers(self) -> None:
        # Not where `serving` has, which must know before it listens whether there is an agent.
        if not self._pool.is_running:
            await self._app.nursery.start(self._pool.run)

    async def _stop_workers(self) -> None:
        self._pool.close()

    async def _start_webhooks(self) -> None:
        await self._app.nursery.start(self._webhooks.run)

    async def _drain_webhooks(self, seconds: float = WEBHOOK_GRACE_SECONDS) -> None:
        if self._config.shutdown_timeout:
            seconds = min(seconds, self._config.shutdown_timeout)
        await self._webhooks.drain(seconds)

    @property
    def app(self) -> QuartTrio:
        """The ASGI application, for trio servers; turns run between its startup and shutdown."""
        return self._app

    def run(
        self,
        host: str = "0.0.0.0",  # noqa: S104  # the documented default
        port: int = 8000,
        log_level: str = "info",
        log_format: str = "text",
    ) -> None:
        """Serve until SIGTERM or SIGINT, then let running turns finish; a second signal ends them.

        Prints one line with the address to stdout once connections are accepted, and configures
        logging. Raises `AgentLoadError` when the agent cannot be imported, `AddressError` when
        the address cannot be had.
        """
        if (level := LEVEL_NAMES.get(log_level.lower())) is None:
            raise ValueError(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {log_level!r}")
        if log_format not in LOG_FORMATS:
            raise ValueError(f"log_format must be text or json, got {log_format!r}")
        _hold_standard_descriptors()
        allow_descriptors(self._config.max_connections)
        with unreadable_by_others(), collecting_rarely(), logging_to(STDERR, level, log_format):
            trio.run(self._run, host, port)

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Serving]:
        """Serve while the block runs, from the moment it is entered.

        On leaving, running turns may finish and webhooks be delivered within `shutdown_timeout`;
        when the block is left by an exception or cancelled, they are stopped at once. Raises as
        `run` does, and `RuntimeError` on another event loop than trio's; what the block raises
        comes out in an exception group, as from every nursery.
        """
        if (library := sniffio.current_async_library()) != "trio":
            raise RuntimeError(
                f"AgentServer.serving() runs on trio, and this program on {library}: start it with "
                "trio.run(), or the server as a program of its own with AgentServer.run()"
            )
        async with _ending_nursery() as home, self._listening(home, host, port) as listener:
            http = HttpServer(self._app, listener, self._config)
            async with trio.open_nursery() as nursery:
                await nursery.start(http.run)
                try:
                    yield Serving(host, listener.getsockname()[1])
                    http.stop_accepting()
                    ends = trio.current_time() + (self._config.shutdown_timeout or math.inf)
                    await self._turns.drain(self._config.shutdown_timeout)
                    left = max(ends - trio.current_time(), LAST_WEBHOOK_SECONDS)
                    await self._drain_webhooks(min(left, WEBHOOK_GRACE_SECONDS))
                finally:
                    http.stop_accepting()
                    self._turns.stop_all()
                    self._webhooks.give_up()
                    with trio.CancelScope(shield=True):
                        await self._turns.drain(0)
                        # Who waited for the last turn is answered; who does not read is not.
                        with trio.move_on_after(HTTP_GRACE_SECONDS):
                            await http.wait_stopped()
                        http.close_connections()
                        with trio.move_on_after(HTTP_GRACE_SECONDS):
                            await http.wait_stopped()
                    nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _listening(
        self, home: trio.Nursery, host: str, port: int
    ) -> AsyncIterator[socket.socket]:
        """A listening socket, once the agent has been imported; that takes longer than to bind."""
        with _bound(host, port) as listener:
            await home.start(self._pool.run)
            with _address_errors(host, port):
                listener.listen(BACKLOG)
            yield listener

    async def _run(self, host: str, port: int) -> None:
        # Whoever started us may have blocked them, and we would never stop.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            stopping = trio.Event()
            serving_now = trio.Event()
            starting = trio.CancelScope()

            async def obey() -> None:
                async for number in _without_echoes(signals):
                    name = signal.Signals(number).name
                    if stopping.is_set():
                        logger.warning("%s again: ending all turns", name)
                        self._turns.stop_all()
                        self._webhooks.give_up()
                        continue
                    logger.info(
                        "%s: no new turns; waiting for those that run (another signal ends them at "
                        "once)",
                        name,
                    )
                    stopping.set()
                    if not serving_now.is_set():
                        starting.cancel()

            async with _ending_nursery() as nursery:
                nursery.start_soon(obey)
                with starting:
                    async with self.serving(host, port) as serving:
                        serving_now.set()
                        _announce(f"Serving {self._target.import_path} on {serving.url}")
                        self._say_who_is_served(serving)
                        await stopping.wait()

    def _say_who_is_served(self, serving: Serving) -> None:
        """Tell who serves all addresses without a token that this is for one machine."""
        config = self._config
        here = ALL_ADDRESSES.get(serving.host)
        if here is not None and config.auth == "token" and config.auth_token is None:
            url = attrs.evolve(serving, host=here).url
            text = "serving this machine only, at %s: set MOTUS_AUTH_TOKEN to serve others"
            logger.info(text, url)


def _refuse_unknown(options: Mapping[str, object]) -> None:
    names = [setting.name for setting in settings()]
    for option in options:
        if option not in names:
            nearest = get_close_matches(option, names, 1)
            hint = f". Did you mean '{nearest[0]}'?" if nearest else ""
            raise TypeError(f"AgentServer() got an unexpected keyword argument '{option}'{hint}")


async def _without_echoes(signals: AsyncIterator[int]) -> AsyncIterator[int]:
    """The signals without those that repeat the last one within `ECHO_SECONDS`."""
    last, came = 0, -math.inf
    async for number in signals:
        now = trio.current_time()
        if number != last or now - came >= ECHO_SECONDS:
            last, came = number, now
            yield number


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


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has the address, and does not listen yet."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        # As `socket.create_server` does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _address_errors(host, port):
            listener.bind((host, port))
        yield listener


@contextmanager
def _address_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError, OverflowError) as error:
        match error:
            case UnicodeError():
                reason = "not a host's name"
            case OverflowError():
                reason = "not a port's number"
            case _:
                # What is no number of the system is one of a look-up, whose words these are.
                code = error.errno or 0
                reason = os.strerror(code) if code > 0 else str(error.strerror)
        raise AddressError(f"Could not listen on {host}:{port}: {reason}") from error


def _hold_standard_descriptors() -> None:
    """Open the null device where standard descriptors are closed.

    Otherwise a socket would get the number, and what is written to the log.
    """
    for number in range(STDERR + 1):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is taken.
            os.open(os.devnull, os.O_RDWR)


def _announce(line: str) -> None:
    # Not a log record: scripts wait for this line, whatever the log level.
    # Nobody reads it, or it was closed: no reason not to serve.
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)  # noqa: T201  # as said above
