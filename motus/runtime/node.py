"""What a task is to the graph: its states, the steps between them, and the object that holds them.

`TRANSITIONS` is the whole truth about states. Fast paths in `graph.py` write a state without
looking it up; the tests check every one of those steps against the table.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "CANCELLED",
    "CANCELLING",
    "DONE",
    "FAILED",
    "PENDING",
    "READY",
    "RETRYING",
    "RUNNING",
    "SETTLING",
    "STATE_NAMES",
    "TRANSITIONS",
    "Extra",
    "Node",
]

# From DONE on a state is final: `state >= DONE` asks whether a node has finished.
PENDING: Final = 0  # waits for dependencies
READY: Final = 1  # in the ready queue
RUNNING: Final = 2  # its body runs, or is suspended
RETRYING: Final = 3  # between two attempts
SETTLING: Final = 4  # the body is over; children or returned futures are not
CANCELLING: Final = 5  # told to stop; its body or its children have not yet
DONE: Final = 6
FAILED: Final = 7
CANCELLED: Final = 8

STATE_NAMES: Final = (
    "pending", "ready", "running", "retrying", "settling", "cancelling",
    "done", "failed", "cancelled",
)  # fmt: skip

# event -> state before -> state after
TRANSITIONS: Final[dict[str, dict[int, int]]] = {
    "released": {PENDING: READY},
    "started": {READY: RUNNING},
    "returned": {RUNNING: SETTLING},
    "attempt failed": {RUNNING: RETRYING, SETTLING: RETRYING},
    "attempt started": {RETRYING: RUNNING},
    "succeeded": {RUNNING: DONE, SETTLING: DONE},
    "failing": {RUNNING: SETTLING, RETRYING: SETTLING, SETTLING: SETTLING},
    "failed": {PENDING: FAILED, RUNNING: FAILED, RETRYING: FAILED, SETTLING: FAILED},
    "told to stop": {RUNNING: CANCELLING, RETRYING: CANCELLING, SETTLING: CANCELLING},
    "cancelled": {PENDING: CANCELLED, READY: CANCELLED, CANCELLING: CANCELLED},
    # The runtime is closing: what would be cancelled fails with the reason for that.
    "poisoned": {PENDING: FAILED, READY: FAILED, CANCELLING: FAILED},
}


class Node:
    """A task in the graph. `AgentFuture` is the same object with the user's methods on top.

    One slotted object for the node and its future keeps a pending node within some 300 bytes.
    The attributes are public to the runtime's modules; users meet only the `af_` methods.
    """

    __slots__ = (
        "__weakref__",
        "af_args",  # positional arguments until the body starts
        "af_code",  # where it was created: a code object ...
        "af_context",  # the context that the body runs in
        "af_control",  # what stops the body: an object with cancel(), while it runs
        "af_dependents",  # who waits for it: None, one node, or a list
        "af_extra",  # what few nodes need, made when needed
        "af_has_futures",  # whether the arguments contain futures, and how deep: see containers.py
        "af_id",
        "af_instruction",  # ... and an index into its instructions
        "af_kwargs",
        "af_parent",  # the node whose body created it, while this one is unfinished
        "af_runtime",  # the scheduler that it belongs to
        "af_spec",  # what to run and how
        "af_state",
        "af_value",  # the result, the failure, or the reason of the cancellation
        "af_waiting",  # how many dependencies, or returned futures, are unfinished
    )

    af_args: Any
    af_code: Any
    af_context: Any
    af_control: Any
    af_dependents: Node | list[Node] | None
    af_extra: Extra | None
    af_has_futures: int
    af_id: int
    af_instruction: int
    af_kwargs: dict[str, Any] | None
    af_parent: Node | None
    af_runtime: Any
    af_spec: Any
    af_state: int
    af_value: Any
    af_waiting: int


class Extra:
    """The rarely needed part of a node."""

    __slots__ = (
        "awaited", "awaits", "bodiless", "childless", "children", "crowd", "failure", "record",
        "waiters",
    )  # fmt: skip

    def __init__(self) -> None:
        # By id: a future that is hashed blocks until it has a value.
        self.children: dict[int, Node] | None = None
        # Opaque to the graph: handed to the driver with NOTIFY when the node has finished.
        self.waiters: dict[int, Any] | None = None
        # What its body awaits, if nothing but the end of that lets the body go on; and how many
        # bodies await this one in the same way.
        self.awaits: Node | None = None
        self.awaited = 0
        # The body is over: only children and returned futures are waited for.
        self.bodiless = False
        # How a body ended that raised while it had children.
        self.failure: Any = None
        # Opaque as well: what hooks have to know, of a node that has started.
        self.record: Any = None
        # What it waits for, if that is a great many: to be let go of in slices.
        self.crowd: list[Node] | None = None
        # A waiter for the end of the last child, between two attempts.
        self.childless: Any = None
