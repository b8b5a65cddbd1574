"""What a client is made of, for all providers alike: keys, addresses, connections, retries."""

from __future__ import annotations

import base64
import logging
import threading
from typing import Any

import anyio
import httpx
import httpx2
import pydantic
import pytest
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint

from motus.models import (
    AnthropicChatClient,
    ChatCompletion,
    ChatMessage,
    ModelAuthenticationError,
    ModelBadRequestError,
    ModelConnectionError,
    ModelContextOverflowError,
    ModelRateLimitError,
    ModelServerError,
    OpenAIChatClient,
    OpenRouterChatClient,
    StructuredOutputError,
    TextDelta,
)
from tests.models.providers import ANTHROPIC, HELLO, KEY, PROVIDERS, Provider
from tests.models.wire import anthropic, gemini, openai
from tests.models.wire.server import CUT, HANG, Reply, wire_server

each_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=str)


# ---------------------------------------------------------------------- keys and addresses


@pytest.mark.anyio
@each_provider
async def test_a_key_that_ends_with_a_line(provider: Provider) -> None:
    async with (
        wire_server(provider.text()) as server,
        provider.make(f" {KEY}\n", base_url=server.url + provider.path) as client,
    ):
        await client.create(provider.model, HELLO)
    assert KEY in server.requests[0].headers.values() or (
        server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    )


