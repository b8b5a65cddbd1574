"""Workers and their template: what an agent finds itself in, and how it is made."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from motus.errors import ProtocolError
from motus.serve.agents import AgentLoadError, AgentTarget
from motus.serve.config import ServerConfig
from motus.serve.wire import Failure, Interrupt, Resume, encode_frame
from motus.serve.workers.pool import WorkerDiedError, WorkerPool
from tests.serve.pools import AGENTS, children, ignore, outcome, pooled, template_of, turn_frame
from tests.serve.support import alive, reported_async, until_async

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

MODES = pytest.mark.parametrize("mode", ["fork", "exec"])


@MODES
@pytest.mark.parametrize("agent", ["look", "look_async"])
async def test_a_worker_is_a_process_of_its_own_however_it_is_made(mode: Any, agent: str) -> None:
    async with pooled(agent, workers_mode=mode) as pool:
        assert pool.mode == mode
        first, second = await outcome(pool), await outcome(pool)
        assert first["pid"] != second["pid"]
        for seen in (first, second):
            assert seen["pid"] == seen["group"] == seen["session"]
            assert seen["parent"] == template_of()
            assert seen["core"] == [0, 0]
            assert seen["interrupt signal"]
            # The standard ones, the loop's and a handful that are private.
            assert len(seen["descriptors"]) < 16
            assert seen["random"] not in {0, (second if seen is first else first)["random"]}


@MODES
async def test_variables_are_for_the_turn_and_secrets_for_the_server(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOTUS_AUTH_TOKEN", "MOTUS_WEBHOOK_SECRET", "DATABASE_PASSWORD", "WANTED", "LD_X"):
        monkeypatch.setenv(name, f"canary {name}")
    monkeypatch.setenv("SOME_API_KEY", "for the agent")
    async with pooled("look", workers_mode=mode, env=["WANTED", "MOTUS_AUTH_TOKEN"]) as pool:
        parameters = {"sandbox_url": "http://box", "sandbox_token": "t\0", "other": [1]}
        seen = await outcome(pool, user_params=parameters)
        environment = seen["environment"]
        assert [value for value in environment.values() if "canary" in value] == ["canary WANTED"]
        assert environment["SOME_API_KEY"] == "for the agent"
        assert environment["PATH"] == os.environ["PATH"]
        assert environment["MOTUS_SESSION_ID"] == "the session"
        assert environment["SANDBOX_URL"] == "http://box"
        # What no variable can hold stays where it was.
        assert "SANDBOX_TOKEN" not in environment
        assert seen["parameters"] == {"sandbox_token": "t\0", "other": [1]}
        other = (await outcome(pool))["environment"]
        assert "SANDBOX_URL" not in other
        assert "canary" not in " ".join(seen["arguments"])


@MODES
async def test_limits_are_those_of_each_worker(mode: Any) -> None:
    limits = {"worker_memory": 1024, "worker_cpu": 1, "worker_files": 100}
    async with pooled("consume", workers_mode=mode, **limits) as pool:
        for _ in range(2):
            assert await outcome(pool, "fine") == "fine"
        found = await outcome(pool, "memory")
        assert isinstance(found, Failure)
        assert found.error == "MemoryError"
        found = await outcome(pool, "files")
        assert isinstance(found, Failure)
        assert found.error.startswith("OSError: [Errno 24]")
        # It takes its second; once is enough.
        if mode == "fork":
            with pytest.raises(WorkerDiedError, match="SIGXCPU"):
                await outcome(pool, "cpu")


async def test_a_limit_beyond_the_systems_own_is_the_systems_own() -> None:
    async with pooled("look", worker_files=1 << 40) as pool:
        assert (await outcome(pool))["files"][1] <= 1 << 31


async def test_two_spares_wait_and_are_replaced() -> None:
    async with pooled("look") as pool:
        template = template_of()
        await until_async(lambda: len(children(template)) == 2, "two spares")
        spares = set(children(template))
        with trio.fail_after(20):
            # They are there a moment before the pool has heard of them.
            while (await outcome(pool))["pid"] not in spares:
                pass
        await until_async(lambda: len(children(template)) == 2, "two spares again")
        assert set(children(template)) != spares


async def test_when_memory_runs_out_workers_go_before_the_server() -> None:
    def likelihood(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    async with pooled("look") as pool:
        template = template_of()
        worker = (await outcome(pool))["likelihood"]
        assert worker == likelihood(template) > likelihood(os.getpid())


async def test_more_turns_than_spares_run_at_the_same_time(tmp_path: Path) -> None:
    outcomes: list[Any] = []
    async with pooled("wait") as pool, trio.open_nursery() as nursery:

        async def take_turn(directory: Path) -> None:
            outcomes.append(await outcome(pool, str(directory)))

        for number in range(6):
            (tmp_path / str(number)).mkdir()
            nursery.start_soon(take_turn, tmp_path / str(number))
        for number in range(6):
            await reported_async(tmp_path / str(number), "waiting")
        for number in range(6):
            (tmp_path / str(number) / "go").touch()
    assert len(outcomes) == 6
    assert not any(isinstance(one, Failure) for one in outcomes)


async def test_a_spare_that_dies_is_not_given_to_a_turn() -> None:
    async with pooled("look") as pool:
        template = template_of()
        await until_async(lambda: len(children(template)) == 2, "two spares")
        for spare in children(template):
            os.kill(spare, signal.SIGKILL)
        await until_async(lambda: not children(template), "their end")
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(3):
            # On a busy machine the reports of their end may still be on the way.
            with contextlib.suppress(WorkerDiedError):
                found = await outcome(pool)
        assert found["parent"] == template


async def test_a_cancelled_wait_for_a_worker_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motus.serve.workers.pool.SPARES", 0)
    async with pooled("look") as pool:
        template = template_of()
        os.kill(template, signal.SIGSTOP)
        with trio.move_on_after(0.1) as scope:
            await outcome(pool)
        assert scope.cancelled_caught
        os.kill(template, signal.SIGCONT)
        await until_async(lambda: not children(template), "the unwanted worker's end")
        assert (await outcome(pool))["parent"] == template


@MODES
async def test_what_is_printed_arrives_however_much_it_is(mode: Any) -> None:
    lines: list[str] = []
    async with pooled("shout", workers_mode=mode) as pool:
        assert await outcome(pool, "5000", lines.append) == "done"
        assert lines == [f"line {number} " + "x" * 100 for number in range(5000)]


@MODES
@pytest.mark.parametrize("answered", [True, False], ids=["answered", "stopped"])
async def test_processes_that_left_the_group_end_with_the_turn(
    mode: Any, answered: bool, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    async with pooled("stray", workers_mode=mode) as pool, trio.open_nursery() as nursery:
        (tmp_path / "other" / "hang").touch()
        nursery.start_soon(outcome, pool, str(tmp_path / "other"))
        await reported_async(tmp_path / "other", "hanging")
        others = [int((tmp_path / "other" / name).read_text()) for name in STRAYS]
        if answered:
            assert await outcome(pool, str(tmp_path)) == "left"
        else:
            (tmp_path / "hang").touch()
            async with pool.worker(ignore) as worker:
                await worker.send(turn_frame(str(tmp_path)))
                await reported_async(tmp_path, "hanging")
        # At once: the end of the turn is the end of all that it started, and of nothing else.
        assert not [name for name in STRAYS if alive(int((tmp_path / name).read_text()))]
        assert all(map(alive, others))
        nursery.cancel_scope.cancel()
    assert not any(map(alive, others))


STRAYS = ("executed", "forked", "orphaned", "bare")


# ---------------------------------------------------------------------- the event loop


@MODES
@pytest.mark.parametrize("content", ["loop", "future", "sleep"])
async def test_asyncio_under_trio_is_told_the_flag(mode: Any, content: str) -> None:
    async with pooled("on_asyncio", workers_mode=mode) as pool:
        found = await outcome(pool, content)
        assert isinstance(found, Failure)
        assert "start the server with --backend asyncio" in found.error


async def test_the_backend_is_the_operators_then_the_agents_then_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pooled("on_asyncio", backend="asyncio") as pool:
        assert await outcome(pool) == "slept"
    async with pooled("on_asyncio_by_itself") as pool:
        assert await outcome(pool) == "slept"
    async with pooled("on_asyncio_by_itself", backend="trio") as pool:
        assert isinstance(await outcome(pool), Failure)
    monkeypatch.setenv("MOTUS_BACKEND", "asyncio")
    async with pooled("on_asyncio") as pool:
        assert await outcome(pool) == "slept"
    async with pooled("look", backend="asyncio") as pool:
        assert (await outcome(pool))["pid"]


async def test_a_backend_that_there_is_not_is_an_error_at_the_start() -> None:
    pool = WorkerPool(AgentTarget(f"{AGENTS}:neither"))
    with pytest.raises(AgentLoadError, match="motus_backend must be 'trio' or 'asyncio', not 'cu"):
        await pool.run()


# ---------------------------------------------------------------------- interrupts

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


@BACKENDS
async def test_values_reach_their_interrupts(backend: Any) -> None:
    async with pooled("ask", backend=backend) as pool, pool.worker(ignore) as worker:
        await worker.send(turn_frame("3"))
        asked: list[Interrupt] = []
        while len(asked) < 3:
            message = await worker.receive()
            assert isinstance(message, Interrupt)
            asked.append(message)
        await worker.send(encode_frame(Resume("t", "unknown", 1)))
        for message in reversed(asked):
            value = {"was": message.payload["number"]}
            await worker.send(encode_frame(Resume("t", message.interrupt_id, value)))
            # A second value for the same is for nobody.
            await worker.send(encode_frame(Resume("t", message.interrupt_id, "again")))
        result: Any = await worker.receive()
        assert result.response.content == '[{"was": 0}, {"was": 1}, {"was": 2}]'


@BACKENDS
async def test_a_thread_of_the_agent_can_ask(backend: Any) -> None:
    async with pooled("ask_from_thread", backend=backend) as pool, pool.worker(ignore) as worker:
        await worker.send(turn_frame())
        message: Any = await worker.receive()
        assert message.payload == {"from": "a thread"}
        await worker.send(encode_frame(Resume("t", message.interrupt_id, 42)))
        result: Any = await worker.receive()
        assert result.response.content == "42"


async def test_a_value_for_an_interrupt_that_was_given_up_is_dropped() -> None:
    async with pooled("give_up_asking") as pool, pool.worker(ignore) as worker:
        await worker.send(turn_frame())
        first: Any = await worker.receive()
        second: Any = await worker.receive()
        await worker.send(encode_frame(Resume("t", first.interrupt_id, "late")))
        await worker.send(encode_frame(Resume("t", second.interrupt_id, "in time")))
        result: Any = await worker.receive()
        assert result.response.content == '"in time"'


@BACKENDS
async def test_an_agent_that_waits_is_told_of_the_end_of_its_turn(
    backend: Any, tmp_path: Path
) -> None:
    async with pooled("ask_and_clean_up", backend=backend) as pool:
        async with pool.worker(ignore) as worker:
            await worker.send(turn_frame(str(tmp_path)))
            await worker.receive()
        assert (tmp_path / "told").read_text() == "Worker pipe closed"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("long", "ValueError: Interrupt message too large: 20008 bytes (max 16384)"),
        ("nan", "ValueError: Interrupt payload is not expressible in JSON"),
        ("list", "TypeError: interrupt() takes a dict, got list"),
    ],
)
async def test_a_bad_payload_is_the_agents_error(content: str, error: str) -> None:
    async with pooled("ask_badly") as pool:
        found = await outcome(pool, content)
        assert isinstance(found, Failure)
        assert found.error.startswith(error)


# ---------------------------------------------------------------------- importing the agent


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which workers import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


AGENT = """
from motus.models import ChatMessage
import json, os
def agent(message, state):
    return ChatMessage.assistant_message(json.dumps(ANSWER)), state
