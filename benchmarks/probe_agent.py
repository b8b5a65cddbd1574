"""The agent that does what the message says: hang, wait for a human, or answer."""

from __future__ import annotations

import anyio

from motus.models import ChatMessage
from motus.serve.interrupt import interrupt

__all__ = ["agent"]


async def agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """Answer, unless the message is `hang` or `ask`."""
    if message.content == "hang":
        await anyio.sleep_forever()
    if message.content == "ask":
        await interrupt({"type": "probe"})
    response = ChatMessage.assistant_message(message.content)
    return response, [*state, message, response]
