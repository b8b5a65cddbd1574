"""What a turn costs: `python -m benchmarks.serve`, ours beside the original.

A turn is what a client pays for: create a session, send a message, wait for the answer, delete
the session. Both servers run at the same time, each from an environment of its own that is made
when it is first needed; they serve the same agent with the same number of workers to the same
client, and take turns at it, one concurrency after the other. Client, servers and workers share
the machine. Ratios are medians of the rounds' ratios, and are what to quote.

  python -m benchmarks.serve --quick            a minute, to see that it works
  python -m benchmarks.serve --results          everything, kept in benchmarks/results
  python -m benchmarks.serve --alone            ours only, from this interpreter
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from benchmarks.children import ChildError
from benchmarks.figures import machine, to_json
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.compare import ROOT
from benchmarks.peers.environments import environment
from benchmarks.serve_report import LEVELS, OURS, THEIRS, Figure, Results, judge, markdown
from benchmarks.servers import Server, descendants, private_kib, start
from benchmarks.turn_client import Small, apply

__all__ = ["main"]

RESULTS: Final = ROOT / "benchmarks" / "results"
CACHE: Final = ROOT / ".bench-envs"
# The SDKs that the heavy agent imports; the original brings its own.
SDKS: Final = ("openai", "anthropic")
WORKERS: Final = 16
STATE_BYTES: Final = 10_000_000
# For the interpreter of the original; ours uses the same.
PYTHON: Final = "3.12"


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interpreters(*, alone: bool, cache: Path) -> dict[str, str]:
    """Which Python each side runs from."""
    if alone:
        return {OURS: sys.executable}
    ours = Peer(
        "ours", ("-e", str(ROOT), *SDKS), ("motus-agents",), 0, (), "", python=PYTHON
    )  # fmt: skip
    return {
        OURS: environment("serve-ours", ours, cache),
        THEIRS: environment("original", PEERS["original"], cache),
    }


@contextlib.contextmanager
def agents() -> Iterator[Path]:
    """A folder with the agents, and without a package that is called `motus`."""
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as name:
        for agent in ("echo_agent", "heavy_agent", "probe_agent"):
            shutil.copy(ROOT / "benchmarks" / f"{agent}.py", name)
        yield Path(name)


async def measure_load(
    results: Results, agent: str, workers: int, servers: dict[str, Server],
    levels: Sequence[tuple[str, int]], seconds: float,
) -> None:  # fmt: skip
    """One round: every level on each side in turn."""
    for client, concurrency in levels:
        for side, server in servers.items():
            # Long enough to be steady, not so long that the other side meets another machine.
            probe = await apply(client, server.port, concurrency, 2 * concurrency)
            turns = max(20, int(probe.per_second * seconds))
            before = server.cpu_seconds()
            load = await apply(client, server.port, concurrency, turns)
            # Those that are not counted as turns have cost something, too.
            cpu = (server.cpu_seconds() - before) / (turns + concurrency) * 1000
            key = f"{agent}, {workers} workers, {client}, {concurrency}"
            results.add(Figure(key, "turns/s", side), load.per_second)
            results.add(Figure(key, "p50 ms", side), load.p50)
            results.add(Figure(key, "p99 ms", side), load.p99)
            results.add(Figure(key, "CPU ms per turn", side), cpu)


async def measure_large_state(results: Results, servers: dict[str, Server], times: int) -> None:
    """The time of a turn with a state of ten megabytes, without its way into the server."""
    text = "x" * 1000
    state = [{"role": "user", "content": text} for _ in range(STATE_BYTES // 1030)]
    for side, server in servers.items():
        ask = Small(server.port)
        for _ in range(times):
            session = (await ask("POST", "/sessions", {"state": state}))["session_id"]
            began = time.perf_counter()
            await ask("POST", f"/sessions/{session}/messages", {"content": "hello"})
            await ask("GET", f"/sessions/{session}?wait=true&timeout=60")
            took = (time.perf_counter() - began) * 1000
            results.add(Figure("10 MB state", "ms", side), took)
            await ask("DELETE", f"/sessions/{session}")
        await ask.aclose()


async def measure_own(results: Results, python: str, folder: Path, rounds: int) -> None:
    """What only our server promises: ends, idleness, the memory of a spare."""
    with start(python, "probe_agent:agent", folder, workers=16) as server:
        ask = Small(server.port)
        for _ in range(5 * rounds):
            session = (await ask("POST", "/sessions", {}))["session_id"]
            await ask("POST", f"/sessions/{session}/messages", {"content": "hang"})
            await trio.sleep(0.05)
            began = time.perf_counter()
            await ask("DELETE", f"/sessions/{session}")
            took = (time.perf_counter() - began) * 1000
            results.add(Figure("cancel to reaped", "ms", OURS), took)
        for _ in range(10):
            session = (await ask("POST", "/sessions", {}))["session_id"]
            await ask("POST", f"/sessions/{session}/messages", {"content": "ask"})
            await ask("GET", f"/sessions/{session}?wait=true&timeout=60")
        await trio.sleep(1)
        for _ in range(rounds):
            before = server.switches()
            await trio.sleep(2)
            figure = Figure("idle with ten waiting turns", "wake-ups/s", OURS)
            results.add(figure, (server.switches() - before) / 2)
        await ask.aclose()
    for _ in range(rounds):
        with start(python, "heavy_agent:agent", folder, workers=16) as server:
            await apply("small", server.port, 1, 5)
            await trio.sleep(0.3)
            template, *_ = descendants(server.process.pid)
            spares = descendants(template)
            for spare in spares:
                figure = Figure("private memory of a spare", "MB", OURS)
                results.add(figure, private_kib(spare) * 1024 / 1e6)
            family = descendants(server.process.pid)
            began = time.perf_counter()
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            while any(map(_alive, family)):  # noqa: ASYNC110  # what other processes do sets no event
                await trio.sleep(0.001)
            took = (time.perf_counter() - began) * 1000
            results.add(Figure("server killed to no process left", "ms", OURS), took)


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


async def run(given: argparse.Namespace) -> Results:
    """Measure what the options ask for."""
    rounds = 1 if given.quick else given.rounds
    seconds = 0.5 if given.quick else given.seconds
    pythons = interpreters(alone=given.alone, cache=given.environments.absolute())
    results = Results(machine(), rounds)
    with agents() as folder:
        for agent, workers in (("heavy", WORKERS), ("echo", WORKERS), ("heavy", 2)):
            levels = [("small", 8)] if workers == 2 else LEVELS
            with contextlib.ExitStack() as running:
                servers = {
                    side: running.enter_context(
                        start(python, f"{agent}_agent:agent", folder, workers=workers)
                    )
                    for side, python in pythons.items()
                }
                for number in range(rounds):
                    progress(f"{agent} agent, {workers} workers: round {number + 1} of {rounds}")
                    await measure_load(results, agent, workers, servers, levels, seconds)
                    if (agent, workers) == ("heavy", WORKERS):
                        await measure_large_state(results, servers, 3)
        progress("ends, idleness, memory")
        await measure_own(results, pythons[OURS], folder, rounds)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the report, and keep it where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="of everything (default: 5)")
    add("--seconds", type=float, default=2.0, help="of each side at each level (default: 2)")
    add("--quick", action="store_true", help="one short round")
    add("--alone", action="store_true", help="without the original")
    add("--environments", type=Path, default=CACHE, help="where the environments are kept")
    add(
        "--results", type=Path, nargs="?", const=RESULTS, metavar="DIR",
        help="write serve.md and serve.json there (without DIR: benchmarks/results)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        results = trio.run(run, given)
    except ChildError as error:
        raise SystemExit(f"the original {error}; --alone leaves it out") from error
    report = markdown(results, judge(results))
    print(report)
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / "serve.md").write_text(report)
        (given.results / "serve.json").write_text(to_json(results.document()))


if __name__ == "__main__":
    main()
