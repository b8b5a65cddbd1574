"""The graph alone: races are lists of events, and every step is held against the table."""

from __future__ import annotations

import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.errors import InvalidTransitionError, TaskCancelledError
from motus.runtime.containers import replace_futures
from motus.runtime.graph import NOTIFY, STOP, WATCH, Graph
from motus.runtime.node import (
    CANCELLED,
    CANCELLING,
    DONE,
    FAILED,
    PENDING,
    READY,
    RETRYING,
    RUNNING,
    SETTLING,
    STATE_NAMES,
    TRANSITIONS,
    Extra,
    Node,
)

ALLOWED = {(before, after) for steps in TRANSITIONS.values() for before, after in steps.items()}


class CheckedNode(Node):
    """A node that refuses a step that is not in the table."""

    __slots__ = ("state",)

    @property
    def af_state(self) -> int:
        return getattr(self, "state", PENDING)

    @af_state.setter
    def af_state(self, after: int) -> None:
        before = self.af_state
        assert (before, after) in ALLOWED, f"{STATE_NAMES[before]} -> {STATE_NAMES[after]}"
        self.state = after


class World:
    """A graph with a driver that does nothing by itself."""

    def __init__(self) -> None:
        self.graph = Graph(replace_futures, lambda _, error: SimpleNamespace(error=error))
        self.nodes: list[Node] = []

    def call(self, *dependencies: Node, parent: Node | None = None, runtime: object = None) -> Node:
        node = CheckedNode()
        node.af_id = len(self.nodes)
        node.af_spec = SimpleNamespace(name=f"t{node.af_id}")
        node.af_args = dependencies
        node.af_kwargs = node.af_context = node.af_control = node.af_value = None
        node.af_dependents = node.af_extra = None
        node.af_parent = parent
        node.af_runtime = runtime
        node.af_waiting = 0
        self.nodes.append(node)
        self.graph.wire(node, list(dependencies) or None)
        return node

    def start(self) -> Node:
        node = self.graph.ready.popleft()
        node.af_state = RUNNING
        return node

    def run(self, node: Node) -> Node:
        self.graph.ready.remove(node)
        node.af_state = RUNNING
        return node

    def settle(self) -> None:
        while self.graph.advance(1):
            self.check()

    def orders(self) -> list[tuple[Any, ...]]:
        orders = self.graph.orders[:]
        self.graph.orders.clear()
        return orders

    def states(self) -> list[str]:
        return [STATE_NAMES[node.af_state] for node in self.nodes]

    def check(self) -> None:
        """What holds after every event."""
        unfinished = [node for node in self.nodes if node.af_state < DONE]
        assert self.graph.unfinished == len(unfinished)
        ready = {node.af_id for node in self.graph.ready}
        for node in self.nodes:
            if node.af_state == READY:
                assert node.af_id in ready
            if node.af_state >= DONE:
                assert node.af_parent is None
                assert node.af_dependents is None
                assert node.af_extra is None
                assert node.af_args is None
            if node.af_parent is not None:
                extra = node.af_parent.af_extra
                assert extra is not None
                assert extra.children is not None
                assert node.af_id in extra.children


def failure(text: str = "boom") -> SimpleNamespace:
    return SimpleNamespace(error=ValueError(text))


def test_a_task_waits_for_its_dependencies_and_gets_ready_when_the_last_is_done() -> None:
    world = World()
    first, second = world.call(), world.call()
    third = world.call(first, second)
    assert world.states() == ["ready", "ready", "pending"]
    world.graph.succeed(world.start(), 1)
    assert third.af_state == PENDING
    world.graph.succeed(world.start(), 2)
    assert world.states() == ["done", "done", "ready"]
    world.check()


def test_a_dependent_of_one_failed_and_one_pending_task_fails_and_harms_nobody() -> None:
    world = World()
    failing, slow = world.call(), world.call()
    both = world.call(failing, slow)
    innocent = world.call(slow)
    world.run(failing)
    world.run(slow)
    world.graph.fail(failing, failure())
    world.settle()
    assert both.af_state == FAILED
    world.graph.succeed(slow, 1)
    world.settle()
    assert world.states() == ["failed", "done", "failed", "ready"]
    assert world.graph.ready[0] is innocent
    world.check()


