"""Callbacks at the beginning and the end of tasks.

A callback gets a `HookEvent`. It may be a coroutine function. What it raises is logged and changes
nothing. For one event they run in this order: those for every task, those for the task's name,
those for its type, and last those given to its `@agent_task`.

The functions of this module register with `hooks`, which holds for every runtime of the process.
A runtime has hooks of its own as well, that end with it: `runtime.hooks`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal, TypeVar, get_args

import attrs

from motus.runtime.types import AGENT_CALL, MODEL_CALL, TOOL_CALL

__all__ = [
    "EVENT_TYPES",
    "HookCallback",
    "HookEvent",
    "HookManager",
    "HookType",
    "agent_task_hook",
    "call",
    "finish",
    "global_hook",
    "hooks",
    "model_task_hook",
    "register_agent_hook",
    "register_hook",
    "register_model_hook",
    "register_task_hook",
    "register_tool_hook",
    "register_type_hook",
    "task_hook",
    "tool_task_hook",
    "type_hook",
]

HookType = Literal["task_start", "task_end", "task_error", "task_cancelled"]
EVENT_TYPES: Final[tuple[str, ...]] = get_args(HookType)


@attrs.frozen
class HookEvent:
    """What happened to which task.

    `task_start` comes before the body, and then exactly one of `task_end`, `task_error` and
    `task_cancelled`, when the future is done. `args` and `kwargs` have the values of futures in
    their place. `metadata["parent_stack"]`, with `task_start` only, are the lines that say where
    the task and those above it were called.
    """

    event_type: HookType
    name: str | None = None
    task_type: str | None = None
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    result: Any = None
    error: BaseException | None = None
    task_id: int | None = None
    metadata: dict[str, Any] = attrs.field(factory=dict)


_log = logging.getLogger("motus.runtime")

HookCallback = Callable[[HookEvent], Any]
HookCallbacks = HookCallback | Iterable[HookCallback]
C = TypeVar("C", bound=HookCallback)


class HookManager:
    """A set of callbacks. Those of `parent` run too, before its own of the same kind.

    Registering and asking is safe from any thread.
    """

    def __init__(self, parent: HookManager | None = None) -> None:
        self.parent = parent
        # How many callbacks are registered here: the one thing that is asked for every task.
        self.size = 0
        # Replaced, never changed: whoever iterates is not disturbed.
        self._all: dict[str, tuple[HookCallback, ...]] = {}
        self._by_name: dict[tuple[str, str], tuple[HookCallback, ...]] = {}
        self._by_type: dict[tuple[str, str], tuple[HookCallback, ...]] = {}

    # ------------------------------------------------------------------ registering

    def register(self, event_type: str, callback: HookCallback, prepend: bool = False) -> None:
        """Call it at this event of every task; `prepend` puts it before those there are."""
        self._add(self._all, _event(event_type), callback, prepend)

    def register_name_hook(
        self, name: Any, event_type: str, callback: HookCallbacks, prepend: bool = False
    ) -> None:
        """The same for tasks of this name, or of this function; one callback or several."""
        name = name if isinstance(name, str) else name.__qualname__
        self._add(self._by_name, (name, _event(event_type)), callback, prepend)

    def register_type_hook(
        self, task_type: str, event_type: str, callback: HookCallbacks, prepend: bool = False
    ) -> None:
        """The same for tasks of this type, such as `tool_call`."""
        self._add(self._by_type, (task_type, _event(event_type)), callback, prepend)

    def deregister(self, event_type: str, callback: HookCallback) -> bool:
        """Forget a callback, wherever it is registered for this event; False if it was not."""
        found = False
        tables: list[dict[Any, tuple[HookCallback, ...]]]
        tables = [self._all, self._by_name, self._by_type]
        for table in tables:
            for key, callbacks in list(table.items()):
                of = key if isinstance(key, str) else key[1]
                if of == event_type and callback in callbacks:
                    found = True
                    table[key] = tuple(one for one in callbacks if one != callback)
        self._count()
        return found

    def _add(
        self, table: dict[Any, tuple[HookCallback, ...]], key: Any, given: Any, prepend: bool
    ) -> None:
        # What can be called is one, also where it can be iterated: mocks are both.
        several = tuple(given) if isinstance(given, Iterable) and not callable(given) else (given,)
        for one in several:
            if not callable(one):
                raise TypeError(f"a hook must be callable, not {type(one).__name__}")
        before = table.get(key, ())
        table[key] = (*several, *before) if prepend else (*before, *several)
        self._count()

    def _count(self) -> None:
        tables = (self._all, self._by_name, self._by_type)
        self.size = sum(len(callbacks) for table in tables for callbacks in table.values())

    # ------------------------------------------------------------------ asking

    def list_hooks(self, event_type: str) -> list[HookCallback]:
        """Those for every task, those of the parent first."""
        above = self.parent.list_hooks(event_type) if self.parent else []
        return [*above, *self._all.get(event_type, ())]

    def list_name_hooks(self, name: str, event_type: str) -> list[HookCallback]:
        """Those for the name."""
        above = self.parent.list_name_hooks(name, event_type) if self.parent else []
        return [*above, *self._by_name.get((name, event_type), ())]

    def list_type_hooks(self, task_type: str, event_type: str) -> list[HookCallback]:
        """Those for the type."""
        above = self.parent.list_type_hooks(task_type, event_type) if self.parent else []
        return [*above, *self._by_type.get((task_type, event_type), ())]

    def callbacks(self, event: HookEvent) -> list[HookCallback]:
        """All that are to be called for the event, in order."""
        return [
            *self.list_hooks(event.event_type),
            *(self.list_name_hooks(event.name, event.event_type) if event.name else ()),
            *(self.list_type_hooks(event.task_type, event.event_type) if event.task_type else ()),
        ]

    async def emit(self, event: HookEvent) -> None:
        """Call everything that is registered for the event, one after the other."""
        for callback in self.callbacks(event):
            waiting = call(callback, event)
            if waiting is not None:
                await finish(waiting, event)


def _event(event: str) -> str:
    if event not in EVENT_TYPES:
        raise ValueError(f"unknown event {event!r}: it must be one of {', '.join(EVENT_TYPES)}")
    return event


def call(callback: HookCallback, event: HookEvent) -> Awaitable[Any] | None:
    """Call one callback; what it raises is logged. Whatever it returns to be awaited."""
    try:
        result = callback(event)
    except (Exception, SystemExit):  # noqa: BLE001  # what a hook does must not change the task
        _log.exception("a %s hook of task '%s' failed", event.event_type, event.name)
        return None
    return result if inspect.isawaitable(result) else None


async def finish(waiting: Awaitable[Any], event: HookEvent) -> None:
    """Await what a callback returned; what it raises is logged."""
    try:
        await waiting
    except (Exception, SystemExit):  # noqa: BLE001  # as above
        _log.exception("a %s hook of task '%s' failed", event.event_type, event.name)


hooks: Final = HookManager()


def register_hook(event_type: str, callback: HookCallback, prepend: bool = False) -> None:
    """Call it at this event of every task in the process; `prepend` puts it before the others."""
    hooks.register(event_type, callback, prepend)


def register_task_hook(
    task_name: Any, event_type: str, callback: HookCallbacks, prepend: bool = False
) -> None:
    """The same for tasks of this name, or of this function; one callback or several."""
    hooks.register_name_hook(task_name, event_type, callback, prepend)


def register_type_hook(
    task_type: str, event_type: str, callback: HookCallbacks, prepend: bool = False
) -> None:
    """The same for tasks of this type."""
    hooks.register_type_hook(task_type, event_type, callback, prepend)


def register_model_hook(event_type: str, callback: HookCallbacks, prepend: bool = False) -> None:
    """The same for calls of models."""
    hooks.register_type_hook(MODEL_CALL, event_type, callback, prepend)


def register_tool_hook(event_type: str, callback: HookCallbacks, prepend: bool = False) -> None:
    """The same for calls of tools."""
    hooks.register_type_hook(TOOL_CALL, event_type, callback, prepend)


def register_agent_hook(event_type: str, callback: HookCallbacks, prepend: bool = False) -> None:
    """The same for calls of agents."""
    hooks.register_type_hook(AGENT_CALL, event_type, callback, prepend)


def global_hook(event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: call the function at this event of every task in the process."""
    return _decorator(lambda callback: hooks.register(event_type, callback, prepend))


def task_hook(task_name: Any, event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: the same for tasks of this name, or of this function."""
    return _decorator(
        lambda callback: hooks.register_name_hook(task_name, event_type, callback, prepend)
    )


def type_hook(task_type: str, event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: the same for tasks of this type."""
    return _decorator(
        lambda callback: hooks.register_type_hook(task_type, event_type, callback, prepend)
    )


def model_task_hook(event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: the same for calls of models."""
    return type_hook(MODEL_CALL, event_type, prepend)


def tool_task_hook(event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: the same for calls of tools."""
    return type_hook(TOOL_CALL, event_type, prepend)


def agent_task_hook(event_type: str, prepend: bool = False) -> Callable[[C], C]:
    """Decorator: the same for calls of agents."""
    return type_hook(AGENT_CALL, event_type, prepend)


def _decorator(register: Callable[[HookCallback], None]) -> Callable[[C], C]:
    def decorate(callback: C) -> C:
        register(callback)
        return callback

    return decorate
