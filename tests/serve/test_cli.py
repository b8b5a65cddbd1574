"""The client commands against a real server: stdout is the answer, stderr the rest."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from motus.__main__ import cli
from motus.serve.cli.common import message_text
from tests.serve.support import ROOT, ServerProcess, alive, reported, until
from tests.serve.terminals import (
    CTRL_C,
    CTRL_D,
    PseudoTerminal,
    Reply,
    ScriptedServer,
    motus,
    motus_here,
)

pytestmark = pytest.mark.realtime


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess("fail", tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("asking") / "log"
    with ServerProcess("examples.human_in_the_loop:agent", log) as server:
        yield server


def create(server: ServerProcess) -> str:
    # Not with the server's own client, whose connection would outlast the test.
    made = httpx.post(f"{server.url}/sessions", trust_env=False)
    return str(made.json()["session_id"])


def session_of(stderr: str) -> str:
    found = re.match(r"Session: (\S+) \(use --session to resume\)\n", stderr)
    assert found is not None, stderr
    return found[1]


def test_chat_with_one_message_prints_the_answer_alone(server: ServerProcess) -> None:
    done = motus("chat", server.url, "fine")
    assert (done.returncode, done.stdout) == (0, "fine\n")
    session = session_of(done.stderr)
    again = motus_here("chat", server.url, "fine", "--session", session)
    assert session_of(again.stderr) == session
    assert len(json.loads(motus_here("messages", server.url, session).stdout)) == 4


def test_chat_reads_a_pipe_line_by_line_and_removes_its_session(server: ServerProcess) -> None:
    done = motus("chat", server.url, "--rm", text="fine\n\nraise\nfine\n")
    assert (done.returncode, done.stdout) == (0, "fine\nfine\n")
    lines = done.stderr.splitlines()[1:]
    assert lines == ["Chat session started (Ctrl+C to quit)", "Error: ValueError: boom", "Bye!"]
    assert session_of(done.stderr) not in motus_here("sessions", server.url).stdout


def test_the_commands_for_sessions(server: ServerProcess) -> None:
    created = json.loads(motus_here("create", server.url).stdout)
    session = created["session_id"]
    assert created == {"session_id": session, "status": "idle"}
    sent = motus_here(
        "send", server.url, session, "fine", "--wait", "--param", "n=5", "--param", "s=x=y"
    )
    assert json.loads(sent.stdout)["response"] == {"role": "assistant", "content": "fine"}
    got = json.loads(motus_here("get", server.url, session, "--wait", "--timeout", "5").stdout)
    assert got["status"] == "idle"
    [user, _] = json.loads(motus_here("messages", server.url, session).stdout)
    assert user == {"role": "user", "content": "fine", "user_params": {"n": 5, "s": "x=y"}}
    accepted = json.loads(motus_here("send", server.url, session, "-", text="fine").stdout)
    assert accepted == {"session_id": session, "status": "running"}
    listed = json.loads(motus_here("sessions", server.url).stdout)
    assert session in [one["session_id"] for one in listed]
    deleted = motus_here("delete", server.url, session)
    assert deleted.stdout == f"Deleted session {session}\n"


def test_a_turn_that_failed_is_an_answer_unless_the_script_says_otherwise(
    server: ServerProcess,
) -> None:
    session = create(server)
    done = motus_here("send", server.url, session, "raise", "--wait")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (0, "ValueError: boom")
    assert motus_here("get", server.url, session, "--fail").returncode == 3
    assert motus_here("send", server.url, session, "fine", "--wait", "--fail").returncode == 0


def test_health_is_three_lines_or_json(server: ServerProcess) -> None:
    lines = motus_here("health", server.url).stdout.splitlines()
    assert lines[0] == "Status: ok"
    assert re.fullmatch(r"Workers: \d+/\d+", lines[1])
    assert re.fullmatch(r"Total sessions: \d+", lines[2])
    assert json.loads(motus_here("health", server.url, "--json").stdout)["status"] == "ok"


def test_interrupts_are_answered_and_turns_cancelled_by_commands(asking: ServerProcess) -> None:
    session = create(asking)
    sent = motus_here("send", asking.url, session, "1.2", "--wait", "--fail")
    assert sent.returncode == 4
    [asked] = json.loads(sent.stdout)["interrupts"]
    value = json.dumps({"answers": {"Where should it go?": ["europe"]}})
    resumed = motus_here("resume", asking.url, session, asked["interrupt_id"], value, "--wait")
    [asked] = json.loads(resumed.stdout)["interrupts"]
    assert asked["payload"]["tool_args"] == {"version": "1.2", "place": "europe"}
    resumed = motus_here(
        "resume", asking.url, session, asked["interrupt_id"], "--approve", "--wait"
    )
    [asked] = json.loads(resumed.stdout)["interrupts"]
    assert asked["type"] == "release_hour"
    done = motus_here("resume", asking.url, session, asked["interrupt_id"], "nine")
    assert (done.returncode, "That is not JSON" in done.stderr) == (1, True)
    resumed = motus_here(
        "resume", asking.url, session, asked["interrupt_id"], "-", "--wait", text="9"
    )
    assert "goes to europe at 9 o'clock" in json.loads(resumed.stdout)["response"]["content"]
    again = motus_here("resume", asking.url, session, asked["interrupt_id"], "9")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: 4")

    motus_here("send", asking.url, session, "1.3", "--wait")
    cancelled = json.loads(motus_here("cancel", asking.url, session).stdout)
    assert (cancelled["status"], cancelled["cancelled"]) == ("idle", True)
    assert json.loads(motus_here("cancel", asking.url, session).stdout)["cancelled"] is False


def _asking(*interrupts: tuple[str, str]) -> tuple[str, Reply]:
    listed = [{"interrupt_id": name, "type": kind, "payload": {}} for name, kind in interrupts]
    return "GET /sessions/s", (200, {"status": "interrupted", "interrupts": listed or None})


RESUMED: tuple[str, Reply] = ("POST /sessions/s/resume", (200, {"status": "running"}))


def test_the_only_interrupt_need_not_be_named() -> None:
    for answer, sent in (("[1]", [1]), ("--reject", {"approved": False})):
        with ScriptedServer(_asking(("i1", "form")), RESUMED) as server:
            assert motus_here("resume", server.url, "s", answer).returncode == 0
        assert server.requests[-1].body == {"interrupt_id": "i1", "value": sent}
    with ScriptedServer(_asking(("i1", "form"), ("i2", "tool_approval"))) as server:
        done = motus_here("resume", server.url, "s", "--approve")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == ['  i1  "form"', '  i2  "tool_approval"']
    with ScriptedServer(_asking()) as server:
        done = motus_here("resume", server.url, "s", "1")
    assert (done.returncode, done.stderr) == (1, "Error: Nothing is asked in this session\n")
    with ScriptedServer(_asking(("i1", "form"))) as server:
        assert motus_here("resume", server.url, "s", "i1").returncode == 2


@pytest.mark.parametrize("value", ["true", '"yes"', "{}", '{"approved": "true"}'])
def test_an_approval_is_not_rejected_by_mistake(value: str) -> None:
    with ScriptedServer(_asking(("i1", "tool_approval"))) as server:
        done = motus_here("resume", server.url, "s", "i1", value)
    assert done.returncode == 1
    assert done.stderr == "Error: This is an approval: answer it with --approve or --reject\n"
    with ScriptedServer(_asking(("i1", "tool_approval")), RESUMED) as server:
        assert motus_here("resume", server.url, "s", "i1", '{"approved": true}').returncode == 0


def test_a_command_that_makes_no_sense_exits_with_two(server: ServerProcess) -> None:
    for arguments in (
        ["resume", server.url, "s"],
        ["resume", server.url, "s", "i", "1", "--approve"],
        ["send", server.url, "s", "x", "--webhook-token", "t"],
        ["send", server.url, "s", "x", "--webhook-include-messages"],
        ["get", server.url, "s", "--timeout", "nan"],
        ["get", server.url, "s", "--timeout", "-1"],
        ["chat"],
    ):
        done = motus_here(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments


def test_a_message_from_an_input_that_is_closed_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert message_text("-") == ""


def test_an_answer_that_cannot_be_written_is_an_error(server: ServerProcess) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device
        done = subprocess.run(
            [sys.executable, "-m", "motus.serve", "create", server.url],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_exit_with_one(server: ServerProcess) -> None:
    done = motus_here("get", server.url, "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    not_found = 'Error: 404 - {"detail":"Session not found"}\n'
    assert done.stderr == not_found
    done = motus_here("chat", server.url, "x", "--session", "nobody")
    assert (done.returncode, done.stderr) == (
        1, f"{not_found}Leave --session out to begin a new one.\n"
    )  # fmt: skip
    done = motus_here("chat", server.url, "x", "--param", "novalue")
    assert done.returncode == 1
    assert done.stderr == "Error: Invalid --param format 'novalue'. Expected KEY=VALUE.\n"
    for url in ("http://127.0.0.1:9", "127.0.0.1:9", "http://[::1", "http://nowhere.invalid"):
        done = motus_here("health", url)
        assert (done.returncode, done.stderr) == (
            1, f"Error: Could not connect to {url}\nIs a server running there?\n"
        )  # fmt: skip


def test_the_token_of_the_environment_opens_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTUS_AUTH_TOKEN", "s3cret-and-long-enough")
    with ServerProcess("echo", tmp_path / "log") as server:
        refused = motus_here("create", server.url, MOTUS_AUTH_TOKEN="wr0ng")
        assert (refused.returncode, refused.stderr[:11]) == (1, "Error: 401 ")
        assert refused.stderr.endswith("\nSet MOTUS_AUTH_TOKEN to the token of the server.\n")
        assert "s3cret" not in refused.stderr
        done = motus_here("chat", server.url, "hello")
        assert done.stdout == "hello\n"


def test_help_has_a_short_name() -> None:
    for command in ((), ("start",), ("chat",)):
        asked = motus_here(*command, "-h")
        assert (asked.returncode, asked.stdout) == (0, motus_here(*command, "--help").stdout)
    assert "--help  " in CliRunner().invoke(cli, ["-h"]).stdout


@pytest.mark.parametrize("module", ["motus", "motus.serve"])
def test_without_a_command_there_is_help(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if module == "motus":
        assert (done.returncode, "  serve  " in done.stdout) == (1, True)
        return
    assert done.returncode == 0
    listed = re.findall(r"^  (\w+)  ", done.stdout, re.MULTILINE)
    assert listed[:3] == ["start", "chat", "health"]
    assert {"create", "sessions", "get", "delete", "messages", "send", "cancel", "resume"} < set(
        listed
    )
    assert "MOTUS_AUTH_TOKEN" in done.stdout


# The whole house, with a terminal


def test_a_person_is_asked_on_a_terminal(asking: ServerProcess) -> None:
    with PseudoTerminal("chat", asking.url, "--rm") as terminal:
        terminal.until("> ")
        terminal.type("1.2\r")
        assert "[Release] Where should it go?" in terminal.until("[1-4]: ")
        terminal.type("1, 4\r")
        terminal.until("Your answer: ")
        terminal.type("münchen\r")
        first = terminal.until("Approve? [y/N]: ")
        terminal.type("y\r" if "staging" in first else "n\r")
        second = terminal.until("Approve? [y/N]: ")
        terminal.type("n\r" if "staging" in first else "y\r")
        assert 'place: "münchen"' in first + second
        terminal.until("[warn] unknown interrupt type: release_hour")
        terminal.until("skip): ")
        terminal.type("12\r")
        assert "1.2 goes to staging at 12 o'clock." in terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.end() == (0, "\nBye!\n")
    assert "\x1b[1m1.2" in terminal.output


def test_an_interrupted_session_is_taken_up_again(asking: ServerProcess) -> None:
    session = create(asking)
    motus_here("send", asking.url, session, "1.2")
    with PseudoTerminal("chat", asking.url, "--session", session) as terminal:
        terminal.until("[1-4]: ")
        terminal.type(CTRL_C)
        assert "Cancelled" in terminal.until("> ")
        terminal.type(CTRL_C)
        assert terminal.end()[0] == 0
    assert json.loads(motus_here("get", asking.url, session).stdout)["status"] == "idle"


def test_ctrl_c_ends_the_turn_and_its_processes(tmp_path: Path) -> None:
    with (
        ServerProcess("hang", tmp_path / "log") as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type(f"{tmp_path}\r")
        worker, grandchild = reported(tmp_path, "worker"), reported(tmp_path, "grandchild")
        terminal.type(CTRL_C)
        terminal.until("Cancelled")
        assert not alive(worker)
        assert not alive(grandchild)
        terminal.type(CTRL_C)
        assert terminal.end()[0] == 0


def test_a_killed_server_is_reported_and_the_chat_can_be_left(tmp_path: Path) -> None:
    with (
        ServerProcess("hang", tmp_path / "log") as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type(f"{tmp_path}\r")
        worker, grandchild = reported(tmp_path, "worker"), reported(tmp_path, "grandchild")
        server.signal(signal.SIGKILL)
        terminal.until(f"Could not connect to {server.url}; trying again for 30 s")
        terminal.type(CTRL_C)
        terminal.until(f"Error: Could not connect to {server.url}\n")
        terminal.until("> ")
        terminal.type(CTRL_C)
        assert terminal.end()[0] == 0
        until(lambda: not alive(worker) and not alive(grandchild), "the workers are gone")
