"""Requests as bytes, well and badly formed (G12): each is answered as it should be, or closed.

Framing and heads are here; what is wrong with bodies and paths is in tests/serve/test_routes.py.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.support import ServerProcess

pytestmark = pytest.mark.realtime

H = b"Host: localhost\r\n"
J = b"Content-Type: application/json\r\n"
GET = b"GET /sessions HTTP/1.1\r\n"
POST = b"POST /sessions HTTP/1.1\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
# The request after the one that is tried: were it answered, it would have been smuggled.
NEXT = b"GET /health HTTP/1.1\r\n" + H + END


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


# Name, bytes, and the statuses with which they may be answered; 0 is a connection that is closed
# without an answer.
CORPUS: dict[str, tuple[bytes, set[int]]] = {
    # What is well formed.
    "plain": (GET + H + END, {200}),
    "no spaces after colons": (GET + b"Host:localhost\r\n" + END, {200}),
    "empty value": (GET + H + b"X:\r\n" + END, {200}),
    "tabs around a value": (GET + b"Host:\t localhost \t\r\n" + END, {200}),
    "names without case": (GET + b"hOST: localhost\r\n" + END, {200}),
    "unknown fields": (GET + H + b"X-Y: z\r\nX-Y: z\r\n" + END, {200}),
    "bytes beyond ASCII in a value": (GET + H + b"X: \xc3\xa9\xff\r\n" + END, {200}),
    "query": (b"GET /sessions?a=b&c=%20 HTTP/1.1\r\n" + H + END, {200}),
    "empty body": (POST + H + length(0) + END, {201}),
    "no body": (POST + H + END, {201}),
    "body": (POST + H + J + length(2) + END + b"{}", {201}),
    "chunks": (POST + H + J + TE + END + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", {201}),
    "chunk with extension": (POST + H + J + TE + END + b"2;a=b\r\n{}\r\n0\r\n\r\n", {201}),
    "trailer": (POST + H + J + TE + END + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", {201}),
    "HTTP/1.0": (b"GET /sessions HTTP/1.0\r\n" + H + END, {200}),
    "HTTP/1.0 without a host": (b"GET /sessions HTTP/1.0\r\n" + END, {403}),
    "HTTP/1.0 health without a host": (b"GET /health HTTP/1.0\r\n" + END, {200}),
    "expects to go on": (
        POST + H + J + b"Expect: 100-continue\r\n" + length(2) + END + b"{}", {100, 201}
    ),
    "HEAD": (b"HEAD /sessions HTTP/1.1\r\n" + H + END, {200}),
    "OPTIONS": (b"OPTIONS /sessions HTTP/1.1\r\n" + H + END, {200}),
    "empty line before": (b"\r\n" + GET + H + END, {200, 400}),
    "lines end with LF": (GET.replace(b"\r", b"") + b"Host: localhost\n\n", {200, 400}),
    # Request lines.
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n", {0, 400}),
    "TLS hello": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\r\n\r\n", {0, 400}),
    "one word": (b"GET\r\n" + H + END, {0, 400}),
    "no version": (b"GET /sessions\r\n" + H + END, {0, 400}),
    "version 0.9": (b"GET /sessions HTTP/0.9\r\n" + H + END, {0, 400, 505}),
    "version 1.2": (b"GET /sessions HTTP/1.2\r\n" + H + END, {0, 400, 505}),
    "version 2.0": (b"GET /sessions HTTP/2.0\r\n" + H + END, {0, 400, 505}),
    "version 3": (b"GET /sessions HTTP/3\r\n" + H + END, {0, 400}),
    "version HTTP/1": (b"GET /sessions HTTP/1\r\n" + H + END, {0, 400}),
    "version in small letters": (b"GET /sessions http/1.1\r\n" + H + END, {0, 400}),
    "version of another protocol": (b"GET /sessions SIP/2.0\r\n" + H + END, {0, 400}),
    "two spaces": (b"GET  /sessions HTTP/1.1\r\n" + H + END, {0, 400}),
    "tab for a space": (b"GET\t/sessions HTTP/1.1\r\n" + H + END, {0, 400}),
    "space at the start": (b" GET /sessions HTTP/1.1\r\n" + H + END, {0, 400}),
    "space at the end": (b"GET /sessions HTTP/1.1 \r\n" + H + END, {0, 400}),
    "space in the target": (b"GET /ses sions HTTP/1.1\r\n" + H + END, {0, 400}),
    "bytes beyond ASCII in the target": (b"GET /s\xc3\xa9 HTTP/1.1\r\n" + H + END, {0, 400}),
    "null in the target": (b"GET /s\x00 HTTP/1.1\r\n" + H + END, {0, 400}),
    "control in the target": (b"GET /s\x1b HTTP/1.1\r\n" + H + END, {0, 400}),
    "delete in the target": (b"GET /s\x7f HTTP/1.1\r\n" + H + END, {0, 400}),
    "no target": (b"GET  HTTP/1.1\r\n" + H + END, {0, 400}),
    "absolute target": (b"GET http://localhost/sessions HTTP/1.1\r\n" + H + END, {400}),
    "absolute target elsewhere": (b"GET http://evil.example/ HTTP/1.1\r\n" + H + END, {400}),
    "target without slash": (b"GET sessions HTTP/1.1\r\n" + H + END, {400}),
    "target of a query only": (b"GET ?x HTTP/1.1\r\n" + H + END, {400}),
    "target of a fragment only": (b"GET #x HTTP/1.1\r\n" + H + END, {400}),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + H + END, {400}),
    "two slashes": (b"GET //evil.example/sessions HTTP/1.1\r\n" + H + END, {308, 404}),
    "backslash": (b"GET \\sessions HTTP/1.1\r\n" + H + END, {400}),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + H + END, {400, 405}),
    "CONNECT with a path": (b"CONNECT /sessions HTTP/1.1\r\n" + H + END, {405}),
    "TRACE": (b"TRACE /sessions HTTP/1.1\r\n" + H + END, {405}),
    "unknown method": (b"BREW /sessions HTTP/1.1\r\n" + H + END, {405}),
    "method in small letters": (b"get /sessions HTTP/1.1\r\n" + H + END, {200, 405}),
    "method with a control": (b"G\x01T /sessions HTTP/1.1\r\n" + H + END, {0, 400}),
    "method with brackets": (b"G(T /sessions HTTP/1.1\r\n" + H + END, {0, 400}),
    "long method": (b"G" * 3000 + b" /sessions HTTP/1.1\r\n" + H + END, {405}),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400, 505}),
    "preface and frames": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", {0, 400, 505}
    ),
    # Fields.
    "no host": (GET + END, {400}),
    "empty host": (GET + b"Host:\r\n" + END, {400, 403}),
    "two hosts": (GET + H + H + END, {400}),
    "two different hosts": (GET + H + b"Host: evil.example\r\n" + END, {400}),
    "health under a host with empty labels": (
        b"GET /health HTTP/1.1\r\nHost: a..b\r\n" + END, {200}
    ),
    "health under a host with a long label": (
        b"GET /health HTTP/1.1\r\nHost: " + b"a" * 64 + b".b\r\n" + END, {200}
    ),
    "health under a host beyond ASCII": (
        b"GET /health HTTP/1.1\r\nHost: \xc3\xa9\xad.b\r\n" + END, {200}
    ),
    "host with empty labels": (GET + b"Host: a..localhost\r\n" + END, {200, 403}),
    "another host": (GET + b"Host: evil.example\r\n" + END, {403}),
    "host list": (GET + b"Host: localhost, evil.example\r\n" + END, {403}),
    "host with a path": (GET + b"Host: localhost/x\r\n" + END, {403}),
    "host with a user": (GET + b"Host: x@localhost\r\n" + END, {403}),
    "space before the colon": (GET + b"Host : localhost\r\n" + END, {0, 400}),
    "no colon": (GET + H + b"nonsense\r\n" + END, {0, 400}),
    "no name": (GET + H + b": x\r\n" + END, {0, 400}),
    "space in a name": (GET + H + b"X Y: z\r\n" + END, {0, 400}),
    "brackets in a name": (GET + H + b"X[]: z\r\n" + END, {0, 400}),
    "null in a name": (GET + H + b"X\x00: z\r\n" + END, {0, 400}),
    "null in a value": (GET + H + b"X: y\x00z\r\n" + END, {0, 400}),
    "bytes beyond ASCII in a name": (GET + H + b"X\xc3\xa9: z\r\n" + END, {0, 400}),
    "CR alone in a value": (GET + H + b"X: y\rEvil: z\r\n" + END, {0, 400}),
    "folded line": (GET + H + b"X: y\r\n z\r\n" + END, {200, 400}),
    "folded first line": (GET + b" X: y\r\n" + H + END, {0, 400}),
    "folded length": (
        POST + H + J + b"Content-Length:\r\n 2\r\n" + END + b"{}", {0, 201, 400}
    ),
    "page from elsewhere": (POST + H + b"Origin: http://evil.example\r\n" + END, {403}),
    "page from nowhere": (POST + H + b"Origin: null\r\n" + END, {403}),
    "passed on": (GET + H + b"X-Forwarded-For: 192.0.2.1\r\n" + END, {401}),
    # Sizes.
    "fields as many as may be": (GET + H + b"X: y\r\n" * 99 + END, {200}),
    "one field too many": (GET + H + b"X: y\r\n" * 100 + END, {431}),
    "thousands of fields": (GET + H + b"X: y\r\n" * 5000 + END, {431}),
    "head as large as may be": (GET + H + b"X: " + b"y" * 16000 + b"\r\n" + END, {200}),
    "head too large": (GET + H + b"X: " + b"y" * 16384 + b"\r\n" + END, {431}),
    "head much too large": (GET + H + b"X: " + b"y" * 500_000 + b"\r\n" + END, {431}),
    "head without end": (GET + H + b"X: " + b"y" * 500_000, {431}),
    "line without end": (b"GET /" + b"y" * 500_000, {414, 431}),
    "long name": (GET + H + b"X" * 20_000 + b": y\r\n" + END, {431}),
    "long query": (b"GET /sessions?" + b"y" * 20_000 + b" HTTP/1.1\r\n" + H + END, {414, 431}),
    "health with a head too large": (
        b"GET /health HTTP/1.1\r\n" + H + b"X: " + b"y" * 20_000 + b"\r\n" + END, {431}
    ),
    # Lengths of bodies.
    "length that is no number": (POST + H + J + b"Content-Length: x\r\n" + END, {400}),
    "negative length": (POST + H + J + b"Content-Length: -1\r\n" + END, {400}),
    "length with a sign": (POST + H + J + b"Content-Length: +2\r\n" + END + b"{}", {400}),
    "length in hex": (POST + H + J + b"Content-Length: 0x2\r\n" + END + b"{}", {400}),
    "length with an underscore": (POST + H + J + b"Content-Length: 1_0\r\n" + END, {400}),
    "length with a space": (POST + H + J + b"Content-Length: 1 0\r\n" + END, {400}),
    "empty length": (POST + H + J + b"Content-Length:\r\n" + END + b"{}", {400}),
    "length of digits of elsewhere": (
        POST + H + J + "Content-Length: \u0662\r\n".encode() + END + b"{}", {400}
    ),
    "two lengths": (POST + H + J + length(2) + length(3) + END + b"{} ", {400}),
    "list of two lengths": (POST + H + J + b"Content-Length: 2, 3\r\n" + END + b"{} ", {400}),
    "huge length": (POST + H + J + length(10**19) + END + b"{}", {0, 400, 408, 413}),
    "length of a thousand digits": (
        POST + H + J + b"Content-Length: " + b"9" * 1000 + b"\r\n" + END, {400}
    ),
    # Framing that could be read in two ways.
    "length and chunks": (POST + H + J + length(4) + TE + END + b"0\r\n\r\n" + NEXT, {400}),
    "chunks and length": (POST + H + J + TE + length(4) + END + b"0\r\n\r\n" + NEXT, {400}),
    "chunks and no length": (POST + H + J + TE + length(0) + END + b"0\r\n\r\n" + NEXT, {400}),
    "chunks in HTTP/1.0": (
        b"POST /sessions HTTP/1.0\r\n" + H + J + TE + END + b"0\r\n\r\n" + NEXT, {400}
    ),
    **{
        f"coding {coding!r}": (
            POST + H + J + b"Transfer-Encoding: " + coding + b"\r\n" + END + b"0\r\n\r\n" + NEXT,
            {400, 501},
        )
        for coding in (
            b"gzip", b"identity", b"chunked, gzip", b"gzip, chunked", b"chunked, chunked",
            b"xchunked", b"chunked;q=1", b"\"chunked\"", b"chunked\x0b", b",chunked,x",
        )
    },
    "coding twice": (POST + H + J + TE + TE + END + b"0\r\n\r\n" + NEXT, {400, 501}),
    "two codings": (
        POST + H + J + TE + b"Transfer-Encoding: identity\r\n" + END + b"0\r\n\r\n" + NEXT,
        {400, 501},
    ),
    "coding with a space before the colon": (
        POST + H + J + b"Transfer-Encoding : chunked\r\n" + length(5) + END + b"0\r\n\r\n",
        {0, 400},
    ),
    **{
        f"chunk {chunk!r}": (POST + H + J + TE + END + chunk + b"\r\n0\r\n\r\n" + NEXT, {400})
        for chunk in (
            b"x\r\n{}", b"-2\r\n{}", b"+2\r\n{}", b"0x2\r\n{}", b"2_\r\n{}", b" 2\r\n{}",
            b"\r\n{}", b"2\n{}", b"2\r\n{}x", b"3\r\n{}", b"1\r\n{}", b"2\r{}",
            b"FFFFFFFFFFFFFFFFFFFFF\r\n{}", b"2" + b"0" * 30 + b"\r\n{}",
        )
    },
    "chunk size without end": (POST + H + J + TE + END + b"0" * 100_000, {400, 431}),
    "extension without end": (POST + H + J + TE + END + b"2;" + b"x" * 100_000, {400, 431}),
    "trailers without end": (
        POST + H + J + TE + END + b"0\r\n" + b"X: y\r\n" * 50_000, {400, 431}
    ),
    "bad trailer": (POST + H + J + TE + END + b"2\r\n{}\r\n0\r\nX y\r\n\r\n", {400}),
    # Bodies of requests that have none, and types that are not JSON.
    "GET with a body": (GET + H + J + length(2) + END + b"{}", {200}),
    "GET with another type": (GET + H + length(2) + END + b"{}", {415}),
    "form": (
        POST + H + b"Content-Type: application/x-www-form-urlencoded\r\n" + length(3) + END
        + b"a=b", {415},
    ),
    "plain text": (POST + H + b"Content-Type: text/plain\r\n" + length(2) + END + b"{}", {415}),
    "no type": (POST + H + length(2) + END + b"{}", {415}),
    "two types": (POST + H + J + b"Content-Type: text/plain\r\n" + length(2) + END, {415}),
    "another type and much of it": (
        POST + H + b"Content-Type: text/plain\r\n" + length(3_000_000) + END + b"x" * 3_000_000,
        {415},
    ),
    # Speaking something else.
    "upgrade to HTTP/2": (
        GET + H + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n" + END, {200},
    ),
    "upgrade to WebSocket": (
        GET + H + b"Connection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + END,
        {200},
    ),
    "upgrade to WebSocket without a key": (
        GET + H + b"Connection: upgrade\r\nUpgrade: websocket\r\n" + END, {200}
    ),
    "upgrade to anything": (GET + H + b"Connection: upgrade\r\nUpgrade: x\r\n" + END, {200}),
    # The end before the end.
    "nothing": (b"", {0}),
    "an empty line": (b"\r\n", {0, 400}),
    "half a line": (b"GET /sess", {0, 400}),
    "half a head": (GET + H, {0, 400}),
    "half a body": (POST + H + J + length(10) + END + b"{", {0, 400}),
    "half a chunk": (POST + H + J + TE + END + b"5\r\n{", {0, 400}),
    "no last chunk": (POST + H + J + TE + END + b"2\r\n{}\r\n", {0, 400}),
}  # fmt: skip
UNENDED = {"nothing", "half a line", "half a head", "half a body", "half a chunk",
           "no last chunk", "an empty line", "huge length", "head without end",
           "line without end"}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("raw") / "log"
    with ServerProcess("echo", log) as server:
        # A connection that stays open would be one that a test leaves behind.
        server.http.headers["Connection"] = "close"
        yield server
        assert "Traceback" not in server.log
        assert "inside the server" not in server.log


def connect(server: ServerProcess) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(server: ServerProcess, data: bytes, *, end: bool) -> bytes:
    """All that is answered before the server closes, or to the request and to one after it."""
    answer = b""
    with connect(server) as client:
        try:
            client.sendall(data)
            if end:
                client.shutdown(socket.SHUT_WR)
            elif b"HTTP/1.0" not in data:
                client.sendall(
                    b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
        except OSError:
            pass  # it has answered before it had read everything
        try:
            while portion := client.recv(1 << 16):
                answer += portion
        except ConnectionResetError:
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("name", CORPUS)
def test_a_raw_request(server: ServerProcess, name: str) -> None:
    data, allowed = CORPUS[name]
    answer = exchange(server, data, end=name in UNENDED)
    found = statuses(answer)
    assert set(found[:1] or [0]) <= allowed, (found, answer[:300])
    # Beside the answer to it there is at most that to the last request, which finds nothing.
    rest = found[2:] if 100 in found[:1] else found[1:]
    assert rest in ([], [404]), (found, answer[:1000])
    assert not any(status >= 500 and status not in (501, 505) for status in found)
    if found and found[0] >= 400 and found[0] not in (404, 405):
        assert rest == [], "a connection on which nonsense was said goes on"


def test_the_server_is_well_afterwards(server: ServerProcess) -> None:
    assert server.http.get("/health").status_code == 200
    session = server.create()
    server.post(session, "hello")
    assert server.wait(session)["response"]["content"] == "hello"


def test_two_requests_at_once_are_two_answers(server: ServerProcess) -> None:
    answer = exchange(server, (POST + H + J + length(2) + END + b"{}") * 3, end=False)
    assert statuses(answer) == [201, 201, 201, 404]


def test_a_smuggled_request_is_not_answered(server: ServerProcess) -> None:
    before = len(server.http.get("/sessions").json())
    smuggled = b"POST /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for data in (
        POST + H + J + length(len(smuggled) + 5) + TE + END + b"0\r\n\r\n" + smuggled,
        POST + H + J + TE + length(5) + END + b"0\r\n\r\n" + smuggled,
        POST + H + b"Content-Type: text/plain\r\n" + length(len(smuggled)) + END + smuggled,
        GET + b"Host: evil.example\r\n" + J + length(len(smuggled)) + END + smuggled,
        GET + b"Host: evil.example\r\n" + END + smuggled,
    ):
        answer = exchange(server, data, end=True)
        assert len(statuses(answer)) <= 1
    assert len(server.http.get("/sessions").json()) == before


def test_answers_to_refused_requests_are_json_without_details(server: ServerProcess) -> None:
    for data in (GET + b"Host: evil.example\r\n" + END, GET + H + b"X: y\r\n" * 100 + END):
        head, _, body = exchange(server, data, end=False).partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head
        assert b"x-content-type-options: nosniff" in head
        assert b"connection: close" in head
        assert body.startswith(b'{"detail":')


def test_the_last_part_of_a_long_answer_is_not_lost(tmp_path: Path) -> None:
    with ServerProcess("big", tmp_path / "log") as server:
        session = server.create()
        server.post(session, "5000000")
        server.wait(session)
        path = f"/sessions/{session}/messages".encode()
        request = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        head, _, body = exchange(server, request, end=False).partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None
        assert len(body) == int(found[1])
