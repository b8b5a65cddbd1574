"""Running commands: with a deadline, with a bounded output, and with nothing left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread
import attrs
from anyio.lowlevel import RunVar, checkpoint_if_cancelled

__all__ = ["MAX_PROCESSES", "Finished", "kill_session", "one_process", "run_command"]

# How long the output is still read after the command has ended: a daemon may hold the pipe for
# ever. In seconds.
_DRAIN: Final = 0.5
# How long a killed process may take to go: one that waits for a dead disk does not go at all.
_REAP: Final = 5.0
# What models have started, at the same time: one may ask for thousands in one message.
MAX_PROCESSES: Final = 32

_semaphore: Final[RunVar[anyio.Semaphore]] = RunVar("motus_processes_of_tools")


@attrs.frozen
class Finished:
    """How a command ended, and what it wrote; `exit_code` is that of `subprocess`, negative for a
    signal, and None if its time was up. `omitted` is how many bytes of the output were too many.
    """

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    omitted: int


@attrs.define
class _Output:
    """The beginning of a stream."""

    limit: int
    kept: bytearray = attrs.field(factory=bytearray)
    omitted: int = 0

    async def read_from(self, stream: anyio.abc.ByteReceiveStream) -> None:
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                data = await stream.receive()
                room = self.limit - len(self.kept)
                self.kept += data[:room]
                # Read on: a command that cannot write would wait for ever.
                self.omitted += len(data) - len(data[:room])


def one_process() -> anyio.Semaphore:
    """The right to run one for a model, in this loop; whoever waits for it can be cancelled."""
    try:
        return _semaphore.get()
    except LookupError:
        semaphore = anyio.Semaphore(MAX_PROCESSES)
        _semaphore.set(semaphore)
        return semaphore


async def run_command(
    command: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str],
    input: bytes = b"",  # noqa: A002  # as subprocess calls it
    timeout: float | None = None,  # noqa: ASYNC109  # of the command, not of the call
    max_output: int,
    merged: bool = False,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run a command, without a shell, and wait until it has ended.

    It gets a session of its own, which is killed when the command has ended, when `timeout`
    (seconds) is over, and when this call is cancelled: of all that it has started, only a daemon
    runs on, which has a session of its own and whose parent is gone. `merged` sends its errors to
    `stdout`. At most `max_output` bytes of each stream are kept. Raises `OSError` if it cannot be
    started.
    """
    stdout, stderr = _Output(max_output), _Output(max_output)
    # Cancelled by now, nothing is started; in the middle of it, there could be a process that
    # nobody knows of.
    await checkpoint_if_cancelled()
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    is_over = False
    try:
        async with anyio.create_task_group() as tasks:
            if process.stdin is not None:
                tasks.start_soon(_feed, process.stdin, input)
            for output, stream in ((stdout, process.stdout), (stderr, process.stderr)):
                if stream is not None:
                    tasks.start_soon(output.read_from, stream)
            with anyio.move_on_after(timeout) as deadline:
                await process.wait()
            await _kill_session(process.pid)
            is_over = True
            tasks.cancel_scope.deadline = anyio.current_time() + _DRAIN
    finally:
        # Once only: the number may belong to somebody else by now.
        if not is_over:
            await _kill_session(process.pid)
        with anyio.move_on_after(_REAP, shield=True):
            await process.aclose()
    return Finished(
        None if deadline.cancelled_caught else process.returncode,
        bytes(stdout.kept),
        bytes(stderr.kept),
        stdout.omitted + stderr.omitted,
    )


async def _feed(stream: anyio.abc.ByteSendStream, data: bytes) -> None:
    # A command need not read what it is given. OSError: anyio lets some of asyncio's through.
    refused = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
    with contextlib.suppress(*refused):
        if data:
            await stream.send(data)
    with contextlib.suppress(*refused):
        await stream.aclose()


async def _kill_session(leader: int) -> None:
    """Kill a command and all that it has started, also where it is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):
        # The table of processes may be long. A limiter of its own: it must not wait for others.
        await anyio.to_thread.run_sync(kill_session, leader, limiter=anyio.CapacityLimiter(1))


def kill_session(leader: int) -> None:
    """Kill every process of the session that this one leads, and all below them, and see them die.

    Job control, `timeout` and their like give processes groups of their own, `setsid` sessions of
    their own: those are found as long as their parent is there. Where there is no `/proc`, only
    the group of the leader is killed.
    """
    # First they are stopped, each generation before it can have another one.
    _send_to_group(leader, signal.SIGSTOP)
    sessions, seen, ours = {leader}, set[int](), set[int]()
    while _is_session(leader) and (new := _members(sessions) - seen):
        seen |= new
        ours |= {pid for pid in new if _send(pid, signal.SIGSTOP)}
    _send_to_group(leader, signal.SIGKILL)
    for pid in ours:
        _send(pid, signal.SIGKILL)
    deadline = time.monotonic() + _REAP
    # One that waits for a dead disk does not go.
    while ours and _members(sessions) & ours and time.monotonic() < deadline:
        time.sleep(0.001)


def _is_session(leader: int) -> bool:
    """Whether any process is in it: most commands leave nothing, and this is cheaper to ask."""
    for pid in _numbers():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                return True
    return False


def _send(pid: int, number: signal.Signals) -> bool:
    """Whether it was there, and is not another user's by now."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _send_to_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _members(sessions: set[int]) -> set[int]:
    """The living processes of these sessions and all below them, whose sessions are added."""
    table = dict(_processes())
    below: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        below.setdefault(parent, []).append(pid)
    todo = [pid for pid, (_, session) in table.items() if session in sessions]
    found: set[int] = set()
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            sessions.add(table[pid][1])
            todo += below.get(pid, ())
    return found


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    """Of every process that lives, its parent and its session."""
    for pid in _numbers():
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        # Before that is the name, in which there may be anything.
        state, parent, _, session, *_ = text[text.rindex(b")") + 1 :].split(maxsplit=4)
        if state not in (b"Z", b"X"):
            yield pid, (int(parent), int(session))


def _numbers() -> list[int]:
    """Of all processes; none if the system does not say."""
    try:
        # In the table of another container, the numbers are others'.
        if os.readlink("/proc/self") == str(os.getpid()):  # noqa: PTH115  # a number, no path
            return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # as above
        return []
    except OSError:
        return []
