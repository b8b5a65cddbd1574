"""`AgentFuture`: what a task call returns."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, Self, TypeVar

import anyio.lowlevel

from motus.errors import TaskCancelledError
from motus.runtime.node import CANCELLED, DONE, FAILED, STATE_NAMES, Node
from motus.runtime.operators import Operators

__all__ = ["AgentFuture", "outcome"]

T_co = TypeVar("T_co", covariant=True)


class AgentFuture(Operators, Generic[T_co]):
    """The result of a task, now or later.

    Made by calling an `@agent_task`, never directly. Pass it to other tasks to make them wait for
    it; `await` it, or `resolve()` it from synchronous code, to get the value. Operators, items,
    attributes and calls on it give new futures; its own attributes all begin with `af_`.

    It may be awaited from any task, in any event loop, any number of times. Cancelling a waiter
    cancels the wait and nothing else.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self.af_state < DONE:
            yield from self.af_runtime.wait(self).__await__()
        else:
            yield from anyio.lowlevel.checkpoint().__await__()
        return outcome(self)  # type: ignore[no-any-return]  # the value of a T_co node

    def af_result(self, timeout: float | None = None) -> T_co:
        """Block this thread until the value is there and return it.

        Raises the task's own error, `TaskCancelledError` if it was cancelled, `TimeoutError` after
        `timeout` seconds (the task goes on), and `RuntimeError` in the runtime's own event loop,
        which would wait for itself.
        """
        if self.af_state < DONE:
            self.af_runtime.block(self, timeout)
        return outcome(self)  # type: ignore[no-any-return]  # the value of a T_co node

    def af_done(self) -> bool:
        """Whether it has a value, an error, or was cancelled."""
        return self.af_state >= DONE

    def af_cancel(self) -> bool:
        """Cancel the task, its children and all that depends on it; False if it is done already.

        From any thread. The future is done when everything below it has stopped.
        """
        if self.af_state >= DONE:
            return False
        return bool(self.af_runtime.cancel(self))

    def af_cancelled(self) -> bool:
        """Whether the task was cancelled and has stopped."""
        return self.af_state == CANCELLED

    def __copy__(self) -> Self:
        # A copy would be a second task; what is shared is one result.
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> str:
        raise TypeError("a future cannot be pickled: send its value")

    def __repr__(self) -> str:
        name, state = self.af_spec.name, STATE_NAMES[self.af_state]
        return f"<AgentFuture '{name}' id={self.af_id} {state}>"


def outcome(node: Node) -> Any:
    """The value of a finished node; raises its error."""
    state = node.af_state
    if state == DONE:
        return node.af_value
    if state == FAILED:
        raise node.af_value.retrieve()
    error = TaskCancelledError(node.af_spec.name, node.af_id)
    raise error from node.af_value
