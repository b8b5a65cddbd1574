"""`motus serve start`: serve an agent. Its flags are the settings of `motus.serve.config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from motus.serve.agents import parse_import_path
from motus.serve.cli.common import translated_errors
from motus.serve.config import LOG_FORMATS, LOG_LEVELS, Setting, settings

__all__ = ["start"]


def _option(setting: Setting) -> click.Option:
    names = [setting.flag or "", setting.name]
    text = setting.help
    match setting.kind:
        case "switch":
            return click.Option(names, is_flag=True, help=text)
        case "choice":
            kind = click.Choice(setting.choices)
            shown = setting.default is not None
            return click.Option(
                names, type=kind, default=setting.default, show_default=shown, help=text
            )
        case "names":
            return click.Option(names, multiple=True, metavar="NAME", help=f"{text} Repeatable.")
        case "secret":
            text = f"{text} Other users of the machine can read it here: prefer {{}}."
            return click.Option(names, metavar="TOKEN", help=text.format(setting.variable))
        case "seconds":
            return click.Option(
                names,
                type=click.FloatRange(setting.lowest),
                default=setting.default,
                metavar="SECONDS",
                show_default=True,
                help=text,
            )
        case "count" | "bytes":
            known = setting.default is not None
            return click.Option(
                names,
                type=click.IntRange(int(setting.lowest or 0)),
                default=setting.default,
                metavar="N" if setting.kind == "count" else "BYTES",
                show_default=known or "CPU count",
                help=text,
            )


def _settings(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each setting that may be seen in the list of processes."""
    # click collects options from the last one up.
    command.__click_params__ = [  # type: ignore[attr-defined]  # click's own place for them
        *getattr(command, "__click_params__", []),
        *reversed([_option(setting) for setting in settings() if setting.flag is not None]),
    ]
    return command


@click.command()
@click.argument("agent")
@click.option("--host", default="0.0.0.0", show_default=True, help="Bind address.")  # noqa: S104  # the documented default
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS))
@click.option("--log-format", default="text", show_default=True, type=click.Choice(LOG_FORMATS))
@_settings
def start(
    agent: str, host: str, port: int, log_level: str, log_format: str, **options: Any
) -> None:
    """Serve AGENT, an import path such as myapp:my_agent.

    Prints "Serving AGENT on URL" once connections are accepted. SIGTERM or Ctrl+C lets running
    turns finish, within --shutdown-timeout; a second one ends them.

    Without a token (MOTUS_AUTH_TOKEN) only clients on this machine are served.
    """
    # The web stack: the commands that talk to a server do without it.
    from motus.serve.server import AddressError, AgentServer, UnsupportedSystemError

    with translated_errors():
        parse_import_path(agent)
        try:
            server = AgentServer(agent, **options)
            server.run(host, port, log_level, log_format)
        except UnsupportedSystemError as error:
            raise click.ClickException(str(error)) from error
        except AddressError as error:
            advice = "Choose another one with --host and --port."
            raise click.ClickException(f"{error}\n{advice}") from error
