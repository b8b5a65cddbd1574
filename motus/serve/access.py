"""Who may ask what: from a request's head and the settings to a refusal, or none.

Pure. The order of the rules is the order in which they are asked:

1. A head that is too large, or that two parsers could read differently, is refused first: nothing
   else that it says can be relied on.
2. `/health` is for everybody.
3. A valid bearer token opens everything, under whatever name the server was reached.
4. Without one, the client must be on this machine (and no proxy for others), unless the server was
   opened on purpose.
5. What remains could be a browser on this machine that a foreign page makes ask. So the name by
   which the server was reached, and the page that asks, must be known ones.
6. A body must say that it is JSON: no page can make a browser say so without asking first.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

if TYPE_CHECKING:
    from motus.serve.config import ServerConfig

__all__ = ["HEALTH_PATH", "IN_PROCESS", "Access", "Refusal", "RequestHead", "security_headers"]

HEALTH_PATH = "/health"
# The peer of a request that came over no connection: a test client's.
IN_PROCESS = "in process"

ONLY_LOCAL = (
    "This server has no auth token, so it serves only clients on its own machine. Set "
    "MOTUS_AUTH_TOKEN for it and send the token as 'Authorization: Bearer TOKEN', or start it with "
    "--auth none to serve everybody."
)
NOT_FOR_PROXIES = (
    "This server has no auth token, so it serves only clients on its own machine, and this request "
    "came through a proxy. Set MOTUS_AUTH_TOKEN for it and send the token as 'Authorization: "
    "Bearer TOKEN', or start it with --auth none to serve everybody."
)
UNAUTHORIZED = "The auth token is missing or wrong: send it as 'Authorization: Bearer TOKEN'."

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{0,5})?")
# And whatever else begins with X-Forwarded-; each proxy adds some of them, or none.
_FORWARDED = (b"forwarded", b"x-real-ip", b"via", b"cf-connecting-ip", b"true-client-ip")
# What a path may be asked; which of them, its own answer says.
METHODS = b"GET, HEAD, OPTIONS, POST, PUT, DELETE"
# "GET", "HTTP/1.1", two spaces and the ends of two lines, beside what is counted.
_LINE_OVERHEAD = 14
_FIELD_OVERHEAD = 4

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@attrs.frozen
class RequestHead:
    """What is known of a request before its body; `peer` is the address of who sent it."""

    method: str
    path: str
    target: bytes
    http_version: str
    headers: Sequence[tuple[bytes, bytes]]
    peer: str | None


@attrs.frozen
class Refusal:
    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def security_headers(present: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What every answer says to browsers, without what this one says already."""
    names = {name.lower() for name, _ in present}
    return [(name, value) for name, value in _HEADERS if name not in names]


class Access:
    """The rules above for one server."""

    def __init__(self, config: ServerConfig) -> None:
        self._token = None if config.auth_token is None else config.auth_token.encode()
        self._open = config.auth == "none"
        self._hosts = frozenset(config.allowed_hosts)
        self._max_size = config.max_header_size
        self._max_fields = config.max_header_fields

    def judge(self, head: RequestHead) -> Refusal | None:
        """Why the request is refused, or None."""
        fields: dict[bytes, list[bytes]] = {}
        for name, value in head.headers:
            fields.setdefault(name.lower(), []).append(value)
        return (
            self._judge_size(head)
            or _judge_form(head, fields)
            or self._judge_asker(head, fields)
            or _judge_body(fields)
        )

    def _judge_size(self, head: RequestHead) -> Refusal | None:
        if len(head.headers) > self._max_fields:
            return Refusal(431, f"Too many header fields (at most {self._max_fields})")
        size = len(head.method) + len(head.target) + _LINE_OVERHEAD
        size += sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in head.headers)
        if size > self._max_size:
            return Refusal(431, f"Request headers are too large (at most {self._max_size} bytes)")
        return None

    def _judge_asker(
        self, head: RequestHead, fields: Mapping[bytes, list[bytes]]
    ) -> Refusal | None:
        if head.path == HEALTH_PATH:
            return None
        if self._token is not None:
            return None if self._has_token(fields) else _unauthorized(UNAUTHORIZED)
        if not self._open:
            if not _is_loopback(head.peer):
                return _unauthorized(ONLY_LOCAL)
            if any(name in _FORWARDED or name.startswith(b"x-forwarded-") for name in fields):
                return _unauthorized(NOT_FOR_PROXIES)
        return self._judge_browser(fields)

    def _has_token(self, fields: Mapping[bytes, list[bytes]]) -> bool:
        assert self._token is not None
        values = fields.get(b"authorization", [])
        scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
        right = hmac.compare_digest(token.strip(), self._token)
        return right and scheme.lower() == b"bearer"

    def _judge_browser(self, fields: Mapping[bytes, list[bytes]]) -> Refusal | None:
        hosts = fields.get(b"host", [])
        host = hosts[0].decode("latin-1").lower() if len(hosts) == 1 else ""
        found = _HOST.fullmatch(host)
        name = found[1].strip("[]").rstrip(".") if found is not None else ""
        if not self._knows(name) and not (self._open and _address(name) is not None):
            return Refusal(
                403,
                "The Host header names no host of this server: use localhost, start it with "
                "--allowed-host NAME, or send an auth token.",
            )
        origins = fields.get(b"origin", [])
        if origins and not (len(origins) == 1 and self._is_own_page(origins[0], host)):
            return Refusal(
                403,
                "The page that asks (Origin) is not of this server: start it with --allowed-host "
                "NAME, or send an auth token.",
            )
        return None

    def _is_own_page(self, origin: bytes, host: str) -> bool:
        try:
            parts = urlsplit(origin.decode("latin-1").lower())
            name = (parts.hostname or "").rstrip(".")
        except ValueError:
            return False
        if parts.scheme not in {"http", "https"} or parts.path or "@" in parts.netloc:
            return False
        return parts.netloc == host or self._knows(name)

    def _knows(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        return _is_loopback(name)


def _judge_form(head: RequestHead, fields: Mapping[bytes, list[bytes]]) -> Refusal | None:
    if head.http_version not in {"1.0", "1.1"}:
        return Refusal(505, "This server speaks HTTP/1.1")
    if not head.target.startswith(b"/"):
        return Refusal(400, "The request target must be a path")
    if head.method == "CONNECT" or head.method == "TRACE":
        return Refusal(405, "Method Not Allowed", ((b"allow", METHODS),))
    encoded = b"transfer-encoding" in fields
    # Either is read by somebody on the way as the end of the body: the rest would be a request.
    if encoded and (b"content-length" in fields or head.http_version == "1.0"):
        return Refusal(400, "Transfer-Encoding excludes Content-Length and HTTP/1.0")
    return None


def _judge_body(fields: Mapping[bytes, list[bytes]]) -> Refusal | None:
    lengths = fields.get(b"content-length", [b"0"])
    if b"transfer-encoding" not in fields and all(not length.strip(b"0") for length in lengths):
        return None
    kinds = fields.get(b"content-type", [])
    kind = kinds[0].partition(b";")[0].strip().lower() if len(kinds) == 1 else b""
    if kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    ):
        return None
    return Refusal(415, "Content-Type must be application/json")


def _unauthorized(detail: str) -> Refusal:
    return Refusal(401, detail, ((b"www-authenticate", b'Bearer realm="motus"'),))


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(peer: str | None) -> bool:
    if peer == IN_PROCESS:
        return True
    address = _address(peer or "")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback
