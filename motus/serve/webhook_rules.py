"""Webhooks, the decisions: which addresses may be called, how a call is signed, when again.

Pure. A call is a POST of JSON with these headers:

- `Motus-Delivery`: the same for every attempt of one call; whoever has seen it ignores the next.
- `Motus-Timestamp`: of this attempt, in seconds since 1970.
- `Motus-Signature`, with a secret: `sha256=` and the hex HMAC-SHA256 of timestamp, ".", and body.
- `Authorization: Bearer ...`, with a token.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

import attrs

from motus.errors import MotusError

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_WEBHOOK_LENGTH",
    "WEBHOOK_TOKEN",
    "WEBHOOK_URL",
    "AddressPolicy",
    "AddressRefusedError",
    "Verdict",
    "call_headers",
    "pause_after",
    "shown",
    "verdict_of",
]


def _webhook_url() -> str:
    """What an http URL looks like that can be called: its host has an address, or may have one."""
    label = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    # No name ends in a number: that would be an address, and resolvers differ about which.
    last = "([0-9][0-9-]{0,20}[A-Za-z_]([A-Za-z0-9_-]{0,39}[A-Za-z0-9_])?"
    last += "|[A-Za-z_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)"
    name = rf"({label}\.)*{last}\.?"
    byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    four = rf"{byte}(\.{byte}){{3}}"
    group = "[0-9A-Fa-f]{1,4}"
    shortened = [f"({group}:){{{n}}}(:{group}){{1,{7 - n}}}" for n in range(1, 7)]
    six = "|".join(
        [f"({group}:){{7}}{group}", *shortened, f"({group}:){{1,7}}:", f":((:{group}){{1,7}}|:)"]
    )
    port = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))"
    return rf"https?://({name}|{four}|\[({six})\])(:{port})?([/?#][!-~]*)?"


MAX_ATTEMPTS = 10
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
# A receiver may ask for more than our own pauses, within reason.
MAX_ASKED_SECONDS = 300.0

# Both end up in another server's request. They are regular expressions to JSON Schema as well, so
# that the description of the API says all that there is to know.
WEBHOOK_URL = _webhook_url()
WEBHOOK_TOKEN = r"[!-~]{1,4096}"  # noqa: S105  # what one may look like
MAX_WEBHOOK_LENGTH = 2048

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All public addresses of IPv6. Of the others Python calls some global, each version other ones.
_UNICAST = ipaddress.IPv6Network("2000::/3")


class AddressRefusedError(MotusError):
    """The webhook leads to where this server does not call: see `--webhook-allow`."""


class Verdict(enum.Enum):
    """What an answer means for a delivery."""

    DELIVERED = enum.auto()
    AGAIN = enum.auto()
    REFUSED = enum.auto()


@attrs.frozen
class AddressPolicy:
    """Which hosts may be called: with none allowed by name or network, every public address.

    A host that is allowed by its name may have any address; with a network, all addresses of the
    host must be in one that is allowed.
    """

    names: frozenset[str]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def of(cls, allowed: Iterable[str]) -> AddressPolicy:
        """From what `--webhook-allow` takes."""
        names, networks = set(), []
        for entry in allowed:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                names.add(entry)
        return cls(frozenset(names), tuple(networks))

    def check(self, host: str, addresses: Sequence[str]) -> None:
        """Raises `AddressRefusedError` unless a call to these addresses of the host is allowed."""
        if host.lower().rstrip(".") in self.names:
            return
        if not addresses:
            raise AddressRefusedError("it has no address")
        for text in addresses:
            # Without the interface that an address of a link may be followed by.
            address = _plain(ipaddress.ip_address(text.partition("%")[0]))
            if self.names or self.networks:
                if not any(address in network for network in self.networks):
                    raise AddressRefusedError("it is not among those of --webhook-allow")
            elif not _is_public(address):
                raise AddressRefusedError("its address is not public (see --webhook-allow)")


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _plain(address: Address) -> Address:
    """The address to which a packet would go in the end."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def call_headers(
    body: bytes, *, delivery: str, timestamp: int, token: str | None, secret: str | None
) -> list[tuple[str, str]]:
    """The headers of one attempt, as the top of this module says."""
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("User-Agent", "motus-webhook"),
        ("Motus-Delivery", delivery),
        ("Motus-Timestamp", str(timestamp)),
    ]
    if secret is not None:
        code = hmac.new(secret.encode(), f"{timestamp}.".encode(), hashlib.sha256)
        code.update(body)
        headers.append(("Motus-Signature", f"sha256={code.hexdigest()}"))
    if token is not None:
        headers.append(("Authorization", f"Bearer {token}"))
    return headers


def verdict_of(status: int) -> Verdict:
    """Of an answer with that status. A redirection is a refusal: it is not followed."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    return Verdict.AGAIN if status == 429 or status >= 500 else Verdict.REFUSED


def pause_after(attempt: int, chance: float, asked: str | None = None) -> float:
    """Seconds until the next attempt; `attempt` counts from 1, `chance` is from 0 to 1.

    It doubles from one to the next, and is up to half of that shorter by chance, so that many
    calls that failed together do not come back together. `asked` is the receiver's Retry-After;
    a date in it is ignored.
    """
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1), MAX_PAUSE_SECONDS) * (1 - chance / 2)
    if asked is not None and asked.strip().isdecimal():
        pause = max(pause, min(float(asked), MAX_ASKED_SECONDS))
    return pause


def shown(url: str) -> str:
    """As much of a URL as may be logged: the rest of it can be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is not a URL"
    return f"{parts.scheme}://{parts.hostname}"
