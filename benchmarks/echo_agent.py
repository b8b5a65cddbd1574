"""The agent that costs nothing: what is measured with it is the server."""

from __future__ import annotations

from motus.models import ChatMessage

__all__ = ["agent"]


def agent(message: ChatMessage, state: list[ChatMessage]) -> tuple[ChatMessage, list[ChatMessage]]:
    """Answer with the message."""
    response = ChatMessage.assistant_message(message.content)
    return response, [*state, message, response]
