"""The task graph: what an event does to a node and to the nodes around it.

Pure: no loop, no thread, no clock. A driver (`scheduler.py`) tells the graph what happened and
performs what the graph asks for. Rules of this file:

1. Nothing recurses along edges, and no event walks further than one node's neighbours: what has
   to travel on is queued in `fallout` and handled in slices by `advance`, so that the failure of
   a node with a million dependents, or of a chain of a million, holds nobody up.
2. A node becomes final in one place, `_conclude`, and only then do others learn of it. The common
   case, a body that returned a value and nothing more, is written out in `succeed`.
3. A node may still stand in the lists of those that it no longer waits for; whoever finds it
   there looks at its state first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from motus.errors import InvalidTransitionError, TaskCancelledError
from motus.runtime.cycles import circle, waits_for_itself
from motus.runtime.node import (
    CANCELLED,
    CANCELLING,
    DONE,
    FAILED,
    PENDING,
    READY,
    RUNNING,
    SETTLING,
    STATE_NAMES,
    TRANSITIONS,
    Extra,
    Node,
)

__all__ = ["ENDED", "NOTIFY", "STOP", "WATCH", "Graph", "is_crowded"]

STOP: Final = "stop"
NOTIFY: Final = "notify"
ENDED: Final = "ended"
WATCH: Final = "watch"

# So many dependents are told at once, and so many dependencies let go of; more of them go through
# the fallout, which can pause.
LONG: Final = 1000
# News for nobody: a reference to the node is dropped, which may be the last one.
LET_GO: Final = -1


class _Fallout:
    """Nodes that must hear of something; worked off a slice at a time."""

    __slots__ = ("news", "nodes", "value")

    def __init__(self, news: int, nodes: Iterable[Node], value: Any = None) -> None:
        self.nodes = deque(nodes)
        # DONE, FAILED, CANCELLED: how something they wait for ended. CANCELLING: their owner was
        # told to stop. SETTLING: nothing that they wait for is left. LET_GO: nothing.
        self.news = news
        self.value = value


class Graph:
    """The nodes of one runtime, and what happens to them.

    `fill(value)` replaces the futures in a returned value by their results; `failure(node, error)`
    makes what a failed node keeps, an object with an attribute `error`. Both are pure.

    What the driver has to do is left in two queues: `ready`, the nodes to start, in order (skip
    what is no longer READY), and `orders`:

    * `(STOP, node)`: call `af_control.cancel()`, its body must end; report `stopped`, or how else
      it ended;
    * `(NOTIFY, waiter)`: what it waited for has happened;
    * `(ENDED, node, record)`: a node with a record is final;
    * `(WATCH, other, node)`: `other` belongs to another runtime, report its `foreign_finished`;

    and as long as there is `fallout`, it has to call `advance`.
    """

    __slots__ = (
        "_failure",
        "_fill",
        "closing",
        "fallout",
        "foreign_waits",
        "orders",
        "poison",
        "ready",
        "unfinished",
    )

    def __init__(
        self, fill: Callable[[Any], Any], failure: Callable[[Node, BaseException], Any]
    ) -> None:
        self._fill = fill
        self._failure = failure
        self.ready: deque[Node] = deque()
        self.orders: list[tuple[Any, ...]] = []
        # Nodes that wait for another runtime: nothing here leads to them.
        self.foreign_waits: dict[int, Node] = {}
        self.fallout: deque[_Fallout] = deque()
        self.unfinished = 0
        # What is called from now on is cancelled at once.
        self.closing = False
        # A failure that takes the place of every cancellation, once the runtime shuts down.
        self.poison: Any = None

    # ------------------------------------------------------------------ events

    def wire(self, node: Node, dependencies: list[Node] | None) -> None:
        """A task was called: it waits for its dependencies, or is ready."""
        parent = node.af_parent
        self.unfinished += 1
        try:
            if self.closing:
                node.af_parent = None
                self._conclude_cancelled(node, None)
                return
            if parent is not None and not self._adopt(node, parent):
                return
            if dependencies is not None:
                if len(dependencies) == 1 and parent is None:
                    one = dependencies[0]
                    if (
                        one.af_dependents is None
                        and one.af_state < DONE
                        and one.af_runtime is node.af_runtime
                    ):
                        # The common case of what follows.
                        one.af_dependents = node
                        node.af_waiting = 1
                        return
                waiting = self._wait_for(node, dependencies)
                if waiting:
                    node.af_waiting = waiting
                    return
                if waiting is None:
                    return
            node.af_state = READY
            self.ready.append(node)
        except BaseException:
            # The caller's stack is full, or Ctrl+C: there will be no future, so there was no call.
            # Undone without calling anything, for which there may be no room.
            if node.af_state < DONE:
                node.af_state = CANCELLED
                self.unfinished -= 1
            extra = None if parent is None else parent.af_extra
            if extra is not None and extra.children and node.af_id in extra.children:
                del extra.children[node.af_id]
            raise

    def refuse(self, node: Node, caller: Node) -> None:
        """A body that had been told to stop called a task: it starts nothing any more."""
        self.unfinished += 1
        self._conclude_cancelled(node, _cancelled(caller))

    def succeed(self, node: Node, value: Any, futures: list[Node] | None = None) -> None:
        """The body returned `value`; `futures` are those found in it."""
        extra = node.af_extra
        if futures is None and extra is None and node.af_state == RUNNING:
            # The common case of what follows, without asking twice.
            node.af_value = value
            node.af_state = DONE
            node.af_args = node.af_kwargs = node.af_context = node.af_control = None
            self.unfinished -= 1
            if node.af_parent is not None:
                self._leave(node, node.af_parent)
            dependents = node.af_dependents
            if dependents is not None:
                if isinstance(dependents, list):
                    self._tell(node, DONE, None)
                else:
                    node.af_dependents = None
                    self._release(dependents)
        elif node.af_state == CANCELLING:
            self.stopped(node)
        elif futures is None and (extra is None or not extra.children):
            self._conclude(node, DONE, value)
        else:
            self._body_is_over(node)
            node.af_state = SETTLING
            node.af_value = value
            if futures is not None:
                waiting = self._wait_for(node, futures)
                if waiting is None:
                    return
                node.af_waiting = waiting
            self._settle(node)

    def fail(self, node: Node, failure: Any) -> None:
        """The body raised, or what it returned failed; its children end before it does."""
        if node.af_state == CANCELLING:
            self.stopped(node)
            return
        extra = node.af_extra
        if extra is None or not extra.children:
            self._conclude(node, FAILED, failure)
            return
        self._body_is_over(node)
        node.af_state = SETTLING
        extra.failure = failure
        self._stop_children(extra, failure.error)

    def stopped(self, node: Node) -> None:
        """The body ended because it was told to, or because all of its runtime was."""
        if node.af_state >= DONE:
            return
        if node.af_state != CANCELLING:
            self._told_to_stop(node, None)
        if node.af_extra is not None and node.af_extra.children:
            self._body_is_over(node)
        else:
            self._conclude_cancelled(node, node.af_value)

    def attempt_failed(self, node: Node, error: BaseException) -> None:
        """One of several attempts failed: its children are told to stop."""
        self._step(node, "attempt failed")
        if node.af_extra is not None:
            self._stop_children(node.af_extra, error)

    def attempt_started(self, node: Node) -> None:
        self._step(node, "attempt started")

    def attempt_returned(self, node: Node) -> None:
        """The driver itself settles what the attempt returned."""
        self._step(node, "returned")

    def cancel(self, node: Node, reason: BaseException | None = None) -> bool:
        """Stop the node, its children and what depends on it. False if it has finished."""
        if node.af_state >= DONE:
            return False
        self._cancel(node, reason)
        return True

    def cancel_all(self, nodes: Iterable[Node]) -> None:
        """The same for many nodes, in slices."""
        self.fallout.append(_Fallout(CANCELLING, nodes))

    def foreign_finished(self, node: Node, state: int, value: Any) -> None:
        """A dependency in another runtime has finished."""
        if state == DONE:
            self._release(node)
        else:
            self._hear(node, state, value)

    def advance(self, steps: int) -> bool:
        """Tell up to `steps` nodes what they have to hear; True if there are more."""
        fallout = self.fallout
        while fallout and steps > 0:
            item = fallout[0]
            nodes, news = item.nodes, item.news
            while nodes and steps > 0:
                steps -= 1
                node = nodes.popleft()
                if news == LET_GO:
                    continue
                if news == DONE:
                    self._release(node)
                elif news == SETTLING:
                    self._settle(node)
                else:
                    self._hear(node, news, item.value)
            if not nodes:
                # What this has caused was appended at the right: the item is still the first.
                fallout.popleft()
        return bool(fallout)

    # ------------------------------------------------------------------ consequences

    def _adopt(self, node: Node, parent: Node) -> bool:
        """Make the node a child; False if its parent can have none any more."""
        state = parent.af_state
        if state == DONE:
            # Called by something that the body left running on its own: nobody's child.
            node.af_parent = None
            return True
        if state >= CANCELLING:
            node.af_parent = None
            self._conclude_cancelled(node, _cancelled(parent))
            return False
        extra = parent.af_extra
        if extra is None:
            extra = parent.af_extra = Extra()
        elif extra.failure is not None:
            node.af_parent = None
            self._conclude_cancelled(node, extra.failure.error)
            return False
        if extra.children is None:
            extra.children = {node.af_id: node}
        else:
            extra.children[node.af_id] = node
        return True

    def _wait_for(self, node: Node, others: list[Node]) -> int | None:
        """Let the node wait for those of the others that are unfinished, and count them.

        None if one of them has failed or was cancelled, or would wait for this node: then the
        node is finished, or about to be.
        """
        if len(others) > LONG:
            if node.af_extra is None:
                node.af_extra = Extra()
            node.af_extra.crowd = others
        waiting = 0
        for other in others:
            state = other.af_state
            if state == DONE:
                continue
            if state > DONE:
                self._hear(node, state, other.af_value)
                return None
            if other.af_runtime is not node.af_runtime:
                self.orders.append((WATCH, other, node))
                self.foreign_waits[node.af_id] = node
            else:
                # Of a task that nobody has called from a body, nobody can wait yet.
                if node.af_parent is not None or node.af_state == SETTLING:
                    above = circle(node, other, True)
                    if above is not None:
                        error = waits_for_itself(node, other, above)
                        self._hear(node, FAILED, self._failure(node, error))
                        return None
                dependents = other.af_dependents
                if dependents is None:
                    other.af_dependents = node
                elif isinstance(dependents, list):
                    dependents.append(node)
                else:
                    other.af_dependents = [dependents, node]
            waiting += 1
        return waiting

    def _hear(self, node: Node, news: int, value: Any) -> None:
        """Something that the node depends on has failed, or it is no longer wanted."""
        state = node.af_state
        if state >= CANCELLING:
            return
        if news == FAILED:
            if state == PENDING:
                self._conclude(node, FAILED, value)
            elif state == SETTLING:
                self.fail(node, value)
        elif news == CANCELLING or state in (PENDING, SETTLING):
            self._cancel(node, value)

    def _cancel(self, node: Node, reason: BaseException | None) -> None:
        state = node.af_state
        if state in (PENDING, READY):
            self._conclude_cancelled(node, reason)
        elif state < CANCELLING:
            self._told_to_stop(node, reason)
            if node.af_extra is not None and node.af_extra.bodiless:
                self._settle(node)
            else:
                self.orders.append((STOP, node))

    def _told_to_stop(self, node: Node, reason: BaseException | None) -> None:
        node.af_state = CANCELLING
        node.af_value = reason
        if node.af_extra is not None:
            self._stop_children(node.af_extra, _cancelled(node) if reason is None else reason)

    def _stop_children(self, extra: Extra, reason: BaseException) -> None:
        if extra.children:
            self.fallout.append(_Fallout(CANCELLING, extra.children.values(), reason))

    def _release(self, node: Node) -> None:
        """One of the things that the node waits for is done."""
        node.af_waiting -= 1
        if not node.af_waiting:
            if node.af_state == PENDING:
                node.af_state = READY
                self.ready.append(node)
                if self.foreign_waits:
                    self.foreign_waits.pop(node.af_id, None)
            elif node.af_state == SETTLING:
                # Not at once: nodes that return futures of nodes that do may form a long chain.
                self.fallout.append(_Fallout(SETTLING, (node,)))

    def _settle(self, node: Node) -> None:
        """Finish a node whose body is over, if nothing that it waits for is left."""
        extra = node.af_extra
        if node.af_state >= DONE or (extra is not None and extra.children):
            return
        if node.af_state == CANCELLING:
            self._conclude_cancelled(node, node.af_value)
        elif extra is not None and extra.failure is not None:
            self._conclude(node, FAILED, extra.failure)
        elif not node.af_waiting:
            try:
                value = self._fill(node.af_value)
            except Exception as error:  # noqa: BLE001  # containers are objects of users, and may refuse
                self._conclude(node, FAILED, self._failure(node, error))
            else:
                self._conclude(node, DONE, value)

    def _body_is_over(self, node: Node) -> None:
        if node.af_extra is None:
            node.af_extra = Extra()
        node.af_extra.bodiless = True
        node.af_args = node.af_kwargs = node.af_context = node.af_control = None

    def _conclude_cancelled(self, node: Node, reason: BaseException | None) -> None:
        if self.poison is None:
            self._conclude(node, CANCELLED, reason)
        else:
            self._conclude(node, FAILED, self.poison)

    def _conclude(self, node: Node, state: int, value: Any) -> None:
        """Make a node final: first that, then others learn of it."""
        # The value first: other threads look at the state to know whether it is there.
        node.af_value = value
        node.af_state = state
        node.af_args = node.af_kwargs = node.af_context = node.af_control = None
        self.unfinished -= 1
        if node.af_parent is not None:
            self._leave(node, node.af_parent)
        if node.af_dependents is not None:
            if state == CANCELLED and value is None:
                value = _cancelled(node)
            self._tell(node, state, value)
        extra = node.af_extra
        if extra is not None:
            node.af_extra = None
            if extra.record is not None:
                self.orders.append((ENDED, node, extra.record))
            if extra.crowd is not None:
                self.fallout.append(_Fallout(LET_GO, extra.crowd))
            if extra.waiters is not None:
                self.orders += [(NOTIFY, waiter) for waiter in extra.waiters.values()]
        if self.foreign_waits:
            self.foreign_waits.pop(node.af_id, None)

    def _leave(self, node: Node, parent: Node) -> None:
        """The node is no child any more."""
        node.af_parent = None
        extra = parent.af_extra
        if extra is not None and extra.children is not None:
            extra.children.pop(node.af_id, None)
            if not extra.children:
                if extra.bodiless:
                    self.fallout.append(_Fallout(SETTLING, (parent,)))
                elif extra.childless is not None:
                    self.orders.append((NOTIFY, extra.childless))
                    extra.childless = None

    def _tell(self, node: Node, state: int, value: Any) -> None:
        """Let those that depend on the node know how it ended."""
        dependents = node.af_dependents
        node.af_dependents = None
        if isinstance(dependents, list):
            if state != DONE or len(dependents) > LONG:
                self.fallout.append(_Fallout(state, dependents, value))
            else:
                for dependent in dependents:
                    self._release(dependent)
        elif dependents is not None:
            if state == DONE:
                self._release(dependents)
            elif dependents.af_state < CANCELLING:
                self.fallout.append(_Fallout(state, (dependents,), value))

    def _step(self, node: Node, event: str) -> None:
        try:
            node.af_state = TRANSITIONS[event][node.af_state]
        except KeyError:
            raise InvalidTransitionError(
                f"task '{_name(node)}' (id={node.af_id}) is {STATE_NAMES[node.af_state]}, so this "
                f"cannot happen to it: {event}"
            ) from None


def is_crowded(node: Node) -> bool:
    """Whether the node waits, or has waited, for a great many others."""
    return node.af_extra is not None and node.af_extra.crowd is not None


def _name(node: Node) -> str:
    return str(node.af_spec.name)


def _cancelled(node: Node) -> TaskCancelledError:
    return TaskCancelledError(_name(node), node.af_id)
