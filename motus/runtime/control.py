"""Stopping tasks, from outside and from inside."""

from __future__ import annotations

from typing import Any

from motus.errors import TaskCancelledError
from motus.runtime.current import current
from motus.runtime.future import AgentFuture
from motus.runtime.node import CANCELLED, CANCELLING, Node
from motus.runtime.threads import thread

__all__ = ["cancel", "cancelled", "check_cancelled"]


def cancel(future: AgentFuture[Any]) -> bool:
    """Cancel a task, the tasks that its body called, and everything that depends on any of them.

    From any thread. True if the future was not done; on one that is, nothing is touched. Asks, and
    does not wait: when `await future` or `resolve(future)` has raised, nothing of the cancelled
    coroutines runs any more. A synchronous body cannot be interrupted: its future is done at once
    and its result is dropped; let long ones call `check_cancelled`.
    """
    return future.af_cancel()


def cancelled(future: AgentFuture[Any]) -> bool:
    """Whether the task was cancelled and has stopped."""
    return future.af_cancelled()


def check_cancelled() -> None:
    """In a task's body: raise `TaskCancelledError` if the task was told to stop, or timed out.

    For synchronous bodies that take long; elsewhere it does nothing.
    """
    job = thread.job
    if job is not None:
        job.raise_if_abandoned()
    here = current.get(None)
    if isinstance(here, Node) and here.af_state in (CANCELLING, CANCELLED):
        raise TaskCancelledError(here.af_spec.name, here.af_id)
