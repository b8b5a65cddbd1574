"""Checked by mypy, never run: what a type checker knows of the public API.

Lines that end in `# E: code` must be errors of that code; `tests/test_types.py` sees to it.
"""

from __future__ import annotations

from typing import Any, assert_type

from motus import resolve as top_resolve
from motus.runtime import (
    AgentFuture,
    AgentTaskDefinition,
    TaskPolicy,
    agent_task,
    cancel,
    open_runtime,
    resolve,
)


@agent_task
async def inc(x: int) -> int:
    return x + 1


@agent_task
def text(x: int) -> str:
    return str(x)


@agent_task(retries=2, timeout=1.5, retry_on=(ValueError, OSError))
async def fetch(url: str) -> bytes:
    return url.encode()


@agent_task(num_returns=2)
async def pair(x: int) -> tuple[int, str]:
    return x, str(x)


@agent_task(num_returns=3)
def triple() -> tuple[int, str, bytes]:
    return 1, "", b""


@agent_task
async def delegates(x: int) -> AgentFuture[int]:
    return inc(x)


class Counter:
    @agent_task
    async def plus(self, x: int) -> int:
        return x


def calls() -> None:
    assert_type(inc(1), AgentFuture[int])
    assert_type(inc(inc(1)), AgentFuture[int])
    assert_type(text(inc(1)), AgentFuture[str])
    assert_type(fetch("x"), AgentFuture[bytes])
    assert_type(pair(1), tuple[AgentFuture[int], AgentFuture[str]])
    assert_type(triple(), tuple[AgentFuture[int], AgentFuture[str], AgentFuture[bytes]])
    assert_type(delegates(1), AgentFuture[int])
    assert_type(Counter().plus(1), AgentFuture[int])
    assert_type(inc, AgentTaskDefinition[AgentFuture[int]])
    assert_type(inc.policy(retries=1, retry_backoff=2.0), AgentTaskDefinition[AgentFuture[int]])
    assert_type(agent_task(len)([1]), AgentFuture[int])


def results() -> None:
    assert_type(resolve(inc(1)), int)
    assert_type(top_resolve(text(1), timeout=1), str)
    assert_type(resolve([inc(1), inc(2)]), list[int])
    assert_type(resolve(inc(number) for number in range(2)), list[int])
    assert_type(inc(1).af_result(), int)
    assert_type(cancel(inc(1)), bool)
    one, two = pair(1)
    assert_type(resolve(one), int)
    assert_type(resolve(two), str)


async def awaits() -> None:
    async with open_runtime(max_threads=3) as runtime:
        assert_type(await inc(1), int)
        assert_type(await delegates(1), int)
        runtime.shutdown()


def operators() -> None:
    assert_type(inc(1) + 1, AgentFuture[Any])
    assert_type(1 + inc(1), AgentFuture[Any])
    assert_type(inc(1) < 2, AgentFuture[Any])
    assert_type(inc(1)["x"], AgentFuture[Any])
    assert_type(inc(1).name, AgentFuture[Any])
    assert_type(inc(1)(2), AgentFuture[Any])


def mistakes() -> None:
    number: str = resolve(inc(1))  # E: assignment
    future: AgentFuture[str] = inc(1)  # E: assignment
    inc.policy(retires=3)  # E: call-overload
    agent_task(retries="3")  # E: call-overload
    TaskPolicy(retrys=1)  # E: call-arg
    resolve(3)  # E: call-overload
    open_runtime(threads=2)  # E: call-arg
    one, two, three = pair(1)  # E: misc
    del number, future, one, two, three
