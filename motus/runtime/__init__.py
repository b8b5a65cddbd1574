"""The task graph: call `@agent_task` functions, pass their futures on, get the results.

Importing this starts nothing and configures nothing.
"""

from motus.errors import TaskCancelledError
from motus.runtime.agent_task import AgentTaskDefinition, agent_task, resolve
from motus.runtime.control import cancel, cancelled, check_cancelled
from motus.runtime.future import AgentFuture
from motus.runtime.lifecycle import (
    AgentRuntime,
    get_runtime,
    init,
    is_initialized,
    open_runtime,
    shutdown,
)
from motus.runtime.policy import TaskPolicy
from motus.runtime.scheduler import GraphScheduler

__all__ = [
    "AgentFuture",
    "AgentRuntime",
    "AgentTaskDefinition",
    "GraphScheduler",
    "TaskCancelledError",
    "TaskPolicy",
    "agent_task",
    "cancel",
    "cancelled",
    "check_cancelled",
    "get_runtime",
    "init",
    "is_initialized",
    "open_runtime",
    "resolve",
    "shutdown",
]
