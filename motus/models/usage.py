"""What model calls have used: told to whoever counts it, and added up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import attrs

from motus.models.pricing import provider_of

__all__ = ["Counter", "ModelUse", "Price", "UsageMeter", "both_namings", "count_usage", "counters"]

# US dollars for what a call of a model of a provider has used; None if its price is not known.
Price = Callable[[str, Mapping[str, Any], str | None], float | None]

# Usages that are kept until somebody asks what they cost.
MAX_UNPRICED: Final = 1_000
# Not bool, which is an int to `isinstance`.
_NUMBERS: Final = frozenset({int, float})
_SAME: Final = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))


@attrs.frozen
class ModelUse:
    """What one call of a model has used; `counts` are the numbers, under both namings."""

    model: str
    usage: Mapping[str, Any]
    provider: str | None
    counts: dict[str, float]

    @property
    def tokens(self) -> int:
        """All of them together."""
        counts = self.counts
        return int(
            counts.get("total_tokens", 0)
            or counts.get("input_tokens", 0) + counts.get("output_tokens", 0)
        )


# May return why there should be no more of it.
Counter = Callable[[ModelUse], Exception | None]

# Who counts what models are asked in this context: the agents whose runs it is a part of. Tasks
# inherit it, so what a tool or a specialist asks a model is counted for the agent that called it.
counters: Final[ContextVar[tuple[Counter, ...]]] = ContextVar("motus_usage_counters", default=())


def count_usage(client: object, model: str, usage: Mapping[str, Any]) -> None:
    """Tell everybody who counts in this context what a call of the client has used.

    Raises what the first of them objects, when all have counted it.
    """
    counting = counters.get()
    if counting:
        use = ModelUse(model, usage, provider_of(client), both_namings(usage))
        objections = [error for count in counting if (error := count(use)) is not None]
        if objections:
            raise objections[0]


def both_namings(usage: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a usage, the same under both names where only one is there."""
    counts = {name: value for name, value in usage.items() if type(value) in _NUMBERS}
    for one, other in _SAME:
        if one in counts:
            counts.setdefault(other, counts[one])
        elif other in counts:
            counts[one] = counts[other]
    return counts


class UsageMeter:
    """Adds up what model calls have used; from any thread."""

    def __init__(self, price: Price) -> None:
        self._price = price
        self._totals: dict[str, float] = {}
        self._cost: float | None = 0.0
        # To look up a price takes longer than anything else here, and few ask for it.
        self._unpriced: list[ModelUse] = []
        self._lock = threading.Lock()

    @property
    def totals(self) -> dict[str, float]:
        """The sum of every count; a copy."""
        with self._lock:
            return self._totals.copy()

    @property
    def cost(self) -> float | None:
        """US dollars; None if the price of any call is not known."""
        with self._lock:
            self._price_all()
            return None if self._cost is None else round(self._cost, 8)

    def add(self, use: ModelUse) -> None:
        """Add one call."""
        with self._lock:
            totals = self._totals
            for name, count in use.counts.items():
                totals[name] = totals.get(name, 0) + count
            self._unpriced.append(use)
            if len(self._unpriced) > MAX_UNPRICED:
                self._price_all()

    def _price_all(self) -> None:
        for use in self._unpriced:
            cost = self._price(use.model, use.usage, use.provider)
            # One call depends on its own length, so usages cannot be added up first.
            self._cost = None if cost is None or self._cost is None else self._cost + cost
        self._unpriced.clear()
