"""The tasks that run nodes: leader and followers.

A node from start to result. A *runner* is a long-lived task of the event loop. The one that leads
takes a node from the ready queue, makes its coroutine and runs the first step at once, in the
node's own context. A body that never waits ends there, and costs no task, scope or event. If the
step yields, the body now belongs to this runner's task: the runner gives up the lead (another one
is woken or started if there is more to do), stays with the body until it ends, and then looks for
work again. At most one runner without work is kept, parked on a memory object stream; the others
end.

Every runner holds one cancel scope, which belongs to the node that it stays with. As long as no
node was cancelled it serves the next one too.

`awake` counts the runners that are taking nodes or are about to. Whoever adds work while it is
zero calls `wake`; nobody else has to.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Coroutine, Generator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import anyio

from motus.runtime.attempts import run_attempts
from motus.runtime.containers import (
    AMONG_ARGUMENTS,
    ATOMS,
    futures_in,
    may_hold_futures,
    replace_futures,
)
from motus.runtime.current import current
from motus.runtime.hooks import hooks as process_hooks
from motus.runtime.node import CANCELLING, READY, RUNNING, Node
from motus.runtime.policy import ATTEMPTS, COROUTINE, COROUTINE_LIKE, THREAD

if TYPE_CHECKING:
    from motus.runtime.scheduler import GraphScheduler

__all__ = ["Runners"]

# The other tasks of the loop get their turn after so many nodes, or so many seconds.
BATCH: Final = 64
SLICE: Final = 0.002
# Nodes between two looks at the clock and at what other threads want.
BURST: Final = 8
# How many runners one suspending node may start while others are ready.
MAX_BURST: Final = 8

set_current: Final = current.set

RUNNER_NAME: Final = "motus-runner"


class Runners:
    """The runners of one scheduler. For the loop's thread only."""

    def __init__(self, scheduler: GraphScheduler) -> None:
        self._scheduler = scheduler
        self._graph = scheduler.graph
        self._backend = scheduler.backend
        self._hooks = scheduler.observers.hooks
        self._send, self._receive = anyio.create_memory_object_stream[None](1)
        self.awake = 0
        self._starting = 0
        self._parked = 0
        self._burst = 1
        self._open = False

    def open(self) -> None:
        """From now on runners may start; the backend's host is there."""
        self._open = True
        if self._work_waits():
            self.wake()

    def close(self) -> None:
        """Let parked runners end, and the others when their nodes have."""
        self._open = False
        self._send.close()

    def dispose(self) -> None:
        """All runners have ended."""
        self._receive.close()

    def wake(self) -> None:
        """There is work, and nobody is awake."""
        if not self._open or self._starting:
            return
        if self._parked:
            # Counted for the sleeper, so that nobody else is woken for the same work.
            self._parked -= 1
            self.awake += 1
            self._send.send_nowait(None)
        else:
            self._start()

    def _start(self) -> None:
        self._starting += 1
        self._backend.start_runner(self._run)

    def _work_waits(self) -> bool:
        return bool(self._graph.ready or self._graph.fallout or self._scheduler.inbox)

    async def _run(self) -> None:
        self._starting -= 1
        self.awake += 1
        backend = self._backend
        rename = backend.renamer()
        leading = True
        try:
            while leading:
                misnested = False
                try:
                    with backend.scope() as scope:
                        left_open = backend.open_scopes(scope)
                        leading = await self._lead(scope, left_open, rename)
                        misnested = bool(left_open)
                except RuntimeError:
                    if not misnested:
                        raise
                    # A body has left a scope open in this task; it would stop the nodes that come
                    # after it. trio has mended that by now; an asyncio task cannot be.
                    leading = backend.name == "trio"
        finally:
            self.awake -= 1
            if self._work_waits() and not self.awake:
                # Only when this task was cancelled from above: somebody has to go on.
                self.wake()

    async def _lead(
        self, scope: Any, left_open: Collection[object], rename: Callable[[str], object]
    ) -> bool:
        """Take nodes while there are any, then park. False: this runner is not needed any more.

        True: it goes on in a new scope, because this one was used up by a cancellation.
        """
        scheduler, graph, backend, begin = self._scheduler, self._graph, self._backend, self._begin
        ready, fallout, orders, inbox = graph.ready, graph.fallout, graph.orders, scheduler.inbox
        left = BATCH
        until = perf_counter() + SLICE
        while True:
            while ready or fallout or inbox:
                if inbox:
                    scheduler.take_in(BATCH)
                    left -= BATCH // 2
                if fallout:
                    graph.advance(BATCH)
                    left -= BATCH // 2
                if orders:
                    scheduler.perform()
                for _ in range(BURST):
                    if not ready:
                        break
                    node = ready.popleft()
                    # What was cancelled in the queue is still in it.
                    if node.af_state == READY:
                        suspended = begin(node)
                        if suspended is not None:
                            usable = await self._stay(node, scope, rename, *suspended)
                            left = BATCH
                            until = perf_counter() + SLICE
                            if not usable:
                                scheduler.perform()
                                return True
                            # This frame outlives nodes: what it names would stay in memory.
                            suspended = None
                    del node
                    if orders:
                        scheduler.perform()
                    if fallout or left_open:
                        # What has been told to stop starts nothing more.
                        break
                if left_open:
                    return True
                left -= BURST
                if left <= 0 or perf_counter() > until:
                    await backend.checkpoint()
                    left = BATCH
                    until = perf_counter() + SLICE
            self._burst = 1
            scheduler.check_finished()
            if self._parked or not self._open:
                return False
            self._parked += 1
            self.awake -= 1
            try:
                await self._receive.receive()
            except BaseException as error:
                if self._parked:
                    # Not woken by `wake`, which counts for the sleeper.
                    self._parked -= 1
                    self.awake += 1
                if isinstance(error, anyio.EndOfStream):
                    return False
                raise
            left = BATCH
            until = perf_counter() + SLICE

    def _begin(self, node: Node) -> tuple[Coroutine[Any, Any, Any], Any] | None:
        """Start the body; its coroutine and what it yielded, if it is not over at once."""
        graph = self._graph
        spec = node.af_spec
        node.af_state = RUNNING
        try:
            args, kwargs = node.af_args, node.af_kwargs
            if node.af_has_futures == AMONG_ARGUMENTS:
                args = [one.af_value if isinstance(one, Node) else one for one in args]
            elif node.af_has_futures:
                args, kwargs = replace_futures(args), replace_futures(kwargs)
            if self._hooks.size or process_hooks.size or spec.hooks:
                self._scheduler.observers.started(node, args, kwargs)
            kind = spec.kind
            if kind == COROUTINE:
                # The common case of `_first_step`: calling an `async def` runs nothing.
                run = node.af_context.run
                run(set_current, node)
                fn = spec.fn
                coroutine = fn(*args) if kwargs is None else fn(*args, **kwargs)
                return coroutine, run(coroutine.send, None)
            if kind == COROUTINE_LIKE:
                suspended: tuple[Coroutine[Any, Any, Any], Any] = node.af_context.run(
                    _first_step, node, spec.fn, args, kwargs
                )
            elif kind == ATTEMPTS:
                suspended = node.af_context.run(
                    _first_step, node, run_attempts, (self._scheduler, node, args, kwargs), None
                )
            elif kind == THREAD:
                self._scheduler.jobs.start(node, args, kwargs)
                return None
            else:
                graph.succeed(node, node.af_context.run(_inline, node, spec.fn, args))
                return None
        except StopIteration as stop:
            # What the coroutine returned.
            value = stop.value
            if type(value) not in ATOMS and may_hold_futures(value):
                graph.succeed(node, value, futures_in((value,)) or None)
            else:
                graph.succeed(node, value)
            return None
        except BaseException as error:  # noqa: BLE001 - a body's error, of any kind, is its task's
            self._scheduler.body_raised(node, error)
            return None
        return suspended

    async def _stay(
        self,
        node: Node,
        scope: Any,
        rename: Callable[[str], object],
        coroutine: Coroutine[Any, Any, Any],
        message: Any,
    ) -> bool:
        """Drive a suspended body to its end. False: the scope cannot be used again."""
        scheduler = self._scheduler
        running = scheduler.running
        context = node.af_context
        node.af_args = node.af_kwargs = None
        node.af_control = scope
        running[node.af_id] = node
        if node.af_state == CANCELLING:
            scope.cancel()
        rename(node.af_spec.name)
        self.awake -= 1
        if not self.awake:
            self._hand_over()
        failure: BaseException | None = None
        try:
            value = await _drive(coroutine, context.run, message)
        except BaseException as error:  # noqa: BLE001 - as in _begin; a cancellation ends the node, and trio raises one from above again at the next checkpoint
            failure = error
        self.awake += 1
        del running[node.af_id]
        node.af_control = None
        rename(RUNNER_NAME)
        if scheduler.inbox:
            # Threads that the body used may have called tasks on its behalf: those are its
            # children, and must be known before it is asked whether it has any.
            scheduler.take_in_all()
        usable = node.af_state != CANCELLING
        if failure is not None:
            scheduler.body_raised(node, failure)
            if usable and isinstance(failure, self._backend.cancelled):
                self._backend.absorb_stray_cancel()
            # The traceback leads back to this frame.
            failure = None
        elif type(value) not in ATOMS and may_hold_futures(value):
            self._graph.succeed(node, value, futures_in((value,)) or None)
        else:
            self._graph.succeed(node, value)
        return usable

    def _hand_over(self) -> None:
        """This runner stays with its node: let somebody else take the next ones."""
        if not self._work_waits():
            return
        if self._parked or not self._open:
            self.wake()
        elif not self._starting:
            for _ in range(min(self._burst, max(1, len(self._graph.ready)))):
                self._start()
            self._burst = min(2 * self._burst, MAX_BURST)


def _first_step(
    node: Node, fn: Callable[..., Coroutine[Any, Any, Any]], args: Any, kwargs: Any
) -> tuple[Coroutine[Any, Any, Any], Any]:
    """Called in the node's context; raises StopIteration with the result if the body just ends."""
    current.set(node)
    coroutine = fn(*args) if kwargs is None else fn(*args, **kwargs)
    return coroutine, coroutine.send(None)


def _inline(node: Node, fn: Callable[..., Any], args: Any) -> Any:
    current.set(node)
    try:
        return fn(*args)
    except StopIteration as error:
        # It would be taken for the result of a coroutine.
        raise RuntimeError(f"Task '{node.af_spec.name}' raised StopIteration") from error


@types.coroutine
def _drive(
    coroutine: Coroutine[Any, Any, Any], run: Callable[..., Any], message: Any
) -> Generator[Any, Any, Any]:
    """Resume a coroutine that has yielded `message`, each step in its own context."""
    send, throw = coroutine.send, coroutine.throw
    try:
        while True:
            try:
                answer = yield message
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on into the body
                message = run(throw, error)
            else:
                message = run(send, answer)
    except StopIteration as stop:
        return stop.value
