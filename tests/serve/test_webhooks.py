"""Webhooks: which are called, how, how often, and what is left at the end (G16)."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import httpcore
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from motus.messages import ChatMessage
from motus.serve.config import ServerConfig
from motus.serve.events import CallWebhook, SessionView, Status, Webhook
from motus.serve.strict_json import check_list, encode_json
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
from motus.serve.webhooks import MAX_WAITING, Webhooks
from tests.serve import agents
from tests.serve.support import served

CALLS = 20_000 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 300
PUBLIC = "93.184.216.34"


# The rules.


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "::1",
        "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "fec0::1", "5f00::1",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(address: str) -> None:
    policy = AddressPolicy.of([])
    with pytest.raises(AddressRefusedError, match="not public"):
        policy.check("hooks.example", [address])
    # One of them is enough: which one would be connected to is not known.
    with pytest.raises(AddressRefusedError):
        policy.check("hooks.example", [PUBLIC, address])


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_called(address: str) -> None:
    AddressPolicy.of([]).check("hooks.example", [address])


def test_what_is_allowed_is_allowed_alone() -> None:
    policy = AddressPolicy.of(["hooks.internal", "10.1.0.0/16", "::1"])
    policy.check("hooks.internal", ["10.9.9.9"])
    policy.check("HOOKS.internal.", ["127.0.0.1"])
    policy.check("other", ["10.1.2.3"])
    policy.check("other", ["::ffff:10.1.2.3"])
    policy.check("localhost", ["::1"])
    for host, addresses in {
        "other": ["10.2.0.1"],
        "hooks.example": [PUBLIC],
        "x.hooks.internal": ["10.9.9.9"],
        "mixed": ["10.1.2.3", "10.2.0.1"],
    }.items():
        with pytest.raises(AddressRefusedError, match="--webhook-allow"):
            policy.check(host, addresses)
    with pytest.raises(AddressRefusedError, match="no address"):
        policy.check("nowhere", [])


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED), (204, Verdict.DELIVERED), (299, Verdict.DELIVERED),
        (301, Verdict.REFUSED), (302, Verdict.REFUSED), (307, Verdict.REFUSED),
        (400, Verdict.REFUSED), (401, Verdict.REFUSED), (404, Verdict.REFUSED),
        (410, Verdict.REFUSED), (429, Verdict.AGAIN), (500, Verdict.AGAIN), (503, Verdict.AGAIN),
        (599, Verdict.AGAIN),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict


@given(st.integers(1, 50), st.floats(0, 1), st.none() | st.text(max_size=8))
def test_pauses_grow_and_are_bounded(attempt: int, chance: float, asked: str | None) -> None:
    pause = pause_after(attempt, chance, asked)
    assert 0.5 <= pause <= 300
    assert pause_after(attempt + 1, chance) >= pause_after(attempt, chance)


def test_a_receiver_may_ask_for_a_longer_pause() -> None:
    assert pause_after(1, 0, "7") == 7
    assert pause_after(1, 0, " 100000 ") == 300
    assert pause_after(5, 0, "1") == 16
    assert pause_after(1, 0, "Fri, 20 Nov 2026 17:00:00 GMT") == 1
    assert pause_after(1, 1) == 0.5


def test_a_signature_is_over_timestamp_and_body() -> None:
    headers = dict(call_headers(b"{}", delivery="d", timestamp=5, token=None, secret="s"))
    expected = hmac.new(b"s", b"5.{}", hashlib.sha256).hexdigest()
    assert headers["Motus-Signature"] == f"sha256={expected}"
    assert headers["Motus-Timestamp"] == "5"
    assert headers["Motus-Delivery"] == "d"
    assert "Authorization" not in headers
    plain = dict(call_headers(b"{}", delivery="d", timestamp=5, token="t", secret=None))
    assert plain["Authorization"] == "Bearer t"
    assert "Motus-Signature" not in plain


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example/secret?key=secret#secret", "https://hooks.example:8443/secret"],
)
def test_what_is_logged_of_a_url(url: str) -> None:
    assert shown(url) == "https://hooks.example"


# Deliveries, over a network that is a function of the test.


@attrs.define(eq=False)
class Received:
    """One request that came in; `host` is the name of the TLS connection, if it is one."""

    address: str
    port: int
    host: str | None
    target: str
    headers: dict[str, str]
    body: bytes
    at: float


Answer = Callable[[Received], bytes | Exception | None]


def reply(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} ", *headers, "content-length: 0", "", ""]
    return "\r\n".join(lines).encode()


class Stream(httpcore.AsyncNetworkStream):
    def __init__(self, network: Network, address: str, port: int) -> None:
        self._network = network
        self._where = address, port
        self._host: str | None = None
        self._server = h11.Connection(h11.SERVER)
        self._answer = b""
        self._head: h11.Request | None = None
        self._body = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the interface's
        await trio.lowlevel.checkpoint()
        if not buffer:
            return
        self._server.receive_data(buffer)
        while (event := self._server.next_event()) is not h11.NEED_DATA:
            match event:
                case h11.Request():
                    self._head = event
                case h11.Data():
                    self._body += event.data
                case _:
                    await self._finish()
                    return

    async def _finish(self) -> None:
        assert self._head is not None
        received = Received(
            *self._where,
            self._host,
            self._head.target.decode(),
            {name.decode(): value.decode() for name, value in self._head.headers},
            self._body,
            trio.current_time(),
        )
        self._network.received.append(received)
        answer = self._network.answer(received)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await trio.sleep_forever()
        else:
            self._answer = answer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the interface's
        await trio.lowlevel.checkpoint()
        answer, self._answer = self._answer, b""
        return answer

    async def aclose(self) -> None:
        self._network.open -= 1

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the interface's
    ) -> httpcore.AsyncNetworkStream:
        self._host = server_hostname
        return self


class Network(httpcore.AsyncNetworkBackend):
    def __init__(self, answer: Answer, unreachable: Iterable[str] = ()) -> None:
        self.answer = answer
        self.unreachable = set(unreachable)
        self.received: list[Received] = []
        self.open = 0

    async def connect_tcp(
        self, host: str, port: int, *_: Any, **__: Any
    ) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        if host in self.unreachable:
            raise httpcore.ConnectError("unreachable")
        self.open += 1
        return Stream(self, host, port)


def call(
    number: int = 0, url: str = "http://hooks.example/in?key=1", **webhook: Any
) -> CallWebhook:
    view = SessionView(f"session-{number}", Status.IDLE, ChatMessage.assistant_message("hello"))
    return CallWebhook(Webhook(url, **webhook), f"turn-{number}", view, b'[{"role":"user"}]')


NO_LISTS = [
    b"", b"[", b"]", b"[]]", b"[[]", b"{}", b"1", b"[1}", b"[1,]", b"[,1]", b"[1 2]", b"[1,2",
    b"[NaN]", b'[],"session_id":"another"', b'[{}],"session_id":"another","x":[', b'"[]"',
    b"[\xff]", b'["]', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("state", NO_LISTS, ids=lambda state: str(state)[:40])
@pytest.mark.trio
async def test_a_worker_cannot_say_what_is_the_servers_to_say(
    state: bytes, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: reply(200))
    async with webhooks(network) as hooks:
        hooks.deliver(attrs.evolve(call(1, include_messages=True), state=state))
        await done(hooks)
    assert network.received == []
    assert "not delivered: the conversation is not a JSON list" in caplog.text


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers())))
def test_whatever_is_a_list_may_be_said(state: list[Any]) -> None:
    check_list(encode_json(state))


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def webhooks(
    network: Network, addresses: Iterable[str] = (PUBLIC,), **settings: Any
) -> AsyncIterator[Webhooks]:
    async def resolve(host: str, port: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        if host == "unknown.example":
            raise OSError("no such name")
        return list(addresses)

    hooks = Webhooks(ServerConfig(**settings), resolve=resolve, network=network)
    async with trio.open_nursery() as nursery:
        await nursery.start(hooks.run)
        yield hooks
        await hooks.drain(0)


async def done(hooks: Webhooks) -> None:
    while hooks.waiting:  # noqa: ASYNC110  # nothing tells when a delivery is over
        await trio.sleep(0.5)


@pytest.mark.trio
async def test_a_call_says_how_the_turn_ended(clock: MockClock) -> None:
    network = Network(lambda _: reply(200))
    async with webhooks(network) as hooks:
        hooks.deliver(call(1, token="t0ken"))
        hooks.deliver(call(2, include_messages=True))
        await done(hooks)
        first, second = sorted(network.received, key=lambda one: one.headers["motus-delivery"])
        assert (first.address, first.port) == (PUBLIC, 80)
        assert first.target == "/in?key=1"
        assert first.headers["host"] == "hooks.example"
        assert first.headers["authorization"] == "Bearer t0ken"
        assert first.headers["content-type"] == "application/json"
        assert json.loads(first.body) == {
            "session_id": "session-1",
            "status": "idle",
            "response": {"role": "assistant", "content": "hello"},
        }
        assert "authorization" not in second.headers
        assert json.loads(second.body)["messages"] == [{"role": "user"}]
        assert network.open == 0


@pytest.mark.trio
@pytest.mark.realtime
async def test_the_certificate_is_for_the_name_the_connection_to_the_checked_address() -> None:
    network = Network(lambda _: reply(200))
    async with webhooks(network) as hooks:
        hooks.deliver(call(url="https://hooks.example/x"))
        with trio.fail_after(20):
            await done(hooks)
        [received] = network.received
        assert (received.address, received.port) == (PUBLIC, 443)
        assert received.host == "hooks.example"


@pytest.mark.trio
async def test_a_name_that_leads_inside_is_not_called(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: reply(200))
    async with webhooks(network, [PUBLIC, "169.254.169.254"]) as hooks:
        hooks.deliver(call(url="http://rebound.example/latest/meta-data"))
        await done(hooks)
    assert network.received == []
    assert "not public" in caplog.text
    assert "meta-data" not in caplog.text


@pytest.mark.trio
async def test_the_next_address_is_tried_when_one_is_not_there(clock: MockClock) -> None:
    network = Network(lambda _: reply(200), unreachable=[PUBLIC])
    async with webhooks(network, [PUBLIC, "8.8.8.8"]) as hooks:
        hooks.deliver(call())
        await done(hooks)
        assert [received.address for received in network.received] == ["8.8.8.8"]


@pytest.mark.trio
@pytest.mark.parametrize(
    "trouble",
    [
        reply(500), reply(503), reply(429), b"", b"nonsense\r\n\r\n", None,
        httpcore.ConnectError("x"), httpcore.ReadError("x"), httpcore.WriteError("x"),
    ],
)  # fmt: skip
async def test_what_may_pass_is_tried_again_under_the_same_id(
    clock: MockClock, trouble: bytes | Exception | None
) -> None:
    def answer(received: Received) -> bytes | Exception | None:
        return trouble if len(network.received) < 4 else reply(200)

    network = Network(answer)
    async with webhooks(network, webhook_secret="s") as hooks:
        hooks.deliver(call())
        await done(hooks)
        assert len(network.received) == 4
        assert {received.headers["motus-delivery"] for received in network.received} == {"turn-0"}
        assert len({received.body for received in network.received}) == 1
        times = [received.at for received in network.received]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        waited = 10 if trouble is None else 0
        for index, pause in enumerate(pauses):
            assert 2**index / 2 <= pause - waited <= 2**index + 0.1
        assert network.open == 0


@pytest.mark.trio
async def test_a_receiver_that_asks_for_time_gets_it(clock: MockClock) -> None:
    def answer(received: Received) -> bytes:
        return reply(429, "Retry-After: 100") if len(network.received) == 1 else reply(200)

    network = Network(answer)
    async with webhooks(network) as hooks:
        hooks.deliver(call())
        await done(hooks)
        assert network.received[1].at - network.received[0].at == pytest.approx(100, abs=1)


@pytest.mark.trio
@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410])
async def test_a_refusal_is_final_and_a_redirection_is_one(
    clock: MockClock, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: reply(status, "Location: http://127.0.0.1/"))
    async with webhooks(network) as hooks:
        hooks.deliver(call())
        await done(hooks)
    assert len(network.received) == 1
    assert f"status {status}" in caplog.text


@pytest.mark.trio
async def test_a_dead_receiver_is_given_up_and_named_in_the_log(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: reply(500), unreachable=[])
    async with webhooks(network) as hooks:
        hooks.deliver(call(7, url="http://hooks.example/s3cret?k=s3cret", token="s3cret"))
        await done(hooks)
    assert len(network.received) == MAX_ATTEMPTS
    last = caplog.records[-1]
    assert last.levelno == logging.ERROR
    assert last.getMessage() == "webhook to http://hooks.example not delivered: status 500"
    assert (getattr(last, "session_id", ""), getattr(last, "turn_id", "")) == (
        "session-7",
        "turn-7",
    )
    assert "s3cret" not in caplog.text


@pytest.mark.trio
@pytest.mark.parametrize(
    "url", ["http://unknown.example/s3cret", "http://[::1/s3cret", "http://x:99999/s3cret"]
)
async def test_no_url_brings_the_server_down(
    clock: MockClock, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: reply(200))
    async with webhooks(network) as hooks:
        hooks.deliver(call(1, url=url))
        hooks.deliver(call(2))
        await trio.sleep(1)
        assert any(received.headers["motus-delivery"] == "turn-2" for received in network.received)
    assert "s3cret" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.trio
async def test_none_is_lost_though_half_of_all_attempts_fail(clock: MockClock) -> None:
    chance = random.Random(16)
    attempts: dict[str, int] = {}

    def answer(received: Received) -> bytes | Exception | None:
        name = received.headers["motus-delivery"]
        attempts[name] = attempts.get(name, 0) + 1
        # Within the budget: the last attempt that is made succeeds.
        if attempts[name] < MAX_ATTEMPTS and chance.random() < 0.5:
            return chance.choice([reply(500), reply(429), b"", httpcore.ReadError("x"), None])
        arrived.append(name)
        return reply(200)

    arrived: list[str] = []
    network = Network(answer)
    async with webhooks(network) as hooks:
        for first in range(0, CALLS, MAX_WAITING):
            numbers = range(first, min(first + MAX_WAITING, CALLS))
            for number in numbers:
                hooks.deliver(call(number))
            await done(hooks)
        assert sorted(arrived) == sorted(f"turn-{number}" for number in range(CALLS))
        assert max(attempts.values()) > 3
        assert network.open == 0


@pytest.mark.trio
async def test_too_many_are_refused_and_counted(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(lambda _: None)
    async with webhooks(network) as hooks:
        for number in range(MAX_WAITING + 2):
            hooks.deliver(call(number))
        assert hooks.waiting == MAX_WAITING
        assert caplog.text.count("dropped: too many are waiting") == 2
        assert len(network.received) < 50
        await hooks.drain(1)
        assert f"{MAX_WAITING} webhooks were not delivered" in caplog.text
        assert hooks.waiting == 0
        hooks.deliver(call())
        assert "the server has stopped" in caplog.text


@pytest.mark.trio
async def test_the_end_does_not_wait_for_pauses(clock: MockClock) -> None:
    def answer(received: Received) -> bytes:
        return reply(500) if len(network.received) <= 7 else reply(200)

    network = Network(answer)
    async with webhooks(network) as hooks:
        hooks.deliver(call())
        # In the pause after the sixth attempt, of 16 to 32 seconds.
        while len(network.received) < 6:  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.1)
        began = trio.current_time()
        await hooks.drain(10)
        assert len(network.received) == 8
        assert trio.current_time() - began <= 2


@pytest.mark.trio
async def test_two_may_wait_for_the_end(clock: MockClock) -> None:
    network = Network(lambda _: reply(500) if len(network.received) < 3 else reply(200))
    async with webhooks(network) as hooks, trio.open_nursery() as nursery:
        hooks.deliver(call())
        nursery.start_soon(hooks.drain, 10)
        nursery.start_soon(hooks.drain, 10)
        await trio.testing.wait_all_tasks_blocked()
        await hooks.drain(10)
        assert trio.current_time() <= 2


@pytest.mark.trio
async def test_the_end_waits_only_so_long(clock: MockClock) -> None:
    network = Network(lambda _: None)
    async with webhooks(network) as hooks:
        hooks.deliver(call())
        await hooks.drain(3)
        assert trio.current_time() == pytest.approx(3)
        assert network.open == 0


# With a real server, a real receiver, and real turns.


@attrs.define(eq=False)
class Receiver:
    """Takes a call at its second attempt only."""

    port: int = 0
    received: list[tuple[dict[str, str], bytes]] = attrs.field(factory=list)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._take, [listener], task_status=task_status)  # type: ignore[arg-type]  # of listeners

    async def _take(self, stream: trio.SocketStream) -> None:
        server = h11.Connection(h11.SERVER)
        headers: dict[str, str] = {}
        body = b""
        async with stream:
            while True:
                event = server.next_event()
                if event is h11.NEED_DATA:
                    server.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            known = [headers["motus-delivery"] for headers, _ in self.received]
            self.received.append((headers, body))
            await stream.send_all(reply(204 if headers["motus-delivery"] in known else 500))


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_turn_of_a_server_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motus.serve.webhooks.pause_after", lambda *_: 0.01)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.run)
        hook = {"url": f"http://127.0.0.1:{receiver.port}/in", "token": "t0ken"}
        async with served(agents.fail, webhook_allow=["127.0.0.1"], webhook_secret="s3cret") as api:
            session = await api.create()
            await api.turn(session, "fine", webhook={**hook, "include_messages": True})
            await api.turn(session, "raise", webhook=hook)
            # The end of the server waits for what is still to be delivered.
        assert len(receiver.received) == 4
        for headers, body in receiver.received:
            signed = f"{headers['motus-timestamp']}.".encode() + body
            code = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
            assert headers["motus-signature"] == f"sha256={code}"
            assert headers["authorization"] == "Bearer t0ken"
        ids = [headers["motus-delivery"] for headers, _ in receiver.received]
        assert sorted(ids.count(name) for name in set(ids)) == [2, 2]
        bodies = {body for _, body in receiver.received}
        messages = [{"role": "user", "content": "fine"}, {"role": "assistant", "content": "fine"}]
        assert sorted(map(json.loads, bodies), key=len) == [
            {"session_id": session, "status": "error", "error": "ValueError: boom"},
            {
                "session_id": session,
                "status": "idle",
                "response": messages[1],
                "messages": messages,
            },
        ]
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_server_does_not_call_its_own_machine(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.run)
        hook = {"url": f"http://localhost:{receiver.port}/in", "token": "t0ken"}
        async with served(agents.echo) as api:
            await api.turn(await api.create(), "x", webhook=hook)
        assert receiver.received == []
        assert "webhook to http://localhost not delivered: its address is not public" in caplog.text
        nursery.cancel_scope.cancel()
