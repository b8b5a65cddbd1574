"""Agents that mean harm, and surroundings that were not meant for a server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from motus.errors import ProtocolError
from motus.serve.server import _announce
from motus.serve.wire import (
    FROM_WORKER,
    MAX_ERROR_CHARACTERS,
    MAX_TRACEBACK_LINES,
    Failure,
    FrameDecoder,
    Interrupt,
    Message,
    encode_frame,
)
from motus.serve.workers.output import LINES_AT_A_TIME, OutputPipe
from tests.serve.pools import children, outcome, pooled, template_of
from tests.serve.support import PATIENCE, ROOT, alive, reported_async, served, until, until_async

pytestmark = pytest.mark.realtime

AGENT = "tests.serve.attack_agents:agent"
MODES: list[Any] = ["fork", "exec"]


# ---------------------------------------------------------------------- what is printed


@pytest.mark.trio
async def test_lines_without_pause_leave_the_loop_to_others() -> None:
    reader, writer = os.pipe()
    lines: list[str] = []
    with open(writer, "wb", 0) as writing:  # noqa: ASYNC230, PTH123  # a pipe, by descriptor
        writing.write(b"\n" * 65_536)
    longest = seen = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(OutputPipe(reader, lines.append).forward)
        while len(lines) < 65_536:
            await trio.lowlevel.checkpoint()
            longest = max(longest, len(lines) - seen)
            seen = len(lines)
    # In one round of the loop both may have had their turn twice.
    assert longest <= 2 * LINES_AT_A_TIME


@pytest.mark.trio
async def test_output_that_never_ends_is_cut_off_with_its_writer() -> None:
    reader, writer = os.pipe()

    def print_another(_: str) -> None:
        os.write(writer, b"\n")

    output = OutputPipe(reader, print_another)
    with open(writer, "wb", 0) as writing, trio.fail_after(10):  # noqa: ASYNC230, PTH123  # as above
        writing.write(b"\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.forward)
            await trio.lowlevel.checkpoint()
            output.writer_ended()
            await output.wait_closed()


# ---------------------------------------------------------------------- what is said on the channel


def test_what_a_failure_says_is_bounded() -> None:
    def decoded(message: Message) -> Any:
        decoder = FrameDecoder(FROM_WORKER)
        decoder.feed(encode_frame(message))
        return decoder.next_message()

    said = "begin" + "\udcff" * 100_000 + "end"
    failure = decoded(Failure.of("t", said, "\n" * 100_000 + "the end"))
    assert failure.error.startswith("begin\\udcff")
    assert failure.error.endswith("\\udcffend")
    assert len(failure.traceback_lines) == MAX_TRACEBACK_LINES
    assert failure.traceback_lines[-1] == "the end"
    assert decoded(Failure.of("t", "short", "a\nb")) == Failure("t", "short", "a\nb")
    long = Failure("t", "", "")
    for field in ("error", "traceback"):
        object.__setattr__(long, field, "x" * 100_000)
        with pytest.raises(ProtocolError, match=field):
            decoded(long)
        object.__setattr__(long, field, "")
    endless = Interrupt("t", "i", {})
    object.__setattr__(endless, "interrupt_id", "i" * 65)
    with pytest.raises(ProtocolError, match="interrupt_id"):
        decoded(endless)


TOO_DEEP = "nested deeper than 72"
HARM = {
    "exit_when_shown": "_ExitsWhenShown: <no message>",
    "fail_when_looked_at": "ValueError: looked at",
    # At once, not when the next turn is to be told of it.
    "deep_state": f"The agent's state is {TOO_DEEP}",
    "bottomless_state": f"The agent's state is {TOO_DEEP}",
    "deep_reply": f"The agent's answer is {TOO_DEEP}",
    "bottomless_reply": f"The agent's answer is {TOO_DEEP}",
    "say_ready_without_end": "Worker broke the protocol: a message that has no place in a turn",
    # A list of all sessions shows it.
    "forge_a_count": "Worker broke the protocol: malformed 'result' message: 'message_count' must",
    "flood_with_values": "Worker broke the protocol: of too many parts (commas and brackets: at "
    "most 500000)",
}


@pytest.mark.trio
async def test_harm_is_an_error_that_says_what_it_was() -> None:
    async with served(AGENT) as api:
        for content, error in HARM.items():
            assert (await api.error(content)).startswith(error)
            assert await api.answer("fine") == "fine"


@pytest.mark.trio
async def test_a_forged_state_is_the_affair_of_its_session() -> None:
    async with served(AGENT) as api:
        session = await api.create()
        assert (await api.turn(session, "forge_a_state"))["status"] == "idle"
        # As it was left: the server does not look into it.
        async with httpx.AsyncClient(base_url=api.http.base_url, trust_env=False) as http:
            forged = await http.get(f"/sessions/{session}/messages")
        assert forged.content == b'[],"session_id":"another"'
        found = await api.turn(session, "fine")
        assert found["error"].startswith("ProtocolError: not JSON")
        assert await api.answer("fine") == "fine"


@pytest.mark.trio
async def test_an_endless_error_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with served(AGENT) as api:
        for content in ("long_traceback", "long_name"):
            assert len(await api.error(content)) <= MAX_ERROR_CHARACTERS
        assert await api.answer("fine") == "fine"
    assert len(caplog.records) < 2 * MAX_TRACEBACK_LINES
    assert sum(len(record.getMessage()) for record in caplog.records) < 200_000


# ---------------------------------------------------------------------- the template


@pytest.mark.trio
@pytest.mark.parametrize("mode", MODES)
async def test_a_template_that_was_stopped_is_replaced(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motus.serve.workers.pool.FORK_SECONDS", 0.2)
    async with served(AGENT, max_workers=8, workers_mode=mode) as api:
        stopped = template_of()
        assert await api.answer("stop_the_template") == "fine"
        with trio.fail_after(10):
            # The first may still get a worker that was there.
            for _ in range(4):
                assert await api.answer("fine") == "fine"
        assert not alive(stopped)
        await until_async(lambda: template_of() != stopped, "another template")


@pytest.mark.trio
async def test_a_template_that_cannot_make_workers_is_an_error_of_the_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    text = "import os; os.fork = None; from tests.serve.attack_agents import agent"
    (tmp_path / "forkless.py").write_text(text)
    async with served("forkless:agent", workers_mode="fork") as api:
        assert await api.error("fine") == "The template dies before it makes a worker"


@pytest.mark.trio
async def test_a_worker_that_dies_while_it_imports_the_agent_is_named_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    source = tmp_path / "dying.py"
    source.write_text("from tests.serve.attack_agents import agent")
    async with served("dying:agent", workers_mode="exec") as api:
        source.write_text("import os; os._exit(9)")
        errors: set[str | None] = {None}
        with trio.fail_after(20):
            # The first get workers that were there.
            while errors == {None}:
                errors.add((await api.turn(await api.create(), "fine"))["error"])
    assert errors == {None, "Worker process exited unexpectedly (exit code 9)"}


@pytest.mark.trio
async def test_turns_outlive_their_template_where_ends_of_children_are_not_reported(
    tmp_path: Path,
) -> None:
    """A parent that ignores SIGCHLD passes that on, and how a child has ended is unknown then."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with pooled("wait") as pool, trio.open_nursery() as nursery:
            found: list[Any] = []

            async def turn() -> None:
                found.append(await outcome(pool, str(tmp_path)))

            nursery.start_soon(turn)
            worker = await reported_async(tmp_path, "waiting")
            template = template_of()
            os.kill(template, signal.SIGKILL)
            await until_async(lambda: not alive(template), "the template's end")
            (tmp_path / "go").touch()
            await until_async(lambda: bool(found), "the answer")
        assert found == [worker]
    finally:
        signal.signal(signal.SIGCHLD, before)


