"""Parsl with its executor of threads in this process, its fastest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor


@parsl.python_app
def inc(x: int) -> int:
    return x + 1


@parsl.python_app
def add(a: int, b: int) -> int:
    return a + b


@parsl.python_app
def total(*xs: int) -> int:
    return sum(xs)


@contextmanager
def sync_session() -> Iterator[dict[str, Any]]:
    settings = Config(
        executors=[ThreadPoolExecutor(max_threads=2)],
        run_dir=os.environ["TMPDIR"],
        initialize_logging=False,
        usage_tracking=0,
    )
    with parsl.load(settings):
        yield {
            "inc": inc,
            "add": add,
            # Futures inside of a list are not waited for: each must be an argument of its own.
            "total": lambda xs: total(*xs),
            "result": lambda future: future.result(),
        }
