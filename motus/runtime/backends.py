"""What the scheduler needs of an event loop, for trio and for asyncio.

anyio is the common language of the library; these are the few places where the hot path goes to
the loop directly, because a runner that is started, or a wake from another thread, would cost
several times as much through the general interface. Each class is the whole difference that one
loop makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import sys
import threading
from collections.abc import Callable, Collection, Coroutine
from contextvars import copy_context
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
import sniffio
import trio

__all__ = [
    "Backend",
    "Event",
    "explain_wrong_loop",
    "loop_identity",
    "make_backend",
    "wait_for_call",
]

Runner = Callable[[], Coroutine[Any, Any, None]]

# By the loop that runs: what a call of the other library raises in it, and what to do then.
_WRONG_LOOP: Final = {
    "trio": (
        ("no running event loop", "unrecognized yield message"),
        (
            "This task runs on trio and called asyncio. Use anyio, or run on asyncio: set "
            "MOTUS_BACKEND=asyncio, and start a server with --backend asyncio."
        ),
    ),
    "asyncio": (
        ("must be called from async context", "Task got bad yield"),
        (
            "This task runs on asyncio and called trio. Use anyio, or run on trio: start a loop of "
            "your own with trio.run, set MOTUS_BACKEND=trio, start a server with --backend trio."
        ),
    ),
}


class Event(Protocol):
    def set(self) -> object: ...
    async def wait(self) -> object: ...


class Backend(Protocol):
    """One event loop, as the scheduler uses it. Everything but `call` is for the loop's thread."""

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> Callable[[], Any]: ...

    @property
    def cancelled(self) -> type[BaseException]: ...

    def call(self, function: Callable[[], object]) -> None:
        """Run the function in the loop soon; from any thread. RuntimeError if the loop is gone."""

    async def host(self, began: Callable[[], object]) -> None:
        """Own the runners and threads from when `began` is called until `close`."""

    def close(self) -> None:
        """Let `host` return when the runners have ended."""

    def adopt(self, serve: Runner, ended: Callable[[], object]) -> None:
        """Run `serve` in a task of the loop that ends with the loop, and then call `ended`."""

    def start_runner(self, runner: Runner, never_began: Callable[[], object]) -> None:
        """Run it in a task; `never_began` is called if the loop drops the task before it runs."""

    def start_thread(
        self, work: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> None:
        """Run `work` on a daemon thread in which `anyio.from_thread` leads to this loop.

        If the system has no thread to give, `failed` is called in the loop, and not from here.
        """

    async def checkpoint(self) -> None: ...

    def event(self) -> Event: ...

    async def wait_out(self, event: Event, seconds: float = math.inf) -> None:
        """Wait for the event, for so long, whoever cancels this task meanwhile.

        For closing, in a shielded scope. What a shield does not stop is kept in `deferred`.
        """

    @property
    def deferred(self) -> BaseException | None:
        """The cancellation that `wait_out` has put off, to be raised when all is closed."""

    def now(self) -> float: ...

    def is_here(self) -> bool:
        """Whether it is this loop that runs in this thread now."""

    def renamer(self) -> Callable[[str], object]:
        """A function that renames the running task, so that a task tree tells the truth."""

    def task(self) -> object:
        """The running task of the loop."""

    @property
    def sees_timeouts(self) -> bool:
        """Whether all that can end a wait from outside is a scope, `open_scopes` in it."""

    def open_scopes(self, scope: Any) -> Collection[object] | None:
        """The scopes still open inside the given one: a live view. None if that cannot be told."""

    def stray_cancel(self) -> Callable[[], int] | None:
        """For the running task: a function that says whether somebody has asked to cancel it.

        Outside any scope, that is, where the request would hit whatever runs next. None if that
        cannot happen.
        """

    async def absorb_stray_cancel(self) -> None:
        """Forget requests to cancel the running task that came from outside any scope."""


class TrioBackend:
    name = "trio"
    scope = trio.CancelScope
    cancelled = trio.Cancelled
    deferred = None
    sees_timeouts = True

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        # Whoever makes a runner necessary may be inside a task's own context: runners start from
        # this one, which nothing else enters.
        self._context = copy_context()
        self._closed = trio.Event()
        # The pool has its own limit.
        self._limiter = anyio.CapacityLimiter(1_000_000)

    def call(self, function: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            raise RuntimeError("the event loop has ended") from None

    async def host(self, began: Callable[[], object]) -> None:
        async with trio.open_nursery() as self._nursery:
            began()
            with trio.CancelScope(shield=True):
                # Runners hold the tasks of users: those are cancelled one by one, and the owner of
                # this scope waits for that before it closes.
                await self._closed.wait()
            self._nursery.cancel_scope.cancel()

    def close(self) -> None:
        self._closed.set()

    def adopt(self, serve: Runner, ended: Callable[[], object]) -> None:
        async def task() -> None:
            try:
                await serve()
            finally:
                ended()

        trio.lowlevel.spawn_system_task(task, name="motus-runtime", context=self._context.copy())

    def start_runner(self, runner: Runner, never_began: Callable[[], object]) -> None:
        self._context.run(self._nursery.start_soon, _protected, runner)

    def start_thread(
        self, work: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> None:
        self._context.run(self._nursery.start_soon, self._thread, work, failed)

    async def _thread(
        self, work: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> None:
        try:
            await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:
            failed(error)

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    def event(self) -> Event:
        return trio.Event()

    def now(self) -> float:
        return trio.current_time()

    def is_here(self) -> bool:
        return sniffio.thread_local.name == "trio"

    def task(self) -> object:
        return trio.lowlevel.current_task()

    def renamer(self) -> Callable[[str], object]:
        return functools.partial(setattr, trio.lowlevel.current_task(), "name")

    async def wait_out(self, event: Event, seconds: float = math.inf) -> None:
        with trio.move_on_after(seconds):
            await event.wait()

    def open_scopes(self, scope: Any) -> Collection[object] | None:
        # No public way leads to the scopes inside one; without it, a body that leaves a scope open
        # is found out only when the runner ends.
        status = getattr(scope, "_cancel_status", None)
        return getattr(status, "_children", None)

    def stray_cancel(self) -> None:
        """There is none: trio cancels through scopes only."""

    async def absorb_stray_cancel(self) -> None:
        """See `stray_cancel`."""


@trio.lowlevel.enable_ki_protection
async def _protected(runner: Runner) -> None:
    """Ctrl+C goes to the program's main task, not to whichever node happens to run.

    There it cancels the block, and with it every node; here it would end one node, or the runner
    itself in the middle of its books.
    """
    await runner()


class AsyncioBackend:
    name = "asyncio"
    scope = anyio.CancelScope
    cancelled = asyncio.CancelledError
    # Those of asyncio itself leave no trace in the task.
    sees_timeouts = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        # Without a context, call_soon_threadsafe copies that of the caller, which may say that
        # another library is running: the loop would then hang without a word.
        self._call = functools.partial(self._loop.call_soon_threadsafe, context=self._context)
        self._closed = asyncio.Event()
        self._runners: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._adopted: asyncio.Task[None] | None = None
        self._crash: BaseException | None = None
        self.deferred: BaseException | None = None

    def call(self, function: Callable[[], object]) -> None:
        self._call(function)

    async def host(self, began: Callable[[], object]) -> None:
        began()
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            # Runners are plain asyncio tasks, because those start in a fraction of the time; so
            # this is their nursery, and waits for them, even while the loop cancels all it has.
            while self._runners or not self._closed.is_set():
                self._changed.clear()
                try:
                    await self._changed.wait()
                except asyncio.CancelledError as error:
                    cancelled = error
        ended_by = self._crash or cancelled
        if ended_by is not None:
            raise ended_by

    def close(self) -> None:
        self._closed.set()
        self._changed.set()

    def adopt(self, serve: Runner, ended: Callable[[], object]) -> None:
        task = self._loop.create_task(serve(), name="motus-runtime", context=self._context.copy())
        # The loop itself holds its tasks weakly.
        self._adopted = task
        # asyncio cancels what has not begun without ever running it.
        task.add_done_callback(lambda _: ended(), context=self._context)

    def start_runner(self, runner: Runner, never_began: Callable[[], object]) -> None:
        # Not the loop's own way to make a task: an eager factory would run it on this stack.
        task = asyncio.Task(
            self._runner(runner), loop=self._loop, context=self._context.copy(), name="motus-runner"
        )
        self._runners.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._runners.discard(task)
            if task.cancelled():
                # `_runner` never raises that: it was cancelled before its first step.
                never_began()
            elif (error := task.exception()) is not None and self._crash is None:
                self._crash = error
                self._closed.set()
            self._changed.set()

        task.add_done_callback(ended, context=self._context)

    async def _runner(self, runner: Runner) -> None:
        try:
            await runner()
        except asyncio.CancelledError:
            # The loop is ending and cancels every task it has; the host reports it.
            return

    def start_thread(
        self, work: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> None:
        # anyio's own worker threads are not daemons: one that is stuck in a task's body would keep
        # the interpreter from exiting.
        thread = threading.Thread(
            target=_claimed, args=(self._loop, work), name="motus-thread", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._loop.call_soon(failed, error, context=self._context)

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def event(self) -> Event:
        return asyncio.Event()

    def now(self) -> float:
        return self._loop.time()

    def is_here(self) -> bool:
        return sniffio.thread_local.name is None

    def task(self) -> object:
        return asyncio.current_task()

    def renamer(self) -> Callable[[str], object]:
        task = asyncio.current_task()
        assert task is not None
        return task.set_name

    async def wait_out(self, event: Event, seconds: float = math.inf) -> None:
        timer = None if seconds == math.inf else self._loop.call_later(seconds, event.set)
        try:
            while True:
                try:
                    await event.wait()
                    return
                except asyncio.CancelledError as error:
                    # Shields do not stop it, and half-closed nobody could ever leave.
                    self.deferred = error
        finally:
            if timer is not None:
                timer.cancel()

    def open_scopes(self, scope: Any) -> Collection[object] | None:
        # As for trio.
        children: Collection[object] | None = getattr(scope, "_child_scopes", None)
        return children

    def stray_cancel(self) -> Callable[[], int]:
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling

    async def absorb_stray_cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        # Before Python 3.13, taking the request back does not take back that it is delivered.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        while task.cancelling():
            task.uncancel()


def _claimed(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        # What anyio does for its own threads, so that `from_thread` needs no token in a task's
        # body; it has no public name, so it is done without where it has gone.
        module = sys.modules.get("anyio._core._eventloop")
        claim = getattr(module, "claim_worker_thread", None)
        asyncio_backend = sys.modules.get("anyio._backends._asyncio")
        kind = getattr(asyncio_backend, "backend_class", None)
        if claim is not None and kind is not None:
            stack.enter_context(claim(kind, loop))
        work()


def loop_identity() -> object | None:
    """An object that stands for the event loop that runs in this thread, or None."""
    # trio says so here whenever a task of it runs; its own question costs ten times as much where
    # the answer is no.
    if sniffio.thread_local.name == "trio":
        return trio.lowlevel.current_trio_token()
    return asyncio._get_running_loop()  # noqa: SLF001  # exported for this; the other raises, which is slow


def make_backend() -> Backend:
    """For the loop that is running."""
    return TrioBackend() if trio.lowlevel.in_trio_run() else AsyncioBackend()


async def wait_for_call(
    begin: Callable[[Callable[[], object], int], object], forget: Callable[[int], object]
) -> None:
    """Wait, in whichever loop runs here, until any thread calls what `begin` gets.

    That comes with a key, which `forget` gets if the wait is cancelled.
    """
    here = _thread_safe_caller()
    send, receive = anyio.create_memory_object_stream[None](1)

    def notify() -> None:
        try:
            here(send.close)
        except RuntimeError:
            # The loop that waited has ended, and so has the wait. trio's error is one too.
            return

    begin(notify, id(send))
    with send, receive:
        try:
            # Nothing is ever sent: that the other end is closed is the message.
            with contextlib.suppress(anyio.EndOfStream):
                await receive.receive()
        except BaseException:
            forget(id(send))
            raise


def _thread_safe_caller() -> Callable[[Callable[[], object]], object]:
    """For the loop that is running: what any thread can call to have a function run there."""
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token().run_sync_soon
    loop = asyncio.get_running_loop()
    return functools.partial(loop.call_soon_threadsafe, context=copy_context())


def explain_wrong_loop(error: BaseException, running: str) -> None:
    """Add a note, once, to the error of a body that has called the library of the other loop."""
    text = error.args[0] if type(error) in (RuntimeError, TypeError) and error.args else None
    words, advice = _WRONG_LOOP[running]
    # Not `str(error)`: what a user's error was made of may refuse.
    if (
        type(text) is str
        and any(word in text for word in words)
        and advice not in getattr(error, "__notes__", ())
    ):
        error.add_note(advice)
