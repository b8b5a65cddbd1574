"""Where in the graph the running code is."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

__all__ = ["current"]

# The node whose body runs here, or the scheduler of the runtime opened around this place.
current: Final[ContextVar[Any]] = ContextVar("motus_current")
