"""Every setting of a server: its default, what is allowed, and the flag of `serve start`.

One field is one setting. Its metadata is the only place where its flag and its explanation are
written: the command line and the table in docs/serving.md come from here.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypedDict

import attrs

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "MoreSettings", "ServerConfig", "Setting", "settings"]

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

FALLBACK_WORKERS = 4
MIB = 1 << 20

Kind: TypeAlias = Literal["count", "seconds", "bytes", "switch", "choice", "names", "secret"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@attrs.frozen
class Setting:
    """What the command line and the documents need to know of one field of `ServerConfig`."""

    name: str
    kind: Kind
    help: str
    group: str
    default: Any
    flag: str | None = None
    variable: str | None = None
    choices: tuple[str, ...] = ()
    lowest: float | None = None


class MoreSettings(TypedDict, total=False):
    """The keywords of `AgentServer` beyond the six that its signature spells out."""

    workers_mode: Literal["auto", "fork", "exec"]
    backend: Literal["trio", "asyncio"] | None
    reload: bool
    env: Iterable[str]
    worker_memory: int
    worker_cpu: int
    worker_files: int
    max_interrupted: int
    interrupt_ttl: float
    max_queued: int
    max_pollers: int
    max_body_size: int
    max_body_total: int
    max_state_size: int
    max_header_size: int
    max_header_fields: int
    max_connections: int
    header_timeout: float
    body_timeout: float
    idle_timeout: float
    auth: Literal["token", "none"]
    auth_token: str | None
    allowed_hosts: Iterable[str]
    webhook_allow: Iterable[str]
    webhook_secret: str | None


_Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _at_least(lowest: int) -> _Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        # `True` is an int, and never what was meant.
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ValueError(f"{field.name} must be an integer of at least {lowest}, got {value!r}")

    return check


def _is_seconds(lowest: float) -> _Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and lowest <= value < math.inf):  # type: ignore[operator]  # a number
            least = (
                "must not be negative or infinite" if lowest == 0 else f"must be at least {lowest}"
            )
            raise ValueError(f"{field.name} {least}, in seconds, got {value!r}")

    return check


def _is_switch(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not True and value is not False:
        raise ValueError(f"{field.name} must be True or False, got {value!r}")


def _is_one_of(choices: tuple[str, ...], optional: bool) -> _Validator:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not (value in choices or (optional and value is None)):
            raise ValueError(f"{field.name} must be one of {', '.join(choices)}, got {value!r}")

    return check


def _is_secret(_: object, field: attrs.Attribute[Any], value: object) -> None:
    # Never shown, not even when it is wrong.
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[!-~]+", value)):
        raise ValueError(
            f"{field.name} must be a text of visible ASCII characters, without spaces, that is not "
            "empty"
        )


def _as_names(value: Any) -> tuple[Any, ...]:
    # One text is a sequence of its letters, and never what was meant.
    if isinstance(value, str):
        return (value,)
    # Whether they are names, and of what, the validators say.
    return tuple(value) if isinstance(value, Iterable) else (value,)


def _as_hosts(value: Any) -> tuple[Any, ...]:
    return tuple(
        name.strip().lower().rstrip(".").strip("[]") if isinstance(name, str) else name
        for name in _as_names(value)
    )


def _matches(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def _are_variables(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for name in value:
        if not _matches(_VARIABLE, name):
            raise ValueError(f"{field.name} takes names of environment variables, got {name!r}")


def _are_hosts(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for name in value:
        if not (_matches(_HOST_NAME, name) or _is_network(name, single=True)):
            raise ValueError(
                f"{field.name} takes host names or addresses, without scheme and port, got {name!r}"
            )


def _are_hosts_or_networks(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for name in value:
        if not (_matches(_HOST_NAME, name) or _is_network(name)):
            raise ValueError(
                f"{field.name} takes host names, addresses or networks such as 10.0.0.0/8, without "
                f"scheme and port, got {name!r}"
            )


def _is_network(text: object, *, single: bool = False) -> bool:
    try:
        # As text, since a number is an address to it.
        network = ipaddress.ip_network(str(text))
    except ValueError:
        return False
    return not single or network.num_addresses == 1


def _cpu_count(given: int | None = None) -> int:
    return (os.cpu_count() or FALLBACK_WORKERS) if given is None else given


def _meta(kind: Kind, group: str, text: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "group": group, "help": text, **more}


def _count(group: str, text: str, default: int, *, lowest: int = 0, kind: Kind = "count") -> Any:
    return attrs.field(
        default=default,
        validator=_at_least(lowest),
        metadata=_meta(kind, group, text, lowest=lowest),
    )


def _seconds(group: str, text: str, default: float, *, lowest: float = 0) -> Any:
    return attrs.field(
        default=default,
        validator=_is_seconds(lowest),
        metadata=_meta("seconds", group, text, lowest=lowest),
    )


def _switch(group: str, text: str) -> Any:
    return attrs.field(default=False, validator=_is_switch, metadata=_meta("switch", group, text))


def _choice(group: str, text: str, choices: tuple[str, ...], default: str | None) -> Any:
    return attrs.field(
        default=default,
        validator=_is_one_of(choices, optional=default is None),
        metadata=_meta("choice", group, text, choices=choices),
    )


def _secret(group: str, text: str, variable: str, *, in_argv: bool) -> Any:
    return attrs.field(
        default=None,
        validator=_is_secret,
        repr=False,
        metadata=_meta("secret", group, text, variable=variable, hidden=not in_argv),
    )


@attrs.frozen(kw_only=True)
class ServerConfig:
    """The settings of one server. Raises `ValueError` that names the keyword which is wrong."""

    max_workers: int = attrs.field(
        factory=_cpu_count,
        converter=_cpu_count,
        validator=_at_least(1),
        metadata=_meta(
            "count",
            "turns",
            "Maximum number of turns that run at once.",
            flag="--workers",
            lowest=1,
        ),
    )
    timeout: float = _seconds("turns", "Time limit for one turn (0: no limit).", 0.0)
    ttl: float = _seconds("turns", "Time after which an unused session is deleted (0: never).", 0.0)
    interrupt_ttl: float = _seconds(
        "turns", "Time after which a turn waiting for a human is ended (0: never).", 0.0
    )
    shutdown_timeout: float = _seconds(
        "turns", "Time for running turns to finish when the server stops (0: no limit).", 0.0
    )
    max_sessions: int = _count("turns", "Maximum number of sessions (0: no limit).", 0)
    max_interrupted: int = _count(
        "turns", "Maximum number of turns waiting for a human (0: no limit).", 0
    )
    max_queued: int = _count(
        "turns", "Maximum number of turns waiting for a worker.", 1000, lowest=1
    )
    max_pollers: int = _count(
        "turns", "Maximum number of requests waiting for a turn.", 1000, lowest=1
    )
    allow_custom_ids: bool = _switch("turns", "Enable PUT /sessions/{id}.")

    workers_mode: Literal["auto", "fork", "exec"] = _choice(
        "workers", "How workers are started.", ("auto", "fork", "exec"), "auto"
    )
    backend: Literal["trio", "asyncio"] | None = _choice(
        "workers", "Event loop for agents (default: the agent's own choice).",
        ("trio", "asyncio"), None,
    )  # fmt: skip
    reload: bool = _switch("workers", "Reload the agent when its files change.")
    env: tuple[str, ...] = attrs.field(
        default=(), converter=_as_names, validator=_are_variables,
        metadata=_meta("names", "workers", "Pass one more environment variable to workers."),
    )  # fmt: skip
    worker_memory: int = _count("workers", "Address space of each worker, in MiB (0: no limit).", 0)
    worker_cpu: int = _count("workers", "CPU time of each worker, in seconds (0: no limit).", 0)
    worker_files: int = _count("workers", "Open files of each worker (0: no limit).", 0)

    max_body_size: int = _count(
        "limits", "Maximum size of a request body.", 16 * MIB, lowest=1, kind="bytes"
    )
    max_body_total: int = _count(
        "limits",
        "Maximum size of all request bodies in memory together.",
        256 * MIB,
        lowest=1,
        kind="bytes",
    )
    max_state_size: int = _count(
        "limits", "Maximum size of a conversation's state.", 48 * MIB, lowest=1024, kind="bytes"
    )
    max_header_size: int = _count(
        "limits",
        "Maximum size of a request line and its headers.",
        16 * 1024,
        lowest=1024,
        kind="bytes",
    )
    max_header_fields: int = _count(
        "limits", "Maximum number of header fields in a request.", 100, lowest=8
    )
    max_connections: int = _count("limits", "Maximum number of open connections.", 4096, lowest=1)
    header_timeout: float = _seconds(
        "limits", "Time to receive a request's headers.", 10.0, lowest=0.01
    )
    body_timeout: float = _seconds("limits", "Time to receive a request's body.", 60.0, lowest=0.01)
    idle_timeout: float = _seconds(
        "limits", "Time a connection may be idle between requests.", 75.0, lowest=0.01
    )

    auth: Literal["token", "none"] = _choice(
        "security", "`none` opens the server to everyone who can reach it.",
        ("token", "none"), "token",
    )  # fmt: skip
    auth_token: str | None = _secret(
        "security", "Bearer token of clients; without one, only this machine is served.",
        "MOTUS_AUTH_TOKEN", in_argv=True,
    )  # fmt: skip
    allowed_hosts: tuple[str, ...] = attrs.field(
        default=(), converter=_as_hosts, validator=_are_hosts,
        metadata=_meta(
            "names", "security",
            "One more host name by which clients without a token may reach the server.",
            flag="--allowed-host",
        ),
    )  # fmt: skip

    webhook_allow: tuple[str, ...] = attrs.field(
        default=(), converter=_as_hosts, validator=_are_hosts_or_networks,
        metadata=_meta(
            "names", "webhooks",
            "A host or network that webhooks may call, even if private; all others are refused.",
        ),
    )  # fmt: skip
    webhook_secret: str | None = _secret(
        "webhooks", "Signs webhooks.", "MOTUS_WEBHOOK_SECRET", in_argv=False
    )

    def __attrs_post_init__(self) -> None:
        if self.auth == "none" and self.auth_token is not None:
            raise ValueError(
                "auth is 'none' and there is an auth_token (perhaps from MOTUS_AUTH_TOKEN): "
                "take one of them away"
            )


def settings() -> list[Setting]:
    """Every setting, in the order of the document."""
    found = []
    for field in attrs.fields(ServerConfig):
        meta = field.metadata
        flag = meta.get("flag") or "--" + field.name.replace("_", "-")
        default = None if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]  # attrs types it as a function
        found.append(
            Setting(
                field.name,
                meta["kind"],
                meta["help"],
                meta["group"],
                default,
                flag=None if meta.get("hidden") else flag,
                variable=meta.get("variable"),
                choices=meta.get("choices", ()),
                lowest=meta.get("lowest"),
            )
        )
    return found
