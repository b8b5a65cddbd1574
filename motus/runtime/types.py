"""The kinds of task, as hooks and traces name them."""

from __future__ import annotations

from typing import Final

__all__ = ["AGENT_CALL", "MAGIC_TASK", "MODEL_CALL", "NORMAL_TASK", "TOOL_CALL"]

NORMAL_TASK: Final = "normal_task"
TOOL_CALL: Final = "tool_call"
MODEL_CALL: Final = "model_call"
AGENT_CALL: Final = "agent_call"
MAGIC_TASK: Final = "magic_task"
