"""The tasks that run nodes: leader and followers.

A node from start to result. A *runner* is a long-lived task of the event loop. The one that leads
takes a node from the ready queue, makes its coroutine and runs the first step at once, in the
node's own context. A body that never waits ends there, and costs no task, scope or event. If the
step yields, the body now belongs to this runner's task: the runner gives up the lead (another one
is woken or started if there is more to do), stays with the body until it ends, and then looks for
work again. At most one runner without work is kept, parked on an event; the others end.

Every runner holds one cancel scope, which belongs to the node that it stays with. As long as no
node was cancelled it serves the next one too.

`awake` counts the runners that are taking nodes or are about to. Whoever adds work while it is
zero calls `wake`; nobody else has to.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Coroutine, Generator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

from motus.runtime.attempts import run_attempts
from motus.runtime.backends import Event
from motus.runtime.containers import (
    AMONG_ARGUMENTS,
    ATOMS,
    INSIDE_CONTAINERS,
    NO_FUTURES,
    futures_in,
    may_hold_futures,
    replace_futures,
    replace_in_flat,
)
from motus.runtime.current import current
from motus.runtime.graph import is_crowded
from motus.runtime.hooks import hooks as process_hooks
from motus.runtime.node import CANCELLING, READY, RUNNING, Node
from motus.runtime.policy import ATTEMPTS, COROUTINE, COROUTINE_LIKE, THREAD

if TYPE_CHECKING:
    from motus.runtime.scheduler import GraphScheduler

_Suspended = tuple[Coroutine[Any, Any, Any], Any]

__all__ = ["Runners"]

# The other tasks of the loop get their turn after so many seconds; the runners share them.
SLICE: Final = 0.002
# A time without any runner in which the others have had theirs.
IDLE: Final = 0.0005
# So many things from other threads, or nodes that hear of something, are handled in one go.
BATCH: Final = 64
# Nodes between two looks at the clock and at what other threads want.
BURST: Final = 8
# Arguments that are filled in between two pauses.
PIECE: Final = 10_000
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
        self.awake = 0
        self._starting = 0
        # On which the one runner without work waits.
        self._parked: Event | None = None
        self._burst = 1
        self._open = False
        # For all runners together: until when they may keep the loop, and when one last did.
        self._until = 0.0
        self._seen = 0.0

    def open(self) -> None:
        """From now on runners may start; the backend's host is there."""
        self._open = True
        if self._work_waits():
            self.wake()

    def close(self) -> None:
        """Let parked runners end, and the others when their nodes have."""
        self._open = False
        self._unpark()

    def abandon(self) -> None:
        """The loop has ended, and with it every runner: there is nobody to be told."""
        self._open = False
        self._parked = None

    def wake(self) -> None:
        """There is work, and nobody is awake."""
        if self._open and not self._starting and not self._unpark():
            self._start()

    def _unpark(self) -> bool:
        if self._parked is None:
            return False
        # Counted for the sleeper, so that nobody else is woken for the same work.
        self.awake += 1
        parked, self._parked = self._parked, None
        parked.set()
        return True

    def _start(self) -> None:
        self._starting += 1
        self._backend.start_runner(self._run, self._never_began)

    def _never_began(self) -> None:
        self._starting -= 1
        self._somebody_goes_on()

    def _somebody_goes_on(self) -> None:
        if not self.awake:
            # Also when nothing is left to do: perhaps the last one had no time to say so.
            self._scheduler.follow_up()

    def _work_waits(self) -> bool:
        return bool(self._graph.ready or self._graph.fallout or self._scheduler.inbox)

    async def _run(self) -> None:
        self._starting -= 1
        self.awake += 1
        backend = self._backend
        rename, stray_cancel = backend.renamer(), backend.stray_cancel()
        leading = True
        try:
            while leading:
                misnested = False
                try:
                    with backend.scope() as scope:
                        left_open = backend.open_scopes(scope)
                        leading = await self._lead(scope, left_open, rename, stray_cancel)
                        misnested = bool(left_open)
                except RuntimeError:
                    if not misnested:
                        raise
                    # A body has left a scope open in this task; it would stop the nodes that come
                    # after it. trio has mended that by now; an asyncio task cannot be.
                    leading = backend.name == "trio"
        finally:
            self.awake -= 1
            # If this task was cancelled from above.
            self._somebody_goes_on()

    async def _lead(
        self,
        scope: Any,
        left_open: Collection[object],
        rename: Callable[[str], object],
        stray_cancel: Callable[[], int] | None,
    ) -> bool:
        """Take nodes while there are any, then park. False: this runner is not needed any more.

        True: it goes on in a new scope, because this one was used up by a cancellation.
        """
        scheduler, graph, backend, begin = self._scheduler, self._graph, self._backend, self._begin
        ready, fallout, orders, inbox = graph.ready, graph.fallout, graph.orders, scheduler.inbox
        node: Node | None = None
        crowded = False
        try:
            while True:
                while ready or fallout or inbox:
                    if inbox:
                        crowded = len(inbox) > 1
                        scheduler.take_in(BATCH)
                    if fallout:
                        graph.advance(BATCH)
                    if orders:
                        scheduler.perform()
                    for _ in range(BURST):
                        if not ready:
                            break
                        node = ready.popleft()
                        if node.af_has_futures == INSIDE_CONTAINERS and is_crowded(node):
                            await self._fill(node)
                        # What was cancelled in the queue is still in it.
                        if node.af_state == READY:
                            suspended = begin(node)
                            if suspended is not None:
                                usable = await self._stay(node, scope, rename, *suspended)
                                # This frame outlives nodes: what it names would stay in memory.
                                node = suspended = None
                                if not usable:
                                    scheduler.perform()
                                    return True
                            if stray_cancel is not None and stray_cancel():
                                # It would hit the next body that waits.
                                await backend.absorb_stray_cancel()
                        node = None
                        if orders:
                            scheduler.perform()
                        if fallout or left_open:
                            # What has been told to stop starts nothing more.
                            break
                    if left_open:
                        return True
                    now = perf_counter()
                    if now > self._until:
                        if now - self._seen < IDLE:
                            await backend.checkpoint()
                        self._until = perf_counter() + SLICE
                    self._seen = now
                if crowded:
                    # Another thread calls tasks, perhaps many. While the loop has a look around,
                    # that thread goes on; to wake a parked runner takes longer for both.
                    crowded = False
                    await backend.checkpoint()
                    continue
                self._burst = 1
                scheduler.check_finished()
                if self._parked is not None or not self._open:
                    return False
                if not await self._park():
                    return False
        except BaseException as error:
            if not isinstance(error, backend.cancelled):
                scheduler.crash(node, error)
            raise

    async def _fill(self, node: Node) -> None:
        """Put their values in the place of a great many arguments, with pauses.

        Only of one flat list; `_begin` does the others in one go.
        """
        args = node.af_args
        if len(args) != 1 or type(args[0]) is not list or node.af_kwargs is not None:
            return
        values = args[0]
        filled: list[Any] = []
        while len(filled) < len(values):
            piece = replace_in_flat(values[len(filled) : len(filled) + PIECE])
            if piece is None:
                return
            filled += piece
            await self._backend.checkpoint()
            if node.af_state != READY:
                return
        node.af_args = (filled,)
        node.af_has_futures = NO_FUTURES

    async def _park(self) -> bool:
        """Wait for work; False if there will be none."""
        parked = self._parked = self._backend.event()
        self.awake -= 1
        if self._scheduler.inbox:
            # Put there while this one was still awake, so nobody was told.
            self._unpark()
        try:
            await parked.wait()
        except BaseException:
            if self._parked is parked:
                # Not woken, which would have counted it.
                self._parked = None
                self.awake += 1
            raise
        return self._open or self._work_waits()

    def _begin(self, node: Node) -> tuple[Coroutine[Any, Any, Any], Any] | None:
        """Start the body; its coroutine and what it yielded, if it is not over at once."""
        spec = node.af_spec
        node.af_state = RUNNING
        try:
            args, kwargs = node.af_args, node.af_kwargs
            if node.af_has_futures == AMONG_ARGUMENTS:
                if len(args) == 1:
                    args = (args[0].af_value,)
                else:
                    future = type(node)
                    args = [one.af_value if type(one) is future else one for one in args]
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
                return cast(
                    "_Suspended", node.af_context.run(_first_step, node, spec.fn, args, kwargs)
                )
            if kind == ATTEMPTS:
                arguments = (self._scheduler, node, args, kwargs)
                step = node.af_context.run(_first_step, node, run_attempts, arguments, None)
                return cast("_Suspended", step)
            if kind == THREAD:
                self._scheduler.jobs.start(node, args, kwargs)
                return None
            value = node.af_context.run(_inline, node, spec.fn, args)
        except StopIteration as stop:
            # What the coroutine returned.
            value = stop.value
        except BaseException as error:  # noqa: BLE001 - a body's error, of any kind, is its task's
            self._scheduler.body_raised(node, error)
            return None
        if type(value) in ATOMS:
            self._graph.succeed(node, value)
        else:
            self._returned(node, value)
        return None

    def _returned(self, node: Node, value: Any) -> None:
        try:
            futures = futures_in((value,)) if may_hold_futures(value) else None
        except Exception as error:  # noqa: BLE001 - results are objects of users, and may refuse
            self._scheduler.body_raised(node, error)
        else:
            self._graph.succeed(node, value, futures or None)

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
        # Bodies that come back soon bring their runners along: fewer new ones are needed.
        self._burst = 1
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
            # The traceback leads back to this frame.
            failure = None
        else:
            self._returned(node, value)
        return usable

    def _hand_over(self) -> None:
        """This runner stays with its node: let somebody else take the next ones."""
        if not self._work_waits():
            return
        if self._parked is not None or not self._open:
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