def test_calling_a_task_on_a_failed_future_gives_a_failed_future() -> None:
    world = World()
    failing = world.call()
    slow = world.call()
    world.graph.fail(world.start(), failure())
    late = world.call(slow, failing)
    assert late.af_state == FAILED
    assert late.af_value is failing.af_value
    world.graph.succeed(world.start(), 1)
    world.check()


def test_the_failure_of_a_chain_of_100_000_is_told_in_slices() -> None:
    world = World()
    first = node = world.call()
    chain = [node := world.call(node) for _ in range(100_000)]
    world.graph.fail(world.run(first), failure())
    slices = 0
    while world.graph.advance(1000):
        slices += 1
    assert slices >= 99
    assert {node.af_state for node in chain} == {FAILED}
    assert world.graph.unfinished == 0


def test_a_failure_with_100_000_dependents_is_told_in_slices() -> None:
    world = World()
    first = world.call()
    fan = [world.call(first) for _ in range(100_000)]
    world.graph.fail(world.run(first), failure())
    world.graph.advance(10)
    assert sum(node.af_state == FAILED for node in fan) == 10
    while world.graph.advance(10_000):
        pass
    assert world.graph.unfinished == 0


def test_cancelling_a_running_task_orders_a_stop_and_waits_for_the_body() -> None:
    world = World()
    node = world.call()
    below = world.call(node)
    world.run(node)
    assert world.graph.cancel(node)
    assert world.orders() == [(STOP, node)]
    assert world.states() == ["cancelling", "pending"]
    world.graph.stopped(node)
    world.settle()
    assert world.states() == ["cancelled", "cancelled"]
    assert isinstance(below.af_value, TaskCancelledError)
    assert below.af_value.task_name == "t0"
    assert not world.graph.cancel(node)
    world.check()


def test_a_result_that_comes_after_the_cancel_is_dropped() -> None:
    world = World()
    node = world.run(world.call())
    world.graph.cancel(node)
    world.graph.succeed(node, "too late")
    assert node.af_state == CANCELLED


def test_a_task_has_finished_only_when_its_children_have() -> None:
    world = World()
    parent = world.run(world.call())
    child = world.call(parent=parent)
    below = world.call(parent)
    world.graph.succeed(parent, "value")
    assert world.states() == ["settling", "ready", "pending"]
    world.graph.succeed(world.run(child), 1)
    world.settle()
    assert world.states() == ["done", "done", "ready"]
    assert parent.af_value == "value"
    assert below.af_state == READY
    world.check()


def test_a_failed_parent_cancels_its_children_and_waits_for_them() -> None:
    world = World()
    parent = world.run(world.call())
    waiting, running = world.call(parent=parent), world.call(parent=parent)
    world.run(running)
    world.graph.fail(parent, failure())
    world.settle()
    assert world.states() == ["settling", "cancelled", "cancelling"]
    assert world.orders() == [(STOP, running)]
    world.graph.stopped(running)
    world.settle()
    assert world.states() == ["failed", "cancelled", "cancelled"]
    assert isinstance(waiting.af_value, ValueError)
    world.check()


def test_a_failed_child_is_a_value_for_its_parent() -> None:
    world = World()
    parent = world.run(world.call())
    child, sibling = world.call(parent=parent), world.call(parent=parent)
    world.graph.fail(world.run(child), failure())
    world.settle()
    assert world.states() == ["running", "failed", "ready"]
    world.graph.succeed(parent, 1)
    world.graph.succeed(world.run(sibling), 1)
    world.settle()
    assert world.states() == ["done", "failed", "done"]


def test_cancelling_a_parent_cancels_children_of_children() -> None:
    world = World()
    parent = world.run(world.call())
    child = world.run(world.call(parent=parent))
    grandchild = world.run(world.call(parent=child))
    outside = world.call(grandchild)
    world.graph.cancel(parent)
    world.settle()
    assert [order[1] for order in world.orders()] == [parent, child, grandchild]
    for node in (parent, child):
        world.graph.stopped(node)
    assert parent.af_state == CANCELLING
    world.graph.stopped(grandchild)
    world.settle()
    assert set(world.states()) == {"cancelled"}
    assert outside.af_value.task_name == "t0"
    world.check()


def test_a_task_called_by_a_body_that_was_told_to_stop_is_cancelled() -> None:
    world = World()
    parent = world.run(world.call())
    world.graph.cancel(parent)
    late = world.call(parent=parent)
    assert late.af_state == CANCELLED
    world.graph.stopped(parent)
    assert world.call(parent=parent).af_state == CANCELLED
    world.check()


