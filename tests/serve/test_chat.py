"""`chat` on a terminal and in pipes, against a server that answers what the test says.

The script of the server is strict: what the client asks, and in which order, is part of the test.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any, Self

import pytest

from tests.serve.support import PATIENCE, ROOT
from tests.serve.terminals import (
    CTRL_C,
    CTRL_D,
    LOST,
    PseudoTerminal,
    Reply,
    ScriptedServer,
    motus,
    motus_here,
)

pytestmark = pytest.mark.realtime

CREATE = ("POST /sessions", (201, {"session_id": "s", "status": "idle"}))
SEND = ("POST /sessions/s/messages", (202, {"session_id": "s", "status": "running"}))
DELETE = ("DELETE /sessions/s", (204, None))
NOT_FOUND = (404, {"detail": "Session not found"})

Entry = tuple[str, Reply]

_WITHOUT_STREAMS = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"


def session(status: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    empty = {"response": None, "error": None, "interrupts": None}
    return 200, {"session_id": "s", "status": status, **empty, **fields}


def get(reply: Reply) -> Entry:
    return "GET /sessions/s", reply


def answer(text: str) -> Entry:
    return get(session("idle", response={"role": "assistant", "content": text}))


def failure(text: str) -> Entry:
    return get(session("error", error=text))


def interrupted(*interrupts: dict[str, Any]) -> Entry:
    return get(session("interrupted", interrupts=list(interrupts)))


def resumed(status: str = "running") -> Entry:
    return "POST /sessions/s/resume", (200, {"session_id": "s", "status": status})


def approval(number: str = "i1", **args: Any) -> dict[str, Any]:
    payload = {"type": "tool_approval", "tool_name": "delete_file", "tool_args": args}
    return {"interrupt_id": number, "type": "tool_approval", "payload": payload}


def custom(number: str = "i1") -> dict[str, Any]:
    return {"interrupt_id": number, "type": "deploy", "payload": {"type": "deploy", "to": "eu"}}


def question(text: str, *labels: str, several: bool = False) -> dict[str, Any]:
    options = [{"label": label, "description": f"about {label}"} for label in labels]
    return {"question": text, "header": "H", "options": options, "multiSelect": several}


def asking(number: str, *questions: dict[str, Any]) -> dict[str, Any]:
    payload = {"type": "user_input", "questions": list(questions)}
    return {"interrupt_id": number, "type": "user_input", "payload": payload}


class Held:
    """A reply that comes when the test says so, or at the end of the block."""

    def __init__(self, reply: tuple[int, Any]) -> None:
        self._reply = reply
        self._asked = threading.Event()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __call__(self) -> tuple[int, Any]:
        self._asked.set()
        assert self._released.wait(PATIENCE)
        return self._reply

    def release(self) -> None:
        self._released.set()

    def wait_asked(self) -> None:
        assert self._asked.wait(PATIENCE)


def values(server: ScriptedServer) -> list[tuple[str, Any]]:
    bodies = [one.body for one in server.requests if one.path.endswith("/resume")]
    return [(body["interrupt_id"], body["value"]) for body in bodies]


def contents(server: ScriptedServer) -> list[str]:
    return [one.body["content"] for one in server.requests if one.path.endswith("/messages")]


# In pipes


def test_an_answer_in_a_pipe_is_plain_and_alone() -> None:
    with ScriptedServer(CREATE, SEND, answer("# Title\n**bold** 日本 \x1b[31mred")) as server:
        done = motus("chat", server.url, "hello", FORCE_COLOR="1")
    assert (done.returncode, done.stdout) == (0, "# Title\n**bold** 日本 \\x1b[31mred\n")
    assert done.stderr == "Session: s (use --session to resume)\n"


def test_lines_of_a_pipe_are_messages() -> None:
    script = (CREATE, SEND, answer("1"), SEND, failure("ValueError: no\x1b[2J"), SEND, answer("3"))
    with ScriptedServer(*script) as server:
        done = motus_here("chat", server.url, text="one\n\ntwo\nthrée")
    assert (done.returncode, done.stdout) == (0, "1\n3\n")
    assert done.stderr.splitlines()[1:] == [
        "Chat session started (Ctrl+C to quit)", "Error: ValueError: no\\x1b[2J", "Bye!"
    ]  # fmt: skip
    assert contents(server) == ["one", "two", "thrée"]


def test_a_dash_is_the_whole_input() -> None:
    with ScriptedServer(CREATE, SEND, answer("read")) as server:
        assert motus_here("chat", server.url, "-", text="one\ntwo\n").stdout == "read\n"
    assert contents(server) == ["one\ntwo\n"]


def test_bytes_that_are_no_text_are_refused() -> None:
    with ScriptedServer(CREATE) as server:
        done = motus("chat", server.url, "-", text=b"\xff", PYTHONUTF8="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: " in done.stderr


def test_an_encoding_without_the_character_gets_an_escape() -> None:
    with ScriptedServer(CREATE, SEND, answer("日本")) as server:
        done = motus("chat", server.url, "hi", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout) == (0, "\\u65e5\\u672c\n")


def test_streams_that_are_closed_are_no_error() -> None:
    program = [sys.executable, "-c", _WITHOUT_STREAMS, sys.executable, "-m", "motus.serve", "chat"]
    with ScriptedServer(CREATE, SEND, interrupted(approval())) as server:
        done = subprocess.run([*program, server.url, "hi"], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 4


def test_exit_codes_for_scripts() -> None:
    with ScriptedServer(CREATE, SEND, failure("boom")) as server:
        assert motus_here("chat", server.url, "x").returncode == 0
    with ScriptedServer(CREATE, SEND, failure("boom")) as server:
        assert motus_here("chat", server.url, "x", "--fail").returncode == 3
    with ScriptedServer(CREATE, SEND, answer("fine")) as server:
        assert motus_here("chat", server.url, "x", "--fail").returncode == 0
    with ScriptedServer(CREATE, SEND, interrupted(approval())) as server:
        done = motus_here("chat", server.url, "x")
    assert done.returncode == 4
    assert f"motus serve resume {server.url} s i1 --approve|--reject" in done.stderr
    # Skipped, and then seen again.
    with ScriptedServer(CREATE, SEND, *[interrupted(custom())] * 2) as server:
        done = motus_here("chat", server.url, "x")
    assert f"motus serve resume {server.url} s i1 VALUE" in done.stderr


def test_json_is_one_line_for_each_turn() -> None:
    with ScriptedServer(CREATE, SEND, answer("\x9b日"), SEND, failure("boom")) as server:
        done = motus_here("chat", server.url, "--json", text="1\n2\n")
    first, second = done.stdout.splitlines()
    assert "\\u009b日" in first
    assert json.loads(first)["response"]["content"] == "\x9b日"
    assert json.loads(second) == {"session_id": "s", "status": "error", "error": "boom"}


def test_questions_are_answered_from_a_pipe() -> None:
    script = (
        CREATE, SEND,
        interrupted(
            approval("i1", path="a"),
            approval("i2", path="b"),
            asking("i3", question("Q1?", "x", "y"), question("Q2?", "x", "y", several=True)),
        ),
        resumed("interrupted"), resumed("interrupted"), resumed(), answer("done"),
    )  # fmt: skip
    with ScriptedServer(*script) as server:
        done = motus_here("chat", server.url, "go", text="y\nno\n9\n3\nmy own\n2,1\n")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert values(server) == [
        ("i1", {"approved": True}),
        ("i2", {"approved": False}),
        ("i3", {"answers": {"Q1?": "my own", "Q2?": ["x", "y"]}}),
    ]
    assert 'delete_file with\n  path: "a"\nApprove? [y/N]: y\n' in done.stderr
    assert "Please answer with a number from 1 to 3" in done.stderr


def test_a_custom_interrupt_is_left_alone_without_a_terminal() -> None:
    first = interrupted(custom("i1"), approval("i2"))
    with ScriptedServer(CREATE, SEND, first, resumed(), interrupted(custom("i1"))) as server:
        done = motus_here("chat", server.url, "go", text="y\n")
    assert done.returncode == 4
    assert done.stderr.count("[warn] unknown interrupt type: deploy (i1)") == 1
    assert values(server) == [("i2", {"approved": True})]


def test_an_answer_that_came_too_late_is_no_error() -> None:
    gone = ("POST /sessions/s/resume", (404, {"detail": "Unknown interrupt_id: i1"}))
    with ScriptedServer(CREATE, SEND, interrupted(approval()), gone, answer("done")) as server:
        done = motus_here("chat", server.url, "go", text="y\n")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_session_is_resumed_with_the_turn_that_is_under_way() -> None:
    under_way = session("interrupted", interrupts=[approval()])
    with ScriptedServer(get(under_way), get(under_way), resumed(), answer("done")) as server:
        done = motus_here("chat", server.url, "--session", "s", text="y\n")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_rm_deletes_the_session_whatever_happens() -> None:
    with ScriptedServer(CREATE, SEND, answer("x"), DELETE) as server:
        assert motus_here("chat", server.url, "hi", "--rm").returncode == 0
    with ScriptedServer(CREATE, (SEND[0], (413, {"detail": "too large"})), DELETE) as server:
        done = motus_here("chat", server.url, "hi", "--rm")
    assert (done.returncode, done.stderr.splitlines()[1]) == (
        1, 'Error: 413 - {"detail": "too large"}'
    )  # fmt: skip
    with ScriptedServer(CREATE, SEND, answer("x"), (DELETE[0], NOT_FOUND)) as server:
        assert motus_here("chat", server.url, "hi", "--rm").returncode == 0


# A server that goes away


def test_a_server_that_comes_back_is_waited_for() -> None:
    away: Entry = get((503, {"detail": "starting"}))
    with ScriptedServer(CREATE, SEND, get(LOST), away, get(LOST), answer("done")) as server:
        done = motus_here("chat", server.url, "go")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.splitlines()[1:] == [
        f"Could not connect to {server.url}; trying again for 30 s", "The server is back"
    ]  # fmt: skip


def test_a_server_that_stays_away_is_an_error() -> None:
    with ScriptedServer(CREATE, SEND, get(LOST)) as server:
        done = motus_here("chat", server.url, "go", "--reconnect", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"Error: Could not connect to {server.url}"


def test_a_message_is_never_sent_twice() -> None:
    lost: Entry = (SEND[0], LOST)
    with ScriptedServer(CREATE, lost, get(session("running")), answer("done")) as server:
        assert motus_here("chat", server.url, "go").stdout == "done\n"
    with ScriptedServer(CREATE, lost, get(session("idle"))) as server:
        done = motus_here("chat", server.url, "go")
    assert done.returncode == 1
    assert "It is not known whether the message has arrived" in done.stderr


def test_a_terminal_goes_on_with_a_new_session_when_the_old_one_is_gone() -> None:
    again = ("POST /sessions", (201, {"session_id": "s", "status": "idle"}))
    script = (CREATE, SEND, get(LOST), get(NOT_FOUND), again, SEND, answer("new"))
    with ScriptedServer(*script) as server, PseudoTerminal("chat", server.url) as terminal:
        terminal.until("> ")
        terminal.type("go\r")
        shown = terminal.until("> ")
        assert "Could not connect" in shown
        assert "The server has forgotten the session. Here is a new one" in shown
        assert "Session: s (use --session to resume)" in shown
        terminal.type("again\r")
        assert "new" in terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.end()[0] == 0


def test_a_terminal_survives_a_refused_message() -> None:
    busy: Entry = (SEND[0], (409, {"detail": "Session is running"}))
    with (
        ScriptedServer(CREATE, busy, SEND, answer("now")) as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type("go\r")
        assert "Error: 409" in terminal.until("> ")
        terminal.type("go\r")
        assert "now" in terminal.until("> ")
        terminal.type(CTRL_C)
        code, rest = terminal.end()
        assert (code, rest.split()) == (0, ["Bye!"])


# On a terminal


def test_markdown_on_a_terminal() -> None:
    text = "# Grüße\n\nsome *text* in 日本語\n\n\x1b]0;evil\x07\x1b[2J"
    with (
        ScriptedServer(CREATE, SEND, answer(text)) as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type("héllo\r")
        shown = terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.end()[0] == 0
    assert "working ..." in shown
    assert "\nGrüße\n\nsome text in 日本語\n\n\\x1b]0;evil\\x07\\x1b[2J\n" in shown
    assert "\x1b[3mtext" in terminal.output
    assert "\x1b]0;evil" not in terminal.output
    assert "\x1b[2J" not in terminal.output
    # The cursor is there again, and was not away for long.
    assert terminal.output.rindex("\x1b[?25h") > terminal.output.rindex("\x1b[?25l")
    assert "working" not in terminal.output.partition("\x1b[?25l")[2].partition("\x1b[?25h")[0]
    assert contents(server) == ["héllo"]


def test_a_dumb_terminal_gets_no_control_sequences() -> None:
    with (
        ScriptedServer(CREATE, SEND, answer("# Title")) as server,
        PseudoTerminal("chat", server.url, "hello", TERM="dumb") as terminal,
    ):
        code, shown = terminal.end()
    assert (code, "\x1b" in terminal.output) == (0, False)
    assert shown.splitlines()[1:] == ["working ...", "Title"]


def test_a_narrow_terminal_wraps() -> None:
    words = "these are words that are not as wide as the terminal 日本語日本語日本語日本語"
    with (
        ScriptedServer(CREATE, SEND, answer(words)) as server,
        PseudoTerminal("chat", server.url, "x", columns=20) as terminal,
    ):
        code, shown = terminal.end()
    assert code == 0
    assert shown.splitlines()[-5:] == [
        "these are words that", "are not as wide as", "the terminal", "日本語日本語日本語日", "本語"
    ]  # fmt: skip


def test_everything_that_an_agent_asks_is_asked_on_a_terminal() -> None:
    script = (
        CREATE, SEND,
        interrupted(
            approval("i1", path="/tmp/\x1b[8mhidden"),
            asking("i2", question("Which?", "a", "b", several=True)),
            custom("i3"),
        ),
        resumed("interrupted"), resumed("interrupted"), resumed(), answer("done"),
    )  # fmt: skip
    with ScriptedServer(*script) as server, PseudoTerminal("chat", server.url) as terminal:
        terminal.until("> ")
        terminal.type("go\r")
        shown = terminal.until("Approve? [y/N]: ")
        assert 'delete_file with\n  path: "/tmp/\\u001b[8mhidden"\n' in shown
        terminal.type("y\r")
        assert "[H] Which?\n  1. a - about a\n  2. b - about b\n  3. Other" in terminal.until(
            "Choose one or more, with commas between them [1-3]: "
        )
        terminal.type("2, 3\r")
        terminal.until("Your answer: ")
        terminal.type("ö\r")
        assert '[warn] unknown interrupt type: deploy (i3)\n  {\n    "type"' in terminal.until(
            "Answer with JSON (or nothing, to skip): "
        )
        terminal.type("eu\r")
        terminal.until("That is not JSON")
        terminal.until("Answer with JSON (or nothing, to skip): ")
        terminal.type('{"at": 9}\r')
        assert "done" in terminal.until("> ")
        terminal.type(CTRL_D)
        assert terminal.end()[0] == 0
    assert "\x1b[8m" not in terminal.output
    assert values(server) == [
        ("i1", {"approved": True}),
        ("i2", {"answers": {"Which?": ["b", "ö"]}}),
        ("i3", {"at": 9}),
    ]


def test_a_skipped_interrupt_is_waited_for_until_somebody_else_answers_it() -> None:
    script = (CREATE, SEND, interrupted(custom()), interrupted(custom()), answer("done"))
    with ScriptedServer(*script) as server, PseudoTerminal("chat", server.url) as terminal:
        terminal.until("> ")
        terminal.type("go\r")
        terminal.until("skip): ")
        terminal.type("\r")
        terminal.until("waiting for an answer from elsewhere")
        assert "done" in terminal.until("> ")
        terminal.type(CTRL_D)
        terminal.end()
    assert terminal.output.count("[warn]") == 1


def test_the_end_of_the_input_leaves_a_question_open() -> None:
    with (
        ScriptedServer(CREATE, SEND, interrupted(approval())) as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type("go\r")
        terminal.until("[y/N]: ")
        terminal.type(CTRL_D)
        code, shown = terminal.end()
    assert code == 4
    assert "Left unanswered" in shown
    assert values(server) == []


def test_messages_are_found_again_with_the_arrow_keys() -> None:
    script = (CREATE, SEND, interrupted(approval()), resumed(), answer("1"), SEND, answer("2"))
    with ScriptedServer(*script) as server, PseudoTerminal("chat", server.url) as terminal:
        terminal.until("> ")
        terminal.type("first\r")
        terminal.until("[y/N]: ")
        terminal.type("n\r")
        terminal.until("> ")
        # Not the "n": that was no message.
        terminal.type("\x1b[A!\r")
        assert "2" in terminal.until("\n> ")
        terminal.type(CTRL_D)
        assert terminal.end()[0] == 0
    assert contents(server) == ["first", "first!"]


# Ctrl+C


def test_ctrl_c_cancels_the_turn_and_the_chat_goes_on() -> None:
    cancel: Entry = ("POST /sessions/s/cancel", (200, {"status": "idle", "cancelled": True}))
    with (
        Held(session("idle")) as turn,
        ScriptedServer(CREATE, SEND, get(turn), cancel, SEND, answer("next")) as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type("go\r")
        turn.wait_asked()
        terminal.type(CTRL_C)
        assert "Cancelling the turn (Ctrl+C again leaves)\nCancelled\n" in terminal.until("> ")
        turn.release()
        terminal.type("go\r")
        assert "next" in terminal.until("> ")
        terminal.type(CTRL_C)
        assert terminal.end()[0] == 0


def test_ctrl_c_ends_any_command_with_one_code() -> None:
    with (
        Held(session("idle")) as turn,
        ScriptedServer(get(turn)) as server,
        PseudoTerminal("get", server.url, "s", "--wait") as terminal,
    ):
        turn.wait_asked()
        terminal.type(CTRL_C)
        assert terminal.end() == (130, "^C")
        turn.release()


def test_a_second_ctrl_c_leaves() -> None:
    with (
        Held(session("idle")) as turn,
        Held(session("idle")) as cancel,
        ScriptedServer(CREATE, SEND, get(turn), ("POST /sessions/s/cancel", cancel)) as server,
        PseudoTerminal("chat", server.url) as terminal,
    ):
        terminal.until("> ")
        terminal.type("go\r")
        turn.wait_asked()
        terminal.type(CTRL_C)
        cancel.wait_asked()
        terminal.type(CTRL_C)
        code, shown = terminal.end()
        turn.release()
        cancel.release()
    assert code == 130
    assert "Traceback" not in shown


def test_ctrl_c_at_a_question_cancels_the_turn() -> None:
    cancel: Entry = ("POST /sessions/s/cancel", (200, {"status": "idle", "cancelled": True}))
    with (
        ScriptedServer(CREATE, SEND, interrupted(approval()), cancel) as server,
        PseudoTerminal("chat", server.url, "go") as terminal,
    ):
        terminal.until("[y/N]: ")
        terminal.type(CTRL_C)
        code, shown = terminal.end()
    assert code == 130
    assert "Cancelled" in shown
    assert values(server) == []


def test_ctrl_c_after_the_end_shows_the_answer() -> None:
    over: Entry = ("POST /sessions/s/cancel", (200, {"status": "idle", "cancelled": False}))
    with (
        Held(session("idle")) as turn,
        ScriptedServer(CREATE, SEND, get(turn), over, answer("after all")) as server,
        PseudoTerminal("chat", server.url, "go") as terminal,
    ):
        turn.wait_asked()
        terminal.type(CTRL_C)
        code, shown = terminal.end()
        turn.release()
    assert code == 0
    assert "after all" in shown


# Credentials


def test_the_token_of_the_environment_is_shown_to_the_server() -> None:
    with ScriptedServer(CREATE, SEND, answer("x")) as server:
        assert motus_here("chat", server.url, "hi", MOTUS_AUTH_TOKEN="s3cret").returncode == 0
    assert {one.headers.get("Authorization") for one in server.requests} == {"Bearer s3cret"}
    with ScriptedServer(CREATE) as server:
        motus_here("create", server.url, MOTUS_AUTH_TOKEN="")
    assert "Authorization" not in server.requests[0].headers


def test_redirects_are_not_followed() -> None:
    with ScriptedServer() as other:
        moved = (307, {"location": f"{other.url}/sessions"})
        with ScriptedServer(("POST /sessions", moved)) as server:
            done = motus_here("create", server.url, MOTUS_AUTH_TOKEN="s3cret")
        assert other.requests == []
    assert done.returncode == 1
    assert done.stderr == f"Error: 307 - redirects are not followed: {other.url}/sessions\n"


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel"])
def test_a_token_that_cannot_be_sent_is_not_repeated(token: str) -> None:
    done = motus_here("health", "http://127.0.0.1:9", MOTUS_AUTH_TOKEN=token)
    assert done.returncode == 1
    assert done.stderr == "Error: the token must be of visible ASCII characters\n"


def test_credentials_in_the_address_are_refused_and_not_repeated() -> None:
    done = motus_here("health", "http://user:s3cret@127.0.0.1:9")
    assert done.returncode == 1
    assert "set MOTUS_AUTH_TOKEN instead" in done.stderr
    assert "s3cret" not in done.stderr
