"""Answers: guarded, and as text for the conversation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

from motus.guardrails import Guardrail, run_guardrails, run_structured_output_guardrails
from motus.tools.results import encode_text

__all__ = ["as_text", "guard_value"]

T = TypeVar("T")


async def guard_value(guardrails: Iterable[Guardrail], value: T, agent: Any) -> T:
    """The answer after the output guardrails; the same object if none of them changed it.

    Text goes to each as it is. Of an object each names the fields that it wants, and may return a
    dict of new values: those make a new object, which its class checks. Models inside of a pydantic
    model are dicts there.
    """
    guardrails = list(guardrails)
    if not guardrails:
        return value
    fields = _fields(value)
    if fields is None:
        text: T = await run_guardrails(guardrails, value, agent=agent)
        return text
    checked = await run_structured_output_guardrails(guardrails, fields, agent=agent)
    return value if checked == fields else _rebuilt(value, fields, checked)


def _fields(value: Any) -> dict[str, Any] | None:
    """What a structured answer consists of; None for text and whatever has no fields."""
    kind = type(value)
    if attrs.has(kind):
        # As its constructor names them, and so its schema: without leading underscores.
        return {field.alias: getattr(value, field.name) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(kind, "model_fields"):
        # Of pydantic, which is not worth importing for the question.
        fields: dict[str, Any] = value.model_dump()
        return fields
    return None


def _rebuilt(value: T, fields: dict[str, Any], checked: dict[str, Any]) -> T:
    kind: Any = type(value)
    changes = {name: new for name, new in checked.items() if new is not fields.get(name)}
    if hasattr(kind, "model_fields"):
        # Not from the dump as a whole: that has computed fields, and what serializers made of it.
        kept = {name: getattr(value, name) for name in kind.model_fields}
        extra = getattr(value, "model_extra", None) or {}
        made: T = kind.model_validate({**extra, **kept, **changes}, by_name=True)
        return made
    if attrs.has(kind):
        return attrs.evolve(value, **changes)  # type: ignore[misc]  # attrs.has has said so
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]  # all that is left


def as_text(value: Any) -> str:
    """An answer as a message says it: text as it is, objects as JSON."""
    return encode_text(value)
