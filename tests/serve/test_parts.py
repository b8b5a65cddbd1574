"""The small parts of the server that need neither a process nor a connection."""

from __future__ import annotations

import errno
import gc
import ipaddress
import json
import logging
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from motus.messages import ChatMessage
from motus.serve.agents import AgentTarget
from motus.serve.app import create_app
from motus.serve.config import ServerConfig
from motus.serve.http import collecting_rarely
from motus.serve.logs import LogFormatter
from motus.serve.schemas import RequestError, parse_message
from motus.serve.session import Session
from motus.serve.store import MemoryStore, SessionExistsError, StoreFullError
from motus.serve.turns import Turns
from motus.serve.workers.output import MAX_LINE_BYTES, LineSplitter
from motus.serve.workers.pool import WorkerPool
from tests.serve import agents
from tests.serve.fakes import Calls
from tests.serve.support import served

CALLABLE_HOSTS = [
    "x", "example.com", "a_b.internal", "EXAMPLE.com.", "3com.com", "1f0c", "xn--bcher-kva.example",
    "a-b", "1.2.3.x", "127.0.0.1", "255.255.255.255", "[::1]", "[::]", "[2001:DB8::1]",
    "[1:2:3:4:5:6:7:8]", "[1::8]", "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]", "x" * 63,
]  # fmt: skip
HOSTS_OF_NOBODY = [
    "", ".", "..", "a..b", ".a", "-a", "a-", "a-.b", "x" * 64, "*", "%31", "a b", "a\\b", "ü.de",
    "a@b", "a:b@c", "1", "1.2.3", "999.1.1.1", "1.2.3.4.5", "01.2.3.4", "2130706433", "[]", "[1]",
    "[::::]", "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7:8::]", "[:1:2:3:4:5:6:7]", "[::1", "::1",
    "[fe80::1%25lo]", "[12345::]", "[::1.2.3.4]",
]  # fmt: skip


def is_callable(url: str) -> bool:
    body = json.dumps({"content": "x", "webhook": {"url": url}}).encode()
    try:
        parse_message(body, "application/json")
    except RequestError as error:
        return error.status != 422
    return True


def test_a_webhook_that_could_never_be_called_is_refused_where_it_is_given() -> None:
    for host in CALLABLE_HOSTS:
        for url in (f"http://{host}", f"https://{host}:8080/in?a=b#c", f"http://{host}?x"):
            assert is_callable(url), url
    for host in HOSTS_OF_NOBODY:
        assert not is_callable(f"http://{host}/"), host
    for port in ("1", "80", "9999", "10000", "59999", "65535"):
        assert is_callable(f"http://x:{port}/"), port
    for port in ("", "0", "080", "65536", "70000", "99999", "100000", "-1", "a"):
        assert not is_callable(f"http://x:{port}/"), port
    for url in ("", "x", "//x/", "http:x", "http//x", "http://x/ y", "http://x/\x7f", "http://x/é"):
        assert not is_callable(url), url


@given(st.lists(st.sampled_from(["::", ":", "1", "ab", "f:", "2:", "12345"]), max_size=12))
def test_a_webhook_may_have_any_address_of_version_6(parts: list[str]) -> None:
    host = "".join(parts)
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        assert not is_callable(f"http://[{host}]/")
    else:
        assert is_callable(f"http://[{host}]/")


def lines_of(*portions: bytes) -> list[str]:
    lines: list[str] = []
    splitter = LineSplitter()
    for portion in portions:
        lines += splitter.feed(portion)
    return [*lines, *splitter.end()]


def test_output_is_split_into_lines_however_it_comes() -> None:
    assert lines_of(b"one\ntw", b"o\r\n", b"\nlast") == ["one", "two", "", "last"]
    assert lines_of(b"\xc3", b"\xa9\n\xff") == ["é", "\\xff"]
    assert lines_of() == []


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end_comes_in_pieces(end: bytes) -> None:
    size = MAX_LINE_BYTES * 2 + 1
    pieces = lines_of(b"x" * 1000, b"x" * (size - 1000) + end)
    assert "".join(pieces) == "x" * size
    assert max(map(len, pieces)) <= MAX_LINE_BYTES


def test_a_log_record_is_one_line() -> None:
    record = logging.LogRecord(
        "motus.serve", logging.INFO, "", 0, "a\nb\x1b[0m %s", ("\r\u2028",), None
    )
    record.session_id = "s\n1"
    line = LogFormatter().format(record)
    assert line.endswith("Z INFO motus.serve [s\\n1] a\\nb\\x1b[0m \\r\\u2028")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        record.exc_info = sys.exc_info()
    assert "\n" not in LogFormatter().format(record)
    assert "ZeroDivisionError" in LogFormatter().format(record)


def test_the_store_forgets_the_very_session_it_is_given() -> None:
    store = MemoryStore(2)
    first, other = Session("a", 0.0), Session("b", 0.0)
    store.add(first)
    with pytest.raises(SessionExistsError, match="Session already exists"):
        store.add(Session("a", 0.0))
    store.add(other)
    with pytest.raises(StoreFullError, match="Maximum number of sessions reached"):
        store.add(Session("c", 0.0))
    store.remove(first)
    again = Session("a", 1.0)
    store.add(again)
    store.remove(first)
    assert store.get("a") is again
    # The listing is of this moment: it may change while it is read.
    for session in store:
        store.remove(session)
    assert len(store) == 0


@pytest.mark.trio
async def test_an_application_without_its_lifespan_says_what_is_missing() -> None:
    store = MemoryStore()
    config = ServerConfig(max_workers=1)
    turns = Turns(WorkerPool(AgentTarget("x:y")), store, config, Calls())
    with pytest.raises(RuntimeError, match="lifespan startup"):
        turns.post(Session("a", 0.0), ChatMessage.user_message("x"))
    app = create_app(turns, store, config)
    client = app.test_client()
    assert (await client.get("/health")).status_code == 200


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_mistake_of_ours_is_a_500_in_json_without_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    async with served(agents.echo) as api:
        monkeypatch.setattr(Turns, "post", fail)
        # It is not described, being no answer that anybody should get.
        api.http.event_hooks = {}
        response = await api.post(await api.create(), "x")
        assert response.status_code == 500
        assert response.json() == {"detail": "Internal Server Error"}


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_mistake_of_ours_in_a_turn_ends_that_turn_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(agents.echo) as api:
        with monkeypatch.context() as patch:
            patch.setattr("motus.serve.turns.encode_frame", lambda _: 1 / 0)
            assert await api.error("x") == "Internal error"
        with trio.fail_after(20):
            assert await api.answer("x") == "x"


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_worker_that_cannot_be_started_is_an_error_of_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("motus.serve.workers.pool.SPARES", 0)
    async with served(agents.echo, max_workers=1) as api:
        for target in ("socket.socketpair", "os.pipe"):
            with monkeypatch.context() as patch:
                patch.setattr(f"motus.serve.workers.keeper.{target}", no_more)
                assert await api.error("x") == "Worker could not be started: Too many open files"
        assert await api.answer("x") == "x"


@pytest.mark.parametrize("frozen", [False, True])
def test_the_collector_is_left_as_it_was(frozen: bool) -> None:
    threshold = gc.get_threshold()
    if frozen:  # As Python 3.12 begins.
        gc.freeze()
    try:
        with collecting_rarely():
            assert gc.get_freeze_count() > 1000
            assert gc.get_threshold()[2] > threshold[2]
        assert gc.get_threshold() == threshold
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
