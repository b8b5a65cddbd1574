"""Connections belong to the loop that opened them, and end with it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from motus.models import (
    BaseChatClient,
    ChatCompletion,
    FunctionCall,
    ModelConnectionError,
    OpenAIChatClient,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from motus.models.remote import RemoteChatClient
from motus.models.transport import certificates
from motus.runtime.backends import loop_identity
from tests.models.providers import HELLO, KEY, PROVIDERS, Provider
from tests.models.wire import openai as wire
from tests.models.wire.server import WireServer, wire_server


async def closed(server: WireServer) -> None:
    """Wait until the server has seen every connection end."""
    with anyio.fail_after(5):
        while server.open_connections:  # noqa: ASYNC110  # the server's side of it sets no event
            await anyio.sleep(0.001)


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
def test_one_client_in_many_loops(provider: Provider) -> None:
    """Nobody closes it: that its connections end with their loop is seen by the leak check."""
    clients: list[RemoteChatClient] = []
    ports = [0]

    async def main() -> None:
        replies = [provider.text(), provider.text()]
        async with wire_server(*replies, port=ports[-1]) as server:
            clients.append(clients[0] if clients else provider.client(server.url))
            ports.append(server.port)
            for _ in replies:
                assert (await clients[0].create(provider.model, HELLO)).content == "Hello!"
            assert server.connections == 1

    for backend in ("trio", "asyncio", "trio"):
        anyio.run(main, backend=backend)
    assert len(clients) == 3


def test_loops_that_have_ended_are_forgotten() -> None:
    client = OpenAIChatClient(KEY, "http://127.0.0.1:9/v1", max_retries=0)
    loops: list[weakref.ref[Any]] = []

    async def main() -> None:
        loop = loop_identity()
        assert loop is not None
        loops.append(weakref.ref(loop))
        with pytest.raises(ModelConnectionError):
            await client.create("gpt-4o", HELLO)

    for backend in ("trio", "asyncio"):
        anyio.run(main, backend=backend)
    gc.collect()
    assert [loop() for loop in loops] == [None, None]


@pytest.mark.anyio
async def test_a_client_that_is_dropped_closes_its_connections() -> None:
    async with wire_server(wire.completion()) as server:
        client: OpenAIChatClient | None = OpenAIChatClient(KEY, f"{server.url}/v1")
        assert client is not None
        await client.create("gpt-4o", HELLO)
        assert server.open_connections == 1
        client = None
        # The SDK's object is part of a cycle.
        gc.collect()
        await closed(server)


def test_certificates_are_read_once_and_before_the_first_call() -> None:
    certificates.cache_clear()
    for provider in PROVIDERS:
        provider.make(KEY)
    assert certificates.cache_info().misses == 1


@pytest.mark.anyio
async def test_a_closed_client_can_be_used_again() -> None:
    async with wire_server(wire.completion(), wire.completion()) as server:
        client = OpenAIChatClient(KEY, f"{server.url}/v1")
        await client.create("gpt-4o", HELLO)
        await client.aclose()
        await closed(server)
        await client.create("gpt-4o", HELLO)
        assert server.connections == 2
        await client.aclose()
        await client.aclose()


@pytest.mark.anyio
async def test_closing_reaches_the_other_loops() -> None:
    async with wire_server(wire.completion()) as server:
        client = OpenAIChatClient(KEY, f"{server.url}/v1")
        await client.create("gpt-4o", HELLO)

        def in_another_loop() -> None:
            anyio.run(client.aclose, backend="asyncio")

        await anyio.to_thread.run_sync(in_another_loop)
        await closed(server)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
async def test_a_client_of_the_caller_is_left_open(provider: Provider) -> None:
    async with wire_server(provider.text()) as server, httpx2.AsyncClient() as http:
        client = provider.client(server.url, http_client=http)
        await client.create(provider.model, HELLO)
        await client.aclose()
        assert server.open_connections == 1
        assert not http.is_closed


class Parrot(BaseChatClient):
    """A client of somebody's own, which has nothing but what it must have."""

    async def create(self, model: str, messages: Any, *args: Any, **kwargs: Any) -> ChatCompletion:
        calls = [ToolCall("c1", FunctionCall("add", "{}"))]
        return ChatCompletion("1", model, messages[-1].content, "Hm.", tool_calls=calls)

    async def parse(self, *args: Any, **kwargs: Any) -> ChatCompletion:
        raise NotImplementedError


@pytest.mark.anyio
async def test_a_client_that_cannot_stream_says_all_at_once() -> None:
    async with Parrot() as client, client.stream("m", HELLO) as stream:
        events = [event async for event in stream]
    assert events == [
        ReasoningDelta("Hm."),
        TextDelta("Hello?"),
        ToolCallDelta(0, "c1", "add", "{}"),
        stream.completion,
    ]
