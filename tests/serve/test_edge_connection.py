"""One connection and its limits in time, on virtual time: both ends are in this process."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ConnectionState,
    Scope,
)
from hypercorn.utils import wrap_app
from trio.testing import MockClock

from motus.serve.config import ServerConfig
from motus.serve.connection import BODY_BYTES, LINGER_SECONDS, Connection, Roster

pytestmark = pytest.mark.trio

HEAD = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
LIMITS = ServerConfig(header_timeout=10, idle_timeout=75)


@attrs.define(eq=False)
class App:
    """Answers after `delay` seconds with `size` bytes, once the body is there."""

    delay: float = 0
    size: int = 2
    seen: list[str] = attrs.field(factory=list)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        assert scope["type"] == "http"
        self.seen.append(scope["path"])

        async def disconnected() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.seen.append("disconnect")
                    nursery.cancel_scope.cancel()
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disconnected)
            await trio.sleep(self.delay)
            length = (b"content-length", str(self.size).encode())
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [length],
                    "trailers": False,
                }
            )
            with trio.CancelScope(shield=True):
                await send(
                    {"type": "http.response.body", "body": b"x" * self.size, "more_body": False}
                )
            nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Client:
    stream: trio.SocketStream
    connection: Connection
    context: WorkerContext
    waiting: dict[Connection, None]
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def read(self, until: bytes | None = None) -> bytes:
        """All that comes until the other side closes, or until it ends so."""
        data = b""
        while until is None or not data.endswith(until):
            portion = await self.stream.receive_some()
            if not portion:
                break
            data += portion
        return data


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def connected(app: Any, limits: ServerConfig = LIMITS) -> AsyncIterator[Client]:
    http = Config()
    http.h11_max_incomplete_size = limits.max_header_size
    ours, theirs = socket.socketpair()
    roster = Roster()
    connection = Connection(
        trio.SocketStream(trio.socket.from_stdlib_socket(ours)),
        wrap_app(app, http.wsgi_max_body_size, "asgi"),
        http,
        limits,
        roster,
    )
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    client = Client(stream, connection, WorkerContext(None), roster.waiting)

    async def run() -> None:
        await connection.run(client.context, ConnectionState({}))
        client.ended.set()

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield client
        nursery.cancel_scope.cancel()


async def test_a_connection_without_a_request_is_closed_without_a_word(clock: MockClock) -> None:
    async with connected(App()) as client:
        assert await client.read() == b""
        assert trio.current_time() == pytest.approx(75)


@pytest.mark.parametrize("pause", [1, 9])
async def test_a_head_has_so_long_from_its_first_byte(clock: MockClock, pause: int) -> None:
    app = App()
    async with connected(app) as client:
        await trio.sleep(60)
        began = trio.current_time()

        async def drip() -> None:
            for byte in HEAD:
                await client.stream.send_all(bytes([byte]))
                await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            answer = await client.read()
            nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(10)
        assert app.seen == []


async def test_a_request_that_is_served_has_no_limit_here(clock: MockClock) -> None:
    async with connected(App(delay=290)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        assert (await client.read(b"xx")).startswith(b"HTTP/1.1 200")
        assert trio.current_time() == pytest.approx(290)
        # From now on it waits again, and the time of the request does not count.
        assert await client.read() == b""
        assert trio.current_time() == pytest.approx(290 + 75)


@pytest.mark.parametrize("size", [0, 2])
async def test_the_head_of_an_answer_goes_out_with_its_body(clock: MockClock, size: int) -> None:
    async with connected(App(size=size)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        answer = await client.stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n" + b"x" * size)


def streaming(body: bytes) -> Any:
    """An application that sends as the framework does: nothing shields what is sent."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        start = {"type": "http.response.start", "status": 200, "headers": headers}

        async def answer() -> None:
            await send({**start, "trailers": False})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

    return app


async def test_a_long_answer_is_copied_in_parts(clock: MockClock) -> None:
    """Many may have the same one, and take their time to read it."""
    body = b"x" * (20 * BODY_BYTES)
    async with connected(streaming(body)) as client:
        tracemalloc.start()
        try:
            await client.stream.send_all(HEAD + b"\r\n")
            await trio.testing.wait_all_tasks_blocked()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * BODY_BYTES
        answer = b""
        while not answer.endswith(body):
            answer += await client.stream.receive_some()


async def test_a_client_that_says_no_more_is_still_answered(clock: MockClock) -> None:
    """As soon as its answer has begun, all of it is sent."""
    body = b"x" * (20 * BODY_BYTES)
    async with connected(streaming(body)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.read()).endswith(b"\r\n\r\n" + body)


