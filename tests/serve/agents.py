"""Agents that the tests serve; each runs in a worker process."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from motus.models import ChatMessage
from motus.serve.interrupt import interrupt

State = list[ChatMessage]
Answer = tuple[ChatMessage, State]


def _answer(text: str, message: ChatMessage, state: State) -> Answer:
    response = ChatMessage.assistant_message(text)
    return response, [*state, message, response]


def echo(message: ChatMessage, state: State) -> Answer:
    return _answer(message.content or "", message, state)


async def async_echo(message: ChatMessage, state: State) -> Answer:
    await checkpoint()
    return _answer(message.content or "", message, state)


def awaitable_echo(message: ChatMessage, state: State) -> object:
    """A plain function that hands back something to wait for."""
    return async_echo(message, state)


class Counter:
    """An object with `run_turn`: answers with the number of turns so far."""

    async def run_turn(self, message: ChatMessage, state: State) -> Answer:
        return _answer(str(len(state) // 2 + 1), message, state)


counter = Counter()


class CallableEcho:
    def __call__(self, message: ChatMessage, state: State) -> Answer:
        return echo(message, state)


class NotAnAgent:
    pass


def session_id(message: ChatMessage, state: State) -> Answer:
    return _answer(os.environ["MOTUS_SESSION_ID"], message, state)


def where(message: ChatMessage, state: State) -> Answer:
    """Which thread and process serve the turn."""
    main = threading.current_thread() is threading.main_thread()
    return _answer(f"{os.getpid()} {main}", message, state)


def fail(message: ChatMessage, state: State) -> Answer:
    content = message.content or ""
    if content == "exit":
        sys.exit(4)
    if content == "surrogate":
        raise ValueError("bad name \udcff")
    if content == "silent":
        raise ValueError
    if content == "fine":
        return echo(message, state)
    raise ValueError("boom")


async def fail_in_task_group(message: ChatMessage, state: State) -> Answer:
    async def child() -> None:
        raise ValueError("boom")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
    raise AssertionError("the task group raises")


def wrong_result(message: ChatMessage, state: State) -> object:
    results: dict[str | None, object] = {
        "nothing": None,
        "text": "hello",
        "alone": (message,),
        "response": ("hello", state),
        "state": (message, "hello"),
        "item": (message, [message, {"role": "user"}]),
        "nan": (ChatMessage("assistant", user_params={"x": float("nan")}), state),
        "object": (ChatMessage("assistant", user_params={"x": object()}), state),
    }
    return results[message.content]


def noisy(message: ChatMessage, state: State) -> Answer:
    """Write to every standard stream that there is, in every way."""
    print("from print")  # noqa: T201  # the point
    sys.stdout.write("from sys.stdout\n")
    sys.stderr.write("from sys.stderr\n")
    os.write(1, b"from descriptor 1\n")
    os.write(1, b"\x00\xff\x1b[31mnot text\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    subprocess.run("echo from a shell; cat", shell=True, check=True)
    try:
        input("a question? ")
    except EOFError:
        return _answer("EOFError", message, state)
    return _answer("input() returned", message, state)


def asks(message: ChatMessage, state: State) -> Answer:
    return _answer(input(), message, state)


def report(directory: str, name: str, value: object) -> None:
    """Tell the test, in a file that is there only when it is complete."""
    part = Path(directory) / f"{name}.part"
    part.write_text(str(value))
    part.rename(part.with_suffix(""))


def _report(directory: str | None, **numbers: int) -> None:
    for name, number in numbers.items():
        report(directory or ".", name, number)


def hang(message: ChatMessage, state: State) -> Answer:
    """Never answer; leave a grandchild that ignores SIGTERM."""
    stubborn = "trap '' TERM HUP INT; sleep 1000 & wait"
    grandchild = subprocess.Popen(["sh", "-c", stubborn])
    _report(message.content, worker=os.getpid(), grandchild=grandchild.pid)
    time.sleep(1000)
    return echo(message, state)


async def hang_async(message: ChatMessage, state: State) -> Answer:
    """Never answer, and hold the loop."""
    _report(message.content, worker=os.getpid())
    time.sleep(1000)  # noqa: ASYNC251  # the point: an agent that blocks
    return echo(message, state)


def leave_grandchild(message: ChatMessage, state: State) -> Answer:
    """Answer at once, and leave a process behind that holds every descriptor open."""
    grandchild = subprocess.Popen(["sleep", "1000"], close_fds=False)
    _report(message.content, worker=os.getpid(), grandchild=grandchild.pid)
    return echo(message, state)


def die(message: ChatMessage, state: State) -> Answer:
    """Die as the message says: by a signal's name, or with an exit code; else answer."""
    content = message.content or ""
    if content.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[content])
        time.sleep(1000)
    if content.isdigit():
        os._exit(int(content))
    return echo(message, state)


