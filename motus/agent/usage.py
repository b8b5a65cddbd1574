"""What an agent's model calls have used, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["Price", "UsageMeter", "both_namings"]

# US dollars for what a call of a model used, None if its price is not known.
Price = Callable[[str, Mapping[str, Any]], float | None]

# Usages that are kept until somebody asks what they cost.
MAX_UNPRICED: Final = 1_000
_SAME: Final = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))


def both_namings(usage: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a usage, the same under both names where only one is there."""
    counts = {
        name: value
        for name, value in usage.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for one, other in _SAME:
        if one in counts:
            counts.setdefault(other, counts[one])
        elif other in counts:
            counts[one] = counts[other]
    return counts


def total_tokens(counts: Mapping[str, float]) -> int:
    """All tokens of a usage in both namings."""
    return int(
        counts.get("total_tokens", 0)
        or counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
    )


class UsageMeter:
    """Adds up the usages of model calls."""

    def __init__(self, price: Price) -> None:
        self._price = price
        self._totals: dict[str, float] = {}
        self._cost: float | None = 0.0
        # To look up a price takes longer than anything else here, and few ask for it.
        self._unpriced: list[tuple[str, Mapping[str, Any]]] = []

    @property
    def totals(self) -> dict[str, float]:
        """The sum of every count; a copy."""
        return self._totals.copy()

    @property
    def cost(self) -> float | None:
        """US dollars; None if the price of any call is not known."""
        for model, usage in self._unpriced:
            cost = self._price(model, usage)
            # One call depends on its own length, so usages cannot be added up first.
            self._cost = None if cost is None or self._cost is None else self._cost + cost
        self._unpriced.clear()
        return None if self._cost is None else round(self._cost, 8)

    def add(self, model: str, usage: Mapping[str, Any]) -> int:
        """Add one call; how many tokens it took."""
        counts = both_namings(usage)
        totals = self._totals
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
        self._unpriced.append((model, usage))
        if len(self._unpriced) > MAX_UNPRICED:
            _ = self.cost
        return total_tokens(counts)
