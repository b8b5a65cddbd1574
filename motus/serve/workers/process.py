"""What a worker, a template or the server asks of the system for its own process. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import _exit
from pathlib import Path
from typing import NoReturn

from motus.serve.workers.settings import WorkerSettings

__all__ = [
    "WORKER_VARIABLE",
    "WorkerMark",
    "adopt_orphans",
    "be_killed_first",
    "carries_mark",
    "child_processes",
    "collapse_heap",
    "end_with_group",
    "follow_server",
    "forbid_core_dumps",
    "limit_resources",
    "move_away",
    "stop_following",
    "take_channel",
    "thread_count",
    "unreadable_by_others",
]

# In the environment of everything that a worker starts: the id of the worker.
WORKER_VARIABLE = "MOTUS_WORKER_ID"
WORKER_ID_LENGTH = 32

# Far above the descriptors that programs number by hand.
FIRST_PRIVATE_DESCRIPTOR = 200
HUGE_PAGE = 2 << 20
MIB = 1 << 20
# <linux/prctl.h>, <linux/mman.h>
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
MADV_COLLAPSE = 25
# Thousandths of all memory that the system counts as ours beside what we use.
KILLED_FIRST = 500

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def move_away(descriptor: int) -> int:
    """A copy of the descriptor that user code does not stumble over and programs do not inherit."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_DESCRIPTOR)
    except OSError:
        # Fewer descriptors than that are allowed here.
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def take_channel() -> int:
    """Move the protocol out of the way of the agent's code, and return its new descriptor.

    Descriptor 0 becomes the null device, so that `input()` raises EOFError, and descriptor 1
    becomes descriptor 2, so that what is printed, by Python or by programs that the agent
    starts, cannot end up between frames.
    """
    channel = move_away(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    # A pipe would be buffered until the end, and lost when the worker is killed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nothing replaced them yet
    return channel


def follow_server(lifeline: int) -> int:
    """Have the kernel kill this process group when the server is gone.

    `lifeline` is the reading end of a pipe of which only the server has the other. Its end is
    asked for as a signal, and the signal chosen is SIGKILL, for the whole group: it needs neither
    a thread nor the interpreter, and so stops also an agent that never lets go of it. The signal
    for the death of a parent would follow the template, which may die without harm to a turn.
    It holds as long as the descriptor that is returned is open.
    """
    # Who is signalled belongs to the open file, which forked processes share: each opens its own.
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    descriptor = move_away(own)
    os.close(own)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        # It was gone before the kernel knew of our wish.
        if not os.read(descriptor, 1):
            end_with_group()
    return descriptor


def stop_following(descriptor: int) -> None:
    """Undo `follow_server`, also for those who have inherited the descriptor."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
    os.close(descriptor)


def end_with_group() -> NoReturn:
    """Nobody listens any more: end this process and whatever the agent started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    # Only where it was started by hand, in the group of someone else.
    _exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def forbid_core_dumps() -> None:
    """No image of this process, with the secrets in it, is written when it crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def unreadable_by_others() -> Iterator[None]:
    """Meanwhile, only root can look into this process: its environment, its memory, its files.

    An agent runs as the same user, and would find the server's secrets in /proc. Programs that
    this one starts are as they would be without it. No core is dumped either.
    """
    before = _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(PR_SET_DUMPABLE, before, 0, 0, 0)


def be_killed_first() -> None:
    """When memory runs out, the system kills this process, or one that it starts, before others."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        file.write_text(str(max(int(file.read_text()), KILLED_FIRST)))


def limit_resources(settings: WorkerSettings) -> None:
    """Apply the limits, as far as the system's own allow for more."""
    for what, number, margin in (
        (resource.RLIMIT_AS, settings.memory * MIB, 0),
        # At the first number comes a signal of its own, at the second SIGKILL.
        (resource.RLIMIT_CPU, settings.cpu, 1),
        (resource.RLIMIT_NOFILE, settings.files, 0),
    ):
        if number:
            _, allowed = resource.getrlimit(what)
            hard = number + margin
            if allowed != resource.RLIM_INFINITY:
                hard = min(hard, allowed)
            resource.setrlimit(what, (min(number, hard), hard))


def thread_count() -> int:
    """The threads of this process, those that Python does not know of included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208  # a number of names, no paths


def collapse_heap() -> None:
    """Put the heap into huge pages: a fork copies, and an exit drops, 512 times fewer entries.

    Linux 6.1 and later; anywhere else nothing happens.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, _, _, inode, *name = line.split()
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        for page in range((start + HUGE_PAGE - 1) & -HUGE_PAGE, end & -HUGE_PAGE, HUGE_PAGE):
            if _libc.madvise(page, HUGE_PAGE, MADV_COLLAPSE) != 0:
                return


def child_processes() -> list[int]:
    """The children of this single-threaded process, those that it has adopted included."""
    pid = os.getpid()
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def carries_mark(pid: int, worker_id: str) -> bool:
    """Whether the process was started by this worker, or by something that was."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it has ended, or has become somebody else's
    return f"{WORKER_VARIABLE}={worker_id}".encode() in environment.split(b"\0")


class WorkerMark:
    """The worker's id where the system shows a process's environment to others.

    What a process changes in its own environment is not shown there, so a forked process would
    look like the template. The template is started with a placeholder, which the worker
    overwrites in its own copy of that memory; what it forks and what it execs carry it on.
    """

    PLACEHOLDER = "0" * WORKER_ID_LENGTH

    def __init__(self) -> None:
        address = _libc.getenv(WORKER_VARIABLE.encode())
        found = os.environ.get(WORKER_VARIABLE)
        self._address = address if found == self.PLACEHOLDER else None

    def put(self, worker_id: str) -> None:
        """Mark this process, and what it will start."""
        if self._address is not None and len(worker_id) == WORKER_ID_LENGTH:
            ctypes.memmove(self._address, worker_id.encode(), WORKER_ID_LENGTH)
        os.environ[WORKER_VARIABLE] = worker_id
