"""Webhooks: calling whoever wants to know how a turn ended, until they have heard it.

Deliveries are tasks of the server, not of the turn: the turn never waits for one. What is decided
about them is in `webhook_rules.py`.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import attrs
import httpcore
import trio

from motus.errors import ProtocolError
from motus.serve.config import ServerConfig
from motus.serve.events import CallWebhook
from motus.serve.schemas import webhook_payload
from motus.serve.webhook_rules import (
    MAX_ATTEMPTS,
    AddressPolicy,
    AddressRefusedError,
    Verdict,
    call_headers,
    pause_after,
    shown,
    verdict_of,
)

__all__ = ["Webhooks"]

logger = logging.getLogger("motus.serve")

T = TypeVar("T")
Resolve = Callable[[str, int], Awaitable[list[str]]]

ATTEMPT_SECONDS = 10.0
MAX_CONCURRENT = 32
MAX_WAITING = 1000
MAX_WAITING_BYTES = 256 << 20
# Making and signing a longer body than this takes long enough to be felt by everyone else.
MAX_INLINE_BYTES = 1 << 16


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, each once. Raises `OSError`."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, to no others.

    Between checking a name and connecting to it, it may get another address: so the connection is
    made to the address. The certificate is still checked for the name.
    """

    def __init__(
        self, policy: AddressPolicy, resolve: Resolve, network: httpcore.AsyncNetworkBackend
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the interface's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError("its name could not be resolved") from error
        self._policy.check(host, addresses)
        failure: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError("it has no address")


class _Body:
    """A request's body in one piece; unlike the client's own it leaves nothing to be collected."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@attrs.define(eq=False)
class _Delivery:
    call: CallWebhook
    size: int
    # Set when there is no time for another pause.
    hurry: trio.Event = attrs.field(factory=trio.Event)

    @property
    def ids(self) -> dict[str, str]:
        return {"session_id": self.call.view.session_id, "turn_id": self.call.turn_id}


class Webhooks:
    """Delivers the calls of a server: a number of them at a time, each until it is answered.

    An attempt that meets a broken connection, 429 or an error of the receiver is made again, ten
    times in all over some minutes. Beyond a thousand calls, or 256 MiB, new ones are not taken.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        resolve: Resolve = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._secret = config.webhook_secret
        policy = AddressPolicy.of(config.webhook_allow)
        self._network = _CheckedNetwork(policy, resolve, network or httpcore.TrioBackend())
        self._slots = trio.Semaphore(MAX_CONCURRENT)
        self._waiting: set[_Delivery] = set()
        self._size = 0
        self._tasks: trio.Nursery | None = None
        self._tls: ssl.SSLContext | None = None
        self._all_done = trio.Event()
        self._over = trio.Event()
        self._draining = False

    @property
    def waiting(self) -> int:
        """Calls that have not been delivered yet."""
        return len(self._waiting)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the home of the deliveries until it is cancelled, or `drain` is over."""
        self._draining = False
        self._over = trio.Event()
        try:
            async with trio.open_nursery() as self._tasks:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._tasks = None
            self._over.set()

    def deliver(self, call: CallWebhook) -> None:
        """Take the call over; returns at once, raises nothing."""
        delivery = _Delivery(call, len(call.state))
        full = len(self._waiting) >= MAX_WAITING or self._size + delivery.size > MAX_WAITING_BYTES
        if self._tasks is None or full:
            why = "too many are waiting" if full else "the server has stopped"
            _log(logging.ERROR, delivery, "dropped: %s", why)
            return
        if self._draining:
            delivery.hurry.set()
        if not self._waiting:
            self._all_done = trio.Event()
        self._waiting.add(delivery)
        self._size += delivery.size
        self._tasks.start_soon(self._deliver, delivery)

    async def drain(self, seconds: float) -> None:
        """Wait until everything is delivered, for so long at most, and end `run`.

        Who is in a pause tries again at once, then once more in each second. What is left then is
        lost, and counted in the log. Cancelling it loses what is left.
        """
        if self._tasks is None:
            return
        self._draining = True
        for delivery in self._waiting:
            delivery.hurry.set()
        try:
            with trio.move_on_after(seconds):
                while self._waiting:
                    await self._all_done.wait()
        finally:
            self.give_up()
            with trio.CancelScope(shield=True):
                await self._over.wait()

    def give_up(self) -> None:
        """End `run` now; what has not been delivered is lost, and counted in the log."""
        if self._tasks is not None:
            if self._waiting:
                logger.error("%d webhooks were not delivered", len(self._waiting))
            self._tasks.cancel_scope.cancel()
            self._tasks = None

    async def _deliver(self, delivery: _Delivery) -> None:
        try:
            try:
                body = await _off_loop(delivery.size, partial(webhook_payload, delivery.call))
            except ProtocolError as error:
                _log(logging.ERROR, delivery, "not delivered: the conversation is %s", error)
                return
            for attempt in range(1, MAX_ATTEMPTS + 1):
                async with self._slots:
                    verdict, said, asked = await self._attempt(delivery, body)
                if verdict is Verdict.DELIVERED:
                    _log(logging.DEBUG, delivery, "delivered")
                    return
                if verdict is Verdict.REFUSED or attempt == MAX_ATTEMPTS:
                    _log(logging.ERROR, delivery, "not delivered: %s", said)
                    return
                _log(logging.WARNING, delivery, "attempt %d failed: %s", attempt, said)
                if delivery.hurry.is_set():
                    await trio.sleep(pause_after(1, random.random()))  # noqa: S311  # no secret
                else:
                    with trio.move_on_after(pause_after(attempt, random.random(), asked)):  # noqa: S311  # no secret
                        await delivery.hurry.wait()
        # A mistake of ours in one delivery must not end the others, or the server.
        except Exception:  # as said above; it is logged
            logger.exception("webhook failed inside the server", extra=delivery.ids)
        finally:
            self._waiting.discard(delivery)
            self._size -= delivery.size
            if not self._waiting:
                self._all_done.set()

    async def _attempt(self, delivery: _Delivery, body: bytes) -> tuple[Verdict, str, str | None]:
        """The verdict, why, and for which pause the receiver asked."""
        webhook = delivery.call.webhook
        make_headers = partial(
            call_headers,
            body,
            delivery=delivery.call.turn_id,
            timestamp=int(time.time()),
            token=webhook.token,
            secret=self._secret,
        )
        headers = await _off_loop(delivery.size, make_headers)
        try:
            with trio.fail_after(ATTEMPT_SECONDS):
                if webhook.url.startswith("https:") and self._tls is None:
                    self._tls = await trio.to_thread.run_sync(_load_tls)
                async with (
                    httpcore.AsyncConnectionPool(
                        self._tls, max_keepalive_connections=0, network_backend=self._network
                    ) as client,
                    client.stream(
                        "POST", webhook.url, headers=headers, content=_Body(body)
                    ) as response,
                ):
                    # The rest of the reply is not even read.
                    status, asked = response.status, _retry_after(response)
        except AddressRefusedError as error:
            return Verdict.REFUSED, str(error), None
        except trio.TooSlowError:
            return Verdict.AGAIN, f"no answer within {ATTEMPT_SECONDS:.0f} s", None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            # The name of the error only: its text may have parts of the URL.
            return Verdict.AGAIN, type(error).__name__, None
        except (httpcore.UnsupportedProtocol, UnicodeError, ValueError) as error:
            return Verdict.REFUSED, f"not a URL that can be called ({type(error).__name__})", None
        return verdict_of(status), f"status {status}", asked


def _retry_after(response: httpcore.Response) -> str | None:
    values = [value for name, value in response.headers if name.lower() == b"retry-after"]
    return values[0].decode("latin-1") if values else None


def _load_tls() -> ssl.SSLContext:
    context = httpcore.default_ssl_context()
    # The machine's own as well, where an operator puts those of the house.
    context.load_default_certs()
    return context


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    return work() if size <= MAX_INLINE_BYTES else await trio.to_thread.run_sync(work)


def _log(level: int, delivery: _Delivery, text: str, *arguments: object) -> None:
    where = shown(delivery.call.webhook.url)
    logger.log(level, f"webhook to %s {text}", where, *arguments, extra=delivery.ids)  # noqa: G004  # one of the texts above
