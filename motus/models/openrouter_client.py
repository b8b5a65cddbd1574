"""OpenRouter: many providers behind one address, `OpenRouterChatClient`."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

from motus.models.openai_client import OpenAIChatClient
from motus.models.options import CachePolicy, cache_control, thinks_adaptively
from motus.models.requests import ModelRequest

__all__ = ["OpenRouterChatClient"]


class OpenRouterChatClient(OpenAIChatClient):
    """A client of OpenRouter; the name of a model there begins with that of its provider.

    Like `OpenAIChatClient`, with the variables OPENROUTER_API_KEY and OPENROUTER_BASE_URL.
    `cache_policy` holds for the models of Anthropic; others cache by themselves.
    """

    provider: ClassVar[str] = "openrouter"
    wants_cache_policy: ClassVar[bool] = True
    title: ClassVar[str] = "OpenRouter"
    key_variable: ClassVar[str] = "OPENROUTER_API_KEY"
    url_variable: ClassVar[str] = "OPENROUTER_BASE_URL"
    default_url: ClassVar[str] = "https://openrouter.ai/api/v1"
    sdk_knows_url: ClassVar[bool] = False

    def _wire(self, request: ModelRequest) -> dict[str, Any]:
        policy = CachePolicy(request.options.get("cache_policy", CachePolicy.AUTO))
        wire = super()._wire(request)
        if request.model.startswith("anthropic/"):
            _add_breakpoints(wire["messages"], policy)
        return wire

    def _add_reasoning(self, wire: dict[str, Any], request: ModelRequest) -> None:
        reasoning = request.reasoning
        wanted: dict[str, Any] = {}
        if not reasoning.enabled:
            wanted["enabled"] = False
        elif reasoning.budget_tokens is not None:
            wanted["max_tokens"] = reasoning.budget_tokens
        elif reasoning.effort is not None:
            wanted["effort"] = "xhigh" if reasoning.effort == "max" else reasoning.effort
        elif thinks_adaptively(request.model):
            wanted["enabled"] = True
        if wanted:
            wire["reasoning"] = wanted


def _add_breakpoints(messages: list[dict[str, Any]], policy: CachePolicy) -> None:
    """As for Anthropic itself, but that of the system prompt stands for the tools before it too."""
    control = cache_control(policy)
    if control is None:
        return
    system = [message for message in messages if message["role"] == "system"]
    marked = system[-1:]
    if policy is not CachePolicy.STATIC:
        turns = [
            list(group)
            for of_user, group in itertools.groupby(
                messages, lambda message: message["role"] in ("user", "tool")
            )
            if of_user
        ]
        marked += [turn[-1] for turn in turns[-2:-1]]
    for message in marked:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        # Only text can carry it.
        for part in reversed(message["content"]):
            if part["type"] == "text" and part["text"]:
                part["cache_control"] = control
                break
