"""The agent of a real program: it costs nothing itself, but importing it loads two SDKs."""

from __future__ import annotations

import anthropic  # noqa: F401  # what it costs is the point
import openai  # noqa: F401  # as above

from motus.models import ChatMessage

__all__ = ["agent"]


async def agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """Answer with the message."""
    response = ChatMessage.assistant_message(message.content)
    return response, [*state, message, response]
