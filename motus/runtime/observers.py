"""Calling hooks: from what happens to a node to the callbacks, in order."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

import attrs

from motus.errors import TaskCancelledError
from motus.runtime.backends import Event
from motus.runtime.failures import creation_chain
from motus.runtime.hooks import HookCallback, HookEvent, HookManager, call, finish
from motus.runtime.hooks import hooks as process_hooks
from motus.runtime.node import CANCELLED, DONE, Extra, Node

if TYPE_CHECKING:
    from motus.runtime.scheduler import GraphScheduler

__all__ = ["Observers"]

# How long a closing runtime waits for asynchronous hooks, in seconds.
HOOK_GRACE: Final = 5.0


@attrs.frozen
class _Started:
    """What the events of a node have in common, kept while it runs."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Observers:
    """The hooks of one scheduler.

    Callbacks run in the loop, before whoever waits for the task goes on. From the first
    asynchronous one on, the rest of an event's callbacks, and later events, are called by a task
    of the runtime, in order.
    """

    def __init__(self, scheduler: GraphScheduler) -> None:
        self._scheduler = scheduler
        self._backend = scheduler.backend
        self.hooks = HookManager(process_hooks)
        # What is to be awaited, and which callbacks are to be called after it.
        self._later: deque[tuple[Awaitable[Any] | None, list[HookCallback], HookEvent]] = deque()
        self._scope: Any = None
        self._idle: Event | None = None

    def started(self, node: Node, args: Any, kwargs: dict[str, Any] | None) -> None:
        """A body is about to begin."""
        spec = node.af_spec
        if not spec.is_observed:
            return
        record = _Started(_event_name(spec, args), tuple(args), kwargs or {})
        if node.af_extra is None:
            node.af_extra = Extra()
        node.af_extra.record = record
        parents = {"parent_stack": creation_chain(node)}
        self._fire(node, record, HookEvent("task_start", metadata=parents))

    def ended(self, node: Node, record: _Started) -> None:
        """A node that had started is final."""
        if node.af_state == DONE:
            event = HookEvent("task_end", result=node.af_value)
        elif node.af_state == CANCELLED:
            error = TaskCancelledError(node.af_spec.name, node.af_id)
            error.__cause__ = node.af_value
            event = HookEvent("task_cancelled", error=error)
        elif node.af_value is self._scheduler.graph.poison:
            event = HookEvent("task_cancelled", error=node.af_value.error)
        else:
            event = HookEvent("task_error", error=node.af_value.error)
        self._fire(node, record, event)

    def _fire(self, node: Node, record: _Started, event: HookEvent) -> None:
        spec = node.af_spec
        event = attrs.evolve(
            event,
            name=record.name,
            task_type=spec.task_type,
            args=record.args,
            kwargs=record.kwargs,
            task_id=node.af_id,
        )
        callbacks = [*self.hooks.callbacks(event), *spec.hooks.get(event.event_type, ())]
        for index, callback in enumerate(callbacks):
            if self._later or inspect.iscoroutinefunction(callback):
                self._call_later(None, callbacks[index:], event)
                return
            waiting = call(callback, event)
            if waiting is not None:
                self._call_later(waiting, callbacks[index + 1 :], event)
                return

    def _call_later(
        self, waiting: Awaitable[Any] | None, callbacks: list[HookCallback], event: HookEvent
    ) -> None:
        if self._scheduler.closed:
            # Torn down with its loop, in which they would have run.
            if inspect.iscoroutine(waiting):
                waiting.close()
            return
        self._later.append((waiting, callbacks, event))
        if len(self._later) == 1:
            self._backend.start_runner(self._work, self._later.clear)

    async def _work(self) -> None:
        with self._backend.scope() as self._scope:
            while self._later:
                waiting, callbacks, event = self._later[0]
                if waiting is not None:
                    await finish(waiting, event)
                for callback in callbacks:
                    waiting = call(callback, event)
                    if waiting is not None:
                        await finish(waiting, event)
                self._later.popleft()
        self._later.clear()
        if self._idle is not None:
            self._idle.set()

    async def all_called(self) -> None:
        """Wait for the hooks that are still to be called, for `HOOK_GRACE`."""
        deadline = self._backend.now() + HOOK_GRACE
        while self._later and (left := deadline - self._backend.now()) > 0:
            self._idle = self._backend.event()
            await self._backend.wait_out(self._idle, left)
        if self._scope is not None:
            self._scope.cancel()


def _event_name(spec: Any, args: Any) -> str:
    """The task's name; of a method, that of its object if it has one."""
    if spec.is_method and args:
        name = getattr(args[0], "name", None)
        if isinstance(name, str):
            return name
    return str(spec.name)