def die_with_fork(message: ChatMessage, state: State) -> Answer:
    """Die while a forked child holds the protocol's descriptor."""
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
        os._exit(0)
    _report(message.content, grandchild=pid)
    os.kill(os.getpid(), signal.SIGKILL)
    return echo(message, state)


def protocol_descriptor() -> int:
    """The socket to the server, found as code that means harm would."""
    for number in range(3, 1024):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode) and number >= 200:
                return number
        except OSError:
            continue
    raise AssertionError("no socket")


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


# What the worker writes, and how the error that comes of it begins.
GARBAGE = {
    "huge": (
        b"\xff" * 4 + b"x" * 100_000,
        "Worker broke the protocol: a frame of 4294967295 bytes",
    ),
    "text": (b"hello, world, this is no frame", "Worker broke the protocol: a frame of"),
    "unknown tag": (
        _framed(b'{"type":"pickle"}'),
        "Worker broke the protocol: unknown message type 'pickle'",
    ),
    "not json": (_framed(b"{[}"), "Worker broke the protocol: not JSON"),
    "nan": (
        _framed(b'{"type":"failure","turn_id":null,"error":"","traceback":NaN}'),
        "Worker broke the protocol: NaN is not JSON",
    ),
    "missing field": (
        _framed(b'{"type":"failure","turn_id":null}'),
        "Worker broke the protocol: malformed 'failure' message",
    ),
    "truncated": (b"\x00\x00\x01\x00{", "Worker process exited unexpectedly (exit code 0)"),
    "other turn": (
        _framed(b'{"type":"failure","turn_id":"x","error":"","traceback":""}'),
        "Worker broke the protocol: an answer to another turn",
    ),
}


def garbage(message: ChatMessage, state: State) -> Answer:
    """Write bytes of the agent's own choice to the server."""
    if message.content not in GARBAGE:
        return echo(message, state)
    data, _ = GARBAGE[message.content]
    os.write(protocol_descriptor(), data)
    if message.content == "truncated":
        os._exit(0)
    time.sleep(1000)
    return echo(message, state)


def close_channel(message: ChatMessage, state: State) -> Answer:
    os.close(protocol_descriptor())
    return echo(message, state)


def linger(message: ChatMessage, state: State) -> Answer:
    """Answer while a thread goes on that nobody can stop."""
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return echo(message, state)


def wait_for_file(message: ChatMessage, state: State) -> Answer:
    """Answer when the test makes the file `go`."""
    directory = Path(message.content or "")
    _report(message.content, worker=os.getpid())
    while not (directory / "go").exists():
        time.sleep(0.01)
    return echo(message, state)


def big(message: ChatMessage, state: State) -> Answer:
    """Answer with as many bytes of state as the message says."""
    text = ChatMessage.assistant_message("x" * int(message.content or "0"))
    return ChatMessage.assistant_message("done"), [text]


async def ask_words(message: ChatMessage, state: State) -> Answer:
    """Ask as many things at once as the message has words, and answer with what was told."""
    words = ("what" if message.content is None else message.content).split()[:3]
    told: dict[int, object] = {}

    async def ask(number: int, word: str) -> None:
        told[number] = await interrupt({"type": "user_input", "word": word, "pid": os.getpid()})

    async with anyio.create_task_group() as tasks:
        for number, word in enumerate(words):
            tasks.start_soon(ask, number, word)
    return _answer(json.dumps([told[number] for number in sorted(told)]), message, state)
