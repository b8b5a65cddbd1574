"""What a call costs, and how much a model can read, from the data of the package genai-prices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

__all__ = ["context_window", "cost", "provider_of"]

logger = logging.getLogger(__name__)

# The names of providers there, where ours are others.
_PROVIDERS = {"gemini": "google"}


def cost(model: str, usage: Mapping[str, Any], provider: str | None = None) -> float | None:
    """US dollars for the usage of one call, to 8 decimals; `None` for a model without a price.

    The tokens may be counted under either of their names. `provider` is the client's, and need not
    be given where the model's name tells it. Some prices depend on the length of the prompt, so
    costs of calls can be added, but not their usage.
    """
    found = _find(model, provider)
    if found is None:
        return None
    # With the SDKs' extras, and a third of a second.
    from genai_prices import Usage, calc_price

    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    counts: dict[str, Any] = {
        "input_tokens": _count(usage, "prompt_tokens", "input_tokens") + read + written,
        "output_tokens": _count(usage, "completion_tokens", "output_tokens"),
        "cache_read_tokens": read,
        "cache_write_tokens": written,
    }
    if for_an_hour := usage.get("cache_creation_1h_input_tokens"):
        counts["cache_write_1h_tokens"] = for_an_hour
    provider_id, info = found
    price = calc_price(Usage(**counts), info.id, provider_id=provider_id)
    return round(float(price.total_price), 8)


def _count(usage: Mapping[str, Any], name: str, other: str) -> int:
    """What is counted under one name, or, by a client that knows only that, under the other."""
    return usage.get(name) or usage.get(other) or 0


def context_window(model: str, provider: str | None = None) -> int | None:
    """How many tokens the model can read; `None` if that is not known."""
    found = _find(model, provider)
    return found[1].context_window if found is not None else None


def provider_of(client: object) -> str | None:
    """The provider that a client says it has, if it does; a mock has an attribute of any name."""
    provider = getattr(client, "provider", None)
    return provider if isinstance(provider, str) else None


def _find(model: str, provider: str | None) -> tuple[str, ModelInfo] | None:
    try:
        # As above.
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        logger.warning("no prices of models: pip install 'motus-agents[openai]' or 'genai-prices'")
        return None
    provider_id = _PROVIDERS.get(provider or "", provider)
    name = model
    if provider_id is None and "/" in model:
        provider_id = "openrouter"
    try:
        found, info = get_snapshot().find_provider_model(name, None, provider_id, None)
    except LookupError:
        return None
    return found.id, info
