"""What holds for every client, on both loops, over real sockets and with the real SDKs."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from motus.models import (
    ChatCompletion,
    ModelAuthenticationError,
    ModelBadRequestError,
    ModelConnectionError,
    ModelContextOverflowError,
    ModelError,
    ModelRateLimitError,
    ModelServerError,
    ModelTimeoutError,
    TextDelta,
    ToolCallDelta,
    ToolDefinition,
)
from tests.models.providers import HELLO, KEY, PROVIDERS, Provider
from tests.models.wire.server import CUT, HANG, Reply, wire_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("provider", PROVIDERS, ids=str),
]

TOOLS = [
    ToolDefinition("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    ToolDefinition(
        "sub", "Subtracts.", {"type": "object", "properties": {"b": {"type": "integer"}}}
    ),
]


async def test_a_reply(provider: Provider) -> None:
    async with wire_server(provider.text()) as server, provider.client(server.url) as client:
        completion = await client.create(provider.model, HELLO)
    assert (completion.content, completion.finish_reason) == ("Hello!", "stop")
    assert completion.tool_calls is None
    assert completion.id
    assert KEY in str(server.requests[0].headers)


async def test_usage_has_both_namings(provider: Provider) -> None:
    async with wire_server(provider.text()) as server, provider.client(server.url) as client:
        usage = (await client.create(provider.model, HELLO)).usage
    assert usage["prompt_tokens"] == usage["input_tokens"] == 60
    assert usage["completion_tokens"] == usage["output_tokens"] == 20
    assert usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"] == 40
    assert usage["total_tokens"] == 120
    assert usage["reasoning_tokens"] == 5


async def test_parallel_tool_calls(provider: Provider) -> None:
    async with wire_server(provider.calls()) as server, provider.client(server.url) as client:
        completion = await client.create(provider.model, HELLO, TOOLS)
    assert completion.finish_reason == "tool_calls"
    assert completion.content is None
    calls = completion.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("add", '{"a": 1}'),
        ("sub", '{"b": 2}'),
    ]
    assert len({call.id for call in calls}) == 2
    assert "Subtracts." in server.requests[0].body.decode()


async def test_a_stream_ends_with_the_whole_reply(provider: Provider) -> None:
    async with wire_server(provider.streams()) as server, provider.client(server.url) as client:
        stream = client.stream(provider.model, HELLO)
        before = stream.completion
        *deltas, last = [event async for event in stream]
    assert before is None
    assert deltas == [TextDelta("Hel"), TextDelta("lo!")]
    assert isinstance(last, ChatCompletion)
    assert stream.completion is last
    assert (last.content, last.finish_reason, last.usage["total_tokens"]) == ("Hello!", "stop", 120)


async def test_one_connection_serves_many_calls(provider: Provider) -> None:
    replies = [provider.text(), provider.text(), provider.streams(), provider.text()]
    async with wire_server(*replies) as server, provider.client(server.url) as client:
        for _ in range(2):
            await client.create(provider.model, HELLO)
        if provider.name != "gemini":  # its stream has no mark of its own for its end
            assert [event async for event in client.stream(provider.model, HELLO)]
            await client.create(provider.model, HELLO)
        assert server.connections == 1


STATUSES: list[tuple[int, type[ModelError]]] = [
    (400, ModelBadRequestError),
    (401, ModelAuthenticationError),
    (403, ModelAuthenticationError),
    (404, ModelBadRequestError),
    (413, ModelContextOverflowError),
    (422, ModelBadRequestError),
    (429, ModelRateLimitError),
    (500, ModelServerError),
    (503, ModelServerError),
    (529, ModelServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_a_status_has_its_error(
    provider: Provider, status: int, kind: type[ModelError]
) -> None:
    reply = provider.error(status, "No.\nNot today.")
    async with (
        wire_server(reply) as server,
        provider.client(server.url, max_retries=0) as client,
    ):
        with pytest.raises(ModelError) as caught:
            await client.create(provider.model, HELLO)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.provider) == (status, provider.name)
    assert str(caught.value) == f"{provider.name}: {status}: No. Not today."
    assert type(caught.value.__cause__).__module__.split(".")[0] in {
        "openai",
        "anthropic",
        "google",
    }


@pytest.mark.parametrize("call", ["create", "stream"])
async def test_context_overflow_and_a_bad_key(
    provider: Provider, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = [provider.overflow(), provider.bad_key()]
    async with wire_server(*replies) as server, provider.client(server.url) as client:
        kinds = (ModelContextOverflowError, ModelAuthenticationError)
        for kind in kinds:
            with pytest.raises(kind) as caught:
                await _call(client, call, provider)
            causes: list[BaseException] = [caught.value]
            while (cause := causes[-1].__cause__) is not None:
                causes.append(cause)
            assert not [cause for cause in causes if KEY in f"{cause!s}{cause!r}"]
        assert KEY not in repr(client)
    assert KEY not in caplog.text


async def _call(client: Any, call: str, provider: Provider) -> Any:
    if call == "create":
        return await client.create(provider.model, HELLO)
    return [event async for event in client.stream(provider.model, HELLO)]


async def test_a_rate_limit_is_waited_for(provider: Provider) -> None:
    replies = [provider.error(429, "Slow down.", retry_after="7"), provider.text()]
    async with wire_server(*replies) as server, provider.client(server.url) as client:
        began = anyio.current_time()
        completion = await client.create(provider.model, HELLO)
        assert 7 <= anyio.current_time() - began < 8
    assert completion.content == "Hello!"
    assert len(server.requests) == 2


async def test_a_provider_that_wants_to_be_left_alone_for_long(provider: Provider) -> None:
    reply = provider.error(429, "No.", retry_after="3600")
    async with wire_server(reply) as server, provider.client(server.url) as client:
        began = anyio.current_time()
        with pytest.raises(ModelRateLimitError) as caught:
            await client.create(provider.model, HELLO)
        assert anyio.current_time() - began < 1
    assert caught.value.retry_after == 3600


async def test_retries_are_counted_once(provider: Provider) -> None:
    replies = [provider.error(503, "Busy.", retry_after="2") for _ in range(9)]
    async with (
        wire_server(*replies) as server,
        provider.client(server.url, max_retries=3) as client,
    ):
        with pytest.raises(ModelServerError) as caught:
            await client.create(provider.model, HELLO)
    assert len(server.requests) == 4
    assert caught.value.retry_after == 2


async def test_a_bad_request_is_not_tried_again(provider: Provider) -> None:
    async with (
        wire_server(provider.error(400, "No.")) as server,
        provider.client(server.url) as client,
    ):
        with pytest.raises(ModelBadRequestError):
            await client.create(provider.model, HELLO)
    assert len(server.requests) == 1


@pytest.mark.parametrize("end", ["cut", "clean"])
async def test_a_stream_that_breaks_off(provider: Provider, end: str) -> None:
    reply = provider.partial(CUT)
    if end == "clean":
        reply = Reply.events([piece for piece in reply.pieces if piece != CUT] + [b"\n"])
    events = []
    async with wire_server(reply) as server, provider.client(server.url) as client:
        with pytest.raises(ModelConnectionError):
            async for event in client.stream(provider.model, HELLO):
                events.append(event)  # noqa: PERF401  # what came before the end is wanted
    assert events == [TextDelta("Hel")]


async def test_no_server(provider: Provider) -> None:
    async with wire_server() as server:
        pass
    async with provider.client(server.url, max_retries=1) as client:
        with pytest.raises(ModelConnectionError) as caught:
            await client.create(provider.model, HELLO)
    assert caught.value.status is None


async def test_a_server_that_says_nothing(provider: Provider) -> None:
    async with (
        wire_server(Reply((HANG,))) as server,
        provider.client(server.url, max_retries=0, timeout=5) as client,
    ):
        began = anyio.current_time()
        with pytest.raises(ModelTimeoutError):
            await client.create(provider.model, HELLO)
        assert 5 <= anyio.current_time() - began < 6
        await server.disconnected.wait()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b"", b"{", b'{"choices": []}'])
async def test_an_answer_that_is_no_reply(provider: Provider, body: bytes) -> None:
    # Gemini's SDK leaves its generators to the garbage collector when it cannot read a stream.
    for call in ("create", "stream") if provider.name != "gemini" else ("create",):
        async with (
            wire_server(Reply((body,))) as server,
            provider.client(server.url, max_retries=0) as client,
        ):
            with pytest.raises((ModelServerError, ModelConnectionError)):
                await _call(client, call, provider)


@pytest.mark.parametrize("call", ["create", "stream"])
@pytest.mark.parametrize("when", ["before", "within"])
async def test_cancelling_closes_the_connection(provider: Provider, call: str, when: str) -> None:
    reply = Reply((HANG,)) if when == "before" else provider.partial(HANG)
    async with wire_server(reply) as server, provider.client(server.url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_call, client, call, provider)
            await server.hangs.wait()
            assert not server.disconnected.is_set()
            tasks.cancel_scope.cancel()
        await server.disconnected.wait()
        assert server.open_connections == 0


async def test_leaving_a_stream_early_closes_the_connection(provider: Provider) -> None:
    async with wire_server(provider.partial(HANG)) as server, provider.client(server.url) as client:
        async with client.stream(provider.model, HELLO) as stream:
            assert await anext(stream) == TextDelta("Hel")
        await server.disconnected.wait()
        assert stream.completion is None
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_being_cancelled_between_two_events_closes_the_connection(provider: Provider) -> None:
    async with wire_server(provider.partial(HANG)) as server, provider.client(server.url) as client:
        with anyio.CancelScope() as scope:
            async with client.stream(provider.model, HELLO) as stream:
                await anext(stream)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await server.disconnected.wait()
        assert server.open_connections == 0


async def test_tool_calls_arrive_in_pieces(provider: Provider) -> None:
    reply = provider.call_stream()
    async with wire_server(reply) as server, provider.client(server.url) as client:
        *deltas, last = [event async for event in client.stream(provider.model, HELLO, TOOLS)]
    assert isinstance(last, ChatCompletion)
    assembled: dict[int, list[str]] = {}
    for delta in deltas:
        assert isinstance(delta, ToolCallDelta)
        first = [delta.id or "", delta.name or "", ""]
        assembled.setdefault(delta.index, first)[2] += delta.arguments
    assert [call[1:] for call in assembled.values()] == [["add", '{"a": 1}'], ["sub", '{"b": 2}']]
    assert list(assembled.values()) == [
        [call.id, call.function.name, call.function.arguments] for call in last.tool_calls or []
    ]
