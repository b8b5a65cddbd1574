"""Messages and model clients.

The clients are loaded on first use, so that a program pays for the SDKs that it uses only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition
from motus.models.base import (
    BaseChatClient,
    CachePolicy,
    ChatStream,
    ReasoningConfig,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from motus.models.errors import (
    ModelAuthenticationError,
    ModelBadRequestError,
    ModelConnectionError,
    ModelContextOverflowError,
    ModelError,
    ModelRateLimitError,
    ModelServerError,
    ModelTimeoutError,
    StructuredOutputError,
)

if TYPE_CHECKING:
    from motus.models.anthropic_client import AnthropicChatClient
    from motus.models.gemini_client import GeminiChatClient
    from motus.models.openai_client import OpenAIChatClient
    from motus.models.openrouter_client import OpenRouterChatClient

__all__ = [
    "AnthropicChatClient",
    "BaseChatClient",
    "CachePolicy",
    "ChatCompletion",
    "ChatMessage",
    "ChatStream",
    "FunctionCall",
    "GeminiChatClient",
    "ModelAuthenticationError",
    "ModelBadRequestError",
    "ModelConnectionError",
    "ModelContextOverflowError",
    "ModelError",
    "ModelRateLimitError",
    "ModelServerError",
    "ModelTimeoutError",
    "OpenAIChatClient",
    "OpenRouterChatClient",
    "ReasoningConfig",
    "ReasoningDelta",
    "StreamEvent",
    "StructuredOutputError",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolDefinition",
]

# Volcano Engine speaks OpenAI's protocol: `OpenAIChatClient` with its `base_url` does all that a
# client of its own would. The name is for programs that ask whether there is one.
VolcEngineChatClient = None

_LAZY = {
    "AnthropicChatClient": "motus.models.anthropic_client",
    "GeminiChatClient": "motus.models.gemini_client",
    "OpenAIChatClient": "motus.models.openai_client",
    "OpenRouterChatClient": "motus.models.openrouter_client",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'motus.models' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
