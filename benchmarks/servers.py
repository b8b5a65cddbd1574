"""Servers as child processes: ours and the original, what they use, and their end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Server", "descendants", "private_kib", "start"]

# Importing an agent and its SDKs, on a busy machine.
START_SECONDS: Final = 120.0
# What a server may know of our environment.
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ")
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int

    def cpu_seconds(self) -> float:
        """What the server and all its processes have used so far, those included that are over."""
        return sum(map(_cpu_ticks, [self.process.pid, *descendants(self.process.pid)])) / TICKS

    def switches(self) -> int:
        """How often one of its threads has woken from a wait so far."""
        return sum(map(_switches, [self.process.pid, *descendants(self.process.pid)]))


def descendants(pid: int) -> list[int]:
    """The process's children, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _fields(pid: int) -> list[str]:
    """The process's `stat` after its name, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_ticks(pid: int) -> int:
    # utime, stime, and those of children that have been waited for.
    with contextlib.suppress(OSError):
        return sum(map(int, _fields(pid)[11:15]))
    return 0


def _switches(pid: int) -> int:
    found = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    found += int(line.split()[1])
    return found


def private_kib(pid: int) -> int:
    """The memory that would be free without this process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


@contextlib.contextmanager
def start(python: str, agent: str, folder: Path, *, workers: int) -> Iterator[Server]:
    """`serve start` of whichever Motus this Python has; the agent is imported from the folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {
        "HOME": str(folder), "PYTHONPATH": str(folder), "NO_PROXY": "*", "DO_NOT_TRACK": "1",
        # The original logs every step unless it is told not to.
        "MOTUS_LOG_LEVEL": "WARNING", "MOTUS_COLLECTION_LEVEL": "disabled",
    }  # fmt: skip
    log = folder / f"{port}.log"
    command = [python, "-c", "from motus.__main__ import main; main()"]
    if (Path(python).parent / "motus").exists():
        command = [str(Path(python).parent / "motus")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "serve", "start", agent, "--host", "127.0.0.1", "--port", str(port),
             "--workers", str(workers), "--log-level", "warning"],
            cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            text=True, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_it_answers(process, port, log)
        yield Server(process, port)
    finally:
        family = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _wait_until_it_answers(process: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        finally:
            connection.close()