async def test_what_came_with_the_last_request_is_the_head_of_the_next(clock: MockClock) -> None:
    async with connected(App(delay=1)) as client:
        await client.stream.send_all(HEAD + b"\r\n" + HEAD)
        answer = await client.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in answer
        assert trio.current_time() == pytest.approx(1 + 10)


async def test_two_requests_at_once_are_answered_in_order(clock: MockClock) -> None:
    app = App(delay=1)
    async with connected(app) as client:
        await client.stream.send_all((HEAD + b"\r\n") + (HEAD.replace(b"/x", b"/y") + b"\r\n"))
        await trio.sleep(3)
        assert [path for path in app.seen if path != "disconnect"] == ["/x", "/y"]
        assert (await client.read()).count(b"HTTP/1.1 200") == 2


async def test_a_client_that_goes_away_ends_its_request(clock: MockClock) -> None:
    app = App(delay=1000)
    async with connected(app) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        await trio.sleep(1)
        await client.stream.aclose()
        await client.ended.wait()
        assert trio.current_time() == pytest.approx(1)
        assert app.seen == ["/x", "disconnect"]


async def test_a_client_that_does_not_read_is_given_up(clock: MockClock) -> None:
    async with connected(App(size=20_000_000)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        await client.ended.wait()
        assert trio.current_time() == pytest.approx(75)


async def test_a_client_that_reads_slowly_is_not(clock: MockClock) -> None:
    size = 2_000_000
    async with connected(App(size=size)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        received = 0
        while portion := await client.stream.receive_some(1 << 18):
            received += len(portion)
            await trio.sleep(40)
            if received > size:
                break
        assert received > size
        assert trio.current_time() > 2 * 75


async def test_stopping_ends_who_waits_and_lets_others_be_answered(clock: MockClock) -> None:
    async with connected(App(delay=5)) as busy, connected(App()) as idle, connected(App()) as part:
        await busy.stream.send_all(HEAD + b"\r\n")
        await part.stream.send_all(HEAD)
        await trio.sleep(1)
        for client in (busy, idle, part):
            await client.context.terminated.set()
            client.connection.stop()
        await idle.ended.wait()
        await part.ended.wait()
        assert trio.current_time() == pytest.approx(1)
        assert (await busy.read()).startswith(b"HTTP/1.1 200")
        assert trio.current_time() == pytest.approx(5)


async def test_aborting_frees_whoever_is_stuck(clock: MockClock) -> None:
    async with connected(App(size=20_000_000)) as client:
        await client.stream.send_all(HEAD + b"\r\n")
        await trio.sleep(1)
        client.connection.abort()
        await client.ended.wait()
        assert trio.current_time() == pytest.approx(1)
        assert client.waiting == {}


async def test_the_answer_to_a_broken_request_is_not_lost(clock: MockClock) -> None:
    async with connected(App()) as client:
        await client.stream.send_all(b"NONSENSE\r\n\r\n" + b"x" * 100_000)
        assert (await client.read()).startswith(b"HTTP/1.1 400 ")
        began = trio.current_time()
        # The client does not close: it has been waited for long enough.
        await client.ended.wait()
        assert trio.current_time() - began == pytest.approx(LINGER_SECONDS)


async def test_waiting_connections_are_in_the_order_in_which_they_began(clock: MockClock) -> None:
    async with connected(App()) as client:
        assert list(client.waiting) == [client.connection]
        await client.stream.send_all(HEAD)
        await trio.sleep(1)
        assert list(client.waiting) == [client.connection]
        other = object()
        client.waiting[other] = None  # type: ignore[index]  # stands for another connection
        await client.stream.send_all(b"\r\n")
        await client.read(b"xx")
        await trio.sleep(1)
        # It has waited for less long than the other one now.
        assert list(client.waiting) == [other, client.connection]


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
    ],
)
async def test_an_offer_to_speak_something_else_is_ignored(
    clock: MockClock, upgrade: bytes
) -> None:
    async with connected(App()) as client:
        await client.stream.send_all(HEAD + upgrade + b"\r\n")
        assert (await client.read(b"xx")).startswith(b"HTTP/1.1 200")


async def test_more_than_a_head_may_have_is_not_kept(clock: MockClock) -> None:
    async with connected(App(), ServerConfig(max_header_size=2048)) as client:
        with trio.move_on_after(5):
            await client.stream.send_all(HEAD + b"x: " + b"y" * 1_000_000)
        assert (await client.read()).startswith(b"HTTP/1.1 431 ")
