"""Ray on this machine alone: two worker processes, no dashboard, no usage statistics.

It replaces a loopback address by the machine's own and listens on every interface, so it runs in
a network where there is nothing but loopback.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import ray


@ray.remote
def inc(x: int) -> int:
    return x + 1


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@ray.remote
def total(*xs: int) -> int:
    return sum(xs)


TASKS: dict[str, Any] = {
    "inc": inc.remote,
    "add": add.remote,
    # References inside of a list stay references: each must be an argument of its own.
    "total": lambda xs: total.remote(*xs),
}


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["TMPDIR"],
    )
    try:
        yield TASKS | {"result": ray.get}
    finally:
        ray.shutdown()


async def result(future: Any) -> Any:
    return await future


@asynccontextmanager
async def async_session() -> AsyncIterator[dict[str, Any]]:
    with sync_session():
        yield TASKS | {"result": result}
