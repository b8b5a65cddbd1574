"""Calling a model as a task of the graph."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

from motus.messages import ChatCompletion, ChatMessage, ToolDefinition
from motus.models.base import AUTO_REASONING, BaseChatClient, CachePolicy, ReasoningConfig
from motus.models.errors import StructuredOutputError
from motus.models.usage import count_usage
from motus.runtime.agent_task import agent_task
from motus.runtime.types import MODEL_CALL
from motus.tools.base import Tool

__all__ = ["model_serve_task"]


@agent_task(task_type=MODEL_CALL)
async def model_serve_task(
    client: BaseChatClient,
    model: str,
    messages: list[ChatMessage],
    tools: Mapping[str, Tool] | Sequence[ToolDefinition] | None = None,
    response_format: type[Any] | None = None,
    reasoning: ReasoningConfig = AUTO_REASONING,
    cache_policy: CachePolicy = CachePolicy.AUTO,
) -> ChatCompletion:
    """Send a conversation to a model: a `model_call` task, whose future is the completion.

    `response_format` None asks for text. What it uses is counted for the agents in whose runs it
    is called. Raises what the client does, and `UsageLimitExceeded` below an agent that has reached
    a limit; cancelling the task closes the client's connection.
    """
    if isinstance(tools, Mapping):
        tools = [tool.definition() for tool in tools.values()]
    # By name, all of them: so clients of users may have them in `**kwargs`, in mocks too.
    asked: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "tools": tools or None,
        "reasoning": reasoning,
    }
    call: Callable[..., Awaitable[ChatCompletion]] = client.create
    if response_format is not None:
        asked["response_format"] = response_format
        call = client.parse
    if _takes_cache_policy(client, call):
        asked["cache_policy"] = cache_policy
    try:
        completion = await call(**asked)
    except StructuredOutputError as error:
        count_usage(client, model, error.completion.usage)
        raise
    count_usage(client, model, completion.usage)
    return completion


def _takes_cache_policy(client: object, call: Callable[..., Any]) -> bool:
    """Whether this method is to be given the keyword: it names it, or its class wants it.

    Clients of users may hand the rest of their keywords on to an SDK, which knows nothing of it.
    """
    # Looking at a signature takes as long as the rest of the call; of methods there are few.
    look = _names_it if inspect.ismethod(call) else _names_it.__wrapped__
    names_it, takes_any = look(getattr(call, "__func__", call))
    return names_it or (takes_any and getattr(type(client), "wants_cache_policy", False))


@cache
def _names_it(function: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether it has that parameter, and whether it takes any keyword."""
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return "cache_policy" in parameters, takes_any