# ---------------------------------------------------------------------- the surroundings


@pytest.mark.trio
async def test_workers_need_no_descriptor_that_stands_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old kernels, and some containers, have none to give."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    text = "import errno, os\n"
    text += "def refuse(pid): raise OSError(errno.ENOSYS, 'not implemented')\n"
    text += "os.pidfd_open = refuse\nfrom tests.serve.worker_agents import misbehave\n"
    (tmp_path / "bare.py").write_text(text)
    async with served("bare:misbehave", workers_mode="fork", timeout=PATIENCE) as api:
        for _ in range(4):
            assert await api.answer("{}") == '"fine"'
        assert (await api.error('{"how": "exit"}')).endswith("(exit code 7)")
        assert (await api.error('{"how": "SIGSEGV"}')).endswith("(SIGSEGV)")
        session = await api.create()
        wish = {"how": "hang", "name": "hanging", "directory": str(tmp_path)}
        await api.post(session, json.dumps(wish))
        worker = await reported_async(tmp_path, "hanging")
        assert (await api.http.post(f"/sessions/{session}/cancel")).json()["cancelled"]
        assert not alive(worker)


@pytest.mark.trio
async def test_files_that_cannot_be_watched_are_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    text = "import sys\nclass Refused:\n"
    text += "    def __init__(self, *_): raise OSError(24, 'no more of them')\n"
    # The template is the program.
    text += "sys.modules['__main__'].SourceWatch = Refused\n"
    text += "from tests.serve.attack_agents import agent\n"
    (tmp_path / "unwatched.py").write_text(text)
    with caplog.at_level("INFO", "motus.serve.agent"):
        async with served("unwatched:agent", workers_mode="fork", reload=True) as api:
            assert await api.answer("fine") == "fine"
    assert "cannot be watched, so they are not reloaded: no more of them" in caplog.text


# What a careless parent leaves behind: signals that are blocked, standard descriptors closed.
CARELESS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
os.close(0)
os.close(2)
os.execv(sys.executable, [sys.executable, "-m", "tests.serve.readable", "start", *sys.argv[1:]])
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_server_does_not_depend_on_who_started_it(mode: str) -> None:
    options = ["--host", "127.0.0.1", "--port", "0", "--workers", "1", "--workers-mode", mode]
    program = [sys.executable, "-c", CARELESS, AGENT, *options]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            for number in (0, 2):
                # Not a socket, into which the log would be written.
                assert str(Path(f"/proc/{server.pid}/fd/{number}").readlink()) == os.devnull
            template = template_of(server.pid)
            with httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
                for _ in range(3):
                    session = http.post("/sessions").json()["session_id"]
                    path = f"/sessions/{session}"
                    http.post(f"{path}/messages", json={"content": "fine"})
                    found = http.get(path, params={"wait": "true"}).json()
                    assert found["status"] == "idle", found
            # The template hears of the ends of its children.
            until(lambda: all(map(alive, children(template))), "no zombies", 2.0)
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
        finally:
            server.kill()


def test_the_address_need_not_be_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    class NobodyReads(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for stdout in (None, NobodyReads(), closed):
        monkeypatch.setattr(sys, "stdout", stdout)
        _announce("Serving nobody")
