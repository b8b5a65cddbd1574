"""Turns in real worker processes: what the agent may do, and what is left when a turn ends."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import trio

from tests.serve import agents
from tests.serve.support import Api, alive, reported_async, served, until_async

pytestmark = [pytest.mark.trio, pytest.mark.realtime]


# Those that are not served anywhere else here: plain and async functions are, and import paths.
@pytest.mark.parametrize(
    ("agent", "answer"),
    [
        (agents.awaitable_echo, "next"),
        (agents.CallableEcho, "next"),
        (agents.counter, "1"),
        (agents.Counter, "1"),
    ],
    ids=["awaitable", "callable class", "object", "class"],
)
async def test_every_kind_of_agent_answers(agent: object, answer: str) -> None:
    async with served(agent) as api:
        assert await api.answer("next") == answer


async def test_each_turn_has_a_process_and_sync_agents_a_thread() -> None:
    async with served(agents.where) as api:
        session = await api.create()
        turns = [await api.turn(session, "x") for _ in range(2)]
        (first, main), (second, _) = (turn["response"]["content"].split() for turn in turns)
        assert main == "False"
        assert first != second
        assert str(os.getpid()) not in {first, second}
        await until_async(lambda: not alive(int(second)), "the worker's exit")


async def test_the_agent_knows_its_session() -> None:
    async with served(agents.session_id) as api:
        session = await api.create()
        assert (await api.turn(session, "x"))["response"]["content"] == session


async def test_what_the_agent_raises_is_the_sessions_error() -> None:
    async with served(agents.fail) as api:
        for content, error in (
            ("raise", "ValueError: boom"),
            ("exit", "SystemExit: 4"),
            ("silent", "ValueError"),
            ("surrogate", "ValueError: bad name \\udcff"),
        ):
            session = await api.create()
            await api.turn(session, "fine")
            outcome = await api.turn(session, content)
            assert (outcome["status"], outcome["error"]) == ("error", error)
            assert outcome["response"] is None
            # The state is as it was before the turn, and the session goes on.
            assert len(await api.messages(session)) == 2
            outcome = await api.turn(session, "fine")
            assert (outcome["status"], outcome["error"]) == ("idle", None)
            assert len(await api.messages(session)) == 4


async def test_the_traceback_reaches_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async with served(agents.fail) as api:
        with caplog.at_level(logging.INFO, "motus.serve"):
            outcome = await api.turn(await api.create(), "raise")
        assert "Traceback" not in str(outcome)
        lines = [r.getMessage() for r in caplog.records if r.name == "motus.serve.agent"]
        assert lines[0].startswith("Traceback")
        assert "agents.py" in lines[1]
        assert lines[-1] == "ValueError: boom"


async def test_a_group_of_one_error_is_reported_as_that_error() -> None:
    async with served(agents.fail_in_task_group) as api:
        assert await api.error("x") == "ValueError: boom"


async def test_a_result_of_another_kind_says_what_came() -> None:
    async with served(agents.wrong_result) as api:
        for content, came in (
            ("nothing", "NoneType"),
            ("text", "str"),
            ("alone", "a tuple of 1"),
            ("response", "a response of type str"),
            ("state", "a state of type str"),
            ("item", "a state with dict at index 1"),
        ):
            error = await api.error(content)
            assert error == f"Agent must return a (response, state) tuple, got {came}"
        for content in ("nan", "object"):
            assert "not expressible in JSON" in await api.error(content), content


async def test_output_and_input_leave_the_protocol_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(agents.noisy) as api:
        session = await api.create()
        with caplog.at_level(logging.INFO, "motus.serve.agent"):
            outcome = await api.turn(session, "x")
            await api.http.delete(f"/sessions/{session}")
        assert outcome["response"]["content"] == "EOFError"
        records = [r for r in caplog.records if r.name == "motus.serve.agent"]
        assert {vars(r)["session_id"] for r in records} == {session}
        printed = [r.getMessage() for r in records]
        for source in ("print", "sys.stdout", "sys.stderr", "descriptor 1", "a child", "a shell"):
            assert f"from {source}" in printed
        assert "\x00\\xff\x1b[31mnot text" in printed


async def test_an_agent_that_asks_gets_the_end_of_the_input() -> None:
    async with served(agents.asks) as api:
        assert await api.error("x") == "EOFError: EOF when reading a line"


async def test_a_worker_that_dies_is_named_with_its_cause() -> None:
    async with served(agents.die) as api:
        for content, cause in (
            ("SIGKILL", "SIGKILL"),
            ("SIGSEGV", "SIGSEGV"),
            ("3", "exit code 3"),
            ("0", "exit code 0"),
        ):
            session = await api.create()
            await api.turn(session, "fine")
            outcome = await api.turn(session, content)
            assert outcome["error"] == f"Worker process exited unexpectedly ({cause})"
            assert outcome["status"] == "error"
            assert len(await api.messages(session)) == 2
            assert (await api.turn(session, "fine"))["status"] == "idle"


async def test_a_killed_worker_harms_its_own_session_only(tmp_path: Path) -> None:
    async with served(agents.wait_for_file, max_workers=2) as api:
        victim, other = await api.create(), await api.create()
        for session in (victim, other):
            (tmp_path / session).mkdir()
            await api.post(session, str(tmp_path / session))
        worker = await reported_async(tmp_path / victim, "worker")
        await reported_async(tmp_path / other, "worker")
        os.kill(worker, signal.SIGKILL)
        outcome = await api.wait(victim)
        assert outcome["error"] == "Worker process exited unexpectedly (SIGKILL)"
        assert (await api.wait(other, timeout=0))["status"] == "running"
        (tmp_path / other / "go").touch()
        assert (await api.wait(other))["status"] == "idle"
        (tmp_path / victim / "go").touch()
        assert (await api.turn(victim, str(tmp_path / victim)))["status"] == "idle"


async def test_a_worker_that_dies_with_a_live_grandchild_is_noticed(tmp_path: Path) -> None:
    """The grandchild holds the worker's end of the channel: its death is no end of the stream."""
    async with served(agents.die_with_fork) as api:
        session = await api.create()
        with trio.fail_after(10):
            outcome = await api.turn(session, str(tmp_path))
        assert outcome["error"] == "Worker process exited unexpectedly (SIGKILL)"
        # The status changes when the whole group is gone, not before.
        assert not alive(await reported_async(tmp_path, "grandchild"))


