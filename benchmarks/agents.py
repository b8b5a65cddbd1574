"""What agents cost beside their models: `python -m benchmarks.agents`.

A step is a reply of a scripted model with one tool call, and that call. It is divided by what a
task costs that another one calls and awaits, in the same round: an agent's loop awaits two of them
in each step, the model call and the tool call. The other figure, a task in a fan of tasks that wait
for nothing, is the cheapest there is.

The crowd is 1,000 agents of 10 steps each, all at once in one process; memory is what its peak
adds to the process, divided by the agents.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, Final

import anyio

from benchmarks.figures import ratio, short, table
from motus.agent import ReActAgent
from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall
from motus.runtime import agent_task, open_runtime
from motus.testing import ScriptedClient
from motus.tools import FunctionTool

__all__ = ["crowd", "main", "steps"]

BACKENDS: Final = ("trio", "asyncio")
STEPS: Final = 10
NODES: Final = 2_000
USAGE: Final = {"prompt_tokens": 10, "completion_tokens": 5}


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


@agent_task
async def one_after_the_other(n: int) -> None:
    for i in range(n):
        await inc(i)


@FunctionTool
async def work(n: int) -> str:
    """Do nothing."""
    return "done"


def script(messages: list[ChatMessage]) -> ChatCompletion:
    """Nine calls, then the answer."""
    if len(messages) >= 2 * STEPS - 1:
        return ChatCompletion("", "", "finished", usage=USAGE)
    call = ToolCall("", FunctionCall("work", '{"n": 1}'))
    return ChatCompletion("", "", tool_calls=[call], usage=USAGE)


async def waiting_script(messages: list[ChatMessage]) -> ChatCompletion:
    """The same from a model that takes a moment, so that all agents are in the middle at once."""
    await anyio.sleep(0.01)
    return script(messages)


def agent(script: Any) -> ReActAgent[str]:
    return ReActAgent(ScriptedClient(script), "scripted", name="agent", tools=[work])


async def _microseconds(run: Callable[[], Awaitable[object]], count: int) -> float:
    gc.collect()
    started = time.perf_counter()
    await run()
    return (time.perf_counter() - started) / count * 1e6


async def steps(rounds: int, agents: int = 30) -> dict[str, list[float]]:
    """Microseconds of a step, of an awaited task, and of one in a fan, in each round."""
    figures: dict[str, list[float]] = {"step": [], "awaited": [], "fan": []}

    async def run_agents() -> None:
        for one in ready:
            await one("go")

    async def run_fan() -> None:
        await total([inc(i) for i in range(NODES)])

    async def run_awaited() -> None:
        await one_after_the_other(NODES)

    async with open_runtime():
        for number in range(rounds + 1):
            ready = [agent(script) for _ in range(agents)]
            measured = {
                "step": await _microseconds(run_agents, agents * STEPS),
                "awaited": await _microseconds(run_awaited, NODES),
                "fan": await _microseconds(run_fan, NODES),
            }
            # The first round warms up.
            for name, value in measured.items() if number else ():
                figures[name].append(value)
    return figures


async def crowd(agents: int) -> tuple[float, float]:
    """Seconds for so many agents of 10 steps, all at once, and KiB for each of them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_runtime():
        several = [agent(waiting_script) for _ in range(agents)]
        started = time.perf_counter()
        futures = [one("go") for one in several]
        for future in futures:
            if await future != "finished":
                raise SystemExit("an agent gave a wrong answer")
        seconds = time.perf_counter() - started
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / agents


def _row(backend: str, rounds: int, agents: int) -> list[str]:
    measured = anyio.run(steps, rounds, backend=backend)
    step = measured["step"]
    ratios = [ratio(step, measured[name]) for name in ("awaited", "fan")]
    figures = [median(step), *ratios, *anyio.run(crowd, agents, backend=backend)]
    return [backend, *map(short, figures)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What agents cost beside their models.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--backend", choices=BACKENDS, help="this one, as a line of JSON")
    options = parser.parse_args()
    if options.backend:
        print(json.dumps(_row(options.backend, options.rounds, options.agents)))
        return
    rows = []
    for backend in BACKENDS:
        # In a process of its own: the peak of memory never goes down again.
        command = [sys.executable, "-m", "benchmarks.agents", "--backend", backend]
        command += ["--rounds", str(options.rounds), "--agents", str(options.agents)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
    head = ["backend", "µs a step", "awaited tasks", "tasks in a fan"]
    print(table([*head, f"s for {options.agents:,} agents", "KiB an agent"], rows))


if __name__ == "__main__":
    main()
