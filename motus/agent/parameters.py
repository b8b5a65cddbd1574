"""What an agent is made of: what would fail in the middle of a run is refused before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

import attrs

from motus.guardrails import Guardrail
from motus.memory.base import BaseMemory
from motus.memory.basic import BasicMemory
from motus.memory.compaction import CompactionMemory
from motus.models.base import ReasoningConfig

__all__ = [
    "check_model",
    "check_reasoning",
    "check_response_format",
    "check_timeout",
    "functions",
    "memory_of",
]


def check_model(client: object, model_name: object) -> None:
    """Raises `TypeError` for what is no client, or no name of a model."""
    if isinstance(client, type):
        raise TypeError(
            f"the client must be an object, and {client.__name__} is a class: "
            f"pass {client.__name__}(...)"
        )
    if isinstance(client, str) or not isinstance(model_name, str):
        # Their kinds alone: a text in place of the client may be a key.
        raise TypeError(
            "an agent takes a client and then the name of a model, such as "
            f"ReActAgent(client, 'gpt-4o'), not {_kind(client)} and {_kind(model_name)}"
        )


def check_response_format(given: object) -> None:
    """Raises `TypeError` for a value; all that describes a type is left to who needs a schema."""
    if given is None or isinstance(given, type):
        return
    kind = type(given)
    if (
        isinstance(given, str | Mapping)
        or dataclasses.is_dataclass(kind)
        or attrs.has(kind)
        or hasattr(kind, "model_fields")
    ):
        raise TypeError(
            "response_format must be a class (a pydantic model, a dataclass or an attrs class), "
            f"not {kind.__name__}"
        )


def check_timeout(seconds: object) -> None:
    """Raises `ValueError` for what is no time that a run could take."""
    if seconds is not None and not (isinstance(seconds, SupportsFloat) and float(seconds) > 0):
        raise ValueError(f"timeout must be a positive number of seconds, not {seconds!r:.80}")


def check_reasoning(reasoning: object) -> None:
    """Raises `TypeError` for what is no `ReasoningConfig`."""
    if not isinstance(reasoning, ReasoningConfig):
        raise TypeError(
            "reasoning must be a ReasoningConfig, such as ReasoningConfig(effort='high'), "
            f"not {reasoning!r:.80}"
        )


def functions(name: str, given: Iterable[Guardrail] | None) -> list[Guardrail]:
    """The guardrails of this name as a list. Raises `TypeError` for what cannot be called."""
    if callable(given):
        raise TypeError(f"{name} must be a list of functions: put {given!r:.80} into one")
    several = list(given or ())
    for one in several:
        if not callable(one):
            raise TypeError(f"{name} must be a list of functions, not {one!r:.80}")
    return several


def memory_of(memory: object, kind: str) -> BaseMemory:
    """The memory itself, or a new one of this kind.

    Raises `TypeError` for what is none, and `ValueError` for an unknown kind.
    """
    if memory is None:
        return _new_memory(kind)
    if not isinstance(memory, BaseMemory):
        hint = f": pass {memory.__name__}(...)" if isinstance(memory, type) else ""
        raise TypeError(f"memory must be an object of a BaseMemory, not {_kind(memory)}{hint}")
    return memory


def _new_memory(kind: str) -> BaseMemory:
    if kind == "basic":
        return BasicMemory()
    if kind == "compact":
        return CompactionMemory()
    raise ValueError(f"Unknown memory_type {kind!r}: it must be 'basic' or 'compact'")


def _kind(value: Any) -> str:
    return type(value).__name__
