"""What goes back to the model: results and errors as text."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, Final

import anyio
import attrs
from pydantic_core import PydanticSerializationError, to_jsonable_python

from motus.errors import TaskCancelledError
from motus.guardrails import GuardrailTripped
from motus.runtime.current import current

__all__ = [
    "encode_error",
    "encode_json",
    "encode_text",
    "is_failure",
    "log_failure",
    "to_jsonable",
]

_log: Final = logging.getLogger("motus.tools")

# Made once: `json.dumps` makes one each time that it is called with options.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def encode_text(value: Any) -> str:
    """A result as a model reads it: strings as they are, everything else as JSON.

    Raises `TypeError` for what JSON has no word for.
    """
    # As a text also where it is an enum's, or of a class of its own.
    return _valid(str.__str__(value)) if isinstance(value, str) else encode_json(value)


def encode_json(value: Any) -> str:
    """A result as JSON, strings too. Raises `TypeError` for what JSON has no word for."""
    plain = to_jsonable(value)
    try:
        try:
            return _valid(_dumps(plain))
        except ValueError:
            return _valid(_dumps(_finite(plain)))
    except (ValueError, RecursionError) as error:
        raise _unfit("the result", value, error) from error


def encode_error(error: BaseException) -> str:
    """`{"error": ...}`: what went wrong, as a model is told. Never raises."""
    return _dumps({"error": _valid("; ".join(map(_message, _leaves(error))))})


def is_failure(error: BaseException) -> bool:
    """Whether a tool has failed, which a model is told, rather than been stopped.

    Some failures are no `Exception`: `SystemExit`, or the panic of a library written in Rust. To be
    asked where an event loop runs.
    """
    stops = (KeyboardInterrupt, GeneratorExit, anyio.get_cancelled_exc_class())
    return not any(isinstance(one, stops) for one in _leaves(error))


def log_failure(name: str, error: BaseException) -> None:
    """Log what a tool has raised, as a warning: a model that is told of a bug tells nobody.

    Not what is meant for the model alone, or for the tool: guardrails that trip, rejections,
    cancellation. To be called in the task of the call.
    """
    if not is_failure(error):
        return
    if all(isinstance(one, GuardrailTripped | TaskCancelledError) for one in _leaves(error)):
        return
    current.get().af_runtime.explain_backend(error)
    _log.warning("tool '%s' failed, and the model is told", name, exc_info=error)


def to_jsonable(value: Any, what: str = "the result") -> Any:
    """The value in JSON's own types.

    Takes what pydantic does (its models, dataclasses, enums, dates, sets and the like) and attrs
    classes, however nested. Raises `TypeError` for what JSON has no word for, which names `what`.
    """
    try:
        return to_jsonable_python(value, by_alias=True, fallback=_attrs)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        # ValueError: a value that contains itself, or bytes that are no text.
        raise _unfit(what, value, error) from error


def _unfit(what: str, value: object, error: Exception) -> TypeError:
    kind = type(value).__name__
    return TypeError(f"{what} is a {kind} that cannot be written as JSON: {error}")


def _finite(value: Any) -> Any:
    """The JSON value with NaN and infinities, for which JSON has no numbers, as texts."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value


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


def _leaves(error: BaseException) -> list[BaseException]:
    """What is in a group, whose own message says how many there are, and nothing of them."""
    found, todo = [], [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseExceptionGroup):
            todo += reversed(one.exceptions)
        else:
            found.append(one)
    return found


def _message(error: BaseException) -> str:
    name = type(error).__name__
    try:
        if isinstance(error, SystemExit):
            return f"the tool exited with {error.code!r}"
        text = str(error)
    except Exception:  # noqa: BLE001  # it is of somebody's class, whose methods may do anything
        return name
    if isinstance(error, KeyError) or not text:
        return f"{name}: {text}" if text else name
    return text
