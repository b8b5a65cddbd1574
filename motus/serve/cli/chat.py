"""`motus serve chat`: a conversation with an agent, on a terminal or through pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import chain

import click

from motus.serve.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    client_command,
    connect,
    message_text,
    param_option,
    translated_errors,
    user_params,
)
from motus.serve.cli.conversation import Conversation, Outcome
from motus.serve.cli.ctrl_c import CtrlC
from motus.serve.cli.terminal import Terminal
from motus.serve.client import ConnectionLostError, ServerRefusedError

__all__ = ["chat"]


@client_command()
@click.argument("url")
@click.argument("message", required=False)
@click.option("--session", "session_id", metavar="ID", help="Go on with this session.")
@param_option
@click.option("--rm", "remove", is_flag=True, help="Delete the session at the end.")
@click.option(
    "--reconnect",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long to wait for a server that goes away during a turn.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each turn's end as a line of JSON.")
@click.option("--fail", is_flag=True, help=f"Exit with {EXIT_FAILED} if a turn ended in an error.")
@click.pass_context
def chat(
    context: click.Context,
    url: str,
    message: str | None,
    session_id: str | None,
    params: tuple[str, ...],
    remove: bool,
    reconnect: float,
    as_json: bool,
    fail: bool,
) -> None:
    """Talk to an agent: one MESSAGE, or a conversation.

    Without a MESSAGE each line of the input is one; "-" stands for the whole input. When the agent
    asks something, the next line is the answer. Answers of the agent go to stdout, everything else
    to stderr. Ctrl+C cancels a turn; at the prompt it leaves.

    Exits with 0 when all turns are over, 4 when one waits for an answer that nobody gave, 130 when
    one was cancelled.
    """
    lost = "Leave --session out to begin a new one." if session_id is not None else ""
    with (
        CtrlC() as ctrl_c,
        translated_errors(if_not_found=lost),
        connect(url, ctrl_c.waiting) as client,
    ):
        extra = user_params(params)
        conversation = Conversation(
            client,
            Terminal(ctrl_c),
            session_id or "",
            extra,
            reconnect=reconnect,
            as_json=as_json,
            kept=not remove,
        )
        busy = False
        if session_id is None:
            conversation.begin()
        else:
            busy = client.get(session_id)["status"] in ("running", "interrupted")
        conversation.introduce()
        with _removing(conversation) if remove else nullcontext():
            if message is not None:
                outcomes = {conversation.turn(message_text(message))}
            else:
                outcomes = _converse(conversation, busy=busy)
        context.exit(_exit_code(outcomes, fail=fail))


def _converse(conversation: Conversation, *, busy: bool) -> set[Outcome]:
    """Talk until the input ends. Returns the ways in which turns ended."""
    terminal = conversation.terminal
    terminal.note("Chat session started (Ctrl+C to quit)")
    under_way: list[Callable[[], Outcome]] = [conversation.catch_up] if busy else []
    turns: Iterator[Callable[[], Outcome]] = (
        partial(conversation.turn, line) for line in terminal.messages()
    )
    outcomes: set[Outcome] = set()
    for turn in chain(under_way, turns):
        try:
            outcome = turn()
        except (ConnectionLostError, ServerRefusedError, ValueError) as error:
            # A person may try again; the messages of a script build on each other.
            if not terminal.interactive:
                raise
            _explain(error, conversation)
            continue
        if outcome is Outcome.CANCELLED and terminal.interactive:
            continue
        outcomes.add(outcome)
        if outcome in (Outcome.WAITING, Outcome.CANCELLED):
            break
    terminal.note("Bye!")
    return outcomes


def _explain(error: Exception, conversation: Conversation) -> None:
    conversation.terminal.note(f"Error: {error}", "red")
    if isinstance(error, ServerRefusedError) and error.status == 404:
        with suppress(ConnectionLostError, ServerRefusedError):
            conversation.begin()
            conversation.terminal.note(
                "The server has forgotten the session. Here is a new one, without its history:"
            )
            conversation.introduce()


@contextmanager
def _removing(conversation: Conversation) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(ConnectionLostError, ServerRefusedError):
            conversation.remove()
        raise
    conversation.remove()


def _exit_code(outcomes: set[Outcome], *, fail: bool) -> int:
    if Outcome.CANCELLED in outcomes:
        return EXIT_STOPPED
    if Outcome.WAITING in outcomes:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if fail and Outcome.FAILED in outcomes else 0
