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

# Names that are looked for here, and where they are.
_ELSEWHERE = {
    "motus.agent": ("AgentBase", "ReActAgent", "UsageLimitExceeded", "UsageLimits"),
    "motus.guardrails": (
        "GuardrailTripped",
        "InputGuardrailTripped",
        "OutputGuardrailTripped",
        "ToolInputGuardrailTripped",
        "ToolOutputGuardrailTripped",
    ),
    "motus.memory": ("BasicMemory", "CompactionMemory"),
    "motus.models": (
        "AnthropicChatClient",
        "BaseChatClient",
        "CachePolicy",
        "ChatCompletion",
        "ChatMessage",
        "GeminiChatClient",
        "ModelError",
        "OpenAIChatClient",
        "OpenRouterChatClient",
        "ReasoningConfig",
        "ToolCall",
    ),
    "motus.runtime": (
        "AgentRuntime",
        "HookEvent",
        "TaskPolicy",
        "cancelled",
        "check_cancelled",
        "get_runtime",
        "register_agent_task",
        "task_hook",
    ),
    "motus.serve": ("AgentServer", "ServableAgent"),
    "motus.serve.interrupt": ("interrupt",),
    "motus.testing": ("ScriptedClient", "answer_interrupts"),
    "motus.tools": ("AgentTool", "DictTools", "LocalShell", "Tool", "builtin_tools"),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "motus.tools" if name in _OF_TOOLS else "motus.runtime"
        return getattr(import_module(home), name)
    for home, names in _ELSEWHERE.items():
        if name in names:
            # Of an AttributeError, `from motus import name` would drop the text.
            raise ImportError(f"{name} is in {home}: from {home} import {name}", name=name)
    raise AttributeError(f"module 'motus' has no attribute {name!r}")
