"""`motus serve ...`: start a server, and talk to one.

What a command is asked for goes to stdout, everything else to stderr, so that scripts can take
the one without the other. A command that fails exits with 1; a turn that ends in an error is an
answer, not a failure of the command.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from motus.serve.agents import AgentLoadError, parse_import_path
from motus.serve.client import Client, ConnectionLostError, ServerRefusedError

__all__ = ["serve"]

# How often the time that a turn takes is shown anew on a terminal.
PROGRESS_SECONDS = 1.0


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what a user can cause into `Error: ...` and exit code 1."""
    try:
        yield
    except (AgentLoadError, ConnectionLostError, ServerRefusedError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@click.group(invoke_without_command=True)
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve agents over HTTP, and talk to servers."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@serve.command()
@click.argument("agent")
@click.option("--host", default="0.0.0.0", show_default=True, help="Bind address.")  # noqa: S104  # the documented default
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", type=click.IntRange(1), help="Turns at a time (default: CPU count).")
@click.option("--ttl", default=0.0, help="Seconds until an idle session is forgotten (0: never).")
@click.option("--timeout", default=0.0, help="Seconds for one turn (0: no limit).")
@click.option("--max-sessions", default=0, help="Sessions at a time (0: no limit).")
@click.option(
    "--shutdown-timeout", default=0.0, help="Seconds for running turns at the end (0: no limit)."
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
@click.option("--allow-custom-ids", is_flag=True, help="Enable PUT /sessions/{id}.")
def start(
    agent: str,
    host: str,
    port: int,
    workers: int | None,
    ttl: float,
    timeout: float,
    max_sessions: int,
    shutdown_timeout: float,
    log_level: str,
    allow_custom_ids: bool,
) -> None:
    """Serve AGENT, an import path such as myapp:my_agent.

    Prints "Serving AGENT on URL" once connections are accepted. SIGTERM or Ctrl+C lets running
    turns finish, within --shutdown-timeout; a second one ends them.
    """
    # The web stack: the commands that talk to a server do without it.
    from motus.serve.server import AddressError, AgentServer

    with _errors():
        parse_import_path(agent)
        server = AgentServer(
            agent,
            max_workers=workers,
            ttl=ttl,
            timeout=timeout,
            max_sessions=max_sessions,
            shutdown_timeout=shutdown_timeout,
            allow_custom_ids=allow_custom_ids,
        )
        try:
            server.run(host, port, log_level)
        except AddressError as error:
            raise click.ClickException(str(error)) from error


@serve.command()
@click.argument("url")
def health(url: str) -> None:
    """Show how a server is doing."""
    with _errors(), Client(url) as client:
        found = client.health()
        click.echo(f"Status: {found['status']}")
        click.echo(f"Workers: {found['running_workers']}/{found['max_workers']}")
        click.echo(f"Total sessions: {found['total_sessions']}")


@serve.command()
@click.argument("url")
def create(url: str) -> None:
    """Create a session."""
    with _errors(), Client(url) as client:
        _show(client.create())


@serve.command()
@click.argument("url")
def sessions(url: str) -> None:
    """List the sessions."""
    with _errors(), Client(url) as client:
        _show(client.sessions())


@serve.command()
@click.argument("url")
@click.argument("session_id")
@click.option("--wait", is_flag=True, help="Until it is not running.")
@click.option("--timeout", type=float, help="Seconds to wait at most.")
def get(url: str, session_id: str, wait: bool, timeout: float | None) -> None:
    """Show a session."""
    with _errors(), Client(url) as client:
        _show(client.wait(session_id, timeout=timeout) if wait else client.get(session_id))


@serve.command()
@click.argument("url")
@click.argument("session_id")
def delete(url: str, session_id: str) -> None:
    """Delete a session, and stop what it runs."""
    with _errors(), Client(url) as client:
        client.delete(session_id)
        click.echo(f"Deleted session {session_id}")


@serve.command()
@click.argument("url")
@click.argument("session_id")
def messages(url: str, session_id: str) -> None:
    """Show the conversation of a session."""
    with _errors(), Client(url) as client:
        _show(client.messages(session_id))


@serve.command()
@click.argument("url")
@click.argument("session_id")
@click.argument("message")
@click.option("--role", default="user", show_default=True)
@click.option("--wait", is_flag=True, help="Until the turn is over.")
@click.option("--timeout", type=float, help="Seconds to wait at most.")
@click.option(
    "--param", "params", multiple=True, metavar="KEY=VALUE", help="Per-request parameter."
)
def send(
    url: str,
    session_id: str,
    message: str,
    role: str,
    wait: bool,
    timeout: float | None,
    params: tuple[str, ...],
) -> None:
    """Send a message to a session."""
    with _errors(), Client(url) as client:
        answer = client.send(session_id, _message(message, _user_params(params), role))
        _show(client.wait(session_id, timeout=timeout) if wait else answer)


@serve.command()
@click.argument("url")
@click.argument("message", required=False)
@click.option("--session", "session_id", help="Go on with this session.")
@click.option(
    "--param", "params", multiple=True, metavar="KEY=VALUE", help="Per-request parameter."
)
@click.option("--rm", "remove", is_flag=True, help="Delete the session at the end.")
def chat(
    url: str, message: str | None, session_id: str | None, params: tuple[str, ...], remove: bool
) -> None:
    """Talk to an agent: one MESSAGE, or many from the terminal or a pipe, one on each line.

    The answers go to stdout, everything else to stderr.
    """
    with _errors(), Client(url) as client:
        user_params = _user_params(params)
        if session_id is None:
            session_id = str(client.create()["session_id"])
        else:
            client.get(session_id)
        click.echo(f"Session: {session_id} (use --session to resume)", err=True)
        try:
            if message is not None:
                _turn(client, session_id, _message(message, user_params))
            else:
                _converse(client, session_id, user_params)
        finally:
            if remove:
                client.delete(session_id)


def _converse(client: Client, session_id: str, user_params: dict[str, Any] | None) -> None:
    click.echo("Chat session started (Ctrl+C to quit)", err=True)
    try:
        for line in _lines():
            if line.strip():
                _turn(client, session_id, _message(line, user_params))
    except KeyboardInterrupt:
        click.echo(err=True)
    click.echo("Bye!", err=True)


def _lines() -> Iterator[str]:
    """What the user writes, until the end of the input."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.rstrip("\n")
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            click.echo(err=True)
            return


def _turn(client: Client, session_id: str, message: dict[str, Any]) -> None:
    """Send a message and print the answer, or what went wrong with the turn."""
    client.send(session_id, message)
    if sys.stderr.isatty():
        with _progress() as tick:
            tick()
            outcome = client.wait(session_id, poll_seconds=PROGRESS_SECONDS, on_poll=tick)
    else:
        outcome = client.wait(session_id)
    if outcome["error"] is not None:
        click.echo(f"Error: {outcome['error']}", err=True)
    elif outcome["response"] is not None:
        click.echo(outcome["response"]["content"] or "")
    else:
        click.echo(f"The session is {outcome['status']}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """A line on the terminal that says that the agent works, and is gone at the end."""
    began = time.monotonic()

    def tick() -> None:
        click.echo(f"\r\x1b[Kworking ... {time.monotonic() - began:.0f} s", nl=False, err=True)

    try:
        yield tick
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _message(
    content: str, user_params: dict[str, Any] | None, role: str = "user"
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": content}
    if user_params is not None:
        message["user_params"] = user_params
    return message


def _user_params(params: tuple[str, ...]) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not key or not equals:
            raise ValueError(f"Invalid --param format '{param}'. Expected KEY=VALUE.")
        found[key] = _number(value)
    return found or None


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


def _show(value: Any) -> None:
    click.echo(json.dumps(_without_nulls(value), indent=2, ensure_ascii=False))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
