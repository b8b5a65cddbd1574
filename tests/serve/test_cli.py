"""The client commands against a real server: stdout is the answer, stderr the rest."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.support import ROOT, ServerProcess

pytestmark = pytest.mark.realtime


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess("fail", tmp_path / "log") as server:
        yield server


def motus(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motus", *arguments],
        cwd=ROOT, input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def session_of(stderr: str) -> str:
    found = re.match(r"Session: (\S+) \(use --session to resume\)\n", stderr)
    assert found is not None, stderr
    return found[1]


def test_chat_with_one_message_prints_the_answer_alone(server: ServerProcess) -> None:
    done = motus("serve", "chat", server.url, "fine")
    assert (done.returncode, done.stdout) == (0, "fine\n")
    session = session_of(done.stderr)
    again = motus("serve", "chat", server.url, "fine", "--session", session)
    assert session_of(again.stderr) == session
    assert len(json.loads(motus("serve", "messages", server.url, session).stdout)) == 4


def test_chat_reads_a_pipe_line_by_line(server: ServerProcess) -> None:
    done = motus("serve", "chat", server.url, "--rm", text="fine\n\nraise\nfine\n")
    assert (done.returncode, done.stdout) == (0, "fine\nfine\n")
    lines = done.stderr.splitlines()[1:]
    assert lines == ["Chat session started (Ctrl+C to quit)", "Error: ValueError: boom", "Bye!"]
    assert motus("serve", "sessions", server.url).stdout == "[]\n"


def test_chat_on_a_terminal_prompts_and_shows_that_it_works(server: ServerProcess) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "motus.serve", "chat", server.url],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    typed = iter([b"fine\n", b"\x04"])
    with process, os.fdopen(ours, "r+b", buffering=0) as terminal:
        while not seen.rstrip().endswith("Bye!"):
            seen += terminal.read(1000).decode()
            if seen.endswith("> "):
                terminal.write(next(typed))
                seen += "\n"
    assert process.returncode == 0
    assert "working ..." in seen
    assert re.search(r"^Session: .*\nChat session started", seen.replace("\r", ""))


def test_the_commands_for_sessions(server: ServerProcess) -> None:
    created = json.loads(motus("serve", "create", server.url).stdout)
    session = created["session_id"]
    assert created == {"session_id": session, "status": "idle"}
    sent = motus("serve", "send", server.url, session, "fine", "--wait", "--param", "n=5")
    assert json.loads(sent.stdout)["response"] == {"role": "assistant", "content": "fine"}
    got = json.loads(motus("serve", "get", server.url, session, "--wait").stdout)
    assert got["status"] == "idle"
    [user, _] = json.loads(motus("serve", "messages", server.url, session).stdout)
    assert user == {"role": "user", "content": "fine", "user_params": {"n": 5}}
    accepted = json.loads(motus("serve", "send", server.url, session, "fine").stdout)
    assert accepted == {"session_id": session, "status": "running"}
    deleted = motus("serve", "delete", server.url, session)
    assert deleted.stdout == f"Deleted session {session}\n"


def test_health_is_three_lines(server: ServerProcess) -> None:
    lines = motus("serve", "health", server.url).stdout.splitlines()
    assert lines[0] == "Status: ok"
    assert re.fullmatch(r"Workers: 0/\d+", lines[1])
    assert lines[2] == "Total sessions: 0"


def test_errors_exit_with_one(server: ServerProcess) -> None:
    done = motus("serve", "get", server.url, "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'Error: 404 - {"detail":"Session not found"}\n'
    done = motus("serve", "chat", server.url, "x", "--param", "novalue")
    assert done.returncode == 1
    assert done.stderr == "Error: Invalid --param format 'novalue'. Expected KEY=VALUE.\n"
    done = motus("serve", "health", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == "Error: Could not connect to http://127.0.0.1:9\n"
    done = motus("serve", "health", "nonsense")
    assert (done.returncode, done.stderr) == (1, "Error: Could not connect to nonsense\n")


def test_without_a_command_there_is_help() -> None:
    assert motus().returncode == 1
    done = motus("serve")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("start", "chat", "health", "send"))
