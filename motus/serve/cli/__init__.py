"""`motus serve ...`: start a server, and talk to one.

What a command is asked for goes to stdout, everything else to stderr, so that scripts can take
the one without the other. A command that fails exits with 1; a turn that ends in an error is an
answer, not a failure of the command, unless `--fail` says so.
"""

from __future__ import annotations

import click

from motus.serve.cli.chat import chat
from motus.serve.cli.commands import (
    cancel,
    create,
    delete,
    get,
    health,
    messages,
    resume,
    send,
    sessions,
)
from motus.serve.cli.common import accept_any_text
from motus.serve.cli.start import start

__all__ = ["HELP", "serve"]


_EPILOG = """
\b
Environment:
  MOTUS_AUTH_TOKEN   the token that a server asks for, and that clients show

\b
Exit codes:
  0  it worked           1  it did not          2  the command makes no sense
  3  the turn failed     4  it waits for answers
  5  it is not over      130  it was cancelled
3 and 5 only with --fail; 4 with --fail, and from chat.
"""


class _Ordered(click.Group):
    """Lists its commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


# Commands have it from their group.
HELP = {"help_option_names": ["--help", "-h"]}


@click.group(cls=_Ordered, invoke_without_command=True, epilog=_EPILOG, context_settings=HELP)
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve agents over HTTP, and talk to servers."""
    accept_any_text()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    start, chat, health, create, sessions, get, delete, messages, send, cancel, resume
):  # fmt: skip
    serve.add_command(_command)
