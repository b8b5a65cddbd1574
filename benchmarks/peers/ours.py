"""Motus, measured like its peers: the synchronous caller with the runtime on a background thread
(trio, the default), the asynchronous one in its own asyncio loop, which is what the peers have."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from motus.runtime import AgentFuture, agent_task, init, open_runtime, resolve, shutdown


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def add(a: int, b: int) -> int:
    return a + b


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


async def result(future: AgentFuture[Any]) -> Any:
    return await future


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    init()
    try:
        yield {"inc": inc, "add": add, "total": total, "result": resolve}
    finally:
        shutdown()


@asynccontextmanager
async def async_session() -> AsyncIterator[dict[str, Any]]:
    async with open_runtime():
        yield {"inc": inc, "add": add, "total": total, "result": result}
