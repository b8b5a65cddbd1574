"""dask distributed with scheduler and worker in this process: no sockets, no dashboard."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from distributed import Client, LocalCluster

SETTINGS = {
    "processes": False,
    "n_workers": 1,
    "threads_per_worker": 2,
    "dashboard_address": None,
    "silence_logs": False,
}


def inc(x: int) -> int:
    return x + 1


def add(a: int, b: int) -> int:
    return a + b


def total(xs: list[int]) -> int:
    return sum(xs)


def tasks(client: Any) -> dict[str, Callable[..., Any]]:
    submit = client.submit
    return {
        "inc": lambda x: submit(inc, x, pure=False),
        "add": lambda a, b: submit(add, a, b, pure=False),
        "total": lambda xs: submit(total, xs, pure=False),
    }


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    with LocalCluster(**SETTINGS) as cluster, Client(cluster) as client:
        yield tasks(client) | {"result": lambda future: future.result()}


async def result(future: Any) -> Any:
    return await future


@asynccontextmanager
async def async_session() -> AsyncIterator[dict[str, Any]]:
    async with (
        LocalCluster(asynchronous=True, **SETTINGS) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        yield tasks(client) | {"result": result}
