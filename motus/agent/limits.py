"""How much a run may use."""

from __future__ import annotations

from typing import Any

import attrs

from motus.errors import MotusError

__all__ = ["UsageLimitExceeded", "UsageLimits", "Used"]


class UsageLimitExceeded(MotusError):  # noqa: N818  # reads better where it is caught
    """A run has reached one of its `usage_limits`; the message says which."""


def _positive(_: Any, attribute: Any, value: Any) -> None:
    if value is not None and not value >= 0:
        raise ValueError(f"{attribute.name} must be at least 0, or None, not {value!r}")


@attrs.frozen
class Used:
    """What a run has used so far; `cost` in US dollars, None if a price is not known."""

    tokens: int = 0
    cost: float | None = 0.0
    tool_calls: int = 0


@attrs.frozen(kw_only=True)
class UsageLimits:
    """Limits for each run of an agent: tokens, cost in US dollars, tool calls.

    A run that has reached one and would go on ends with `UsageLimitExceeded`; an answer that has
    arrived is still given. What specialists and tools use counts too, and once a limit is reached
    each of them is stopped by its next reply. A model without a known price cannot be held to a
    `cost`: its run ends after the first reply, unless that is the answer.
    """

    tokens: int | None = attrs.field(default=None, validator=_positive)
    cost: float | None = attrs.field(default=None, validator=_positive)
    tool_calls: int | None = attrs.field(default=None, validator=_positive)

    def problem(self, used: Used) -> str | None:
        """Why there may be no further model call; None if there may."""
        if self.tokens is not None and used.tokens >= self.tokens:
            return f"{used.tokens} tokens used (limit: {self.tokens})"
        if self.cost is not None and used.cost is None:
            return f"the model's price is not known (limit: ${self.cost})"
        if self.cost is not None and used.cost is not None and used.cost >= self.cost:
            return f"${used.cost:.6f} spent (limit: ${self.cost})"
        return None

    def problem_with_calls(self, used: Used) -> str | None:
        """Why these tool calls, which are counted already, may not be made."""
        if self.tool_calls is not None and used.tool_calls > self.tool_calls:
            return f"{used.tool_calls} tool calls asked for (limit: {self.tool_calls})"
        return None
