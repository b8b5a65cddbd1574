"""Workers without a server in front of them, for the tests; and as a program that can be killed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from motus.messages import ChatMessage
from motus.serve.agents import AgentTarget
from motus.serve.config import ServerConfig
from motus.serve.wire import Failure, Result, Turn, encode_frame
from motus.serve.workers.pool import WorkerPool

AGENTS = "tests.serve.worker_agents"


def ignore(_: str) -> None:
    """For output that the test does not look at."""


@asynccontextmanager
async def pooled(agent: str, **config: Any) -> AsyncIterator[WorkerPool]:
    """A pool for one of the agents here, or for an import path."""
    path = agent if ":" in agent else f"{AGENTS}:{agent}"
    pool = WorkerPool(AgentTarget(path), ServerConfig(**config))
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield pool
        pool.close()


def turn_frame(content: Any = "", **message: Any) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return encode_frame(Turn("the session", "t", ChatMessage("user", text, **message)))


async def outcome(
    pool: WorkerPool, content: Any = "", on_output: Callable[[str], None] = ignore, **message: Any
) -> Any:
    """What one turn comes to: the value that the agent answers, or its error as a `Failure`."""
    async with pool.worker(on_output) as worker:
        await worker.send(turn_frame(content, **message))
        found = await worker.receive()
        await worker.wait_exited()
    if isinstance(found, Failure):
        return found
    assert isinstance(found, Result), found
    return json.loads(found.response.content or "null")


def children(pid: int) -> list[int]:
    """The child processes of another process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended meanwhile
    return found


def template_of(pid: int | None = None) -> int:
    """The process that makes the workers of this process, or of another."""
    for child in children(os.getpid() if pid is None else pid):
        if b"motus.serve.workers.template" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    raise AssertionError("no template")


async def _program(agent: str, mode: str, turns: list[Any]) -> None:
    async with pooled(agent, workers_mode=mode) as pool, trio.open_nursery() as nursery:
        for content in turns:
            nursery.start_soon(outcome, pool, content)


if __name__ == "__main__":
    trio.run(_program, sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
