"""What every test passes through: two backends, virtual time, and a check that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

# A machine with two busy cores is no reason for a property test to fail.
_relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# In CI the same cases each time, so that a red run speaks of the change that it is about; by hand,
# and at soak size, new ones.
settings.register_profile("ci", max_examples=100, derandomize="CI" in os.environ, **_relaxed)  # type: ignore[arg-type]  # one dict for both
settings.register_profile("soak", max_examples=5000, **_relaxed)  # type: ignore[arg-type]  # as above
settings.load_profile(os.environ.get("MOTUS_TEST_SIZE", "ci"))


class JumpingSelector(selectors.DefaultSelector):
    """A selector that, with nothing ready, moves the clock to the next timer instead of waiting.

    asyncio's counterpart of `trio.testing.MockClock(autojump_threshold=0)`; it knows nothing of
    worker threads or child processes, so tests that have them use the real clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            return super().select(None)
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nothing else can happen."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
    """Both backends, on virtual time unless the test is marked `realtime`."""
    name: str = request.param
    if request.node.get_closest_marker("realtime") is not None:
        return name, {}
    if name == "trio":
        return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return name, {"loop_factory": VirtualTimeLoop}


def _threads() -> set[threading.Thread]:
    # trio keeps idle threads for ten seconds, by design, for the next run to use; they are renamed
    # while they work, so a busy one is seen.
    return {t for t in threading.enumerate() if not t.name.startswith("Trio thread")}


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except OSError:
            continue  # the descriptor of this very listing
    return found


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended meanwhile
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no thread, descriptor, child process or asyncio loop more than before."""
    threads, descriptors, children = _threads(), _descriptors(), _children()
    yield
    deadline = time.monotonic() + 5.0
    while True:
        left: list[str] = [f"thread {t.name}" for t in _threads() - threads]
        left += [f"child process {pid}" for pid in _children() - children]
        left += [
            f"descriptor {number} -> {target}"
            for number, target in _descriptors().items()
            if descriptors.get(number) != target and number not in descriptors
        ]
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail("left behind by the test: " + ", ".join(sorted(left)))
        gc.collect()
        # Threads end a moment after they have reported; this polls the operating system.
        time.sleep(0.01)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _skips_are_forbidden():
        report.outcome = "failed"
        report.longrepr = f"skipped, and MOTUS_TEST_FORBID_SKIPS is set: {report.longrepr}"
    return report


def _skips_are_forbidden() -> bool:
    return os.environ.get("MOTUS_TEST_FORBID_SKIPS", "") not in {"", "0"}
