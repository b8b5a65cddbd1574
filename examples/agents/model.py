"""Which model the examples use: the provider whose key is set."""

from __future__ import annotations

import os

from motus.models import (
    AnthropicChatClient,
    BaseChatClient,
    GeminiChatClient,
    OpenAIChatClient,
    OpenRouterChatClient,
)

PROVIDERS: dict[str, tuple[type[BaseChatClient], str]] = {
    "ANTHROPIC_API_KEY": (AnthropicChatClient, "claude-sonnet-4-6"),
    "OPENAI_API_KEY": (OpenAIChatClient, "gpt-4o"),
    "GEMINI_API_KEY": (GeminiChatClient, "gemini-2.5-flash"),
    "OPENROUTER_API_KEY": (OpenRouterChatClient, "openai/gpt-4o"),
}


def find_model() -> tuple[BaseChatClient, str] | None:
    """A client and the name of a model; `EXAMPLE_MODEL` names another one."""
    for key, (client, model) in PROVIDERS.items():
        if os.environ.get(key):
            return client(), os.environ.get("EXAMPLE_MODEL", model)
    return None


def real_model() -> tuple[BaseChatClient, str]:
    """The same, for programs that can do nothing without one."""
    found = find_model()
    if found is None:
        raise SystemExit(f"Set one of {', '.join(PROVIDERS)} to run this example.")
    return found
