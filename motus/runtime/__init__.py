"""The task graph: call `@agent_task` functions, pass their futures on, get the results.

Importing this starts nothing and configures nothing.
"""

from motus.errors import TaskCancelledError
from motus.runtime.agent_task import (
    AgentTaskDefinition,
    agent_task,
    register_agent_task,
    resolve,
)
from motus.runtime.control import cancel, cancelled, check_cancelled
from motus.runtime.future import AgentFuture
from motus.runtime.hooks import (
    HookEvent,
    HookManager,
    HookType,
    agent_task_hook,
    global_hook,
    hooks,
    model_task_hook,
    register_agent_hook,
    register_hook,
    register_model_hook,
    register_task_hook,
    register_tool_hook,
    register_type_hook,
    task_hook,
    tool_task_hook,
    type_hook,
)
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
    "HookEvent",
    "HookManager",
    "HookType",
    "TaskCancelledError",
    "TaskPolicy",
    "agent_task",
    "agent_task_hook",
    "cancel",
    "cancelled",
    "check_cancelled",
    "get_runtime",
    "global_hook",
    "hooks",
    "init",
    "is_initialized",
    "model_task_hook",
    "open_runtime",
    "register_agent_hook",
    "register_agent_task",
    "register_hook",
    "register_model_hook",
    "register_task_hook",
    "register_tool_hook",
    "register_type_hook",
    "resolve",
    "shutdown",
    "task_hook",
    "tool_task_hook",
    "type_hook",
]
