"""Bodies with retries or a timeout: a loop inside the node."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

import anyio

from motus.errors import TaskCancelledError
from motus.runtime.containers import futures_in, replace_futures
from motus.runtime.node import CANCELLED, CANCELLING, Node

if TYPE_CHECKING:
    from motus.runtime.scheduler import GraphScheduler

__all__ = ["run_attempts"]

_log = logging.getLogger("motus.runtime")


async def run_attempts(scheduler: GraphScheduler, node: Node, args: Any, kwargs: Any) -> Any:
    """The body of a node whose policy has retries or a timeout.

    Returns the settled value. Raises the error of the last attempt, or `TimeoutError`. Children of
    an attempt are gone before the next one begins; cancellation ends the loop wherever it is.
    """
    policy = node.af_spec.policy
    failures = 0
    while True:
        error: Exception = TimeoutError(
            f"Task '{node.af_spec.name}' timed out after {policy.timeout} seconds"
        )
        # Around the scope: what it leaves of a group, once the cancellations are taken out, is a
        # failure of the attempt too.
        try:
            with anyio.CancelScope() as scope:
                if policy.timeout is not None:
                    scope.deadline = scheduler.backend.now() + policy.timeout
                return await _one_attempt(scheduler, node, args, kwargs)
        except _DependencyCancelled as stop:
            scheduler.graph.cancel(node, stop.reason)
            raise stop.reason from None
        except TaskCancelledError:
            # A cancelled task is not tried again, and neither is what could not do without it.
            raise
        except Exception as failed:  # noqa: BLE001  # every failure is retried; the last one is raised
            error = failed
        scheduler.take_in_all()
        failures += 1
        if node.af_state == CANCELLING:
            raise error
        if not policy.is_retried(error, failures):
            raise error
        _log.debug(
            "Task '%s' (id=%d): attempt %d failed, and there will be another",
            node.af_spec.name,
            node.af_id,
            failures,
            exc_info=error,
        )
        scheduler.graph.attempt_failed(node, error)
        scheduler.follow_up()
        await _childless(scheduler, node)
        delay = policy.delay(failures, random.random())  # noqa: S311  # spreads retries, hides nothing
        if delay:
            await anyio.sleep(delay)
        scheduler.graph.attempt_started(node)


class _DependencyCancelled(Exception):  # noqa: N818  # a signal between two functions of this file
    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


async def _one_attempt(scheduler: GraphScheduler, node: Node, args: Any, kwargs: Any) -> Any:
    spec = node.af_spec
    if spec.is_coroutine:
        value = await spec.fn(*args, **(kwargs or {}))
    else:
        value = await _on_a_thread(scheduler, node, args, kwargs)
    futures = futures_in((value,))
    scheduler.take_in_all()
    if futures or _has_children(node):
        scheduler.graph.attempt_returned(node)
        for future in futures:
            try:
                await future  # type: ignore[misc]  # every node is an AgentFuture
            except TaskCancelledError as reason:
                if future.af_state == CANCELLED:
                    raise _DependencyCancelled(reason) from None
                raise
        await _childless(scheduler, node)
    return replace_futures(value)


async def _on_a_thread(scheduler: GraphScheduler, node: Node, args: Any, kwargs: Any) -> Any:
    ended = scheduler.backend.event()
    job = scheduler.jobs.start_attempt(node, args, kwargs, ended.set)
    try:
        await ended.wait()
    except BaseException:
        # Nothing can stop a thread: its result is dropped, and what it calls is cancelled.
        scheduler.jobs.pool.abandon(job)
        raise
    if job.error is not None:
        raise job.error
    return job.value


def _has_children(node: Node) -> bool:
    """Whether a task that the node's body has called is unfinished."""
    return node.af_extra is not None and bool(node.af_extra.children)


async def _childless(scheduler: GraphScheduler, node: Node) -> None:
    """Return when no child of the node is left."""
    while _has_children(node):
        event = scheduler.backend.event()
        assert node.af_extra is not None
        node.af_extra.childless = event.set
        await event.wait()