def test_a_returned_future_is_waited_for_and_replaced_by_its_value() -> None:
    world = World()
    other = world.call()
    node = world.run(world.call())
    world.graph.succeed(node, {"x": [other]}, [other])
    assert node.af_state == SETTLING
    world.graph.succeed(world.run(other), 5)
    world.settle()
    assert node.af_value == {"x": [5]}
    world.check()


def test_a_failure_of_a_returned_future_is_the_tasks_own() -> None:
    world = World()
    other, third = world.call(), world.call()
    node = world.run(world.call())
    world.graph.succeed(node, [other, third], [other, third])
    world.graph.fail(world.run(other), failure())
    world.settle()
    assert node.af_state == FAILED
    world.graph.succeed(world.run(third), 1)
    world.settle()
    world.check()


def test_returning_a_cancelled_future_cancels() -> None:
    world = World()
    other = world.call()
    node = world.run(world.call())
    world.graph.succeed(node, other, [other])
    world.graph.cancel(other)
    world.settle()
    assert world.states() == ["cancelled", "cancelled"]


def test_cancelling_a_task_that_settles_does_not_wait_for_what_it_returned() -> None:
    world = World()
    other = world.call()
    node = world.run(world.call())
    world.graph.succeed(node, other, [other])
    world.graph.cancel(node)
    assert world.states() == ["ready", "cancelled"]
    assert world.orders() == []
    world.graph.succeed(world.run(other), 1)
    world.settle()
    world.check()


@pytest.mark.parametrize("steps", [1, 2])
def test_waiting_for_an_ancestor_fails_at_once_and_names_both(steps: int) -> None:
    world = World()
    ancestor = world.run(world.call())
    parent = ancestor
    for _ in range(steps - 1):
        parent = world.run(world.call(parent=parent))
    child = world.call(ancestor, parent=parent)
    assert child.af_state == FAILED
    assert isinstance(child.af_value.error, RuntimeError)
    assert "'t0'" in str(child.af_value.error)
    assert f"'t{steps}'" in str(child.af_value.error)
    world.check()


def test_returning_ones_own_future_fails() -> None:
    world = World()
    node = world.run(world.call())
    world.graph.succeed(node, node, [node])
    assert node.af_state == FAILED
    assert "waits for itself" in str(node.af_value.error)


def test_a_child_that_returns_its_own_future_fails() -> None:
    world = World()
    parent = world.run(world.call())
    node = world.run(world.call(parent=parent))
    world.graph.succeed(node, node, [node])
    assert node.af_state == FAILED
    assert "waits for itself" in str(node.af_value.error)


@pytest.mark.parametrize("steps", [1, 3])
def test_returning_the_future_of_a_sibling_that_waits_for_it_fails(steps: int) -> None:
    world = World()
    parent = world.run(world.call())
    node = world.run(world.call(parent=parent))
    last = node
    for _ in range(steps):
        last = world.call(last, parent=parent)
    world.graph.succeed(node, last, [last])
    assert node.af_state == FAILED
    assert "waits for itself" in str(node.af_value.error)
    world.settle()
    world.graph.succeed(parent, 1)
    world.settle()
    assert world.graph.unfinished == 0


def test_a_dependency_in_another_runtime_is_watched() -> None:
    world = World()
    other = world.call(runtime="there")
    node = world.call(other)
    assert world.orders() == [(WATCH, other, node)]
    assert node.af_state == PENDING
    world.graph.foreign_finished(node, DONE, 3)
    assert node.af_state == READY


def test_the_failure_of_a_dependency_in_another_runtime_fails() -> None:
    world = World()
    node = world.call(world.call(runtime="there"))
    world.graph.foreign_finished(node, FAILED, failure())
    assert node.af_state == FAILED
    assert world.graph.foreign_waits == {}


def test_waiters_are_notified_once() -> None:
    world = World()
    node = world.run(world.call())
    node.af_extra = Extra()
    node.af_extra.waiters = {1: "one", 2: "two"}
    world.graph.succeed(node, 1)
    assert world.orders() == [(NOTIFY, "one"), (NOTIFY, "two")]


def test_cancelling_everything_goes_in_slices() -> None:
    world = World()
    nodes = [world.call() for _ in range(1000)]
    world.graph.closing = True
    world.graph.cancel_all(nodes)
    world.graph.advance(10)
    assert sum(node.af_state == CANCELLED for node in nodes) == 10
    world.settle()
    assert world.graph.unfinished == 0


