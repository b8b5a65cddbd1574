"""Who may ask what: every rule of `motus.serve.access`, without a server."""

from __future__ import annotations

import itertools
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.serve.access import IN_PROCESS, Access, Refusal, RequestHead, security_headers
from motus.serve.config import ServerConfig

TOKEN = "correct-horse-battery"
BEARER = (b"authorization", f"Bearer {TOKEN}".encode())
LOCAL = ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", IN_PROCESS]
REMOTE: list[str | None] = [
    "10.0.0.1",
    "192.0.2.1",
    "::2",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "0.0.0.0",
    "",
    None,
]
PEERS = [*LOCAL, *REMOTE]


def judge(
    config: ServerConfig | None = None,
    *headers: tuple[bytes, bytes],
    peer: str | None = "127.0.0.1",
    host: bytes | None = b"localhost:8000",
    method: str = "GET",
    target: bytes = b"/sessions",
    http_version: str = "1.1",
) -> Refusal | None:
    first = [] if host is None else [(b"host", host)]
    path = target.partition(b"?")[0].decode("latin-1")
    head = RequestHead(method, path, target, http_version, [*first, *headers], peer)
    return Access(config or ServerConfig()).judge(head)


def status(*arguments: Any, **more: Any) -> int | None:
    refusal = judge(*arguments, **more)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("peer", LOCAL)
def test_without_a_token_this_machine_is_served(peer: str) -> None:
    assert judge(peer=peer) is None


@pytest.mark.parametrize("peer", REMOTE)
def test_without_a_token_nobody_else_is(peer: str | None) -> None:
    refusal = judge(peer=peer)
    assert refusal is not None
    assert refusal.status == 401
    assert "MOTUS_AUTH_TOKEN" in refusal.detail
    assert "--auth none" in refusal.detail
    assert dict(refusal.headers)[b"www-authenticate"].startswith(b"Bearer")
    # A token that the server does not have helps nobody.
    assert status(None, BEARER, peer=peer) == 401


@pytest.mark.parametrize(
    "name",
    [
        b"forwarded", b"x-forwarded-for", b"X-Forwarded-Host", b"x-forwarded-proto", b"x-real-ip",
        b"via", b"CF-Connecting-IP",
    ],
)  # fmt: skip
def test_a_proxy_on_this_machine_is_not_its_clients(name: bytes) -> None:
    refusal = judge(None, (name, b"192.0.2.1"))
    assert refusal is not None
    assert refusal.status == 401
    assert "proxy" in refusal.detail
    assert judge(ServerConfig(auth_token=TOKEN), (name, b"192.0.2.1"), BEARER) is None


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("host", [b"localhost", b"evil.example", None])
def test_with_a_token_the_token_decides(peer: str | None, host: bytes | None) -> None:
    config = ServerConfig(auth_token=TOKEN)
    assert judge(config, BEARER, peer=peer, host=host) is None
    assert judge(config, BEARER, (b"origin", b"http://evil.example"), peer=peer, host=host) is None
    assert status(config, peer=peer, host=host) == 401


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Bearer", b"Bearer ", TOKEN.encode(), f"Basic {TOKEN}".encode(),
        f"Bearer {TOKEN}x".encode(), f"Bearer {TOKEN[:-1]}".encode(), f"Bearer x{TOKEN}".encode(),
        f"Bearer {TOKEN.upper()}".encode(), f"Bearer {TOKEN} {TOKEN}".encode(), b"Bearer \xff",
    ],
)  # fmt: skip
def test_another_token_is_refused(value: bytes) -> None:
    assert status(ServerConfig(auth_token=TOKEN), (b"authorization", value)) == 401


def test_two_tokens_are_none_and_the_scheme_has_no_case() -> None:
    config = ServerConfig(auth_token=TOKEN)
    assert status(config, BEARER, BEARER) == 401
    assert judge(config, (b"Authorization", f"bEARER  {TOKEN}".encode())) is None


def test_no_refusal_repeats_the_token() -> None:
    for refusal in (judge(ServerConfig(auth_token=TOKEN)), judge(None, BEARER, peer=None)):
        assert refusal is not None
        assert TOKEN not in repr(refusal)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    "config", [ServerConfig(), ServerConfig(auth_token=TOKEN), ServerConfig(auth="none")]
)
def test_health_is_for_everybody(peer: str | None, config: ServerConfig) -> None:
    assert judge(config, peer=peer, host=b"10.1.2.3:8000", target=b"/health") is None
    assert judge(config, peer=peer, host=None, target=b"/health?x", http_version="1.0") is None


