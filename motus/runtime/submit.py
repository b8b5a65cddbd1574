"""A call becomes a node."""

from __future__ import annotations

import itertools
from _thread import get_ident
from contextvars import copy_context
from types import CodeType
from typing import Any, TypeVar

from motus.runtime.containers import (
    AMONG_ARGUMENTS,
    ATOMS,
    INSIDE_CONTAINERS,
    NO_FUTURES,
    futures_in,
    may_hold_futures,
)
from motus.runtime.current import current
from motus.runtime.lifecycle import find_scheduler
from motus.runtime.node import DONE, PENDING, Node
from motus.runtime.policy import TaskSpec

__all__ = ["submit"]

F = TypeVar("F", bound=Node)

_ids = itertools.count(1)
_new: Any = object.__new__


def submit(
    future: type[F],
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    code: CodeType | None,
    instruction: int,
) -> F:
    """Make a call of a task a node of the graph, from any thread, and return its future.

    `future` is the class of the node. `code` and `instruction` are the place of the call, a
    frame's `f_code` and `f_lasti`.
    """
    here = current.get(None)
    parent: Node | None = None
    # Every node is of this class; `isinstance` takes three times as long to say no.
    if type(here) is future:
        runtime = here.af_runtime
        if here.af_state < DONE and not runtime.closed:
            parent = here
        else:
            runtime = find_scheduler()
            # The body of an abandoned thread still belongs to its task, and starts nothing.
            parent = here if here.af_state > DONE and runtime is here.af_runtime else None
    else:
        runtime = find_scheduler() if here is None or here.closed else here
    dependencies: list[Node] | None = None
    holds = NO_FUTURES
    for value in args:
        kind = type(value)
        if kind is future:
            holds |= AMONG_ARGUMENTS
            if dependencies is None:
                dependencies = [value]
            else:
                dependencies.append(value)
        elif kind not in ATOMS and may_hold_futures(value):
            dependencies = futures_in(args)
            holds = INSIDE_CONTAINERS if dependencies else NO_FUTURES
            break
    if kwargs:
        more = futures_in(kwargs.values())
        if more:
            dependencies = more if dependencies is None else dependencies + more
            holds = INSIDE_CONTAINERS
    node: F = _new(future)
    node.af_state = PENDING
    node.af_spec = spec
    node.af_args = args
    node.af_kwargs = kwargs or None
    node.af_context = copy_context()
    node.af_parent = parent
    node.af_runtime = runtime
    node.af_has_futures = holds
    node.af_waiting = 0
    node.af_dependents = None
    node.af_extra = None
    node.af_control = None
    node.af_value = None
    node.af_id = next(_ids)
    node.af_code = code
    node.af_instruction = instruction
    if runtime.thread_id == get_ident() and not runtime.closed:
        runtime.graph.wire(node, dependencies)
        if not runtime.runners.awake:
            runtime.follow_up()
    else:
        runtime.submit(node, dependencies)
    return node
