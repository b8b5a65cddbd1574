"""Which runtime a call belongs to, and how runtimes begin and end.

Looked up in this order: the runtime of the task whose body makes the call, or of the
`open_runtime` block around it (a context variable); one for each running event loop, started when
it is first needed; one for the process, on a thread of its own, for synchronous code.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  # see _register_exit
import os
import threading
import weakref
from types import TracebackType
from typing import Any, Final

import anyio

from motus.runtime.backends import loop_identity
from motus.runtime.current import current
from motus.runtime.failures import log_failures
from motus.runtime.hooks import HookManager
from motus.runtime.node import Node
from motus.runtime.scheduler import GraphScheduler
from motus.runtime.threads import thread

__all__ = [
    "AgentRuntime",
    "OpenRuntime",
    "find_scheduler",
    "get_runtime",
    "init",
    "is_initialized",
    "open_runtime",
    "shutdown",
]

# How long the end of the process, or `shutdown()`, waits for the background runtime, in seconds.
EXIT_GRACE: Final = 5.0


class AgentRuntime:
    """A running task graph. `scheduler` is the object that runs it."""

    def __init__(self, scheduler: GraphScheduler, thread: threading.Thread | None = None) -> None:
        self.scheduler = scheduler
        self._thread = thread

    @property
    def is_open(self) -> bool:
        """Whether tasks can still be called in it."""
        return not self.scheduler.is_shut_down

    @property
    def hooks(self) -> HookManager:
        """Hooks for the tasks of this runtime, beside those of the process."""
        return self.scheduler.observers.hooks

    def shutdown(self) -> None:
        """Stop every task; futures that are not done fail with RuntimeError. Idempotent.

        For a background runtime this returns when its thread has ended, or after 5 seconds, and
        the log says how many tasks were dropped.
        """
        thread = self._thread
        if not self.scheduler.closed:
            self.scheduler.shut_down(warn=thread is not None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(EXIT_GRACE)


class OpenRuntime:
    """What `open_runtime` returns: an async context manager."""

    def __init__(self, max_threads: int | None) -> None:
        _check_max_threads(max_threads)
        self._max_threads = max_threads
        self._scheduler: GraphScheduler | None = None
        self._token: Any = None

    async def __aenter__(self) -> AgentRuntime:
        if self._scheduler is not None:
            raise RuntimeError("this runtime was opened before: call open_runtime() again")
        _register_fork()
        self._scheduler = GraphScheduler(max_threads=self._max_threads, is_block=True)
        await self._scheduler.__aenter__()
        self._token = current.set(self._scheduler)
        return AgentRuntime(self._scheduler)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._scheduler is not None
        try:
            await self._scheduler.__aexit__(kind, error, traceback)
        finally:
            current.reset(self._token)


def open_runtime(*, max_threads: int | None = None) -> OpenRuntime:
    """Run the tasks called in an `async with` block in that block: `async with open_runtime():`.

    Works in trio and in asyncio. Leaving the block waits for every task; an exception or a
    cancellation that leaves it cancels every task and waits until they have stopped. At most
    `max_threads` synchronous bodies run at once (default: the number of processors and 4, at most
    32). The errors of tasks stay in their futures.
    """
    return OpenRuntime(max_threads)


def _check_max_threads(number: int | None) -> None:
    if number is not None and number < 1:
        raise ValueError(f"max_threads must be at least 1, not {number!r}")


class _Registry:
    """The runtimes that were not opened in a block: one for each loop, and one for the process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # Keyed by the loop (asyncio) or the token of the run (trio).
        self.adopted: weakref.WeakKeyDictionary[object, AgentRuntime] = weakref.WeakKeyDictionary()
        self.background: AgentRuntime | None = None
        self.exit_registered = False
        self.fork_registered = False


_registry = _Registry()


def find_scheduler() -> GraphScheduler:
    """The scheduler that a task called here and now belongs to; it is started if need be."""
    here = current.get(None)
    if here is not None:
        if isinstance(here, GraphScheduler):
            if not here.closed:
                return here
            raise RuntimeError(
                "the runtime that open_runtime() opened around this place is closed: call tasks "
                "inside its block, and wait there for whatever calls them"
            )
        scheduler: GraphScheduler = here.af_runtime
        if not scheduler.closed:
            return scheduler
    loop = loop_identity()
    if loop is not None:
        return _adopted(loop).scheduler
    runtime = _registry.background
    if runtime is None or runtime.scheduler.is_shut_down:
        # The lock is for starting it.
        runtime = _background(None)
    return runtime.scheduler


def _adopted(loop: object, max_threads: int | None = None) -> AgentRuntime:
    runtime = _registry.adopted.get(loop)
    if runtime is None or not runtime.is_open:
        _register_fork()
        scheduler = GraphScheduler(max_threads=max_threads)
        runtime = _registry.adopted[loop] = AgentRuntime(scheduler)
        scheduler.backend.adopt(lambda: _serve_adopted(scheduler), scheduler.loop_ended)
    return runtime


async def _serve_adopted(scheduler: GraphScheduler) -> None:
    """A task that ends with its loop, which cancels it when the main task is over."""
    # Where the loop is ending already, this is cancelled before anything must be undone.
    await scheduler.backend.checkpoint()
    async with scheduler:
        await scheduler.until_shut_down()


