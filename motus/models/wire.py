"""What the requests and replies of all providers share."""

from __future__ import annotations

import json
import re
from typing import Any

from motus.messages import ChatMessage, ToolCall

__all__ = ["decoded_arguments", "details", "make_usage", "split_image", "token_count"]

_DATA_URL = re.compile(r"data:(?P<type>image/[\w.+-]+);base64,", re.ASCII)
# The first bytes of each format, as they look in base64.
_SIGNATURES = (
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
)


def split_image(image: str) -> tuple[str, str]:
    """The media type of a picture, and its base64 text alone."""
    head = _DATA_URL.match(image)
    if head is not None:
        return head["type"], image[head.end() :]
    for signature, media_type in _SIGNATURES:
        if image.startswith(signature):
            return media_type, image
    return "image/png", image


def decoded_arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object, where a provider accepts nothing else.

    Those that are none, a model's slip that the tool's result explains to it, become the only
    argument.
    """
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        return arguments
    return {"arguments": call.function.arguments}


def details(message: ChatMessage) -> list[dict[str, Any]]:
    """The reasoning details of a message, each an object with a type.

    A conversation may come from anywhere: what is none of these is left out.
    """
    found = message.reasoning_details
    if not isinstance(found, list):
        return []
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("type"), str)]


def token_count(value: object) -> int:
    """A count as a provider sends it; what is none is 0, and no reason to lose a reply."""
    return value if type(value) is int and value > 0 else 0


def make_usage(
    fresh: object,
    output: object,
    *,
    cache_read: object = 0,
    cache_creation: object = 0,
    cache_creation_1h: object = 0,
    reasoning: object = 0,
) -> dict[str, int]:
    """Tokens under both namings.

    `fresh` input is neither read from a cache nor written to one, so that the four counts of
    which a price consists add up without overlap; `reasoning` is a part of `output`, and
    `cache_creation_1h`, which has a price of its own, one of `cache_creation`. Counts that a
    provider does not have are 0.
    """
    fresh, output = token_count(fresh), token_count(output)
    cache_read, cache_creation = token_count(cache_read), token_count(cache_creation)
    usage = {
        "input_tokens": fresh,
        "output_tokens": output,
        "prompt_tokens": fresh,
        "completion_tokens": output,
        "total_tokens": fresh + cache_read + cache_creation + output,
        "cache_read_input_tokens": cache_read,
        "cache_creation_input_tokens": cache_creation,
        "reasoning_tokens": token_count(reasoning),
    }
    if for_an_hour := token_count(cache_creation_1h):
        usage["cache_creation_1h_input_tokens"] = for_an_hour
    return usage
