"""Waiting for oneself: found where the wait begins, instead of hanging.

A node waits for its dependencies, then for its children and the futures that it returned, and all
that are above it wait for it. A body waits for what it awaits: that counts where nothing could end
the wait but the end of what is awaited, so not inside a cancel scope, such as a timeout, or a task
group.
"""

from __future__ import annotations

from typing import Final

from motus.runtime.containers import futures_in
from motus.runtime.node import CANCELLING, DONE, PENDING, READY, RUNNING, SETTLING, Extra, Node

__all__ = ["begin_await", "circle", "end_await", "waits_for_itself"]

# A search gives up after so many nodes, so that no call costs more than a fraction of a
# millisecond because the graph is large.
MOST: Final = 500
# And after so many bodies that await each other: where each of many awaits the one before it, every
# wait would walk along all of them.
MOST_BODIES: Final = 16


def circle(node: Node, other: Node, through_bodies: bool) -> Node | None:
    """Whom the node would wait for in vain, if it waited for `other`: itself, or one above it.

    `through_bodies`: what bodies await counts as well, as this wait cannot be given up either.
    """
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
    is_awaited = False
    while up is not None:
        above[up.af_id] = up
        is_awaited = is_awaited or _is_awaited(up)
        up = up.af_parent
    # Mostly nobody waits for any of these but whoever called them.
    bodies = MOST_BODIES if through_bodies and is_awaited else 0
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
            extra = found.af_extra
            if bodies and extra is not None and extra.awaits is not None:
                bodies -= 1
                if found.af_state == RUNNING:
                    search.append(extra.awaits)
    return None


def begin_await(body: Node, node: Node) -> None:
    """The body of one awaits the other, and nothing but the end of that lets it go on."""
    if body.af_extra is None:
        body.af_extra = Extra()
    body.af_extra.awaits = node
    if node.af_extra is not None:
        node.af_extra.awaited += 1


def end_await(body: Node, node: Node) -> None:
    """It has ended, or the body was stopped."""
    if body.af_extra is not None:
        body.af_extra.awaits = None
    if node.af_extra is not None:
        node.af_extra.awaited -= 1


def _is_awaited(node: Node) -> bool:
    return node.af_dependents is not None or (
        node.af_extra is not None and node.af_extra.awaited > 0
    )


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


def waits_for_itself(node: Node, other: Node, above: Node) -> RuntimeError:
    """The error of a task that waits for `other`, and so for itself or one `above` it."""
    task = f"Task '{node.af_spec.name}' (id={node.af_id})"
    by_way_of = f"'{other.af_spec.name}' (id={other.af_id})"
    if other is node:
        return RuntimeError(f"{task} waits for itself")
    if above is node:
        return RuntimeError(f"{task} waits for itself, by way of {by_way_of}: this would never end")
    by_way_of = "" if other is above else f", by way of {by_way_of},"
    return RuntimeError(
        f"{task} waits{by_way_of} for '{above.af_spec.name}' (id={above.af_id}), which called it "
        "and cannot finish before it: this would never end"
    )