async def test_deletion_returns_when_nothing_of_the_turn_is_alive(tmp_path: Path) -> None:
    async with served(agents.hang) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        worker = await reported_async(tmp_path, "worker")
        grandchild = await reported_async(tmp_path, "grandchild")
        assert alive(worker)
        assert alive(grandchild)
        with trio.fail_after(5):
            deleted = await api.http.delete(f"/sessions/{session}")
        assert deleted.status_code == 204
        assert not alive(worker)
        assert not alive(grandchild)
        assert (await api.http.get("/health")).json()["running_workers"] == 0


async def test_deletion_goes_on_without_its_client(tmp_path: Path) -> None:
    async with served(agents.hang) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        worker = await reported_async(tmp_path, "worker")
        with trio.move_on_after(0.001):
            await api.http.delete(f"/sessions/{session}")
        # Whether the request has reached the server or not, a second one finds everything gone.
        again = await api.http.delete(f"/sessions/{session}")
        assert again.status_code in (204, 404)
        assert not alive(worker)


async def test_a_turn_beyond_its_deadline_is_ended(tmp_path: Path) -> None:
    async with (
        served(agents.hang, timeout=2.5) as in_thread,
        served(agents.hang_async, timeout=2.5) as in_loop,
        trio.open_nursery() as nursery,
    ):

        async def hang(api: Api, name: str, *pids: str) -> None:
            (tmp_path / name).mkdir()
            outcome = await api.turn(await api.create(), str(tmp_path / name))
            assert (outcome["status"], outcome["error"]) == ("error", "Agent timed out")
            for pid in pids:
                assert not alive(await reported_async(tmp_path / name, pid))

        # Side by side, as each takes all of its time.
        nursery.start_soon(hang, in_thread, "thread", "worker", "grandchild")
        nursery.start_soon(hang, in_loop, "loop", "worker")


async def test_a_process_left_behind_by_an_answered_turn_is_killed(tmp_path: Path) -> None:
    async with served(agents.leave_grandchild, max_workers=1) as api:
        outcome = await api.turn(await api.create(), str(tmp_path))
        assert outcome["status"] == "idle"
        grandchild = await reported_async(tmp_path, "grandchild")
        await until_async(lambda: not alive(grandchild), "the grandchild's end")


async def test_a_lingering_thread_does_not_hold_up_the_end() -> None:
    async with served(agents.linger, max_workers=1) as api:
        with trio.fail_after(10):
            for _ in range(3):
                assert await api.answer("x") == "x"


async def test_garbage_on_the_channel_harms_that_turn_only() -> None:
    async with served(agents.garbage) as api:
        for content, (_, reason) in agents.GARBAGE.items():
            session = await api.create()
            with trio.fail_after(15):
                outcome = await api.turn(session, content)
            assert outcome["status"] == "error"
            assert outcome["error"].startswith(reason), (content, outcome["error"])
            assert (await api.turn(session, "fine"))["response"]["content"] == "fine"


async def test_a_worker_that_closes_its_channel_is_ended() -> None:
    async with served(agents.close_channel) as api:
        error = await api.error("x")
        assert error.startswith("Worker process exited unexpectedly")


async def test_a_large_state_goes_through_the_worker_and_back() -> None:
    async with served(agents.big) as api:
        session = await api.create()
        size = 10_000_000
        await api.turn(session, str(size))
        assert len((await api.messages(session))[0]["content"]) == size
        assert (await api.turn(session, "1"))["status"] == "idle"


async def test_a_state_beyond_a_frame_is_an_error_of_the_turn() -> None:
    async with served(agents.big) as api:
        assert "bytes (at most" in await api.error(str(65 * 1024 * 1024))
