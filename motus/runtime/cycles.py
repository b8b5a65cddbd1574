"""Waiting for oneself: found where the wait begins, instead of hanging.

A node waits for its dependencies, then for its children and the futures that it returned, and all
that are above it wait for it. What a body awaits by itself is not known here, so a circle through
two bodies that await each other is not found.
"""

from __future__ import annotations

from typing import Final

from motus.runtime.containers import futures_in
from motus.runtime.node import CANCELLING, DONE, PENDING, READY, RUNNING, SETTLING, Node

__all__ = ["circle", "waits_for_itself"]

# A search gives up after so many nodes, so that no call costs more than a fraction of a
# millisecond because the graph is large.
MOST: Final = 500


def circle(node: Node, other: Node) -> Node | None:
    """Whom the node would wait for in vain, if it waited for `other`: itself, or one above it."""
    if other is node:
        return node
    if other.af_state == READY:
        return None
    parent = other.af_parent
    if parent is not None and (
        parent is node or (parent is node.af_parent and node.af_state == PENDING)
    ):
        # Looked at when it was called, against the same ancestors; and for a node that is only
        # being called, no sibling can wait yet.
        return None
    above = {}
    up: Node | None = node
    while up is not None:
        above[up.af_id] = up
        up = up.af_parent
    seen: set[int] = set()
    search = [other]
    while search and len(seen) < MOST:
        found = search.pop()
        if found.af_state >= DONE:
            continue
        if found.af_id in above:
            return found
        if found.af_id not in seen:
            seen.add(found.af_id)
            search += _waited_for(found)
    return None


def _waited_for(node: Node) -> list[Node]:
    state = node.af_state
    if state == PENDING:
        return futures_in((*(node.af_args or ()), *(node.af_kwargs or {}).values()))
    if not RUNNING <= state <= CANCELLING:
        return []
    extra = node.af_extra
    children = list(extra.children.values()) if extra is not None and extra.children else []
    if state == SETTLING and extra is not None and extra.failure is None:
        children += futures_in((node.af_value,))
    return children


def waits_for_itself(node: Node, other: Node) -> RuntimeError:
    """The error of a task that waits for what cannot finish before it."""
    name, above = node.af_spec.name, other.af_spec.name
    if other is node:
        return RuntimeError(f"Task '{name}' (id={node.af_id}) waits for itself")
    return RuntimeError(
        f"Task '{name}' (id={node.af_id}) waits for '{above}' (id={other.af_id}), which called it "
        "and cannot finish before it: this would never end"
    )
