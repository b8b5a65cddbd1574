"""Agents over HTTP: sessions, each turn in a process of its own.

The names are loaded on first use: the worker's process imports this package too, and must not pay
for the web stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motus.serve.agents import ServableAgent
    from motus.serve.server import AgentServer

__all__ = ["AgentServer", "ServableAgent"]

_HOMES = {"AgentServer": "motus.serve.server", "ServableAgent": "motus.serve.agents"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
