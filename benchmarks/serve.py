"""Turns per second of a served agent: `python -m benchmarks.serve`.

A turn is what a client pays for: create a session, send a message, wait for the answer, delete
the session. Server, workers and client share the machine. The same run measures what a turn stands
on, so that ratios can be quoted: requests to /health over the same client, a bare interpreter as
a child (`python -c pass`), and one that imports what a worker needs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
import attrs
import httpx
import trio

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
WORKER_IMPORTS = "import motus.serve.workers.child, trio, anyio._backends._trio"

Job = Callable[[], Awaitable[None]]


@attrs.frozen
class Sample:
    """What one job costs at one concurrency; times in milliseconds."""

    what: str
    concurrency: int
    count: int
    per_second: float
    p50: float
    p99: float


@contextmanager
def served(agent: str, workers: int) -> Iterator[str]:
    """A server process; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "motus.serve", "start", agent, "--host", "127.0.0.1",
         "--port", "0", "--workers", str(workers), "--log-level", "warning"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Serving "):
            raise SystemExit("the server did not start")
        try:
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)


async def measure(what: str, job: Job, concurrency: int, count: int) -> Sample:
    """Run `job` `count` times, `concurrency` at a time."""
    times: list[float] = []
    left = count

    async def repeat() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await job()
            times.append((time.perf_counter() - began) * 1000)

    await job()  # not counted: connections are made, files come into the cache
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(concurrency):
            tasks.start_soon(repeat)
    seconds = time.perf_counter() - began
    cuts = quantiles(times, n=100, method="inclusive")
    return Sample(what, concurrency, count, count / seconds, cuts[49], cuts[98])


def turn_job(http: httpx.AsyncClient) -> Job:
    async def turn() -> None:
        session = (await http.post("/sessions")).json()["session_id"]
        sent = await http.post(f"/sessions/{session}/messages", json={"content": "hello"})
        sent.raise_for_status()
        outcome = (await http.get(f"/sessions/{session}?wait=true&timeout=60")).json()
        assert outcome["response"]["content"] == "hello", outcome
        (await http.delete(f"/sessions/{session}")).raise_for_status()

    return turn


def health_job(http: httpx.AsyncClient) -> Job:
    async def health() -> None:
        (await http.get("/health")).raise_for_status()

    return health


def child_job(program: str) -> Job:
    async def child() -> None:
        await anyio.run_process([sys.executable, "-c", program], cwd=ROOT)

    return child


async def run(url: str, levels: list[int], turns: int) -> list[Sample]:
    """Every job at every concurrency, the jobs taking turns so that a slow moment hits all."""
    samples = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as http:
        for level in levels:
            for what, job, count in [
                ("turn", turn_job(http), turns),
                ("GET /health", health_job(http), turns * 5),
                ("bare child", child_job("pass"), turns),
                ("child with the worker's imports", child_job(WORKER_IMPORTS), turns),
            ]:
                samples.append(await measure(what, job, level, count))
                show_progress(samples[-1])
    return samples


def show_progress(sample: Sample) -> None:
    print(f"{sample.what}, {sample.concurrency} at a time: done", file=sys.stderr)


def table(samples: list[Sample]) -> str:
    """A Markdown table, with what a turn costs in each reference."""
    lines = [
        "| what | concurrency | per second | p50 ms | p99 ms | turns' p50 in these |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    turns = {sample.concurrency: sample for sample in samples if sample.what == "turn"}
    for sample in samples:
        ratio = turns[sample.concurrency].p50 / sample.p50
        lines.append(
            f"| {sample.what} | {sample.concurrency} | {sample.per_second:.1f} "
            f"| {sample.p50:.1f} | {sample.p99:.1f} | {ratio:.1f} |"
        )
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    packages = ("anyio", "trio", "quart", "quart-trio", "hypercorn", "cattrs", "httpx")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.release(),
        "cpus": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measure, print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="benchmarks.echo_agent:agent", help="import path")
    parser.add_argument("--workers", type=int, default=8, help="turns at a time (default: 8)")
    parser.add_argument("--turns", type=int, default=100, help="turns at each level (default: 100)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    with served(options.agent, options.workers) as url:
        samples = trio.run(run, url, options.concurrency, options.turns)
    print(table(samples))
    if options.json is not None:
        figures = {
            "agent": options.agent,
            "workers": options.workers,
            "environment": environment(),
            "samples": [attrs.asdict(sample) for sample in samples],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
