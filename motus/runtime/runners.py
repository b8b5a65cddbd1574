"""The tasks that run nodes: leader and followers.

A node from start to result. A *runner* is a long-lived task of the event loop. The one that leads
takes a node from the ready queue, makes its coroutine and runs the first step at once, in the
node's own context. A body that never waits ends there, and costs no task, scope or event. If the
step yields, the body now belongs to this runner's task: the runner gives up the lead (another one
is woken or started if there is more to do), stays with the body until it ends, and then looks for
work again. At most one runner without work is kept, parked on an event; the others end.

What awaits the bodies of a runner, one after the other, is its *stage*, a generator: to resume it
in a node's context is one call, and a result comes back without an exception that carries it.

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

__all__ = ["Runners", "make_sure_of_room"]

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

# Frames that it takes to wake a runner, and to start one, with some to spare.
ROOM_TO_WAKE: Final = 9
ROOM_TO_START: Final = 20

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
        # By the loop's task: the scopes that a runner's body has open.
        self._left_open: dict[object, Collection[object] | None] = {}
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
        if self._open and not self._starting:
            make_sure_of_room(ROOM_TO_START if self._parked is None else ROOM_TO_WAKE)
            if not self._unpark():
                self._start()

    def is_in_bare_body(self) -> bool:
        """Whether a body itself runs here, and has no scope open that could end a wait."""
        left_open = self._left_open.get(self._backend.task())
        return left_open is not None and not left_open

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
        task = backend.task()
        leading = True
        try:
            while leading:
                misnested = False
                try:
                    with backend.scope() as scope:
                        left_open = self._left_open[task] = backend.open_scopes(scope)
                        leading = await self._lead(scope, left_open, rename, stray_cancel)
                        misnested = bool(left_open)
                except RuntimeError:
                    if not misnested:
                        raise
                    # A body has left a scope open in this task; it would stop the nodes that come
                    # after it. trio has mended that by now; an asyncio task cannot be.
                    leading = backend.name == "trio"
        finally:
            self._left_open.pop(task, None)
            self.awake -= 1
            # If this task was cancelled from above.
            self._somebody_goes_on()

    async def _lead(
        self,
        scope: Any,
        left_open: Collection[object] | None,
        rename: Callable[[str], object],
        stray_cancel: Callable[[], int] | None,
    ) -> bool:
        """Take nodes while there are any, then park. False: this runner is not needed any more.

        True: it goes on in a new scope, because this one was used up by a cancellation.
        """
        scheduler, graph, backend, begin = self._scheduler, self._graph, self._backend, self._begin
        stage = _Stage()
        over = stage.outcome
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
                            message = begin(node, stage)
                            if message is not over:
                                usable = await self._stay(node, scope, rename, stage, message)
                                # This frame outlives nodes: what it names would stay in memory.
                                node = message = None
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

    def _begin(self, node: Node, stage: _Stage) -> Any:
        """Start the body; what it yielded, or the stage's outcome if it is over already."""
        spec, outcome = node.af_spec, stage.outcome
        node.af_state = RUNNING
        try:
            args, kwargs = node.af_args, node.af_kwargs
            if node.af_has_futures == AMONG_ARGUMENTS:
                future = type(node)
                if len(args) == 1:
                    args = (args[0].af_value,)
                elif len(args) == 2:
                    one, two = args
                    args = (
                        one.af_value if type(one) is future else one,
                        two.af_value if type(two) is future else two,
                    )
                    one = two = None
                else:
                    args = [one.af_value if type(one) is future else one for one in args]
            elif node.af_has_futures:
                args, kwargs = replace_futures(args), replace_futures(kwargs)
            if self._hooks.size or process_hooks.size or spec.hooks:
                self._scheduler.observers.started(node, args, kwargs)
            kind, run = spec.kind, node.af_context.run
            if kind == COROUTINE:
                # To call an `async def` runs nothing, so it need not be in the node's context.
                fn = spec.fn
                body = fn(*args) if kwargs is None else fn(*args, **kwargs)
            elif kind == THREAD:
                self._scheduler.jobs.start(node, args, kwargs)
                return outcome
            elif kind == ATTEMPTS:
                body = run_attempts(self._scheduler, node, args, kwargs)
            elif kind == COROUTINE_LIKE:
                body = run(_call, node, spec.fn, args, kwargs)
                if type(body) is not types.CoroutineType:
                    body = _awaiting(body)
            else:
                # Ours, and over at once.
                value, body = run(_call, node, spec.fn, args, None), None
            if body is not None:
                message = run(stage.send, (node, body))
                if message is not outcome:
                    return message
                value, outcome.value = outcome.value, None
            # In here: there are classes that cannot be hashed.
            is_atom = type(value) in ATOMS
        except BaseException as error:  # noqa: BLE001  # a body's error, of any kind, is its task's
            stage.clear()
            self._scheduler.body_raised(node, error)
            return outcome
        if is_atom:
            self._graph.succeed(node, value)
        else:
            self._returned(node, value)
        return outcome

    def _returned(self, node: Node, value: Any) -> None:
        try:
            futures = futures_in((value,)) if may_hold_futures(value) else None
        except Exception as error:  # noqa: BLE001  # results are objects of users, and may refuse
            self._scheduler.body_raised(node, error)
        else:
            self._graph.succeed(node, value, futures or None)

    async def _stay(
        self,
        node: Node,
        scope: Any,
        rename: Callable[[str], object],
        stage: _Stage,
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
            await _drive(stage, context.run, message)
        except BaseException as error:  # noqa: BLE001  # as in _begin; a cancellation ends the node, and trio raises one from above again at the next checkpoint
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
            stage.clear()
            scheduler.body_raised(node, failure)
            # The traceback leads back to this frame.
            failure = None
        else:
            value, stage.outcome.value = stage.outcome.value, None
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


def make_sure_of_room(frames: int = ROOM_TO_START) -> None:
    """Raise RecursionError now, and not halfway through what must be done whole.

    For what is called on the stack of a body, which may be about to overflow.
    """
    if frames:
        make_sure_of_room(frames - 1)


class _Outcome:
    """What a stage yields when a body is over: the same each time, with what that has returned."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


class _Stage:
    """The generator that awaits the bodies of one runner.

    `send((node, body))`, called in the node's context, begins a body. It returns what the body
    yields to the loop, or `outcome` when the body has returned, and raises what the body raises.
    """

    __slots__ = ("outcome", "send", "throw")

    def __init__(self) -> None:
        self.outcome = _Outcome()
        self.clear()

    def clear(self) -> None:
        """After a body has raised: an exception ends a generator, so there has to be another."""
        bodies = _await_bodies(self.outcome)
        bodies.send(None)
        self.send, self.throw = bodies.send, bodies.throw


@types.coroutine
def _await_bodies(outcome: _Outcome) -> Generator[Any, Any, None]:
    while True:
        node, body = yield outcome
        set_current(node)
        # Until the next one comes: this frame would keep it in memory.
        node = None
        outcome.value = yield from body
        body = None


def _call(node: Node, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call the function in the node's context."""
    set_current(node)
    return fn(*args) if kwargs is None else fn(*args, **kwargs)


async def _awaiting(body: Any) -> Any:
    return await body


@types.coroutine
def _drive(stage: _Stage, run: Callable[..., Any], message: Any) -> Generator[Any, Any, None]:
    """Resume a body that has yielded `message`, each step in its own context, to its end."""
    send, throw, over = stage.send, stage.throw, stage.outcome
    while message is not over:
        try:
            answer = yield message
        except BaseException as error:  # noqa: BLE001  # handed on into the body
            message = run(throw, error)
        else:
            message = run(send, answer)
