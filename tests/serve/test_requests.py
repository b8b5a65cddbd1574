"""Whatever a client sends, it gets an answer that says what is wrong, and never a 5xx (G12).

Raw requests over real connections: clients as libraries build them would refuse to send many of
these. What is malformed below HTTP's own grammar is tested where connections are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import attrs
import h11
import httpx
import pytest
import trio

from tests.serve import agents
from tests.serve.contract import check
from tests.serve.support import Api, served

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

UUID = b"00000000-0000-4000-8000-000000000000"
JSON = "application/json"


@attrs.frozen
class Raw:
    """A request, and the only statuses that answer it."""

    method: str
    target: bytes
    statuses: tuple[int, ...]
    body: bytes | None = None
    content_type: str | None = JSON

    def encoded(self) -> bytes:
        lines = [
            b"%s %s HTTP/1.1" % (self.method.encode(), self.target),
            b"Host: localhost",
            b"Connection: close",
        ]
        if self.body is not None:
            lines.append(b"Content-Length: %d" % len(self.body))
            if self.content_type is not None:
                lines.append(b"Content-Type: " + self.content_type.encode("latin-1"))
        return b"\r\n".join([*lines, b"", self.body or b""])


# In place of {id}: names of sessions that do not exist.
STRANGE_IDS = [
    b"x", b"%00", b"%0d%0aevil:%201", b"%20", b"%", b"%zz", b"%ff", b"%ed%a0%80", b"%c3%a9",
    b"..%2f..%2fetc%2fpasswd", b"..", b".", b"%2e%2e", b"-1", b"null", b"{id}", b"'--", b"a;b=c",
    b"<script>", b"%25", b"$(id)", b"~", b"x" * 8000, b"*", b"%F0%9F%98%80", b"%e2%80%ae",
    UUID, b"{" + UUID + b"}", UUID.replace(b"-", b"", 1), UUID + b"0", b"a:b", b"a@b", b"[]",
    b"a,b", b"a+b", b"health",
]  # fmt: skip

# Neither is a JSON text, by the letter of RFC 8259 or by the limits that are documented.
NO_JSON = [
    b"", b" ", b"{", b"}", b"[", b"{]", b'"', b"'a'", b"{'a': 1}", b"{a: 1}", b'{"a": }', b"[1,]",
    b'{"a": 1,}', b"nul", b"True", b"undefined", b"NaN", b"-Infinity", b"Infinity", b"01", b"1.",
    b".5", b"+1", b"0x10", b"1e999", b"-1e999", b"1e", b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00",
    b'"\x00"', b'"\n"', b'"\\x41"', b'"\\u12"', b'"\\ud800"', b'"\\udc00\\ud800"',
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"', b'"\xf5\x80\x80\x80"', b"{}{}", b"{} x", b"// comment\n{}", b"/* */ {}",
    b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 100_000,
    b'{"a":' * 100_000, b"9" * 5000, b"-" + b"9" * 5000, b"\x1f\x8b\x08\x00", b"a=b&c=d",
    "{}".encode("utf-16"), "{}".encode("utf-32"),
]  # fmt: skip

# JSON, but not a body of that request.
NO_OBJECT = [b"[]", b"1", b'"x"', b"true", b"-0.0", b"1e308", b"[[{}]]"]
NO_MESSAGE = [
    *NO_OBJECT, b"null", b'{"role": null}', b'{"role": ""}', b'{"role": "User"}', b'{"role": []}',
    b'{"content": 5}', b'{"content": ["x"]}', b'{"content": {"type": "text"}}',
    b'{"content": true}',
    b'{"tool_calls": {}}', b'{"tool_calls": [null]}', b'{"tool_calls": [{"id": "x"}]}',
    b'{"tool_calls": [{"id": "x", "function": {"name": "f"}}]}',
    b'{"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {}}}]}',
    b'{"user_params": []}', b'{"user_params": "x"}', b'{"name": 1}', b'{"tool_call_id": 1}',
    b'{"base64_image": {}}', b'{"reasoning": false}', b'{"webhook": "http://x/"}',
    b'{"webhook": {"url": "file:///etc/passwd"}}', b'{"webhook": {"url": "http://a:b@x/"}}',
    b'{"webhook": {"url": "http://x/\\u000d\\u000a"}}', b'{"webhook": []}',
]  # fmt: skip
NO_NEW_SESSION = [
    *NO_OBJECT, b'{"state": {}}', b'{"state": "x"}', b'{"state": [null]}', b'{"state": [{}]}',
    b'{"state": [{"role": "robot"}]}', b'{"state": [{"role": "user", "content": 1}]}',
    b'{"state": [[]]}', b'{"state": 0}',
]  # fmt: skip
NO_RESUME = [
    *NO_OBJECT, b"null", b"{}", b'{"value": 1}', b'{"interrupt_id": "x"}',
    b'{"interrupt_id": 1, "value": 1}', b'{"interrupt_id": null, "value": 1}',
]  # fmt: skip

QUERIES = [
    b"wait", b"wait=", b"wait=maybe", b"wait=%ff", b"wait=true%00", b"wait=truetrue", b"wait=2",
    b"timeout=", b"timeout=x", b"timeout=-1", b"timeout=-0.001", b"timeout=nan", b"timeout=inf",
    b"timeout=1e999", b"timeout=1_000", b"timeout=0x1", b"timeout=true", b"timeout=null",
    b"timeout=%221%22", b"timeout=[]", b"timeout=" + b"9" * 5000, b"timeout=%D9%A1", b"timeout=1,5",
]  # fmt: skip
HARMLESS_QUERIES = [
    b"", b"&", b"&&=&", b"=", b"x=y", b"wait=false&wait=maybe", b"WAIT=maybe", b"wait=false&x=%ff",
    b"wait=true&timeout=0", b"wait=TRUE&timeout=1e300", b"timeout=0.0", b"?", b"%00", b"wait=off",
]  # fmt: skip
CONTENT_TYPES = [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx",
    "json", "", "*/*", "application/json,text/plain", "application/", "\xff", "text/json",
]  # fmt: skip
METHODS = ["PATCH", "FOO", "TRACE", "X" * 100, "PROPFIND"]
PATHS = [
    b"/", b"//", b"/nowhere", b"/sessions/", b"/sessions//messages",
    b"/sessions/x/", b"/sessions/x/y/z", b"/Sessions", b"/health/", b"/health/x", b"/static/app.py",
    b"/%2e%2e/%2e%2e/etc/passwd", b"/../../etc/passwd", b"/.git/config", b"/%00", b"/%ff",
    b"/docs/", b"/openapi.yaml", b"/" + b"x" * 10_000, b"/sessions/x/resume/1",
]  # fmt: skip


def corpus(session: str) -> Iterator[Raw]:
    here = f"/sessions/{session}".encode()
    for name in STRANGE_IDS:
        # A name with a slash in it is another path; a dot is one to nobody.
        for method, rest in (("GET", b""), ("DELETE", b""), ("GET", b"/messages")):
            yield Raw(method, b"/sessions/" + name + rest, (404,))
        if name != UUID:
            yield Raw("PUT", b"/sessions/" + name, (400, 404))
        yield Raw("POST", b"/sessions/" + name + b"/messages", (404,), b"{}")
        yield Raw("POST", b"/sessions/" + name + b"/cancel", (404,))
    for body in NO_JSON:
        yield Raw("POST", here + b"/messages", (400,), body)
        yield Raw("POST", here + b"/resume", (400,), body)
        # Without a body, a new session is what is asked for.
        yield Raw("POST", b"/sessions", (400,) if body else (201,), body)
    for body in NO_MESSAGE:
        yield Raw("POST", here + b"/messages", (422,), body)
    for body in NO_NEW_SESSION:
        yield Raw("POST", b"/sessions", (422,), body)
    for body in NO_RESUME:
        yield Raw("POST", here + b"/resume", (422,), body)
    for value in (b"null", b"[]", b'"x"', b"1e308", b'{"a": [1]}', b"[" * 63 + b"]" * 63):
        body = b'{"interrupt_id": "x", "value": ' + value + b"}"
        yield Raw("POST", here + b"/resume", (409,), body)
    for query in QUERIES:
        yield Raw("GET", here + b"?" + query, (422,))
    for query in HARMLESS_QUERIES:
        yield Raw("GET", here + b"?" + query, (200,))
    for kind in CONTENT_TYPES:
        for path in (b"/sessions", here + b"/messages", here + b"/resume"):
            yield Raw("POST", path, (415,), b"{}", kind)
    for path in (b"/sessions", here + b"/messages", here + b"/resume"):
        yield Raw("POST", path, (415,), b"{}", None)
    for path in (b"/health", b"/sessions", here, here + b"/messages", here + b"/cancel", b"/docs"):
        for method in METHODS:
            yield Raw(method, path, (405,))
        yield Raw("OPTIONS", path, (200,))
        yield Raw("HEAD", path, (200, 405))
    for path in PATHS:
        yield Raw("GET", path, (404,))
        yield Raw("POST", path, (404,), b"{}")
    # What looks odd and is well.
    for body in (b"{}", b" {} ", b'{"state": null}', b"null", b'{"state": []}', b'{"x": [[[]]]}'):
        yield Raw("POST", b"/sessions", (201,), body)
    yield Raw("POST", b"/sessions", (201,), b"{}", "application/json; charset=utf-8")
    yield Raw("POST", b"/sessions", (201,), b"{}", "APPLICATION/JSON")
    yield Raw("POST", b"/sessions", (201,), b"{}", "application/vnd.api+json")
    yield Raw("GET", b"/sessions", (200,), b"{}")
    yield Raw("GET", b"//sessions", (200,))


async def ask(api: Api, raw: Raw) -> tuple[int, httpx.Headers, bytes]:
    """The answer, read as a strict client reads it."""
    url = api.http.base_url
    async with await trio.open_tcp_stream(url.host, url.port or 0) as stream:
        await stream.send_all(raw.encoded())
        client = h11.Connection(h11.CLIENT)
        method = raw.method if raw.method == "HEAD" else "GET"
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        response: h11.Response | None = None
        body = b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert response is not None
        return response.status_code, httpx.Headers(list(response.headers)), body


async def test_no_request_of_the_corpus_is_answered_with_a_5xx() -> None:
    count = 0
    async with served(agents.echo, allow_custom_ids=True) as api:
        session = await api.create()
        for raw in corpus(session):
            with trio.fail_after(20):
                status, headers, body = await ask(api, raw)
            what = f"{raw.method} {raw.target[:80]!r} {raw.body!r:.80} -> {status} {body[:200]!r}"
            assert status in raw.statuses, what
            if status >= 400 and raw.method != "HEAD":
                assert set(json.loads(body)) == {"detail"}, what
                assert headers["content-type"] == "application/json", what
            if status == 405 and raw.method != "TRACE":
                assert headers["allow"], what
            target, _, _ = raw.target.partition(b"?")
            if b"%2f" not in target:
                check(raw.method, target.decode("latin-1"), status, headers, body)
            count += 1
        # Nothing of all that has touched the session, or the server.
        assert await api.messages(session) == []
        assert (await api.turn(session, "hello"))["response"]["content"] == "hello"
    assert count >= 500
