"""Structured output: from a class to the JSON schema that a model must keep, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from motus.messages import ChatCompletion
from motus.models.errors import StructuredOutputError

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["StructuredOutput", "structured_output"]

_WHY = {
    "length": "the reply was cut off at the limit of output tokens",
    "content_filter": "the model refused",
}


@attrs.frozen
class StructuredOutput:
    """What a reply must be: its schema, and the same in the subset of strict modes if that can
    express it.

    `validate` makes the object from JSON text, or raises `ValueError` that names what is wrong.
    """

    name: str
    schema: dict[str, Any]
    strict: dict[str, Any] | None
    validate: Callable[[str], Any]

    @property
    def instruction(self) -> str:
        """The same for a model that cannot be made to keep a schema."""
        schema = json.dumps(self.schema)
        return f"The final answer is JSON that fits this schema, and nothing else: {schema}"

    def fill(self, completion: ChatCompletion, provider: str) -> ChatCompletion:
        """Set `parsed` from the reply's text, unless it calls tools; see `BaseChatClient.parse`."""
        if completion.tool_calls:
            return completion
        try:
            completion.parsed = self.validate(completion.content or "")
        except ValueError as error:
            why = _WHY.get(completion.finish_reason, "the reply does not fit")
            raise StructuredOutputError(
                f"{provider}: {why}, so it is no {self.name}: {error}",
                completion,
                provider=provider,
            ) from error
        return completion


def structured_output(response_format: type[Any]) -> StructuredOutput:
    """For pydantic models, dataclasses, attrs classes, and whatever else pydantic can describe.

    Raises `TypeError` for what it cannot.
    """
    # For those who use structured output; the rest comes with every tool there is.
    from pydantic import ValidationError

    # As above.
    from motus.tools.arguments import SignatureArguments
    from motus.tools.schema import strict_schema, without_added_nulls  # as above

    def reply(value: Any) -> None:
        """Classes are told to a model in one way, here and as the arguments of a tool."""

    reply.__annotations__ = {"value": response_format}
    try:
        arguments = SignatureArguments(reply)
        holder = arguments.json_schema
    except TypeError as error:
        raise TypeError(f"{response_format!r} cannot be a response_format: {error}") from error
    model = arguments.model
    [field] = model.model_fields
    schema: dict[str, Any] = holder["properties"]["value"]
    # Strict modes want an object: what is none is put into one.
    bare = schema.get("type") == "object"
    if not bare:
        schema = {**holder, "additionalProperties": False}

    def validate(text: str) -> Any:
        try:
            value = without_added_nulls(json.loads(text), schema)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        try:
            held = model.model_validate_json(json.dumps({"value": value} if bare else value))
        except ValidationError as error:
            raise ValueError(_explained(error, 1 if bare else 0)) from error
        return getattr(held, field)

    try:
        strict = strict_schema(schema)
    except ValueError:
        strict = None
    name = getattr(response_format, "__name__", "reply")
    return StructuredOutput(re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64], schema, strict, validate)


def _explained(error: ValidationError, depth: int) -> str:
    """What is wrong, so that a model can put it right."""
    problems = error.errors(include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'][depth:])) or 'the whole'}: {problem['msg']}"
        for problem in problems
    )
