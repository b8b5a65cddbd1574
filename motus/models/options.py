"""What a caller may ask of any model: how much to think, and how much of a prompt to keep."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Literal, NoReturn, get_args

import attrs

__all__ = [
    "AUTO_REASONING",
    "CachePolicy",
    "Effort",
    "ReasoningConfig",
    "cache_control",
    "thinks_adaptively",
]

Effort = Literal["low", "medium", "high", "max"]
EFFORTS: tuple[str, ...] = get_args(Effort)


def _valid_effort(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value not in EFFORTS:
        raise ValueError(f"Invalid effort {value!r}: expected one of {', '.join(EFFORTS)}")


def _valid_budget(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"Invalid budget_tokens {value!r}: expected a positive integer")


@attrs.frozen
class ReasoningConfig:
    """How much a model is to think before it answers.

    `effort` is for models that find their own measure, `budget_tokens` for those that are given
    one; each is sent only where the model knows it. Without either the model's default holds,
    and models that think adaptively are told to. Raises `ValueError` for an unknown effort and
    for a budget that is not a positive integer.
    """

    enabled: bool = True
    effort: Effort | None = attrs.field(default=None, validator=_valid_effort)
    budget_tokens: int | None = attrs.field(default=None, validator=_valid_budget)

    @classmethod
    def auto(cls) -> ReasoningConfig:
        """Think as much as the model finds right."""
        return cls()

    @classmethod
    def disabled(cls) -> ReasoningConfig:
        """Do not think, where the model can be told so."""
        return cls(enabled=False)

    @classmethod
    def light(cls) -> ReasoningConfig:
        """Think a little."""
        return cls(effort="low")


AUTO_REASONING = ReasoningConfig.auto()


# Opus and Sonnet 4.6 were the first; ids name the family, the version and maybe a date.
_CLAUDE = re.compile(r"claude-[a-z]+-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?(?!\d)", re.ASCII)


def thinks_adaptively(model: str) -> bool:
    """Whether a model of Anthropic's finds its own measure of thinking; false for all others."""
    found = _CLAUDE.search(model)
    if found is None:
        return "claude-mythos" in model
    return (int(found["major"]), int(found["minor"] or 0)) >= (4, 6)


class CachePolicy(StrEnum):
    """How much of the prompt the provider is asked to keep for the next call.

    `STATIC` keeps system prompt and tool definitions, `AUTO` also the conversation up to the end
    of the turn before; both for five minutes. `AUTO_1H` is `AUTO` for an hour. `CachePolicy(x)`
    raises `ValueError` for anything else.
    """

    NONE = "none"
    STATIC = "static"
    AUTO = "auto"
    AUTO_1H = "auto_1h"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        names = ", ".join(policy.value for policy in cls)
        raise ValueError(f"Unknown cache_policy {value!r:.80}: it must be one of {names}")


def cache_control(policy: CachePolicy) -> dict[str, str] | None:
    """The breakpoint of a policy, as Anthropic's API writes it."""
    if policy is CachePolicy.NONE:
        return None
    if policy is CachePolicy.AUTO_1H:
        return {"type": "ephemeral", "ttl": "1h"}
    return {"type": "ephemeral"}
