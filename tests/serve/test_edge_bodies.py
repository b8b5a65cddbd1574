"""Bodies that are long, and many: what is kept of them in memory is bounded."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio

from motus.serve import app
from motus.serve.guard import UNCOUNTED_BYTES, Guard
from motus.serve.schemas import parse_new_session
from tests.serve import agents
from tests.serve.support import PATIENCE, Api, served, until_async

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

LIMIT = 1_000_000
PORTION = 1 << 16


@asynccontextmanager
async def posting(api: Api, declared: int | None) -> AsyncIterator[trio.SocketStream]:
    """A connection on which a body is about to come; without a length it comes in chunks."""
    framing = "Transfer-Encoding: chunked" if declared is None else f"Content-Length: {declared}"
    kind = "Content-Type: application/json"
    head = f"POST /sessions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n{framing}"
    port = api.http.base_url.port
    assert port is not None
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(PATIENCE):
            await stream.send_all(f"{head}\r\n\r\n".encode())
            yield stream


async def answer_on(stream: trio.SocketStream) -> tuple[int, bytes]:
    """The status, and the answer as far as its body."""
    data = b""
    while not data.endswith(b"}"):
        more = await stream.receive_some()
        assert more, data
        data += more
    found = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", data)
    assert found is not None, data
    return int(found[1]), data


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT, 2 * LIMIT + 1, 20 * LIMIT])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_refused_however_long_it_is(
    size: int, chunked: bool
) -> None:
    async with (
        served(agents.echo, max_body_size=LIMIT) as api,
        posting(api, None if chunked else size) as stream,
    ):
        answer: list[tuple[int, bytes]] = []

        async def hear() -> None:
            answer.append(await answer_on(stream))

        async with trio.open_nursery() as nursery:
            # From the beginning: it may be answered, and hear no more, long before its end.
            nursery.start_soon(hear)
            with suppress(trio.BrokenResourceError):
                for start in range(0, size, PORTION):
                    portion = b" " * min(PORTION, size - start)
                    framed = b"%x\r\n%s\r\n" % (len(portion), portion)
                    await stream.send_all(framed if chunked else portion)
                if chunked:
                    await stream.send_all(b"0\r\n\r\n")
        [(status, data)] = answer
        assert status == 413
        assert b"Request body is too large" in data
        assert b"x-content-type-options: nosniff" in data


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_have_so_much_room_together_and_short_ones_need_none(chunked: bool) -> None:
    """Two on their way take all the room; what they had is given back, however they end."""
    size = 10 * PORTION
    total = 2 * size

    async def send(stream: trio.SocketStream, data: bytes) -> None:
        await stream.send_all(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)

    async with served(agents.echo, max_body_size=size, max_body_total=total) as api:
        guard = api.server.app.asgi_app
        assert isinstance(guard, Guard)
        declared = None if chunked else size
        begun = size - 2 if chunked else size
        # The rest of what has come, or is declared, counts.
        left = total - 2 * (begun - UNCOUNTED_BYTES)
        async with posting(api, declared) as first, posting(api, declared) as second:
            for stream in (first, second):
                await send(stream, b" " * (size - 2))
            await until_async(lambda: guard.room_for_bodies == left, "two bodies in memory")
            async with posting(api, declared) as refused:
                await send(refused, b" " * (UNCOUNTED_BYTES + left + 1))
                status, data = await answer_on(refused)
                assert status == 503
                assert b"\r\nretry-after: 1\r\n" in data
                assert b"\r\nconnection: close\r\n" in data
            assert await api.create(state=[])
            await send(first, b"{}")
            await first.send_all(b"0\r\n\r\n" if chunked else b"")
            assert (await answer_on(first))[0] == 201
        await until_async(lambda: guard.room_for_bodies == total, "no body in memory")


async def test_of_many_bodies_some_get_to_their_end() -> None:
    """They come in turns, so that each would be in the way of all the others."""
    size = 4 * PORTION
    answers: dict[trio.SocketStream, int] = {}

    async def hear(stream: trio.SocketStream) -> None:
        answers[stream] = (await answer_on(stream))[0]

    options = {"max_body_size": size, "max_body_total": 2 * size}
    async with served(agents.echo, **options) as api, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(posting(api, size)) for _ in range(6)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(hear, stream)
            for stream in streams * 2:
                with suppress(trio.BrokenResourceError):  # it has been answered
                    await stream.send_all(b" " * PORTION)
            await until_async(lambda: len(answers) == 4, "answers to those without room")
            assert set(answers.values()) == {503}
            for stream in set(streams) - set(answers):
                await stream.send_all(b" " * (2 * PORTION - 2) + b"{}")
    assert sorted(answers.values()) == [201] * 2 + [503] * 4


async def test_there_is_room_for_one_body_whatever_the_total() -> None:
    async with served(agents.echo, max_body_total=1) as api, posting(api, LIMIT) as stream:
        await stream.send_all(b" " * (LIMIT - 2) + b"{}")
        assert (await answer_on(stream))[0] == 201


async def test_long_bodies_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads that decode would keep the interpreter from the loop, all of them at once."""
    decoding = threading.Lock()
    overlapped = []

    def parse(*arguments: Any, **options: Any) -> Any:
        alone = decoding.acquire(blocking=False)
        overlapped.append(not alone)
        try:
            return parse_new_session(*arguments, **options)
        finally:
            if alone:
                decoding.release()

    monkeypatch.setattr(app, "parse_new_session", parse)
    state = [{"role": "user", "content": "x" * 10}] * 5000
    async with served(agents.echo) as api, trio.open_nursery() as clients:
        for _ in range(4):
            clients.start_soon(partial(api.create, state=state))
    assert overlapped == [False] * 4
