"""Programs written for the asyncio original run unchanged."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.realtime

SYNCHRONOUS = """
import time
from motus.runtime import agent_task, cancel, resolve, shutdown, init, is_initialized, get_runtime
from motus.runtime.task_instance import TaskCancelledError
from motus.runtime import HookType
from motus.runtime.hooks import HookEvent, hooks, register_hook, register_tool_hook, task_hook
from collections import defaultdict

events = []

@task_hook("add", "task_end")
def on_end(event: HookEvent) -> None:
    events.append((event.name, event.result))

@agent_task
def add(a, b):
    return a + b

@agent_task
async def multiply(a, b):
    return a * b

a = add(3, 4)
b = multiply(a, 10)
assert resolve(b) == 70
assert events == [("add", 7)]

calls = 0

@agent_task(retries=3, timeout=5.0, retry_delay=0.01)
async def flaky(url):
    global calls
    calls += 1
    if calls < 3:
        raise ConnectionError("try again")
    return url

assert resolve(flaky("x")) == "x"

@agent_task(num_returns=2)
def split(text):
    return text[:1], text[1:]

head, tail = split("hello")
assert (resolve(head), resolve(tail)) == ("h", "ello")
first, second = split.policy(retries=1)("ab")
assert resolve([first, second]) == ["a", "b"]

class Pipeline:
    def __init__(self, prefix):
        self.prefix = prefix

    @agent_task
    async def run(self, text):
        return self.prefix + text

assert resolve(Pipeline("> ").run(tail)) == "> ello"

@agent_task
def total(parts):
    return sum(resolve([add(part, 0) for part in parts]))

assert resolve(total([1, add(1, 1), 3])) == 6

@agent_task
def groups(of):
    return {name: sum(parts) for name, parts in of.items()}

parts = defaultdict(list)
parts["a"] += [add(1, 1), add(2, 2)]
assert resolve(groups(parts)) == {"a": 6}
assert resolve({"a": add(1, 2), "b": add(3, 4)}.values()) == [3, 7]

first: HookType = "task_start"
register_hook(event_type=first, callback=print, prepend=True)
register_tool_hook(event_type=first, callback=print)
hooks.deregister(first, print)
assert resolve(add(1, 2) + 100) == 103
assert resolve(add([1], [2])[0]) == 1
assert resolve(add(1, 2) > 2) is True

@agent_task
async def slow():
    import SLEEP
    await SLEEP.sleep(60)

class Crawler:
    @agent_task
    async def fetch(self):
        import SLEEP
        await SLEEP.sleep(60)

fetching = Crawler().fetch()
cancel(fetching)
try:
    resolve(fetching, timeout=5)
except TaskCancelledError as error:
    assert error.task_name == "fetch"

pending = slow()
below = add(pending, 1)
time.sleep(0.05)
assert cancel(pending) is True
for future in (pending, below):
    try:
        resolve(future, timeout=5)
    except TaskCancelledError as error:
        assert error.task_name
    else:
        raise AssertionError
assert cancel(pending) is False
assert is_initialized()
left = slow()
shutdown()
try:
    resolve(left)
except RuntimeError as error:
    assert "Motus runtime is shutting down" in str(error)
init()
try:
    init()
except RuntimeError as error:
    assert "already initialized" in str(error)
assert get_runtime().scheduler is not None
assert resolve(add(1, 1)) == 2
print("as written")
"""

ASYNCIO = """
import asyncio
from motus.runtime import agent_task, resolve

@agent_task
async def fetch(n):
    await asyncio.sleep(0.01)
    return n

async def value(future):
    return await future

@agent_task
async def gathers():
    return await asyncio.gather(value(fetch(1)), asyncio.sleep(0, 2), value(fetch(3)))

@agent_task
def blocking(values):
    return sum(values)

async def main():
    values = [fetch(n) for n in range(10)]
    assert await blocking(values) == 45
    assert await gathers() == [1, 2, 3]
    assert await asyncio.wait_for(fetch(7), 5) == 7
    done, pending = await asyncio.wait([asyncio.ensure_future(fetch(1))])
    assert not pending
    async with asyncio.timeout(5):
        assert await fetch(8) == 8

@agent_task
async def in_background():
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: 5)

assert resolve(in_background()) == 5
assert resolve(gathers()) == [1, 2, 3]
asyncio.run(main())
asyncio.run(main())
print("as written")
"""


def run(program: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "MOTUS_BACKEND": backend},
    )
    assert (done.returncode, done.stdout) == (0, "as written\n"), done.stderr


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_synchronous_programs(backend: str) -> None:
    run(SYNCHRONOUS.replace("SLEEP", backend), backend)


def test_asyncio_programs() -> None:
    run(ASYNCIO, "asyncio")
