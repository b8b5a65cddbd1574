"""How long a text is for a model, about.

Exact counts need each provider's tokenizer; a quarter of the bytes is near enough to decide when a
conversation is getting long, for every language, and costs nothing.
"""

from __future__ import annotations

from typing import Final

from motus.messages import ChatMessage

__all__ = ["BYTES_PER_TOKEN", "estimate_text_tokens", "estimate_tokens", "truncate"]

BYTES_PER_TOKEN: Final = 4
# What the providers charge for a picture of a usual size.
IMAGE_TOKENS: Final = 1_000
# Roles and separators.
MESSAGE_TOKENS: Final = 4
CALL_TOKENS: Final = 5


def estimate_text_tokens(text: str) -> int:
    """At least 1 for any text that is not empty."""
    # `isascii` looks at a flag; other texts must be encoded to know their bytes.
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def estimate_tokens(message: ChatMessage) -> int:
    """The message with everything that is sent of it."""
    tokens = MESSAGE_TOKENS
    for text in (message.content, message.reasoning, message.name):
        if text:
            tokens += estimate_text_tokens(text)
    for call in message.tool_calls or ():
        tokens += CALL_TOKENS + estimate_text_tokens(call.function.name)
        tokens += estimate_text_tokens(call.function.arguments)
    if message.base64_image:
        tokens += IMAGE_TOKENS
    return tokens


def truncate(text: str, max_tokens: int, suffix: str) -> str:
    """The text itself if it is short enough; else its beginning and the suffix.

    Where there is no room for the suffix it is left out.
    """
    if estimate_text_tokens(text) <= max_tokens:
        return text
    room = max_tokens - estimate_text_tokens(suffix)
    if room <= 0:
        room, suffix = max_tokens, ""
    size = room * BYTES_PER_TOKEN
    if text.isascii():
        return text[:size] + suffix
    # A character that the cut goes through is left out.
    cut = text.encode("utf-8", "surrogatepass")[:size]
    return cut.decode("utf-8", "surrogatepass" if _is_whole(cut) else "ignore") + suffix


def _is_whole(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
