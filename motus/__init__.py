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
    from motus.tools import (
        FunctionTool,
        InputSchema,
        Tools,
        normalize_tools,
        tool,
        tools,
        tools_from,
    )

__all__ = [
    "AgentFuture",
    "FunctionTool",
    "InputSchema",
    "TaskCancelledError",
    "Tools",
    "__version__",
    "agent_task",
    "cancel",
    "init",
    "is_initialized",
    "normalize_tools",
    "open_runtime",
    "resolve",
    "shutdown",
    "tool",
    "tools",
    "tools_from",
]

_OF_TOOLS = frozenset(
    {"FunctionTool", "InputSchema", "Tools", "normalize_tools", "tool", "tools", "tools_from"}
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'motus' has no attribute {name!r}")
    home = "motus.tools" if name in _OF_TOOLS else "motus.runtime"
    return getattr(import_module(home), name)
