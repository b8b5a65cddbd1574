"""The place where code written for the original finds `TaskCancelledError`."""

from __future__ import annotations

from motus.errors import TaskCancelledError

__all__ = ["TaskCancelledError"]
