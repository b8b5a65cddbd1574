"""Agents for the tests of the workers; the message says what to do, as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread

from motus.models import ChatMessage
from motus.serve.interrupt import interrupt
from tests.serve.agents import protocol_descriptor, report

State = list[ChatMessage]
Answer = tuple[ChatMessage, State]


def _answer(value: Any, message: ChatMessage, state: State) -> Answer:
    response = ChatMessage.assistant_message(json.dumps(value))
    return response, [*state, message, response]


def look(message: ChatMessage, state: State) -> Answer:
    """What a worker sees of itself."""
    seen = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp(),
        "session": os.getsid(0),
        "environment": dict(os.environ),
        "parameters": message.user_params,
        "random": random.random(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "likelihood": int(Path("/proc/self/oom_score_adj").read_text()),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "interrupt signal": callable(signal.getsignal(signal.SIGINT)),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),  # noqa: PTH208  # numbers
        "arguments": sys.argv,
    }
    return _answer(seen, message, state)


async def look_async(message: ChatMessage, state: State) -> Answer:
    return look(message, state)


def consume(message: ChatMessage, state: State) -> Answer:
    """Use up memory, time or descriptors."""
    if message.content == "memory":
        _ = bytearray(1 << 31)
    elif message.content == "cpu":
        while True:
            pass
    elif message.content == "files":
        opened = [os.dup(0) for _ in range(200)]
        return _answer(len(opened), message, state)
    return _answer("fine", message, state)


def shout(message: ChatMessage, state: State) -> Answer:
    """Print much more than a pipe holds."""
    for number in range(int(message.content or "0")):
        sys.stdout.write(f"line {number} " + "x" * 100 + "\n")
    return _answer("done", message, state)


def _sleeper(directory: str, name: str) -> None:
    os.setsid()
    report(directory, name, os.getpid())
    time.sleep(1000)
    os._exit(0)


def stray(message: ChatMessage, state: State) -> Answer:
    """Leave processes behind: three that have left the group, with a program of their own, without
    one, and without a parent; and one in the group that has dropped its environment."""
    directory = message.content or ""
    report(directory, "bare", subprocess.Popen(["sleep", "1000"], env={}).pid)
    program = "import sys; from tests.serve.agents import report; import os, time;"
    program += "report(sys.argv[1], 'executed', os.getpid()); time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", program, directory], start_new_session=True)
    if os.fork() == 0:
        _sleeper(directory, "forked")
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            _sleeper(directory, "orphaned")
        os._exit(0)
    os.waitpid(child, 0)
    wanted = ("executed", "forked", "orphaned")
    while not all((Path(directory) / name).exists() for name in wanted):
        time.sleep(0.01)
    if (Path(directory) / "hang").exists():
        report(directory, "hanging", os.getpid())
        time.sleep(1000)
    return _answer("left", message, state)


async def on_asyncio(message: ChatMessage, state: State) -> Answer:
    """Only asyncio does."""
    match message.content:
        case "loop":
            asyncio.get_running_loop()
        case "future":
            await asyncio.Future(loop=asyncio.new_event_loop())
        case _:
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
    return _answer("slept", message, state)


class OnAsyncio:
    motus_backend = "asyncio"

    async def run_turn(self, message: ChatMessage, state: State) -> Answer:
        return await on_asyncio(message, state)


on_asyncio_by_itself = OnAsyncio()


async def neither(message: ChatMessage, state: State) -> Answer:
    return _answer("never", message, state)


neither.motus_backend = "curio"  # type: ignore[attr-defined]  # the point: what users may write


async def ask(message: ChatMessage, state: State) -> Answer:
    """Ask as many questions at once as the message says; answer with the answers in order."""
    answers: dict[int, Any] = {}

    async def one(number: int) -> None:
        answers[number] = await interrupt({"type": "number", "number": number})

    async with anyio.create_task_group() as tasks:
        for number in range(int(message.content or "1")):
            tasks.start_soon(one, number)
    return _answer([answers[number] for number in sorted(answers)], message, state)


def ask_from_thread(message: ChatMessage, state: State) -> Answer:
    value = anyio.from_thread.run(interrupt, {"from": "a thread"})
    return _answer(value, message, state)


async def give_up_asking(message: ChatMessage, state: State) -> Answer:
    """Ask, give up, ask again."""
    with anyio.move_on_after(0.05):
        await interrupt({"number": 1})
    return _answer(await interrupt({"number": 2}), message, state)


async def ask_and_clean_up(message: ChatMessage, state: State) -> Answer:
    try:
        await interrupt({})
    except EOFError as error:
        report(message.content or "", "told", error)
        raise
    return _answer("answered", message, state)


async def ask_badly(message: ChatMessage, state: State) -> Answer:
    payloads: dict[str | None, Any] = {
        "long": {"x": "y" * 20_000},
        "nan": {"x": float("nan")},
        "list": [],
    }
    await interrupt(payloads[message.content])
    return _answer("asked", message, state)


def misbehave(message: ChatMessage, state: State) -> Answer:
    """Die, or stop, or hang, in the way and after the seconds that the message says."""
    wish = json.loads(message.content or "{}")
    how = wish.get("how", "answer")
    if "grandchild" in wish:
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
        report(wish["grandchild"], f"grandchild{child.pid}", child.pid)
    end = time.monotonic() + wish.get("after", 0)
    while time.monotonic() < end:
        pass
    if how.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[how])
        time.sleep(1000)
    elif how == "exit":
        os._exit(7)
    elif how == "hang":
        report(wish["directory"], wish["name"], os.getpid())
        time.sleep(1000)
    elif how == "spin":
        report(wish["directory"], wish["name"], os.getpid())
        # One call that never lets go of the interpreter.
        sum(iter(int, 1))
    elif how == "memory":
        _ = [bytearray(1 << 20) for _ in range(1 << 20)]
    elif how == "half a frame":
        os.write(protocol_descriptor(), b"\x00\x00\x10\x00{")
        os.kill(os.getpid(), signal.SIGKILL)
    return _answer("fine", message, state)


def wait(message: ChatMessage, state: State) -> Answer:
    """Answer when the file is there."""
    directory = message.content or ""
    report(directory, "waiting", os.getpid())
    while not (Path(directory) / "go").exists():
        time.sleep(0.005)
    return _answer(os.getpid(), message, state)
