"""The `motus` command."""

from __future__ import annotations

import sys

import click

from motus._version import __version__
from motus.serve.cli import HELP, serve

__all__ = ["main"]


@click.group(invoke_without_command=True, context_settings=HELP)
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Agents and task graphs on structured concurrency."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(1)


cli.add_command(serve)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(cli(prog_name="motus"))


if __name__ == "__main__":
    main()
