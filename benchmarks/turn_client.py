"""Clients that take turns: a small one of our own, and httpx."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

import httpx
import trio

__all__ = ["CLIENTS", "Client", "Load", "Small", "apply", "take_turn"]

READ_BYTES: Final = 1 << 20

# Method, path and JSON body to the JSON answer.
Client = Callable[..., Awaitable[Any]]


class Small:
    """HTTP/1.1 on one connection that is kept: the little that these servers need."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        await self._stream.send_all(head.encode() + content)
        return await self._answer(self._stream)

    async def _answer(self, stream: trio.SocketStream) -> Any:
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += await _some(stream)
        head = bytes(data[:end]).decode("latin-1").lower()
        del data[: end + 4]
        status = int(head.split(" ", 2)[1])
        _, _, length = head.partition("content-length:")
        wanted = int(length.split("\r\n")[0]) if length and status != 204 else 0
        while len(data) < wanted:
            data += await _some(stream)
        if "connection: close" in head:
            await self.aclose()
        if status >= 400:
            raise RuntimeError(f"{status} {bytes(data[:200])!r}")
        return json.loads(data) if data else None

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None


async def _some(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(READ_BYTES)
    if not data:
        raise RuntimeError("the server closed the connection")
    return bytes(data)


@asynccontextmanager
async def small_clients(port: int, number: int) -> AsyncIterator[list[Client]]:
    clients = [Small(port) for _ in range(number)]
    try:
        yield list(clients)
    finally:
        for client in clients:
            await client.aclose()


@asynccontextmanager
async def httpx_clients(port: int, number: int) -> AsyncIterator[list[Client]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as http:

        async def ask(method: str, path: str, body: Any = None) -> Any:
            answer = await http.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

        yield [ask] * number


CLIENTS: Final = {"small": small_clients, "httpx": httpx_clients}


async def take_turn(ask: Client) -> None:
    """What a client pays for: create a session, send a message, wait for the answer, delete."""
    session = (await ask("POST", "/sessions", {}))["session_id"]
    await ask("POST", f"/sessions/{session}/messages", {"content": "hello"})
    outcome = await ask("GET", f"/sessions/{session}?wait=true&timeout=60")
    if outcome["response"] is None or outcome["response"]["content"] != "hello":
        raise RuntimeError(f"not an answer: {outcome}")
    await ask("DELETE", f"/sessions/{session}")


@dataclass(frozen=True)
class Load:
    """What so many turns at a time came to; times in milliseconds."""

    per_second: float
    p50: float
    p99: float


async def apply(client: str, port: int, concurrency: int, turns: int) -> Load:
    """Take `turns` turns, `concurrency` at a time, after one for each that is not counted."""
    times: list[float] = []
    left = turns

    async def repeat(ask: Client) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await take_turn(ask)
            times.append((time.perf_counter() - began) * 1000)

    async with CLIENTS[client](port, concurrency) as clients:
        async with trio.open_nursery() as nursery:
            for ask in clients:
                nursery.start_soon(take_turn, ask)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for ask in clients:
                nursery.start_soon(repeat, ask)
        seconds = time.perf_counter() - began
    cuts = quantiles(times, n=100, method="inclusive")
    return Load(turns / seconds, cuts[49], cuts[98])
