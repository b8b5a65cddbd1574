"""The settings: what is allowed, and that flags, keywords and the document say the same."""

from __future__ import annotations

import inspect
import math
import typing
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner

from motus.serve import AgentServer
from motus.serve.cli import serve
from motus.serve.cli.start import start
from motus.serve.config import MoreSettings, ServerConfig, Setting, settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
SECRET = "correct horse"


def test_every_setting_is_a_keyword_of_the_server_and_a_flag() -> None:
    fields = {field.name for field in attrs.fields(ServerConfig)}
    spelled_out = {
        name
        for name, parameter in inspect.signature(AgentServer).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert spelled_out == {
        "max_workers", "ttl", "timeout", "max_sessions", "shutdown_timeout", "allow_custom_ids"
    }  # fmt: skip
    assert spelled_out | set(MoreSettings.__annotations__) == fields
    options = {option.name for option in start.params if isinstance(option, click.Option)}
    hidden = {setting.name for setting in settings() if setting.flag is None}
    # A secret in the arguments of a process can be read by everybody on the machine.
    assert hidden == {"webhook_secret"}
    assert fields - hidden == options - {"host", "port", "log_level", "log_format"}


def test_flags_are_the_names_of_the_keywords() -> None:
    flags = {setting.name: setting.flag for setting in settings() if setting.flag is not None}
    odd = {name: flag for name, flag in flags.items() if flag != "--" + name.replace("_", "-")}
    assert odd == {"max_workers": "--workers", "allowed_hosts": "--allowed-host"}
    assert len(set(flags.values())) == len(flags)


def test_the_types_of_the_keywords_are_those_of_the_settings() -> None:
    keywords = typing.get_type_hints(MoreSettings)
    for name, kind in typing.get_type_hints(ServerConfig).items():
        if name in keywords:
            expected = typing.get_origin(kind) or kind
            if expected is tuple:
                continue  # any iterable of names is taken
            assert keywords[name] == kind, name


def shown_default(setting: Setting) -> str:
    if setting.kind == "switch":
        return "off"
    if setting.default in (None, ()):
        return "CPU count" if setting.kind == "count" else "none"
    return f"{setting.default:g}" if setting.kind == "seconds" else str(setting.default)


def test_the_document_has_every_flag_with_its_default() -> None:
    text = DOCUMENT.read_text()
    rows = {
        cells[1].strip(" `"): cells[2].strip(" `")
        for line in text.splitlines()
        if line.startswith("| `--") and len(cells := line.split("|")) >= 4
    }
    for setting in settings():
        if setting.flag is None:
            assert f"`{setting.variable}`" in text
            continue
        expected = shown_default(setting)
        assert rows.get(setting.flag) == expected, (setting.flag, expected)
    known = {setting.flag for setting in settings()}
    known |= {"--host", "--port", "--log-level", "--log-format"}
    assert set(rows) <= known, set(rows) - known


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        *(("max_workers", value) for value in (0, -1, 1.5, True, "4")),
        *(("ttl", value) for value in (-1, math.inf, math.nan, "1", None, True)),
        *(("header_timeout", value) for value in (0, -1, math.nan)),
        *(("max_sessions", value) for value in (-1, 1.0, None)),
        *(("max_queued", value) for value in (-1,)),
        *(("max_body_size", value) for value in (0, -5)),
        *(("max_header_size", value) for value in (0, 100)),
        *(("allow_custom_ids", value) for value in (1, "yes", None)),
        *(("reload", value) for value in (0, "no")),
        *(("workers_mode", value) for value in ("thread", None, "")),
        *(("backend", value) for value in ("uvloop", "")),
        *(("auth", value) for value in ("basic", None, "")),
        *(("auth_token", value) for value in ("", SECRET, "\n", "\xe9", b"token", 5)),
        *(("webhook_secret", value) for value in ("", SECRET)),
        *(("env", value) for value in (["A-B"], [""], ["A=1"], ["1A"], "a b", None, [5])),
        *(("allowed_hosts", value) for value in (["http://x"], ["x:80"], [""], ["10.0.0.0/8"], 5)),
        *(
            ("webhook_allow", value)
            for value in (["http://x"], ["x/y"], ["10.0.0.1/8"], ["*"], [None])
        ),
    ],
)
def test_a_wrong_value_names_its_keyword_and_shows_no_secret(keyword: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        ServerConfig(**{keyword: value})
    assert str(caught.value).startswith(keyword)
    assert SECRET not in str(caught.value)


def test_names_come_in_any_form() -> None:
    config = ServerConfig(env="PATH", allowed_hosts=["A.Example."], webhook_allow=iter(["::1"]))
    assert config.env == ("PATH",)
    assert config.allowed_hosts == ("a.example",)
    assert config.webhook_allow == ("::1",)


def test_secrets_are_not_shown() -> None:
    shown = repr(ServerConfig(auth_token="t0ken", webhook_secret="s3cret"))
    assert "t0ken" not in shown
    assert "s3cret" not in shown


def test_an_open_server_with_a_token_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="auth is 'none' and there is an auth_token"):
        ServerConfig(auth="none", auth_token="x")
    monkeypatch.setenv("MOTUS_AUTH_TOKEN", "x")
    with pytest.raises(ValueError, match="MOTUS_AUTH_TOKEN"):
        AgentServer("a:b", auth="none")


def test_secrets_come_from_the_environment_when_a_server_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOTUS_AUTH_TOKEN", "not fit for a header")
    with pytest.raises(ValueError, match="auth_token must be"):
        AgentServer("a:b")
    # A keyword wins, and an empty variable is none.
    AgentServer("a:b", auth_token="x")
    monkeypatch.setenv("MOTUS_AUTH_TOKEN", "")
    AgentServer("a:b", auth="none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "--workers"), (["--ttl", "-1"], "--ttl"), (["--ttl", "x"], "--ttl"),
        (["--max-connections", "0"], "--max-connections"), (["--auth", "basic"], "--auth"),
        (["--log-level", "loud"], "--log-level"), (["--log-format", "xml"], "--log-format"),
        (["--webhook-secret", "x"], "--webhook-secret"), (["--ttl", "nan"], "ttl must"),
        (["--env", "A-B"], "env takes"), (["--allowed-host", "http://x"], "allowed_hosts takes"),
        (["--auth", "none", "--auth-token", "x"], "auth is 'none'"),
    ],
)  # fmt: skip
def test_the_command_line_says_which_flag_is_wrong(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(serve, ["start", "a:b", *arguments])
    assert done.exit_code in (1, 2)
    assert said in done.output


def test_the_server_gets_what_the_command_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Server:
        def __init__(self, agent: str, **options: Any) -> None:
            given.update(options, agent=agent)

        def run(self, *arguments: Any) -> None:
            given["run"] = arguments

    monkeypatch.setattr("motus.serve.server.AgentServer", Server)
    flags = "--host h --port 1 --log-format json --ttl 2.5 --reload --workers 3"
    hosts = "--allowed-host x --allowed-host y"
    done = CliRunner().invoke(serve, f"start a:b {flags} {hosts}".split())
    assert done.exit_code == 0, done.output
    assert given.pop("run") == ("h", 1, "info", "json")
    assert given.pop("agent") == "a:b"
    config = ServerConfig(**given)
    assert config == ServerConfig(ttl=2.5, allowed_hosts=("x", "y"), reload=True, max_workers=3)
