"""Runs in a peer's own environment: `python -I harness.py`, a job on stdin, an answer on stdout.

The job is a JSON object:

    adapter   the path of the adapter, a Python file
    paths     folders to import from, beside the environment's own; only our own adapter has any
    shapes    of "chain", "fan", "tree"
    callers   of "sync", "async"
    nodes     how many tasks each shape has
    packages  whose versions to report
    network   "shared"; or "own": run without any network but loopback, where the system lets us;
              or "must be own": fail where it does not

The answer is one too: `python`, `versions` and `seconds` (by caller, then by shape), or `error`.

An adapter has `sync_session`, a context manager, or `async_session`, an asynchronous one, or both.
Either gives a dict of functions: `inc(x)`, `add(a, b)` and `total(xs)` submit a task whose
arguments may be what they gave before, and `result(future)` waits for its value. Instead of these
it may have functions `chain(n)`, `fan(n)` and `tree(n)` that do the whole work. In an asynchronous
session what waits is a coroutine function. `run`, if the adapter has it, runs a coroutine function
(default: asyncio's).

Only the standard library is imported here, and the environment is isolated (`-I`): neither this
folder nor the checkout is importable, where an adapter's name would hide the peer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import platform
import runpy
import socket
import struct
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Session = dict[str, Any]

WARM_UP = 20


def chain(session: Session, n: int) -> Any:
    inc = session["inc"]
    future = inc(0)
    for _ in range(n - 1):
        future = inc(future)
    return future


def fan(session: Session, n: int) -> Any:
    inc = session["inc"]
    return session["total"]([inc(i) for i in range(n - 1)])


def tree(session: Session, n: int) -> Any:
    inc, add = session["inc"], session["add"]
    level = [inc(i) for i in range((n + 1) // 2)]
    while len(level) > 1:
        pairs = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


BUILD: dict[str, Callable[[Session, int], Any]] = {"chain": chain, "fan": fan, "tree": tree}


def expected(shape: str, n: int) -> int:
    """The value of a shape: a peer that is fast because it did something else is found out."""
    if shape == "chain":
        return n
    leaves = n - 1 if shape == "fan" else (n + 1) // 2
    return leaves * (leaves + 1) // 2


def check(shape: str, n: int, value: Any) -> None:
    if value != expected(shape, n):
        raise AssertionError(f"{shape} of {n} gave {value!r} instead of {expected(shape, n)}")


def sync_caller(session: Session, shape: str, n: int) -> float:
    gc.collect()
    began = time.perf_counter()
    own = session.get(shape)
    value = own(n) if own else session["result"](BUILD[shape](session, n))
    seconds = time.perf_counter() - began
    check(shape, n, value)
    return seconds


async def async_caller(session: Session, shape: str, n: int) -> float:
    gc.collect()
    began = time.perf_counter()
    own = session.get(shape)
    value = await (own(n) if own else session["result"](BUILD[shape](session, n)))
    seconds = time.perf_counter() - began
    check(shape, n, value)
    return seconds


def in_sync(adapter: dict[str, Any], shapes: list[str], n: int) -> dict[str, float]:
    with adapter["sync_session"]() as session:
        for shape in shapes:
            sync_caller(session, shape, min(n, WARM_UP))
        return {shape: sync_caller(session, shape, n) for shape in shapes}


def in_async(adapter: dict[str, Any], shapes: list[str], n: int) -> dict[str, float]:
    async def main() -> dict[str, float]:
        async with adapter["async_session"]() as session:
            for shape in shapes:
                await async_caller(session, shape, min(n, WARM_UP))
            return {shape: await async_caller(session, shape, n) for shape in shapes}

    if "run" in adapter:
        return dict(adapter["run"](main))
    return asyncio.run(main())


# From <linux/sched.h>, <linux/sockios.h> and <linux/if.h>.
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1


def leave_the_network() -> bool:
    """Move this process, and all that it will start, to a network of nothing but loopback.

    Some peers listen on every interface or report their use, whatever they are told; here nobody
    can reach them, nor they anybody. False where the system has no such thing for us.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET) != 0:
        # Without the privilege to do just that, in a user namespace where we have it.
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    return True


def versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from source"
    return found


def answer(job: dict[str, Any]) -> dict[str, Any]:
    network = job["network"]
    if network != "shared" and not leave_the_network() and network == "must be own":
        raise OSError("it would listen beyond loopback, and the system gives it no other network")
    sys.path[:0] = job["paths"]
    # Not imported as a module: a peer that sends functions to other processes sends these by
    # value, since nobody there could import them.
    adapter = runpy.run_path(job["adapter"], run_name="peer_adapter")
    measure = {"sync": in_sync, "async": in_async}
    seconds = {
        caller: measure[caller](adapter, job["shapes"], job["nodes"]) for caller in job["callers"]
    }
    return {
        "python": platform.python_version(),
        "versions": versions(job["packages"]),
        "seconds": seconds,
    }


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def main() -> None:
    # Peers print, and their helpers inherit stdout: the answer goes where neither can reach.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        found = answer(job)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever went wrong with a peer is its row in the table
        found = {"error": one_line(error)}
    with out:
        json.dump(found, out)


if __name__ == "__main__":
    main()
