"""The commands that ask a server one thing and print its answer."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from motus.serve.cli.common import (
    client_command,
    connect,
    exit_code,
    fail_option,
    message_body,
    message_text,
    param_option,
    session_argument,
    show,
    timeout_option,
    translated_errors,
    user_params,
)
from motus.serve.cli.prompts import APPROVAL_TYPE, parse_json
from motus.serve.cli.text import json_text, visible
from motus.serve.client import Client

__all__ = [
    "cancel",
    "create",
    "delete",
    "get",
    "health",
    "messages",
    "resume",
    "send",
    "sessions",
]

_WHAT_ANSWERS = "give either a VALUE in JSON or one of --approve and --reject"


@client_command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Everything the server says, as JSON.")
def health(url: str, as_json: bool) -> None:
    """Show how a server is doing."""
    with translated_errors(), connect(url) as client:
        found = client.health()
        if as_json:
            show(found)
            return
        running, most = found.get("running_workers"), found.get("max_workers")
        click.echo(visible(f"Status: {found['status']}"))
        click.echo(visible(f"Workers: {running}/{most}"))
        click.echo(visible(f"Total sessions: {found.get('total_sessions')}"))


@client_command()
@click.argument("url")
def create(url: str) -> None:
    """Create a session."""
    with translated_errors(), connect(url) as client:
        show(client.create())


@client_command()
@click.argument("url")
def sessions(url: str) -> None:
    """List the sessions."""
    with translated_errors(), connect(url) as client:
        show(client.sessions())


@client_command()
@click.argument("url")
@session_argument
@click.option("--wait", is_flag=True, help="Wait until no turn is running.")
@timeout_option
@fail_option
@click.pass_context
def get(
    context: click.Context,
    url: str,
    session_id: str,
    wait: bool,
    timeout: float | None,
    fail: bool,
) -> None:
    """Show a session."""
    with translated_errors(), connect(url) as client:
        found = client.wait(session_id, timeout=timeout) if wait else client.get(session_id)
        show(found)
        context.exit(exit_code(found["status"], fail=fail))


@client_command()
@click.argument("url")
@session_argument
def delete(url: str, session_id: str) -> None:
    """Delete a session, and stop what it runs."""
    with translated_errors(), connect(url) as client:
        client.delete(session_id)
        click.echo(visible(f"Deleted session {session_id}"))


@client_command()
@click.argument("url")
@session_argument
def messages(url: str, session_id: str) -> None:
    """Show the conversation of a session."""
    with translated_errors(), connect(url) as client:
        show(client.messages(session_id))


@client_command()
@click.argument("url")
@session_argument
@click.argument("message")
@click.option("--role", default="user", show_default=True, help="Who says it.")
@click.option("--wait", is_flag=True, help="Wait until the turn is over.")
@timeout_option
@click.option("--webhook-url", metavar="URL", help="Called when the turn is over.")
@click.option(
    "--webhook-token",
    metavar="TOKEN",
    envvar="MOTUS_WEBHOOK_TOKEN",
    show_envvar=True,
    help="Bearer token for the webhook; others can read it on the command line.",
)
@click.option(
    "--webhook-include-messages", is_flag=True, help="Send the conversation to the webhook too."
)
@param_option
@fail_option
@click.pass_context
def send(
    context: click.Context,
    url: str,
    session_id: str,
    message: str,
    role: str,
    wait: bool,
    timeout: float | None,
    webhook_url: str | None,
    webhook_token: str | None,
    webhook_include_messages: bool,
    params: tuple[str, ...],
    fail: bool,
) -> None:
    """Send a MESSAGE to a session; "-" reads it from stdin."""
    body = {}
    if webhook_url is not None:
        body["webhook"] = {"url": webhook_url, "include_messages": webhook_include_messages}
        if webhook_token:
            body["webhook"]["token"] = webhook_token
    else:
        for option in ("webhook_token", "webhook_include_messages"):
            if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{option.replace('_', '-')} needs --webhook-url")
    with translated_errors(), connect(url) as client:
        body |= message_body(message_text(message), user_params(params), role)
        answer = client.send(session_id, body)
        if wait:
            answer = client.wait(session_id, timeout=timeout)
        show(answer)
        context.exit(exit_code(answer["status"], fail=fail and wait))


@client_command()
@click.argument("url")
@session_argument
@click.argument("interrupt_id", required=False)
@click.argument("value", required=False)
@click.option("--approve/--reject", default=None, help="Answer an approval, in place of a VALUE.")
@click.option("--wait", is_flag=True, help="Wait until the turn goes no further.")
@timeout_option
@fail_option
@click.pass_context
def resume(
    context: click.Context,
    url: str,
    session_id: str,
    interrupt_id: str | None,
    value: str | None,
    approve: bool | None,
    wait: bool,
    timeout: float | None,
    fail: bool,
) -> None:
    """Answer what a turn asks with a VALUE in JSON.

    "-" reads it from stdin. INTERRUPT_ID can be left out when only one thing is asked; `get` shows
    the interrupts of a session with their ids.
    """
    if value is None and approve is None:
        interrupt_id, value = None, interrupt_id
    if (value is None) == (approve is None):
        raise click.UsageError(_WHAT_ANSWERS)
    with translated_errors(), connect(url) as client:
        asked = _open_interrupts(client, session_id)
        if interrupt_id is None and value in asked:
            raise click.UsageError(_WHAT_ANSWERS)
        answer = {"approved": approve} if value is None else parse_json(message_text(value))
        if interrupt_id is None:
            interrupt_id = _only(asked)
        # To the agent everything else would be a no.
        if asked.get(interrupt_id) == APPROVAL_TYPE and not _is_verdict(answer):
            raise ValueError("This is an approval: answer it with --approve or --reject")
        found = client.resume(session_id, interrupt_id, answer)
        if wait:
            found = client.wait(session_id, timeout=timeout)
        show(found)
        context.exit(exit_code(found["status"], fail=fail and wait))


def _open_interrupts(client: Client, session_id: str) -> dict[str, str]:
    """What the session asks: the type of each interrupt, by id."""
    entries = client.get(session_id).get("interrupts") or ()
    return {str(entry.get("interrupt_id")): str(entry.get("type")) for entry in entries}


def _only(asked: dict[str, str]) -> str:
    """The id of the only interrupt. Raises `ValueError`, which lists them, if there are others."""
    if not asked:
        raise ValueError("Nothing is asked in this session")
    if len(asked) > 1:
        listed = "".join(f"\n  {one}  {json_text(kind)}" for one, kind in asked.items())
        raise ValueError(f"Several things are asked: name the interrupt{listed}")
    return next(iter(asked))


def _is_verdict(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("approved"), bool)


@client_command()
@click.argument("url")
@session_argument
def cancel(url: str, session_id: str) -> None:
    """Stop the turn of a session.

    The conversation is as it was before the turn.
    """
    with translated_errors(), connect(url) as client:
        show(client.cancel(session_id))