@pytest.mark.parametrize("target", [b"/healthz", b"/health/", b"//health", b"/Health", b"/"])
def test_only_health_is(target: bytes) -> None:
    assert status(target=target, peer="192.0.2.1") == 401


@pytest.mark.parametrize("peer", PEERS)
def test_a_server_opened_on_purpose_serves_everybody(peer: str | None) -> None:
    config = ServerConfig(auth="none")
    assert judge(config, peer=peer) is None
    assert judge(config, (b"x-forwarded-for", b"192.0.2.1"), peer=peer) is None
    # An address cannot be made to mean another one, as a name can.
    assert judge(config, peer=peer, host=b"10.0.0.5:8000") is None
    assert judge(config, peer=peer, host=b"[fd00::1]:8000") is None
    assert status(config, peer=peer, host=b"evil.example") == 403


@pytest.mark.parametrize(
    "host",
    [
        b"localhost", b"LOCALHOST:80", b"localhost.", b"a.localhost", b"127.0.0.1:8000",
        b"127.1.2.3", b"[::1]", b"[::1]:8000", b"localhost:",
    ],
)  # fmt: skip
def test_names_of_this_machine(host: bytes) -> None:
    assert judge(host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        b"", b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"10.0.0.5",
        b"localhost:x", b"localhost:80:80", b"localhost, evil", b"user@localhost", b"[::2]",
        b"::1", b"[localhost", b"xlocalhost", b"0.0.0.0", b"127.1", b"2130706433", b"\xff",
        b"localhost/", None,
    ],
)  # fmt: skip
def test_other_names(host: bytes | None) -> None:
    refusal = judge(host=host)
    assert refusal is not None
    assert refusal.status == 403
    assert "--allowed-host" in refusal.detail


def test_two_hosts_are_none() -> None:
    assert status(None, (b"host", b"localhost")) == 403


def test_allowed_hosts() -> None:
    config = ServerConfig(allowed_hosts=["Agents.Example.", "[fd00::1]", "10.0.0.5"])
    for host in (b"agents.example", b"AGENTS.example.:443", b"[fd00::1]:8000", b"10.0.0.5"):
        assert judge(config, host=host) is None
        assert judge(config, (b"origin", b"https://" + host), host=host) is None
    assert status(config, host=b"x.agents.example") == 403


@pytest.mark.parametrize(
    "origin",
    [b"http://localhost", b"http://localhost:3000", b"https://127.0.0.1:1", b"http://[::1]:8000"],
)
def test_pages_of_this_machine_may_ask(origin: bytes) -> None:
    assert judge(None, (b"origin", origin)) is None


@pytest.mark.parametrize(
    "origin",
    [
        b"null", b"", b"http://evil.example", b"http://localhost.evil.example", b"file://",
        b"chrome-extension://localhost", b"http://localhost@evil.example", b"http://6.6.6.6",
        b"http://user@localhost", b"http://localhost/x", b"localhost", b"http://[", b"\xff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_pages_from_elsewhere_may_not(origin: bytes, method: str) -> None:
    refusal = judge(None, (b"origin", origin), method=method)
    assert refusal is not None
    assert refusal.status == 403
    assert "Origin" in refusal.detail


def test_a_page_of_an_open_server_may_ask_the_server() -> None:
    config = ServerConfig(auth="none")
    host, origin = b"10.0.0.5:8000", (b"origin", b"http://10.0.0.5:8000")
    assert judge(config, origin, host=host) is None
    assert status(config, (b"origin", b"http://10.0.0.5:9"), host=host) == 403
    assert status(None, origin, origin) == 403


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (b"application/json", None), (b"Application/JSON; charset=utf-8", None),
        (b"application/problem+json", None), (b"text/plain", 415), (b"", 415), (None, 415),
        (b"application/x-www-form-urlencoded", 415), (b"multipart/form-data; boundary=x", 415),
        (b"text/plain; application/json", 415), (b"application/jsonx", 415), (b"text/x+json", 415),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "framing", [(b"content-length", b"10"), (b"transfer-encoding", b"chunked")]
)
def test_a_body_says_that_it_is_json(
    kind: bytes | None, refused: int | None, framing: tuple[bytes, bytes]
) -> None:
    headers = [framing] if kind is None else [framing, (b"content-type", kind)]
    assert status(None, *headers, method="POST") == refused


def test_no_body_says_nothing_and_two_types_are_none() -> None:
    assert judge(None, (b"content-length", b"0"), method="POST") is None
    assert judge(None, (b"content-length", b"00"), (b"content-type", b"text/plain")) is None
    kind = (b"content-type", b"application/json")
    assert status(None, (b"content-length", b"1"), kind, kind, method="POST") == 415


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"target": b"http://localhost/sessions"}, 400), ({"target": b"*"}, 400),
        ({"target": b"?x"}, 400), ({"target": b""}, 400), ({"target": b"sessions"}, 400),
        ({"http_version": "2.0"}, 505), ({"http_version": "2"}, 505),
        ({"http_version": "0.9"}, 505), ({"http_version": "1.2"}, 505),
        ({"method": "CONNECT"}, 405),
        ({"method": "TRACE"}, 405),
        ({"http_version": "1.0"}, None), ({"method": "PATCH"}, None),
    ],
)  # fmt: skip
def test_the_form_of_a_request(more: dict[str, Any], refused: int | None) -> None:
    assert status(**more) == refused
    assert status(ServerConfig(auth_token=TOKEN), BEARER, **more) == refused