def _background(backend: str | None, max_threads: int | None = None) -> AgentRuntime:
    with _registry.lock:
        runtime = _registry.background
        if runtime is None or not runtime.is_open:
            runtime = _registry.background = _start_background(backend, max_threads)
            _register_fork()
            if not _registry.exit_registered:
                _registry.exit_registered = True
                _register_exit()
        return runtime


def _start_background(backend: str | None, max_threads: int | None) -> AgentRuntime:
    backend = backend or os.environ.get("MOTUS_BACKEND") or "trio"
    if backend not in ("trio", "asyncio"):
        raise ValueError(f"MOTUS_BACKEND must be 'trio' or 'asyncio', not {backend!r}")
    started, closed = threading.Event(), threading.Event()
    made: list[GraphScheduler] = []
    crash: list[BaseException] = []

    async def serve() -> None:
        async with GraphScheduler(max_threads=max_threads) as scheduler:
            made.append(scheduler)
            started.set()
            await scheduler.until_shut_down()
        closed.set()

    def main() -> None:
        try:
            anyio.run(serve, backend=backend)
        except BaseException as error:
            if closed.is_set() and isinstance(error, RuntimeError):
                # At the end of the process: asyncio joins its executor by means of a new thread,
                # which Python 3.12 refuses then. The interpreter joins it anyway.
                return
            crash.append(error)
            raise
        finally:
            started.set()

    own = threading.Thread(target=main, name="motus-runtime", daemon=True)
    own.start()
    started.wait()
    if not made:
        raise RuntimeError("the Motus runtime could not be started") from crash[0]
    return AgentRuntime(made[0], own)


def _register_exit() -> None:
    """Have the background runtime end with the main thread."""
    # `atexit` comes after the interpreter has joined every thread that is no daemon, one that is
    # blocked in resolve() among them. Executors register here too, to join theirs, and the last to
    # register is called first: so their module is imported above.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_at_exit)
    except RuntimeError:
        # The end has begun already.
        atexit.register(_at_exit)


def _register_fork() -> None:
    """Have what a forked child cannot use forgotten there; once, and not by importing this."""
    with _registry.lock:
        if not _registry.fork_registered:
            _registry.fork_registered = True
            os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """In a forked child: no loop of the parent runs here, so nothing of its runtimes will."""
    GraphScheduler.closing_lock = threading.RLock()
    _registry.lock = threading.RLock()
    schedulers = [runtime.scheduler for runtime in _registry.adopted.values()]
    if _registry.background is not None:
        schedulers.append(_registry.background.scheduler)
    _registry.background = None
    _registry.adopted.clear()
    here = current.get(None)
    if here is not None:
        # The fork was in a block or in a body: what the child calls is called outside of it.
        schedulers.append(here.af_runtime if isinstance(here, Node) else here)
        current.set(None)
        thread.job = None
    for scheduler in schedulers:
        scheduler.loop_ended(forked=True)


def _at_exit() -> None:
    runtime = _registry.background
    if runtime is not None:
        log_failures()
        runtime.shutdown()


def init(
    loop: Any = None, *, backend: str | None = None, max_threads: int | None = None
) -> AgentRuntime:
    """Start the runtime of this place now instead of at the first task.

    In a running event loop that is the loop's own; elsewhere one on a background thread, whose
    `backend` is `"trio"` or `"asyncio"` (default: the variable MOTUS_BACKEND, or trio). At most
    `max_threads` synchronous bodies run at once, as in `open_runtime`. `loop` is accepted for
    compatibility and may only be the running one. RuntimeError if there is a runtime already.
    """
    if is_initialized():
        raise RuntimeError("Motus runtime is already initialized: call shutdown() first")
    _check_max_threads(max_threads)
    running = loop_identity()
    if loop is not None and loop is not running:
        raise RuntimeError("init(loop=...) takes the running event loop only: call it inside it")
    if running is not None:
        if backend is not None:
            raise RuntimeError("a running event loop decides the backend: leave it out")
        return _adopted(running, max_threads)
    return _background(backend, max_threads)


def _existing() -> AgentRuntime | None:
    here = current.get(None)
    if here is not None:
        scheduler = here.af_runtime if isinstance(here, Node) else here
        if not scheduler.is_shut_down and not scheduler.closed:
            return AgentRuntime(scheduler)
    loop = loop_identity()
    found = _registry.adopted.get(loop) if loop is not None else _registry.background
    return found if found is not None and found.is_open else None


def is_initialized() -> bool:
    """Whether there is a runtime for this place."""
    return _existing() is not None


def get_runtime() -> AgentRuntime:
    """The runtime of this place; it is started if there is none."""
    return _existing() or AgentRuntime(find_scheduler())


def shutdown() -> None:
    """Stop the runtime of this place at once; a no-op if there is none.

    Running tasks are cancelled, and futures that are not done fail with
    `RuntimeError("Motus runtime is shutting down")`, so that nobody waits for ever. A task called
    afterwards starts a new runtime.
    """
    runtime = _existing()
    if runtime is not None:
        runtime.shutdown()
