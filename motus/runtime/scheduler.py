"""The scheduler: performs what the graph decides, inside one task group of one event loop.

Everything here happens in the loop's thread, but for `submit`, `post`, `cancel`, `block` and
`when_finished`, which any thread may call: they leave what is to be done in the inbox and have the
loop woken once for all that is in it.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import anyio
import anyio.abc
from sniffio import current_async_library_cvar as async_library

from motus.runtime.backends import (
    Event,
    explain_wrong_loop,
    loop_identity,
    make_backend,
    wait_for_call,
)
from motus.runtime.containers import replace_futures
from motus.runtime.current import current
from motus.runtime.cycles import begin_await, circle, end_await, waits_for_itself
from motus.runtime.failures import Failure, is_made_of, warn_of_dropped
from motus.runtime.graph import ENDED, NOTIFY, STOP, Graph
from motus.runtime.jobs import Jobs
from motus.runtime.node import CANCELLING, DONE, Extra, Node
from motus.runtime.observers import Observers
from motus.runtime.runners import Runners, make_sure_of_room
from motus.runtime.threads import Job, thread

__all__ = ["SHUTTING_DOWN", "GraphScheduler"]

SHUTTING_DOWN: Final = "Motus runtime is shutting down"


class GraphScheduler:
    """One runtime's tasks. Made in the loop that it will run in; `async with` runs it.

    Leaving the block normally waits for every task. Leaving it by an exception or a cancellation
    cancels every task, and waits until they have stopped.
    """

    # One for all: the end of one runtime may lead to another that ends in another thread.
    closing_lock: ClassVar = threading.RLock()

    def __init__(self, *, max_threads: int | None = None, is_block: bool = False) -> None:
        """`is_block`: somebody's block is around it, where an interrupt can be raised."""
        self.graph = Graph(replace_futures, Failure.of)
        self.backend = make_backend()
        self.thread_id = get_ident()
        # Bound once: what most of the inbox is.
        self._wire = self.graph.wire
        # What other threads want done: functions with two arguments, in order.
        self.inbox: deque[tuple[Callable[[Any, Any], object], Any, Any]] = deque()
        # Nodes whose body is suspended in a runner or runs on a thread, by id.
        self.running: dict[int, Node] = {}
        self.jobs = Jobs(self, max_threads)
        self.observers = Observers(self)
        self.runners = Runners(self)
        # Nothing of it will run any more, or nothing new will be taken.
        self.closed = False
        self.is_shut_down = False
        self._is_block = is_block
        self._kicked = False
        self._began = self.backend.event()
        self._hosted = self.backend.event()
        self._host_ended = False
        self._shutdown_asked = self.backend.event()
        self._finished: Event | None = None
        self._interrupt: Failure | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    # ------------------------------------------------------------------ opening and closing

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            self._tasks.start_soon(self._host)
            # Not `TaskGroup.start`, which waits for the host when it is cancelled.
            await self._began.wait()
        except BaseException:
            # Cancelled before it began; the host may have begun all the same.
            self.backend.close()
            self.loop_ended()
            await self._tasks.__aexit__(*sys.exc_info())
            raise
        self.runners.open()
        return self

    async def _host(self) -> None:
        try:
            await self.backend.host(self._began.set)
        finally:
            # Also when a runner has crashed: then nobody waits for what will not happen.
            self._host_ended = True
            self.runners.close()
            self._hosted.set()
            if self._finished is not None:
                self._finished.set()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and not self.is_shut_down:
                await self._all_finished()
        finally:
            await self._close()
        if self.backend.deferred is not None and error is None:
            raise self.backend.deferred
        interrupt = self._interrupt
        if error is None and interrupt is not None and not interrupt.retrieved:
            # Nobody asked for the result of the body that it reached: it was meant for the program.
            raise interrupt.retrieve()

    def shut_down(self, *, warn: bool = False) -> None:
        """Have everything stopped; futures that are not done fail with `SHUTTING_DOWN`.

        From any thread; returns at once. `until_shut_down` returns in whoever serves the runtime.
        With `warn` the log says what is lost.
        """
        self.is_shut_down = True
        self.post(self._shut_down, warn, None)

    async def until_shut_down(self) -> None:
        """Wait for `shut_down`."""
        await self._shutdown_asked.wait()

    def _shut_down(self, warn: bool, _: None) -> None:
        if self.graph.poison is None:
            if warn:
                # First of what was cancelled on purpose, which is not lost.
                self._tell_everybody()
                warn_of_dropped(self._roots())
            self.graph.poison = Failure(RuntimeError(SHUTTING_DOWN), None)
            self._cancel_everything()
            self.follow_up()
        self._shutdown_asked.set()

    async def _all_finished(self) -> None:
        while self._is_busy() and not self._host_ended:
            self._finished = self.backend.event()
            self.follow_up()
            await self._finished.wait()

    def _is_busy(self) -> bool:
        # Of what has finished there may be much to let go of: before the runners end, in slices.
        return bool(self.graph.unfinished or self.graph.fallout or self.inbox)

    async def _close(self) -> None:
        """Stop what runs, wait until it has stopped, and let go of runners and threads."""
        assert self._tasks is not None
        try:
            with anyio.CancelScope(shield=True):
                self._cancel_everything()
                while self._is_busy() and not self._host_ended:
                    self._finished = self.backend.event()
                    self.follow_up()
                    await self.backend.wait_out(self._finished)
                await self.jobs.all_ended()
                await self.observers.all_called()
                self.jobs.pool.close()
                self.runners.close()
                self.backend.close()
                await self.backend.wait_out(self._hosted)
        finally:
            try:
                # Nobody is left in it. Not in the shield, which was opened inside it; so this may
                # be where a cancellation from above arrives.
                self.backend.close()
                await self._tasks.__aexit__(None, None, None)
            finally:
                self.closed = True
                self._close_inbox()

    def crash(self, node: Node | None, error: BaseException) -> None:
        """Something of ours failed with a node in hand: end everything, and let nobody wait."""
        failure = Failure(RuntimeError(f"Motus runtime crashed: {type(error).__name__}"), None)
        failure.error.__cause__ = error
        self.is_shut_down = True
        if self.graph.poison is None:
            self.graph.poison = failure
        if node is not None and node.af_state < DONE:
            self.running[node.af_id] = node
        self.runners.close()
        self.backend.close()
        self._cancel_everything()
        self._tell_everybody()

    def _cancel_everything(self) -> None:
        self.graph.closing = True
        self.graph.cancel_all(self._roots())

    def _roots(self) -> list[Node]:
        """What is ready, runs, or waits for another runtime: all the rest waits for these."""
        graph = self.graph
        return [*graph.ready, *self.running.values(), *graph.foreign_waits.values()]

    def _close_inbox(self) -> None:
        """No loop will look after what is left, or still comes: finish it here and now."""
        with self.closing_lock:
            self.take_in_all()
            self._cancel_everything()
            self._tell_everybody()
            for node in list(self.running.values()):
                self.graph.stopped(node)
            self.running.clear()
            self._tell_everybody()

    def _tell_everybody(self) -> None:
        while self.graph.fallout or self.graph.orders:
            self.graph.advance(1000)
            self.perform()

    def loop_ended(self, *, forked: bool = False) -> None:
        """The loop has ended, or will run nothing of this any more. Idempotent.

        In a `forked` child what is left is finished when somebody asks for it.
        """
        if self.closed:
            return
        self.closed = self.is_shut_down = True
        self.runners.abandon()
        if self.graph.poison is None:
            self.graph.poison = Failure(RuntimeError(SHUTTING_DOWN), None)
        if forked:
            for node in self.running.values():
                # Its task and its thread were left behind: there is nothing to stop.
                node.af_control = None
        else:
            self._close_inbox()

    # ------------------------------------------------------------------ from any thread

    def submit(self, node: Node, dependencies: list[Node] | None) -> None:
        """Take in a new node that was called in another thread."""
        if async_library.get() is not None:
            # The context says which library runs where it was copied, not where it will be used.
            node.af_context.run(async_library.set, None)
        job = thread.job
        if job is not None and job.abandoned:
            node.af_parent = None
            self.inbox.append((self.graph.refuse, node, job.node))
        else:
            self.inbox.append((self._wire, node, dependencies))
        if self.closed or not (self._kicked or self.runners.awake):
            self._announce()

    def post(self, function: Callable[[Any, Any], object], one: Any, two: Any) -> None:
        """Have `function(one, two)` called in the loop, after what was posted before."""
        self.inbox.append((function, one, two))
        if self.closed or not (self._kicked or self.runners.awake):
            self._announce()

    def _announce(self) -> None:
        """Something is in the inbox, and no runner is awake.

        One that is awake looks there before it parks, after it has said that it does.
        """
        if self.closed:
            self._close_inbox()
            return
        try:
            self._kicked = True
            self.backend.call(self._kick)
        except RecursionError:
            # Of the caller: it is its stack that is full. Whoever comes next has the loop woken.
            self._kicked = False
            raise
        except RuntimeError:
            self.loop_ended()
        except BaseException:
            # Ctrl+C, in the middle of it. What others have put there meanwhile relies on it.
            self.backend.call(self._kick)
            raise

    def cancel(self, node: Node) -> bool:
        """Cancel the node, its children and all downstream; False if it was done."""
        target = node
        # Read once: the loop drops it when the node is final.
        args = node.af_args
        if node.af_spec.is_part and args is not None and args[0].af_state < DONE:
            # One of several results: they are cancelled together.
            target = args[0]
        if target.af_state >= DONE:
            return False
        if self.thread_id == get_ident() and not self.closed:
            make_sure_of_room()
            self.graph.cancel(target)
            self.follow_up()
        else:
            self.post(lambda one, _: self.graph.cancel(one), target, None)
        return True

    def when_finished(self, node: Node, notify: Callable[[], object], key: int) -> None:
        """Call `notify` in this scheduler's loop when the node has finished."""
        self.post(self._add_waiter, node, (key, notify))

    def block(self, node: Node, timeout: float | None, reason: str = "") -> None:
        """Block this thread until the node has finished; TimeoutError after `timeout` seconds.

        `reason` ends the error of a call in the loop, where it is no call of `resolve`.
        """
        if self.thread_id == get_ident() and not self.closed:
            raise RuntimeError(
                "resolve() called from the runtime event loop — this may lead to a deadlock. "
                f"Use 'await future' instead.{reason}"
            )
        if loop_identity() is not None:
            warnings.warn(
                "resolve() blocks this thread, and with it every other task of the event loop that "
                "runs in it: in an async context, use 'await future' instead.",
                UserWarning,
                stacklevel=4,
            )
        self._check_not_above(node, False, False)
        gate = allocate_lock()
        gate.acquire()
        self.when_finished(node, gate.release, id(gate))
        wait = -1 if timeout is None else max(0.0, timeout)
        job = thread.job
        if job is None:
            finished = gate.acquire(timeout=wait)
        else:
            with job.node.af_runtime.jobs.pool.slot_given_back(job):
                finished = gate.acquire(timeout=wait)
        if not finished:
            self.post(self._forget_waiter, node, id(gate))
            raise TimeoutError(
                f"no result of task '{node.af_spec.name}' (id={node.af_id}) after {timeout} seconds"
            )

    # ------------------------------------------------------------------ waiting

    async def wait(self, node: Node, *, for_good: bool = False) -> None:
        """Return when the node has finished. In any loop; cancelling it cancels only the wait.

        `for_good`: this is a body, and in no scope or timeout, which cannot always be seen.
        """
        is_here = self.thread_id == get_ident() and not self.closed and self.backend.is_here()
        body = self._check_not_above(node, is_here, for_good)
        if is_here:
            event = self.backend.event()
            self._add_waiter(node, (id(event), event.set))
            if body is not None:
                begin_await(body, node)
            try:
                await event.wait()
            except BaseException:
                self._forget_waiter(node, id(event))
                raise
            finally:
                if body is not None:
                    end_await(body, node)
            return
        await wait_for_call(
            functools.partial(self.when_finished, node),
            functools.partial(self.post, self._forget_waiter, node),
        )

    def _check_not_above(self, node: Node, is_here: bool, for_good: bool) -> Node | None:
        """Refuse to wait for oneself. The node whose body is about to, if it cannot give up."""
        here = current.get(None)
        if not isinstance(here, Node) or here.af_state >= DONE:
            return None
        body = None
        # Own children are known to the graph.
        if is_here and node.af_parent is not here:
            seen = self.backend.sees_timeouts and self.runners.is_in_bare_body()
            body = here if seen or for_good else None
        above = circle(here, node, body is not None)
        if above is not None:
            raise waits_for_itself(here, node, above)
        return body

    def _add_waiter(self, node: Node, waiter: tuple[int, Callable[[], object]]) -> None:
        key, notify = waiter
        if node.af_state >= DONE:
            notify()
            return
        if node.af_extra is None:
            node.af_extra = Extra()
        if node.af_extra.waiters is None:
            node.af_extra.waiters = {}
        node.af_extra.waiters[key] = notify

    def _forget_waiter(self, node: Node, key: int) -> None:
        if node.af_extra is not None and node.af_extra.waiters is not None:
            node.af_extra.waiters.pop(key, None)

    # ------------------------------------------------------------------ for the runners

    def take_in(self, most: int) -> None:
        """Do up to so many things that other threads want done."""
        inbox = self.inbox
        one: Any = None
        try:
            while inbox and most > 0:
                most -= 1
                function, one, two = inbox.popleft()
                function(one, two)
        except BaseException:
            if isinstance(one, Node) and one.af_state < DONE:
                # Perhaps nothing else leads to it yet, and somebody waits for it.
                self.running[one.af_id] = one
            raise

    def take_in_all(self) -> None:
        """Do all that other threads want done by now."""
        while self.inbox:
            self.take_in(len(self.inbox))

    def perform(self) -> None:
        """Carry out the graph's orders."""
        orders = self.graph.orders
        while orders:
            batch = orders[:]
            orders.clear()
            for order in batch:
                verb, subject = order[0], order[1]
                if verb is NOTIFY:
                    try:
                        subject()
                    except RuntimeError:
                        # Whoever waited in a loop that has ended does not any more.
                        if not self.closed:
                            raise
                elif verb is STOP:
                    self._stop(subject)
                elif verb is ENDED:
                    self.observers.ended(subject, order[2])
                else:
                    self._watch(subject, order[2])

    def _stop(self, node: Node) -> None:
        control = node.af_control
        if isinstance(control, Job):
            self.jobs.abandon(control)
        elif control is not None:
            control.cancel()

    def _watch(self, other: Node, node: Node) -> None:
        def report(_one: Any, _two: Any) -> None:
            self.graph.foreign_finished(node, other.af_state, other.af_value)

        other.af_runtime.when_finished(other, lambda: self.post(report, None, None), id(node))

    def follow_up(self) -> None:
        """After an event from outside the runners: carry out orders, see that the rest is."""
        if self.graph.orders:
            make_sure_of_room()
            self.perform()
        if not self.runners.awake:
            if self.graph.ready or self.graph.fallout or self.inbox:
                self.runners.wake()
            else:
                self.check_finished()

    def check_finished(self) -> None:
        """Tell whoever leaves the block when nothing is unfinished any more."""
        if self._finished is not None and not self._is_busy():
            self._finished.set()

    def body_raised(self, node: Node, error: BaseException) -> None:
        """A body ended with an exception: a failure, or the end of one that was told to stop."""
        if node.af_state == CANCELLING or is_made_of(error, self.backend.cancelled):
            self.graph.stopped(node)
            return
        self.explain_backend(error)
        failure = Failure.of(node, error)
        if self._is_block and issubclass(type(error), KeyboardInterrupt):
            self._interrupt = failure
        self.graph.fail(node, failure)

    def explain_backend(self, error: BaseException) -> None:
        """Give an error that comes of calling the other loop's library a note that says so."""
        explain_wrong_loop(error, self.backend.name)

    def _kick(self) -> None:
        # First the flag: what is posted from here on kicks again.
        self._kicked = False
        if self.inbox and not self.runners.awake:
            self.runners.wake()
