"""How long a conversation may be."""

from __future__ import annotations

from functools import cache
from typing import Final

from motus.models.pricing import context_window, provider_of

__all__ = ["DEFAULT_CONTEXT_WINDOW", "known_context_window"]

# Of a model that nothing is known about, in tokens.
DEFAULT_CONTEXT_WINDOW: Final = 128_000


def known_context_window(model: str | None, client: object) -> int:
    """How many tokens the model of this client can read."""
    if model is None:
        return DEFAULT_CONTEXT_WINDOW
    return _window(model, provider_of(client))


# It is asked for at every message.
@cache
def _window(model: str, provider: str | None) -> int:
    return context_window(model, provider) or DEFAULT_CONTEXT_WINDOW
