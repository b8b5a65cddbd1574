"""Tools: what agents can call, made of functions, objects, and other agents."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from motus.tools.agent_tool import AgentTool
from motus.tools.arguments import InputSchema
from motus.tools.base import Tool
from motus.tools.builtins import BuiltinTools, builtin_tools
from motus.tools.collection import DictTools, Tools
from motus.tools.decorators import tool, tools
from motus.tools.function_tool import FunctionTool, Parameters, ReturnType
from motus.tools.normalize import normalize_tools, tools_from
from motus.tools.sandbox import ExecResult, LocalShell, Sandbox

__all__ = [
    "AgentTool",
    "BuiltinTools",
    "DictTools",
    "ExecResult",
    "FunctionTool",
    "InputSchema",
    "LocalShell",
    "Parameters",
    "ReturnType",
    "Sandbox",
    "Tool",
    "Tools",
    "builtin_tools",
    "normalize_tools",
    "tool",
    "tools",
    "tools_from",
]


class _Package(ModuleType):
    """`from motus import tools` is this package once it is loaded, and the decorator before: so
    the package can be called like it.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return tools(*args, **options)


sys.modules[__name__].__class__ = _Package
