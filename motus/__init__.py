"""Agents and task graphs on structured concurrency.

The names that everybody needs, loaded when they are first used: importing this starts nothing and
configures nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from motus._version import __version__

if TYPE_CHECKING:
    from motus.errors import TaskCancelledError
    from motus.runtime import (
        AgentFuture,
        agent_task,
        cancel,
        init,
        is_initialized,
        open_runtime,
        resolve,
        shutdown,
    )

__all__ = [
    "AgentFuture",
    "TaskCancelledError",
    "__version__",
    "agent_task",
    "cancel",
    "init",
    "is_initialized",
    "open_runtime",
    "resolve",
    "shutdown",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'motus' has no attribute {name!r}")
    return getattr(import_module("motus.runtime"), name)