@pytest.mark.parametrize("how", ["succeed", "fail", "cancel"])
def test_a_great_many_dependencies_are_let_go_of_in_slices(how: str) -> None:
    world = World()
    count = 2500
    root = world.call()
    watched = [weakref.ref(world.call(root)) for _ in range(count)]
    join = world.call(*world.nodes[1:])
    if how == "succeed":
        world.graph.succeed(world.start(), 1)
        for _ in range(count):
            while not world.graph.ready:
                world.graph.advance(100)
            world.graph.succeed(world.start(), 1)
        world.graph.succeed(world.start(), 1)
    elif how == "fail":
        world.graph.fail(world.start(), failure())
    else:
        world.graph.cancel(root)
    while join.af_state < DONE or world.graph.unfinished:
        world.graph.advance(100)
    assert join.af_args is None
    del world.nodes[:]
    dead = [sum(one() is None for one in watched)]
    while world.graph.advance(100):
        dead.append(sum(one() is None for one in watched))
    # What is left of the queue goes by itself at the end.
    steps = [after - before for before, after in itertools.pairwise(dead)]
    assert max(steps) <= 100
    assert sum(one() is None for one in watched) == count
    assert len(steps) >= 20


def test_a_closing_graph_cancels_what_is_called() -> None:
    world = World()
    world.graph.closing = True
    assert world.call().af_state == CANCELLED
    world.check()


def test_a_poisoned_graph_fails_what_would_be_cancelled() -> None:
    world = World()
    pending = world.call(world.call())
    running = world.run(world.nodes[0])
    world.graph.poison = poison = failure("over")
    world.graph.cancel(running)
    world.graph.stopped(running)
    world.settle()
    assert pending.af_value is running.af_value is poison
    assert world.states() == ["failed", "failed"]


def test_attempts_are_steps_of_the_table() -> None:
    world = World()
    node = world.run(world.call())
    child = world.call(parent=node)
    world.graph.attempt_failed(node, ValueError())
    assert node.af_state == RETRYING
    world.settle()
    assert child.af_state == CANCELLED
    world.graph.attempt_started(node)
    world.graph.succeed(node, 1)
    assert node.af_state == DONE


def test_what_cannot_happen_names_the_task_its_state_and_the_event() -> None:
    world = World()
    node = world.call()
    with pytest.raises(InvalidTransitionError, match=r"'t0'.*ready.*attempt started"):
        world.graph.attempt_started(node)


@pytest.mark.parametrize("state", range(len(STATE_NAMES)))
def test_final_states_lead_nowhere(state: int) -> None:
    leads_on = any(state in steps for steps in TRANSITIONS.values())
    assert leads_on == (state < DONE)


# A program: each number chooses what happens next among what can.
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=60))
def test_any_order_of_events_keeps_the_invariants_and_ends(events: list[tuple[int, int]]) -> None:
    world = World()
    running: list[Node] = []
    world.call()
    for what, which in events:
        nodes = world.nodes
        picked = nodes[which % len(nodes)]
        here = running[which % len(running)] if running else None
        if what <= 1:
            world.call(picked, nodes[(which * 7) % len(nodes)])
        elif what == 2:
            world.call(parent=here)
        elif what == 3:
            world.call(picked, parent=here)
        elif what == 4 and world.graph.ready:
            node = world.graph.ready.popleft()
            if node.af_state == READY:
                node.af_state = RUNNING
                running.append(node)
        elif what == 5 and here is not None:
            running.remove(here)
            world.graph.succeed(here, 1)
        elif what == 6 and here is not None:
            running.remove(here)
            world.graph.fail(here, failure())
        elif what == 7 and here is not None:
            running.remove(here)
            world.graph.succeed(here, [picked], [picked])
        elif what == 8:
            world.graph.cancel(picked)
        else:
            world.graph.advance(which)
        world.check()
    # Let everything end: what was told to stop stops, the rest succeeds.
    for _ in range(10_000):
        world.settle()
        if running:
            node = running.pop()
            if node.af_state == CANCELLING:
                world.graph.stopped(node)
            else:
                world.graph.succeed(node, 1)
        elif world.graph.ready:
            node = world.graph.ready.popleft()
            if node.af_state == READY:
                node.af_state = RUNNING
                running.append(node)
        elif not world.graph.fallout:
            break
        world.check()
    assert world.graph.unfinished == 0, world.states()
