"""What goes back to the model: results and errors as text."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

__all__ = ["encode_error", "encode_json", "encode_text", "to_jsonable"]

# Made once: `json.dumps` makes one each time that it is called with options.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def encode_text(value: Any) -> str:
    """A result as a model reads it: strings as they are, everything else as JSON.

    Raises `TypeError` for what JSON has no word for.
    """
    return _valid(value) if type(value) is str else encode_json(value)


def encode_json(value: Any) -> str:
    """A result as JSON, strings too. Raises `TypeError` for what JSON has no word for."""
    plain = to_jsonable(value)
    try:
        return _valid(_dumps(plain))
    except ValueError:
        # NaN and infinities: JSON has no numbers for them, so they are texts.
        return encode_json(from_json(to_json(plain, inf_nan_mode="strings")))


def encode_error(error: BaseException) -> str:
    """`{"error": ...}`: what went wrong, as a model is told."""
    return _dumps({"error": _valid(_message(error))})


def to_jsonable(value: Any) -> Any:
    """The value in JSON's own types.

    Takes what pydantic does (its models, dataclasses, enums, dates, sets and the like) and attrs
    classes, however nested. Raises `TypeError` for what JSON has no word for.
    """
    try:
        return to_jsonable_python(value, by_alias=True, fallback=_attrs)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        # ValueError: a value that contains itself, or bytes that are no text.
        raise TypeError(
            f"the result is a {type(value).__name__} that cannot be written as JSON: {error}"
        ) from error


def _attrs(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} is no text, number, list, dict, dataclass or model")


def _valid(text: str) -> str:
    """Lone surrogates, as in the names of files, cannot be sent: they become escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _message(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        # The message of a group says how many there are, and nothing of what they are.
        return "; ".join(_message(one) for one in error.exceptions)
    if isinstance(error, SystemExit):
        return f"the tool exited with {error.code!r}"
    text = str(error)
    if isinstance(error, KeyError) or not text:
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text
