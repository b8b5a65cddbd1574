"""The place where older code finds `AgentBase`."""

from __future__ import annotations

from motus.agent.base import AgentBase

__all__ = ["AgentBase"]
