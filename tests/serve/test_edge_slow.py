"""Clients that are slow, and many: the others are served as if they were not there (G13, G14)."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.serve.support import ROOT, ServerProcess, until

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"
CLIENTS = 1000 if SOAK else 200
TURNS = 500 if SOAK else 200
# Between two portions of what a slow client sends: some hundred come in each second, from all.
PAUSE = CLIENTS / 400


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5 * CLIENTS + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.serve.edge_agents", str(tmp_path / "rounds")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


async def turn(http: httpx.AsyncClient, content: str) -> tuple[str, float]:
    """The session of a turn that has been answered, and how long it took."""
    began = trio.current_time()
    session = (await http.post("/sessions")).json()["session_id"]
    path = f"/sessions/{session}"
    accepted = await http.post(f"{path}/messages", json={"content": content})
    assert accepted.status_code == 202
    outcome = (await http.get(path, params={"wait": "true"})).json()
    assert outcome["status"] == "idle", outcome
    return session, trio.current_time() - began


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@pytest.mark.alone
async def test_slow_clients_starve_nobody(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert server.stdout is not None
    url = server.stdout.readline().split()[-1]
    host, _, port = url.removeprefix("http://").partition(":")

    async def connect() -> trio.SocketStream:
        return await trio.open_tcp_stream(host, int(port))

    async def drip(head: bytes, portion: bytes) -> None:
        while True:
            # Whose time is over is sent away, and comes back.
            with suppress(trio.BrokenResourceError):
                async with await connect() as stream:
                    await stream.send_all(head)
                    while True:
                        await trio.sleep(PAUSE)
                        await stream.send_all(portion)

    async def never_read(path: str) -> None:
        async with await connect() as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await trio.sleep_forever()

    async def idle() -> None:
        async with await connect():
            await trio.sleep_forever()

    json = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    slow: list[tuple[Callable[..., Awaitable[None]], tuple[object, ...]]] = [
        (drip, (b"GET /sessions HTTP/1.1\r\n", b"X: y\r\n")),
        (drip, (b"POST /sessions HTTP/1.1\r\n" + json, b" ")),
        (idle, ()),
    ]
    ratios = []
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        session, _ = await turn(http, "big 2000000")
        slow.append((never_read, (f"/sessions/{session}/messages",)))
        # Of three, so that the machine's own moods do not count.
        for _ in range(3):
            quiet = [(await turn(http, "hello"))[1] for _ in range(TURNS)]
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    for behave, arguments in slow:
                        nursery.start_soon(behave, *arguments)
                    # Not all at the same instant, also when their time is over.
                    await trio.sleep(PAUSE / CLIENTS)
                await trio.sleep(1)
                busy = [(await turn(http, "hello"))[1] for _ in range(TURNS)]
                nursery.cancel_scope.cancel()
            ratios.append(percentile(busy, 0.99) / percentile(quiet, 0.99))
    server.terminate()
    until(lambda: server.poll() is not None, "the end of the server")
    assert server.returncode == 0
    rounds = [float(line) for line in (tmp_path / "rounds").read_text().split()]
    assert len(rounds) > 100
    assert percentile(rounds, 0.999) <= 0.05, sorted(rounds)[-10:]
    assert statistics.median(ratios) <= 2, ratios


async def test_the_cap_closes_who_waits_longest_and_refuses_when_nobody_does(
    tmp_path: Path,
) -> None:
    with ServerProcess(
        "tests.serve.edge_agents:anything", tmp_path / "log", "--max-connections", "20"
    ) as server:
        session = server.create()
        server.post(session, "ask")
        server.wait(session)
        server.http.close()
        host, _, port = server.url.removeprefix("http://").partition(":")

        async def connect() -> trio.SocketStream:
            return await trio.open_tcp_stream(host, int(port))

        # Idle connections: more than there is room for; the first ones are closed.
        idle = [await connect() for _ in range(30)]
        with trio.fail_after(20):
            for stream in idle[:10]:
                assert await stream.receive_some() == b""
        # And whoever has something to say is served.
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            assert (await http.get("/health")).status_code == 200
        for stream in idle:
            await stream.aclose()
        # Connections that are being served are left alone.
        fresh = (await _request(await connect(), "POST /sessions")).split(b'"')[3].decode()
        request = f"POST /sessions/{fresh}/messages HTTP/1.1\r\nHost: localhost\r\n"
        kind = "Content-Type: application/json\r\nContent-Length: 20\r\n"
        head = f"{request}{kind}Expect: 100-continue\r\n\r\n".encode()
        busy = []
        for _ in range(20):
            busy.append(await connect())
            await busy[-1].send_all(head)
            assert (await busy[-1].receive_some()).startswith(b"HTTP/1.1 100")
        with trio.fail_after(20):
            while True:
                refused = await _request(await connect(), "GET /health")
                if refused.startswith(b"HTTP/1.1 503"):
                    break
        assert b"retry-after: 1\r\n" in refused
        assert refused.endswith(b'{"detail": "Too many connections"}')
        for stream in busy:
            await stream.send_all(b'{"content": "hello"}')
            assert (await stream.receive_some()).startswith((b"HTTP/1.1 202", b"HTTP/1.1 409"))
            await stream.aclose()


async def _request(stream: trio.SocketStream, line: str) -> bytes:
    answer = b""
    async with stream:
        await stream.send_all(
            f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        try:
            while portion := await stream.receive_some():
                answer += portion
        except trio.BrokenResourceError:
            pass
    return answer
