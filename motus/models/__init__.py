"""Messages and model clients.

The clients are loaded on first use, so that a program pays for the SDKs that it uses only.
"""

from __future__ import annotations

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition

__all__ = ["ChatCompletion", "ChatMessage", "FunctionCall", "ToolCall", "ToolDefinition"]
