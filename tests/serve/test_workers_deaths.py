"""Whatever dies, only what it was doing is harmed: workers, the template, the server."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from motus.serve.wire import Failure
from motus.serve.workers.output import OutputPipe
from motus.serve.workers.worker import Worker, WorkerDiedError
from tests.serve.pools import children, ignore, outcome, pooled, template_of
from tests.serve.support import (
    ROOT,
    Api,
    ServerProcess,
    alive,
    reported_async,
    served,
    until,
    until_async,
)

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"
DEATHS = 3000 if SOAK else 100
KILLS_OF_THE_SERVER = 500 if SOAK else 20
KILLS_OF_THE_TEMPLATE = 200 if SOAK else 10
# The bounds are one second and two; the rest is for a busy machine.
FINAL_SECONDS = 5.0
ORPHAN_SECONDS = 6.0
# A template that does not answer is given one second; it were five, and nine in all, before.
STUCK_SECONDS = 4.0

# What an agent does to its process, and what the session's error says then.
WAYS = {
    "answer": None,
    "SIGKILL": "SIGKILL",
    "SIGSEGV": "SIGSEGV",
    "SIGTERM": "SIGTERM",
    "SIGABRT": "SIGABRT",
    "exit": "exit code 7",
    "half a frame": "SIGKILL",
}
DIED = "Worker process exited unexpectedly"


def numbers_in(directory: Path) -> set[int]:
    """The processes that agents have told of."""
    return {int(path.read_text()) for path in directory.iterdir() if path.suffix != ".part"}


async def test_a_worker_that_dies_never_loses_or_sticks_its_session(tmp_path: Path) -> None:
    """Of its own accord, or killed from outside at any moment."""
    chance = random.Random(11)
    left = list(range(DEATHS))

    async def go(api: Api, template: int) -> None:
        session = await api.create()
        state = 0
        while left:
            left.pop()
            how = chance.choice(list(WAYS))
            wish: dict[str, Any] = {"how": how, "after": chance.choice([0, 0, 0.01])}
            if chance.random() < 0.1:
                wish["grandchild"] = str(tmp_path)
            assert (await api.post(session, json.dumps(wish))).status_code == 202
            kills = chance.random() < 0.3
            if kills:
                await trio.sleep(chance.uniform(0, 0.02))
                for pid in children(template):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            with trio.fail_after(FINAL_SECONDS + 1):
                found = await api.wait(session)
            error = found["error"]
            if found["status"] == "idle":
                assert how == "answer"
                state += 2
            else:
                assert found["status"] == "error"
                named = re.fullmatch(re.escape(DIED) + r" \((.*)\)", error or "")
                assert named is not None, error
                # Another turn's killer may have been first.
                assert named[1] in {WAYS[how], "SIGKILL"}
            assert len(await api.messages(session)) == state

    async with served("tests.serve.worker_agents:misbehave", max_workers=4) as api:
        template = template_of()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(go, api, template)
        assert template_of() == template
        session = await api.create()
        assert (await api.turn(session, "{}"))["status"] == "idle"
        for known in (await api.http.get("/sessions")).json():
            await api.http.delete(f"/sessions/{known['session_id']}")
        # Deleted when nothing of their turns is alive: the slots are free, two spares are left.
        assert (await api.http.get("/health")).json()["running_workers"] == 0
        assert not any(map(alive, numbers_in(tmp_path)))
        await until_async(lambda: len(children(template)) == 2, "only the spares")


async def test_memory_that_runs_out_is_the_end_of_that_turn() -> None:
    async with pooled("misbehave", worker_memory=512) as pool:
        found = await outcome(pool, {"how": "memory"})
        assert isinstance(found, Failure)
        assert found.error == "MemoryError"
        assert await outcome(pool) == "fine"


async def test_a_stopped_worker_ends_at_its_deadline() -> None:
    async with served("tests.serve.worker_agents:misbehave", timeout=0.5) as api:
        began = trio.current_time()
        assert await api.error('{"how": "SIGSTOP"}') == "Agent timed out"
        assert trio.current_time() - began < FINAL_SECONDS
        assert (await api.turn(await api.create(), "{}"))["status"] == "idle"


# ---------------------------------------------------------------------- the template


async def test_a_template_that_dies_takes_no_turn_with_it(tmp_path: Path) -> None:
    async with pooled("wait") as pool, trio.open_nursery() as nursery:
        found: list[Any] = []

        async def turn(directory: Path) -> None:
            found.append(await outcome(pool, str(directory)))

        first = template_of()
        nursery.start_soon(turn, tmp_path)
        worker = await reported_async(tmp_path, "waiting")
        os.kill(first, signal.SIGKILL)
        await until_async(lambda: not alive(first), "the template's end")
        # A turn that is asked for while there is none waits for the next.
        other = tmp_path / "other"
        other.mkdir()
        nursery.start_soon(turn, other)
        second = await reported_async(other, "waiting")
        assert alive(worker)
        for directory in (tmp_path, other):
            (directory / "go").touch()
        await until_async(lambda: sorted(found) == sorted([worker, second]), "both answers")
        assert template_of() != first
    assert not alive(worker)


async def test_a_turn_whose_template_has_died_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing of the dead template holds up the end of the pool.
    monkeypatch.setattr("motus.serve.workers.pool.CLOSE_SECONDS", 60)
    async with pooled("misbehave") as pool, trio.open_nursery() as nursery:
        wish = {"how": "spin", "directory": str(tmp_path), "name": "pid",
                "grandchild": str(tmp_path)}  # fmt: skip
        nursery.start_soon(outcome, pool, wish)
        worker = await reported_async(tmp_path, "pid")
        [grandchild] = numbers_in(tmp_path) - {worker}
        os.kill(template_of(), signal.SIGKILL)
        assert await outcome(pool) == "fine"
        assert alive(worker)
        assert alive(grandchild)
        nursery.cancel_scope.cancel()
        ended = trio.current_time()
    assert trio.current_time() - ended < FINAL_SECONDS
    assert not alive(worker)
    await until_async(lambda: not alive(grandchild), "the grandchild's end")


async def test_no_turn_fails_however_often_the_template_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motus.serve.workers.pool.LONGEST_PAUSE_SECONDS", 0.01)
    # Killed in the middle of its import as well, which is an error only time after time.
    monkeypatch.setattr("motus.serve.workers.pool.DEATHS_UNTIL_ERROR", KILLS_OF_THE_TEMPLATE + 1)
    chance = random.Random(5)
    async with pooled("misbehave") as pool:
        done = 0
        over = False

        async def turns() -> None:
            nonlocal done
            while not over:
                assert await outcome(pool, {"after": 0.002}) == "fine"
                done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(turns)
            for _ in range(KILLS_OF_THE_TEMPLATE):
                await trio.sleep(chance.uniform(0, 0.4))
                for child in children(os.getpid()):
                    os.kill(child, signal.SIGKILL)
            over = True
        assert done > 0


async def test_a_template_that_cannot_come_back_is_an_error_of_the_turns_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    source = tmp_path / "vanishing.py"
    text = "from tests.serve.worker_agents import look as agent\n"
    source.write_text(text)
    async with served("vanishing:agent", max_workers=1) as api:
        source.write_text("1 / 0\n" + text)
        os.kill(template_of(), signal.SIGKILL)
        error = None
        with trio.fail_after(20):
            # The first may still get a worker that was there.
            while error is None:
                error = (await api.turn(await api.create(), ""))["error"]
        assert error.endswith("Could not import module 'vanishing': ZeroDivisionError: division "
                              "by zero")  # fmt: skip
        source.write_text(text + "# mended\n")
        with trio.fail_after(20):
            while (await api.turn(await api.create(), ""))["status"] != "idle":
                pass


async def test_a_stopped_template_does_not_hold_up_the_end_of_a_turn(tmp_path: Path) -> None:
    """Cancelled or killed: and the turns of others go on."""
    async with served("tests.serve.worker_agents:misbehave", max_workers=3) as api:
        for way in ("cancel", "die"):
            directory = tmp_path / way
            directory.mkdir()
            bystander, session = await api.create(), await api.create()
            go = {"how": "hang", "directory": str(directory), "name": "other"}
            await api.post(bystander, json.dumps(go))
            other = await reported_async(directory, "other")
            wish = {"how": "hang", "directory": str(directory), "name": "worker"}
            await api.post(session, json.dumps(wish))
            worker = await reported_async(directory, "worker")
            template = template_of()
            os.kill(template, signal.SIGSTOP)
            began = trio.current_time()
            if way == "cancel":
                answer = await api.http.post(f"/sessions/{session}/cancel")
                assert answer.json()["cancelled"] is True
            else:
                os.kill(worker, signal.SIGKILL)
                assert (await api.wait(session))["error"].startswith(DIED)
            assert trio.current_time() - began < STUCK_SECONDS
            assert not alive(worker)
            assert alive(other)
            await until_async(lambda: not alive(template), "the stuck template's end")  # noqa: B023  # waited for here
            await api.http.post(f"/sessions/{bystander}/cancel")
            assert not alive(other)
        assert await api.answer("{}") == '"fine"'


async def test_a_stopped_template_does_not_hold_up_a_graceful_stop(tmp_path: Path) -> None:
    wish = {"how": "hang", "directory": str(tmp_path), "name": "worker"}
    agent = "tests.serve.worker_agents:misbehave"
    with ServerProcess(agent, tmp_path / "log", "--shutdown-timeout", "0.1") as server:
        server.post(server.create(), json.dumps(wish))
        worker = await reported_async(tmp_path, "worker")
        template = template_of(server.process.pid)
        os.kill(template, signal.SIGSTOP)
        began = trio.current_time()
        server.signal(signal.SIGTERM)
        await until_async(lambda: server.process.poll() is not None, "the server's end")
        assert trio.current_time() - began < STUCK_SECONDS
        assert server.process.returncode == 0
        assert not alive(worker)
        assert not alive(template)


async def test_a_worker_that_comes_when_nobody_waits_any_more_is_let_go() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    worker = Worker("w", stream, OutputPipe(reader, ignore), lambda: None)
    worker.exited(None)
    descriptor = os.dup(reader)
    worker.forked(os.getpid(), descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    os.close(writer)
    await worker.output.forward()
    await stream.aclose()
    theirs.close()


async def test_how_a_worker_died_is_waited_for_if_it_is_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    worker = Worker("w", stream, OutputPipe(reader, ignore), lambda: None)
    with subprocess.Popen(["true"]) as process:  # noqa: ASYNC220  # it is over at once
        worker.forked(process.pid, os.pidfd_open(process.pid))
    theirs.close()

    async def report() -> None:
        # By a template on a machine that is busy.
        await trio.sleep(1.9)
        worker.exited(-signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await worker.receive()
    os.close(writer)
    await worker.output.forward()
    await stream.aclose()


async def test_a_stopped_template_does_not_stop_the_pool_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motus.serve.workers.pool.CLOSE_SECONDS", 0.2)
    async with pooled("look"):
        template = template_of()
        await until_async(lambda: len(children(template)) == 2, "two spares")
        workers = children(template)
        os.kill(template, signal.SIGSTOP)
        began = trio.current_time()
    assert trio.current_time() - began < FINAL_SECONDS
    assert not alive(template)
    # Without its parent, the kernel has ended them: the server's end of their lifeline is closed.
    await until_async(lambda: not any(map(alive, workers)), "the spares' end")


# ---------------------------------------------------------------------- the server


def kill_one(number: int, directory: Path, chance: random.Random) -> None:
    """Kill a process with a pool, in the middle of things, and see all that it had end."""
    mode = chance.choice(["fork", "fork", "exec"])
    wishes = [
        {"how": "spin", "directory": str(directory), "name": "spin"},
        {"how": "hang", "directory": str(directory), "name": "hang",
         "grandchild": str(directory)},
    ]  # fmt: skip
    program = [sys.executable, "-m", "tests.serve.pools", "misbehave", mode, json.dumps(wishes)]
    with subprocess.Popen(program, cwd=ROOT) as server:
        if number % 4 == 3:
            # At any moment of its start as well.
            time.sleep(chance.uniform(0, 0.8))
        else:
            until(lambda: (directory / "spin").exists() and (directory / "hang").exists(), "turns")
        family = descendants(server.pid)
        server.kill()
        server.wait()
    family |= numbers_in(directory)
    began = time.monotonic()
    until(lambda: not any(map(alive, family)), f"the end of {family}", ORPHAN_SECONDS)
    assert time.monotonic() - began < ORPHAN_SECONDS


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        for child in children(pid):
            found |= {child} | descendants(child)
    except OSError:
        pass  # gone meanwhile
    return found


async def test_nothing_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    """Some workers never let go of the interpreter, some have children, some are just started."""
    chance = random.Random(3)
    limit = trio.CapacityLimiter(2)
    async with trio.open_nursery() as nursery:
        for number in range(KILLS_OF_THE_SERVER):
            directory = tmp_path / str(number)
            directory.mkdir()

            async def one(number: int = number, directory: Path = directory) -> None:
                await trio.to_thread.run_sync(kill_one, number, directory, chance, limiter=limit)

            nursery.start_soon(one)


def start(agent: str, paths: Path, *wishes: Any) -> subprocess.Popen[bytes]:
    """A process with a pool that serves these turns."""
    program = [sys.executable, "-m", "tests.serve.pools", agent, "fork", json.dumps(wishes)]
    found = os.pathsep.join([str(paths), str(ROOT)])
    return subprocess.Popen(program, cwd=ROOT, env={**os.environ, "PYTHONPATH": found})


async def test_an_import_that_never_lets_go_ends_with_the_server(tmp_path: Path) -> None:
    text = "import os; from tests.serve.agents import report\n"
    text += f"report({str(tmp_path)!r}, 'pid', os.getpid())\n"
    (tmp_path / "spinning.py").write_text(text + "sum(iter(int, 1))\n")
    with start("spinning:agent", tmp_path) as server:
        pid = await reported_async(tmp_path, "pid")
        server.kill()
    await until_async(lambda: not alive(pid), "the template's end", ORPHAN_SECONDS)


async def test_server_and_template_killed_together_leave_no_worker(tmp_path: Path) -> None:
    wish = {"how": "spin", "directory": str(tmp_path), "name": "pid"}
    with start("misbehave", tmp_path, wish) as server:
        worker = await reported_async(tmp_path, "pid")
        for pid in (template_of(server.pid), server.pid):
            os.kill(pid, signal.SIGKILL)
    await until_async(lambda: not alive(worker), "the worker's end", ORPHAN_SECONDS)
