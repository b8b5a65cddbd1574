"""dask with its threaded scheduler: the graph is made of `delayed` calls, then computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dask import delayed


# `pure=False`: no hashing of arguments, the cheapest way to submit.
@delayed(pure=False)
def inc(x: int) -> int:
    return x + 1


@delayed(pure=False)
def add(a: int, b: int) -> int:
    return a + b


@delayed(pure=False)
def total(xs: list[int]) -> int:
    return sum(xs)


def result(future: Any) -> Any:
    return future.compute(scheduler="threads", optimize_graph=False)


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    yield {"inc": inc, "add": add, "total": total, "result": result}