"""


async def test_an_agent_that_starts_threads_is_not_forked(
    modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "import threading, time\nANSWER = 1\n"
    text += "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    (modules / "threaded.py").write_text(text + AGENT)
    with caplog.at_level(logging.INFO, "motus.serve.agent"):
        async with pooled("threaded:agent") as pool:
            assert pool.mode == "exec"
            assert await outcome(pool) == 1
    assert "threaded:agent starts threads when it is imported" in caplog.text
    # At the operator's word it is forked.
    async with pooled("threaded:agent", workers_mode="fork") as pool:
        assert pool.mode == "fork"
        assert await outcome(pool) == 1


# Writes to the template's socket to the server.
BABBLE = """
import os, time
for number in range(200, 210):
    try:
        os.write(number, b"x" * 99)
    except OSError:
        pass
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no key')", "Could not import module 'bad': RuntimeError: no key"),
        ("agent = 5", "'bad:agent' is not a ServableAgent, OpenAI Agent, or callable"),
        ("", "Module 'bad' has no attribute 'agent'"),
        ("import sys; sys.exit(3)", "Could not import module 'bad': SystemExit: 3"),
        ("import os; os._exit(3)", "The agent could not be imported: exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "The agent could not be imported: SIGSEGV"),
        (BABBLE, "The agent could not be imported: "),
    ],
    ids=["raises", "no agent", "nothing", "leaves", "exits", "crashes", "babbles"],
)  # fmt: skip
@MODES
async def test_an_agent_that_cannot_be_imported_is_an_error_at_the_start(
    mode: Any, text: str, error: str, modules: Path
) -> None:
    (modules / "bad.py").write_text(text)
    pool = WorkerPool(AgentTarget("bad:agent"), ServerConfig(workers_mode=mode))
    with trio.fail_after(20), pytest.raises(AgentLoadError, match=f"^{error}".replace("(", r"\(")):
        await pool.run()
    assert not pool.is_running


