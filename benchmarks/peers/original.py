"""The original Motus, through its documented API; its import name is `motus` as well."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from motus.runtime import agent_task, init, resolve, shutdown


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
async def add(a: int, b: int) -> int:
    return a + b


@agent_task
async def total(xs: list[int]) -> int:
    return sum(xs)


async def result(future: Any) -> Any:
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
    try:
        # The first task makes the running loop the runtime's.
        yield {"inc": inc, "add": add, "total": total, "result": result}
    finally:
        shutdown()
