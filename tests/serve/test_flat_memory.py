"""Turns leave nothing behind, neither in the server nor in its template (G15)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from motus.serve.workers.pool import SPARES
from tests.serve.pools import children, template_of
from tests.serve.support import ServerProcess, until

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"
WARM_UP, TURNS = (2_000, 100_000) if SOAK else (100, 500)
MAX_GROWTH = 10 << 20
CLIENTS = 2
TURNS_OF_A_SESSION = 5
# If what a turn was about is kept, even once, the bound is passed twice.
TEXT = "x" * max(2 * MAX_GROWTH // TURNS, 1000)


@attrs.frozen
class Size:
    """What a process has open, and how many bytes of memory."""

    descriptors: int
    threads: int
    processes: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> Size:
        here = Path(f"/proc/{pid}")
        pages = int((here / "statm").read_text().split()[1])
        return cls(
            len(list((here / "fd").iterdir())),
            len(list((here / "task").iterdir())),
            len(children(pid)),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )

    def fits_into(self, before: Size) -> bool:
        # A spare's descriptor may not have come when the first was taken; threads that idle end.
        return (
            self.descriptors <= before.descriptors + SPARES
            and self.threads <= before.threads
            and self.processes == before.processes
            and self.memory < before.memory + MAX_GROWTH
        )


def converse(server: ServerProcess, turns: int) -> None:
    """So many turns, in sessions that are deleted after some of them."""
    for number in range(turns):
        if number % TURNS_OF_A_SESSION == 0:
            session = server.create()
        assert server.post(session, TEXT).status_code == 202
        found = server.wait(session)
        assert found["status"] == "idle", found
        if number % TURNS_OF_A_SESSION == TURNS_OF_A_SESSION - 1:
            assert server.http.delete(f"/sessions/{session}").status_code == 204


@pytest.mark.realtime
def test_turns_leave_nothing_behind(tmp_path: Path) -> None:
    with (
        ServerProcess(
            "echo", tmp_path / "log", "--workers", str(CLIENTS), module="tests.serve.readable"
        ) as server,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        processes = (server.process.pid, template_of(server.process.pid))

        def serve(turns: int) -> tuple[Size, Size]:
            list(clients.map(converse, [server] * CLIENTS, [turns // CLIENTS] * CLIENTS))
            until(lambda: len(children(processes[1])) == SPARES, "two spares")
            return Size.of(processes[0]), Size.of(processes[1])

        before = serve(WARM_UP)
        after = serve(TURNS)
        # What is being closed is given a moment.
        until(
            lambda: all(map(Size.fits_into, map(Size.of, processes), before)),
            f"{after}, no more than {before}",
            5,
        )
        assert server.http.get("/health").json()["total_sessions"] == 0