async def test_an_import_that_does_not_end_is_an_error(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "slow.py").write_text("import time; time.sleep(1000)")
    monkeypatch.setattr("motus.serve.workers.pool.PREPARE_SECONDS", 0.3)
    with pytest.raises(
        AgentLoadError, match=r"could not be imported: it took longer than 0\.3 sec"
    ):
        await WorkerPool(AgentTarget("slow:agent")).run()


@MODES
async def test_a_start_can_be_cancelled(mode: Any, modules: Path) -> None:
    text = "import os, time; from tests.serve.agents import report\n"
    text += f"report({str(modules)!r}, 'pid', os.getpid())\n"
    (modules / "slow.py").write_text(text + "time.sleep(1000)")
    pool = WorkerPool(AgentTarget("slow:agent"), ServerConfig(workers_mode=mode))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        pid = await reported_async(modules, "pid")
        nursery.cancel_scope.cancel()
    assert not alive(pid)


async def test_a_pool_runs_again_after_its_end() -> None:
    pool = WorkerPool(AgentTarget(f"{AGENTS}:look"))
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            assert await outcome(pool)
            pool.close()
        with pytest.raises(RuntimeError, match="lifespan startup"):
            await outcome(pool)


async def test_changed_files_make_a_new_template_without_a_failed_turn(modules: Path) -> None:
    source = modules / "changing.py"
    waits = "import time, pathlib\n"
    waits += AGENT.replace("    return", "    while not pathlib.Path(message.content).exists():\n"
                           "        time.sleep(0.01)\n    return")  # fmt: skip
    source.write_text("ANSWER = 'one'\n" + waits)
    go = modules / "go"
    async with pooled("changing:agent", reload=True) as pool, trio.open_nursery() as nursery:
        first = template_of()
        slow: list[Any] = []

        async def old_turn() -> None:
            slow.append(await outcome(pool, str(go)))

        nursery.start_soon(old_turn)
        await until_async(lambda: len(children(first)) == 3, "the turn and two spares")

        async def changes(before: str, after: str) -> None:
            with trio.fail_after(20):
                while (answer := await outcome(pool, "/")) != after:
                    assert answer == before

        source.write_text("ANSWER = 'number two'\n" + waits)
        await changes("one", "number two")
        assert alive(first)
        # What cannot be imported leaves the old one in place.
        (modules / "changing.py.new").write_text("ANSWER = \n")
        (modules / "changing.py.new").rename(source)
        for _ in range(5):
            assert await outcome(pool, "/") == "number two"
        source.write_text("ANSWER = 'the third one'\n" + waits)
        await changes("number two", "the third one")
        go.touch()
        await until_async(lambda: slow == ["one"], "the turn that was running all the time")
        await until_async(lambda: not alive(first), "the end of its template")