def test_what_two_parsers_read_differently_is_refused_first() -> None:
    length, chunked = (b"content-length", b"5"), (b"Transfer-Encoding", b"chunked")
    assert status(None, length, chunked, method="POST") == 400
    assert status(None, chunked, method="POST", http_version="1.0") == 400
    # Also of those whom the server does not serve, so that no proxy in front is confused.
    assert status(None, length, chunked, peer="192.0.2.1") == 400


def test_size_and_number_of_header_fields() -> None:
    config = ServerConfig(max_header_size=1024, max_header_fields=8)
    base = len(b"GET /sessions HTTP/1.1\r\nhost: localhost:8000\r\n\r\n")
    fits = 1024 - base - len(b"x: \r\n")
    assert judge(config, (b"x", b"v" * fits)) is None
    assert status(config, (b"x", b"v" * (fits + 1))) == 431
    assert status(config, target=b"/sessions?" + b"v" * 1024) == 431
    fields = [(f"x{n}".encode(), b"") for n in range(7)]
    assert judge(config, *fields) is None
    assert status(config, *fields, (b"y", b"")) == 431
    # Before anything else, and for everybody.
    assert status(config, (b"x", b"v" * 1024), peer=None, target=b"/health") == 431


def test_the_verdict_is_the_same_in_whatever_order_the_fields_come() -> None:
    fields = [
        (b"host", b"localhost"), (b"origin", b"http://evil.example"), BEARER,
        (b"content-type", b"application/json"), (b"content-length", b"3"),
    ]  # fmt: skip
    for config, wanted in ((ServerConfig(), 403), (ServerConfig(auth_token=TOKEN), None)):
        for order in itertools.permutations(fields):
            assert status(config, *order, host=None, method="POST") == wanted


@given(
    st.text(string.printable, max_size=30),
    st.sampled_from(["1.0", "1.1"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"host", b"origin", b"authorization", b"content-length", b"content-type", b"x"]
            ),
            st.binary(max_size=30),
        ),
        max_size=6,
    ),
    st.sampled_from(REMOTE),
)
def test_whatever_a_stranger_says_is_refused_or_health(
    path: str, version: str, headers: list[tuple[bytes, bytes]], peer: str | None
) -> None:
    head = RequestHead("GET", path, path.encode(), version, headers, peer)
    for config in (ServerConfig(), ServerConfig(auth_token=TOKEN)):
        assert Access(config).judge(head) is not None or path == "/health"


def test_security_headers_leave_what_the_answer_says_itself() -> None:
    assert {name for name, _ in security_headers([])} == {
        b"cache-control", b"content-security-policy", b"cross-origin-resource-policy",
        b"referrer-policy", b"x-content-type-options",
    }  # fmt: skip
    mine = security_headers([(b"Content-Security-Policy", b"default-src 'self'")])
    assert b"content-security-policy" not in dict(mine)