@each_provider
@pytest.mark.parametrize("key", ["sk-planted\nsk-other", "sk-\u2019planted"])
def test_a_key_that_no_header_can_hold(
    provider: Provider, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{provider.name.upper()}_API_KEY"
    with pytest.raises(ModelAuthenticationError, match=f"characters in the key .*{variable}"):
        provider.make(key)
    monkeypatch.setenv(variable, key)
    with pytest.raises(ModelAuthenticationError) as caught:
        provider.make()
    assert "planted" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.anyio
@pytest.mark.parametrize("make", [OpenAIChatClient, AnthropicChatClient])
async def test_a_key_in_a_header_of_the_callers(make: Any) -> None:
    refused = Reply.of({"error": {"message": f"Who is Bearer {KEY}, {KEY}?"}}, 401)
    async with (
        wire_server(refused) as server,
        make(base_url=server.url, default_headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        with pytest.raises(ModelAuthenticationError, match="Who is") as caught:
            await client.create("a-model", HELLO)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("make", [OpenAIChatClient, OpenRouterChatClient, AnthropicChatClient])
def test_an_empty_variable_is_no_address(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(make.url_variable, "")
    with pytest.raises(ModelAuthenticationError, match="no key"):
        make()


@pytest.mark.anyio
@pytest.mark.parametrize("make", [OpenAIChatClient, OpenRouterChatClient, AnthropicChatClient])
async def test_where_requests_go_by_default(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        hosts.append(request.url.host)
        return httpx2.Response(418, json={})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        for _ in range(2):
            client = make(KEY, http_client=http, max_retries=0)
            with pytest.raises(ModelBadRequestError):
                await client.create("a-model", HELLO)
            monkeypatch.setenv(make.url_variable, "")
    assert hosts == [httpx2.URL(make.default_url).host] * 2


@pytest.mark.anyio
@each_provider
async def test_an_address_with_a_password(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with wire_server(provider.text(), provider.error(400, "pass-word?")) as server:
        url = server.url.replace("//", "//ada:pass-word@") + provider.path
        async with provider.make(KEY, base_url=url) as client:
            await client.create(provider.model, HELLO)
            with pytest.raises(ModelBadRequestError) as caught:
                await client.create(provider.model, HELLO)
        login = base64.b64encode(b"ada:pass-word").decode()
        assert server.requests[0].headers["authorization"] == f"Basic {login}"
    assert "pass-word" not in f"{caught.value!r}{caught.value.__cause__!r}{caplog.text}"


@each_provider
def test_settings_that_make_no_sense(provider: Provider) -> None:
    with pytest.raises(ValueError, match="Invalid max_retries -1"):
        provider.make(KEY, max_retries=-1)
    with pytest.raises(ValueError, match="Invalid timeout 0"):
        provider.make(KEY, timeout=0)
    with pytest.raises(TypeError, match=r"httpx2\.AsyncClient, not httpx\.AsyncClient"):
        provider.make(KEY, http_client=httpx.AsyncClient())


# ---------------------------------------------------------------------- connections


@pytest.mark.anyio
@each_provider
async def test_leaving_a_stream_early_with_an_http_client_of_the_callers(
    provider: Provider,
) -> None:
    async with (
        wire_server(provider.partial(HANG), provider.text()) as server,
        httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1)) as http,
    ):
        client = provider.client(server.url, http_client=http)
        async with client.stream(provider.model, HELLO) as stream:
            assert await anext(stream) == TextDelta("Hel")
        await server.disconnected.wait()
        assert server.open_connections == 0
        assert (await client.create(provider.model, HELLO)).content == "Hello!"


@pytest.mark.anyio
@each_provider
@pytest.mark.parametrize("call", ["create", "stream"])
async def test_a_call_may_be_cancelled_anywhere(provider: Provider, call: str) -> None:
    """And the only connection of the pool is free for the next one."""
    whole = provider.text if call == "create" else provider.streams

    async def ask() -> None:
        if call == "create":
            await client.create(provider.model, HELLO)
            return
        async with client.stream(provider.model, HELLO) as stream:
            async for _ in stream:
                pass

    async with (
        wire_server(*(whole() for _ in range(40))) as server,
        httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1)) as http,
    ):
        client = provider.client(server.url, http_client=http, max_retries=0)
        cancelled = 0
        for steps in range(15):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask)
                    for _ in range(steps):
                        await checkpoint()
                    scope.cancel()
            cancelled += scope.cancelled_caught
            if steps % 5 == 0:
                await ask()
        assert cancelled > 3
        with anyio.fail_after(60):
            await ask()
        assert server.open_connections <= 1


@pytest.mark.realtime
@each_provider
def test_one_client_in_two_threads_at_once(provider: Provider) -> None:
    together = threading.Barrier(2, timeout=10)
    texts: list[str | None] = []

    async def ask() -> None:
        together.wait()
        for _ in range(10):
            reply = await client.create(provider.model, HELLO)
            texts.append(reply.content)

    replies = wire_server(*(provider.text() for _ in range(20)))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(replies) as server:
        client = provider.client(server.url, max_retries=0)
        threads = [
            threading.Thread(target=anyio.run, args=(ask,), kwargs={"backend": backend})
            for backend in ("trio", "asyncio")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.connections == 2
    assert texts == ["Hello!"] * 20


# ---------------------------------------------------------------------- conversations


STRANGE: list[Any] = [
    "thoughts", 5, {"type": "thinking"}, [None, 5, {}, {"type": 5}], [{"type": "text"}],
    [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "tool_use"}],
    [{"type": "gemini.signature"}], [{"type": "gemini.signature", "id": [], "signature": "AA=="}],
    [{"type": "gemini.signature", "id": None, "signature": "A"}],
]  # fmt: skip


@pytest.mark.anyio
@each_provider
async def test_a_conversation_may_have_been_anywhere(provider: Provider) -> None:
    messages = [
        ChatMessage.assistant_message("Well.", reasoning_details=strange) for strange in STRANGE
    ]
    async with wire_server(provider.text()) as server, provider.client(server.url) as client:
        assert (await client.create(provider.model, HELLO + messages)).content == "Hello!"
    assert server.requests[0].body.count(b"Well.") == len(STRANGE)


# ---------------------------------------------------------------------- what went wrong


@pytest.mark.anyio
@each_provider
async def test_left_alone_for_long_with_an_http_client_of_the_callers(provider: Provider) -> None:
    reply = provider.error(429, "No.", retry_after="3600")
    async with wire_server(reply) as server, httpx2.AsyncClient() as http:
        client = provider.client(server.url, http_client=http)
        began = anyio.current_time()
        with pytest.raises(ModelRateLimitError):
            await client.create(provider.model, HELLO)
        assert anyio.current_time() - began < 1
    assert len(server.requests) == 1


@pytest.mark.anyio
@each_provider
@pytest.mark.parametrize(
    "text",
    [
        "the request exceeds the available context size (4096 tokens), try increasing it",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "This model's maximum context length is 65536 tokens. However, you requested 70000.",
        "input length and `max_tokens` exceed context limit: 150000 + 64000 > 200000",
    ],
)
async def test_words_for_a_conversation_that_is_too_long(provider: Provider, text: str) -> None:
    async with (
        wire_server(provider.error(400, text)) as server,
        provider.client(server.url) as client,
    ):
        with pytest.raises(ModelContextOverflowError):
            await client.create(provider.model, HELLO)


class Answer(pydantic.BaseModel):
    value: int


CUT_SHORT = '{"value": 1'
REFUSED = "I will not."
WHY = [
    ("openai", openai.completion(CUT_SHORT, finish="length"), "cut off"),
    ("openai", openai.completion(None, refusal=REFUSED), "refused"),
    ("openrouter", openai.completion(REFUSED, finish="content_filter"), "refused"),
    ("anthropic", anthropic.message(anthropic.text(0, CUT_SHORT), stop_reason="max_tokens"), "cut"),
    ("anthropic", anthropic.message(stop_reason="refusal"), "refused"),
    ("gemini", gemini.content({"text": CUT_SHORT}, finish="MAX_TOKENS"), "cut off"),
    ("gemini", gemini.content(finish="SAFETY"), "refused"),
    ("gemini", gemini.content({"text": '{"value": "x"}'}), "does not fit"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "reply", "reason"), WHY)
async def test_why_there_is_nothing_of_the_type(name: str, reply: Reply, reason: str) -> None:
    [provider] = [provider for provider in PROVIDERS if provider.name == name]
    async with wire_server(reply) as server, provider.client(server.url) as client:
        with pytest.raises(
            StructuredOutputError, match=f"{name}: .*{reason}.* no Answer"
        ) as caught:
            await client.parse(provider.model, HELLO, Answer)
    assert caught.value.completion.parsed is None
    assert caught.value.completion.usage["total_tokens"] == 120


@pytest.mark.anyio
@each_provider
async def test_an_answer_that_is_no_reply_is_not_asked_for_again(provider: Provider) -> None:
    async with (
        wire_server(Reply.of({"choices": []})) as server,
        provider.client(server.url) as client,
    ):
        with pytest.raises(ModelServerError, match="no reply"):
            await client.create(provider.model, HELLO)
    assert len(server.requests) == 1


OVERLOADED = Reply.events(
    [
        anthropic.start(),
        *anthropic.text(0, "Hel"),
        anthropic.event("error", error={"type": "overloaded_error", "message": "Busy."}),
    ]
)


# The SDK leaves the generators of a stream with an error in it to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.anyio
@pytest.mark.parametrize("broken", [ANTHROPIC.partial(CUT), OVERLOADED], ids=["cut", "overloaded"])
async def test_a_whole_reply_that_breaks_off_on_its_way_is_asked_for_again(broken: Reply) -> None:
    """Claude's replies are streamed on the wire, where the SDK does not try again."""
    async with (
        wire_server(broken, ANTHROPIC.text(), broken) as server,
        ANTHROPIC.client(server.url) as client,
    ):
        assert (await client.create(ANTHROPIC.model, HELLO)).content == "Hello!"
        with pytest.raises((ModelConnectionError, ModelServerError)):
            assert [event async for event in client.stream(ANTHROPIC.model, HELLO)]
    assert len(server.requests) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.anyio
async def test_both_kinds_of_retries_are_counted_together() -> None:
    busy = ANTHROPIC.error(503, "Busy.", retry_after="2")
    replies = [busy, OVERLOADED, busy, OVERLOADED, ANTHROPIC.text()]
    async with (
        wire_server(*replies) as server,
        ANTHROPIC.client(server.url, max_retries=3) as client,
    ):
        with pytest.raises(ModelServerError, match="529: Busy"):
            await client.create(ANTHROPIC.model, HELLO)
    assert len(server.requests) == 4


# The streams of the fourth have no mark of their own for their end.
@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS[:3], ids=str)
@pytest.mark.parametrize("end", [CUT, HANG])
async def test_what_comes_after_the_last_event_does_not_matter(
    provider: Provider, end: str
) -> None:
    whole = provider.streams()
    async with (
        wire_server(Reply.events([*whole.pieces, end])) as server,
        provider.client(server.url, max_retries=0) as client,
    ):
        *_, last = [event async for event in client.stream(provider.model, HELLO)]
        assert isinstance(last, ChatCompletion)
        assert last.content == "Hello!"
        if end == HANG:
            await server.disconnected.wait()
