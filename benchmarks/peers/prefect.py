"""Prefect: tasks submitted to the thread-pool task runner in a flow, its own server on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.testing.utilities import prefect_test_harness


@task(cache_policy=NO_CACHE)
def inc(x: int) -> int:
    return x + 1


@task(cache_policy=NO_CACHE)
def add(a: int, b: int) -> int:
    return a + b


@task(cache_policy=NO_CACHE)
def total(xs: list[int]) -> int:
    return sum(xs)


# The number of threads: one task that waits for another holds one of them.
def in_a_flow(build: Any) -> Any:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2000), log_prints=False)
    def work(n: int) -> int:
        return build(n).result()

    return work


def chain(n: int) -> Any:
    future = inc.submit(0)
    for _ in range(n - 1):
        future = inc.submit(future)
    return future


def fan(n: int) -> Any:
    return total.submit([inc.submit(i) for i in range(n - 1)])


def tree(n: int) -> Any:
    level = [inc.submit(i) for i in range((n + 1) // 2)]
    while len(level) > 1:
        pairs = [add.submit(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    with prefect_test_harness():
        yield {"chain": in_a_flow(chain), "fan": in_a_flow(fan), "tree": in_a_flow(tree)}