async def test_a_change_during_an_import_is_not_missed(modules: Path) -> None:
    part, go, imports = modules / "part.py", modules / "go", modules / "imports"
    # It has read the other file, which is not watched yet, when it waits.
    waits = f"import pathlib, time\npathlib.Path({str(imports)!r}).open('a').write('x')\n"
    waits += f"while not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.01)\n"
    (modules / "waiting.py").write_text("from part import ANSWER\n" + waits + AGENT)
    part.write_text("ANSWER = 'one'\n")
    go.touch()
    async with pooled("waiting:agent", reload=True, workers_mode="fork") as pool:
        assert await outcome(pool) == "one"
        go.unlink()
        seen = len(imports.read_text())
        part.write_text("ANSWER = 'number two'\n")
        await until_async(lambda: len(imports.read_text()) > seen, "another import")
        part.write_text("ANSWER = 'the third one'\n")
        go.touch()
        with trio.fail_after(20):
            while (answer := await outcome(pool)) != "the third one":
                assert answer in ("one", "number two")


async def test_a_frame_that_is_none_harms_that_turn_only() -> None:
    async with pooled("misbehave") as pool:
        with pytest.raises((ProtocolError, WorkerDiedError)):
            await outcome(pool, {"how": "half a frame"})
        assert await outcome(pool) == "fine"
