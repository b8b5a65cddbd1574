"""What the commands share: the server they talk to, their options, errors and exit codes."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import click

from motus.serve.agents import AgentLoadError
from motus.serve.cli.text import json_text, visible, without_nulls
from motus.serve.client import Client, ConnectionLostError, ServerRefusedError

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_RUNNING",
    "EXIT_STOPPED",
    "TOKEN_VARIABLE",
    "accept_any_text",
    "client_command",
    "connect",
    "exit_code",
    "fail_option",
    "message_body",
    "message_text",
    "param_option",
    "session_argument",
    "show",
    "timeout_option",
    "translated_errors",
    "user_params",
]

F = TypeVar("F", bound=Callable[..., Any])

TOKEN_VARIABLE = "MOTUS_AUTH_TOKEN"  # noqa: S105  # its name, not its value

# 0 is success, 1 an error of the command, 2 a command that makes no sense (click's choice).
EXIT_FAILED = 3
EXIT_INTERRUPTED = 4
EXIT_RUNNING = 5
EXIT_STOPPED = 130

_EXIT_CODES = {"error": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED, "running": EXIT_RUNNING}


@contextmanager
def translated_errors(*, if_not_found: str = "") -> Iterator[None]:
    """Turn what a user can cause into `Error: ...` and exit code 1, and Ctrl+C into its code.

    A second line says what to do, where that is known; `if_not_found` is the one for a 404.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_STOPPED)
    except (AgentLoadError, ConnectionLostError, ServerRefusedError, ValueError) as error:
        lines = filter(None, (str(error), _advice(error, if_not_found)))
        raise click.ClickException(visible("\n".join(lines))) from error
    except BrokenPipeError:
        raise  # nobody reads the answer: click ends without a word
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


def _advice(error: Exception, if_not_found: str) -> str:
    match error:
        case ServerRefusedError(status=401):
            return f"Set {TOKEN_VARIABLE} to the token of the server."
        case ServerRefusedError(status=404):
            return if_not_found
        case ConnectionLostError(delivered=False, reason=""):
            return "Is a server running there?"
    return ""


def client_command(name: str | None = None) -> Callable[[F], click.Command]:
    """A command that talks to a server."""
    return click.command(
        name, epilog=f"If the server wants a token, put it into {TOKEN_VARIABLE}: not into the URL."
    )


def connect(url: str, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> Client:
    """A client that shows the token of the environment, if there is one, to this server."""
    return Client(url, os.environ.get(TOKEN_VARIABLE) or None, around)


def session_argument(function: F) -> F:
    return click.argument("session_id")(function)


def param_option(function: F) -> F:
    return click.option(
        "--param",
        "params",
        multiple=True,
        metavar="KEY=VALUE",
        help="Parameter for the agent, in the message's user_params (repeatable).",
    )(function)


def timeout_option(function: F) -> F:
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0),
        callback=_finite,
        help="Seconds to wait at most, with --wait.",
    )(function)


def fail_option(function: F) -> F:
    return click.option(
        "--fail",
        is_flag=True,
        help=f"Exit with {EXIT_FAILED} if the turn ended in an error, with {EXIT_INTERRUPTED} if it"
        f" waits for answers, with {EXIT_RUNNING} if it is not over.",
    )(function)


def exit_code(status: str, *, fail: bool) -> int:
    """How a command ends that has shown a session with this status."""
    return _EXIT_CODES.get(status, 0) if fail else 0


def message_text(argument: str) -> str:
    """What a MESSAGE argument stands for: "-" is all that comes from stdin."""
    if argument != "-":
        return argument
    # There is none if whoever started this process has closed it.
    return "" if sys.stdin is None else sys.stdin.read()


def message_body(
    content: str, extra: dict[str, Any] | None, role: str | None = None
) -> dict[str, Any]:
    """The body of a request that sends a message. Raises `ValueError` for what is not text."""
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the message is not UTF-8") from error
    body: dict[str, Any] = {"content": content}
    if role is not None:
        body["role"] = role
    if extra is not None:
        body["user_params"] = extra
    return body


def user_params(params: tuple[str, ...]) -> dict[str, Any] | None:
    """The values of `--param`, numbers where they look like numbers. Raises `ValueError`."""
    found: dict[str, Any] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not key or not equals:
            raise ValueError(f"Invalid --param format '{param}'. Expected KEY=VALUE.")
        found[key] = _number(value)
    return found or None


def accept_any_text() -> None:
    """Write what the encoding of stdout or stderr lacks as escapes, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(value: Any) -> None:
    """Print JSON for people: indented, without nulls."""
    click.echo(json_text(without_nulls(value), indent=2))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        # "nan" and "inf" are words here: JSON has no such numbers.
        if math.isfinite(value):
            return value
    return text


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("must be a finite number of seconds", context, option)
    return value
