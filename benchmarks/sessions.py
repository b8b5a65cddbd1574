"""What idle sessions cost: `python -m benchmarks.sessions`.

One server; first as it is, then with thousands of idle sessions, then with hundreds of requests
that wait for a turn besides. At each stage: the server's memory, and how long a request to /health
and a whole turn take while all of that is there. At the end one turn ends for whom all wait: how
long until the first and the last of them has the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import attrs
import httpx
import trio

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
AGENT = "benchmarks.waiting_agent:agent"
PROBES = 200
SETUP_TASKS = 8
# Generously, for the server to take them all in.
SECONDS_PER_CONNECTION = 0.004


@attrs.frozen
class Stage:
    """The server under one load; memory in MiB, times in milliseconds."""

    what: str
    memory: float
    health_p50: float
    health_p99: float
    turn_p50: float
    turn_p99: float


def memory_of(pid: int) -> float:
    """Resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the server is gone")


async def timed(job: Callable[[], Awaitable[Any]], count: int) -> tuple[float, float]:
    """Median and 99th percentile of one job after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await job()
        times.append((time.perf_counter() - began) * 1000)
    cuts = quantiles(times, n=100)
    return cuts[49], cuts[98]


async def turn(http: httpx.AsyncClient, content: str = "x") -> None:
    session = (await http.post("/sessions")).json()["session_id"]
    await http.post(f"/sessions/{session}/messages", json={"content": content})
    await http.get(f"/sessions/{session}", params={"wait": "true"})
    await http.delete(f"/sessions/{session}")


async def measured(what: str, pid: int, http: httpx.AsyncClient, probes: int) -> Stage:
    await timed(lambda: turn(http), 3)
    health = await timed(lambda: http.get("/health"), probes)
    turns = await timed(lambda: turn(http), max(probes // 4, 2))
    return Stage(what, memory_of(pid), *health, *turns)


async def poll(url: httpx.URL, session: str) -> float:
    """Wait for the session over a bare connection; when the answer came."""
    # A pool of hundreds of connections would cost its owner more than the server.
    async with await trio.open_tcp_stream(url.host, url.port or 80) as stream:
        request = f"GET /sessions/{session}?wait=true HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await stream.send_all(request.encode())
        answer = b""
        while b'"status":"idle"' not in answer:
            if not (data := await stream.receive_some()):
                raise SystemExit(f"no answer: {answer!r}")
            answer += data
        return time.perf_counter()


async def run(url: str, pid: int, go: Path, sessions: int, polls: int, probes: int) -> Any:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        stages = [await measured("nothing else", pid, http, probes)]
        left = sessions

        async def create() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                (await http.post("/sessions")).raise_for_status()

        async with trio.open_nursery() as nursery:
            for _ in range(SETUP_TASKS):
                nursery.start_soon(create)
        stages.append(await measured(f"{sessions} idle sessions", pid, http, probes))

        slow = (await http.post("/sessions")).json()["session_id"]
        await http.post(f"/sessions/{slow}/messages", json={"content": f"wait {go}"})
        answered: list[float] = []

        async def wait() -> None:
            answered.append(await poll(http.base_url, slow))

        async with trio.open_nursery() as nursery:
            for _ in range(polls):
                nursery.start_soon(wait)
            await trio.sleep(polls * SECONDS_PER_CONNECTION)
            stages.append(await measured(f"and {polls} long polls", pid, http, probes))
            began = time.perf_counter()
            await trio.Path(go).touch()
    return {
        "stages": [attrs.asdict(stage) for stage in stages],
        "kib_per_session": (stages[1].memory - stages[0].memory) * 1024 / sessions,
        "kib_per_poll": (stages[2].memory - stages[1].memory) * 1024 / polls,
        "first_poll_ms": (min(answered) - began) * 1000,
        "last_poll_ms": (max(answered) - began) * 1000,
    }


def show(result: Any) -> str:
    lines = ["| beside | memory MiB | health p50 / p99 ms | turn p50 / p99 ms |", "|" + "---|" * 4]
    for s in result["stages"]:
        health = f"{s['health_p50']:.2f} / {s['health_p99']:.2f}"
        turns = f"{s['turn_p50']:.1f} / {s['turn_p99']:.1f}"
        lines.append(f"| {s['what']} | {s['memory']:.1f} | {health} | {turns} |")
    costs = "{kib_per_session:.2f} KiB for a session, {kib_per_poll:.1f} KiB for a poll."
    ends = "The polls are answered {first_poll_ms:.0f} to {last_poll_ms:.0f} ms after the turn may."
    return "\n".join([*lines, "", costs.format(**result), ends.format(**result)])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sessions",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--sessions", type=int, default=10_000, help="idle ones (default: 10000)")
    add("--polls", type=int, default=500, help="requests that wait (default: 500)")
    add("--probes", type=int, default=PROBES, help=f"of each time (default: {PROBES})")
    add("--json", action="store_true", help="the figures alone, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [sys.executable, "-m", "motus.serve", "start", AGENT, "--host", "127.0.0.1",
             "--port", "0", "--log-level", "error"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("Serving "):
                raise SystemExit("the server did not start")
            try:
                result = trio.run(
                    run, line.split()[-1], process.pid, Path(directory) / "go",
                    options.sessions, options.polls, options.probes,
                )  # fmt: skip
            finally:
                os.kill(process.pid, signal.SIGTERM)
    print(json.dumps(result) if options.json else show(result))


if __name__ == "__main__":
    main()
