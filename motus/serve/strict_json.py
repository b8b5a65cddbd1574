"""JSON by the letter and of bounded depth: for whatever comes from outside of the process."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from motus.errors import ProtocolError

__all__ = ["MAX_DEPTH", "MAX_VALUES", "check_depth", "check_list", "decode_json", "encode_json"]

MAX_DEPTH = 64
# What a server decodes for others: a value takes 0.2 microseconds, in which no other thread runs,
# and up to 100 bytes.
MAX_VALUES = 500_000


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(f"{name} is not JSON")


_scan = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ProtocolError(f"the number {text[:40]} is out of range")
    return number


def decode_json(data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int | None = None) -> Any:
    """The value of a JSON text, by the letter of RFC 8259 and no further.

    Raises `ProtocolError` for what is not JSON or not UTF-8, for NaN, Infinity and numbers beyond
    a float, for lone surrogates, for nesting deeper than `max_depth`, and for more commas and
    opening brackets, those in strings included, than `max_values`.
    """
    if max_values is not None and sum(map(data.count, (b",", b"[", b"{"))) > max_values:
        raise ProtocolError(f"of too many parts (commas and brackets: at most {max_values})")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ProtocolError(f"nested deeper than {max_depth}") from error
    except ValueError as error:
        # Not only JSONDecodeError: Python refuses integers of more than some thousand digits.
        raise ProtocolError(f"not JSON: {error}") from error
    # Both checks walk the whole value; a look at the bytes spares almost every text of them.
    check_depth(value, data, max_depth)
    if b"\\u" in data:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ProtocolError("a string contains a lone surrogate") from error
    return value


def check_list(data: bytes) -> None:
    """Raises `ProtocolError` unless this is one JSON list, with no spaces around its items.

    It takes one item at a time: on a thread, it lets the others run in between.
    """
    try:
        text = data.decode("utf-8")
        place, separator = 1, ","
        if text == "[]":
            return
        while separator == ",":
            _, place = _scan(text, place)
            separator = text[place]
            place += 1
    except (ProtocolError, ValueError, IndexError, RecursionError) as error:
        raise ProtocolError("not a JSON list") from error
    if not text.startswith("[") or text[place - 1 :] != "]":
        raise ProtocolError("not a JSON list")


def check_depth(value: object, data: bytes, limit: int) -> None:
    """Raises `ProtocolError` if the value, which `data` stands for, is nested too deeply."""
    if data.count(b"[") + data.count(b"{") > limit and _depth_exceeds(value, limit):
        raise ProtocolError(f"nested deeper than {limit}")


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            return True
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return False


def _refuse_object(value: object) -> NoReturn:
    # Asked of the type: a future stands for whatever attribute it is asked for.
    hint = ": await it first" if hasattr(type(value), "__await__") else ""
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable{hint}")


def encode_json(value: object) -> bytes:
    """JSON on one line, in UTF-8.

    Raises `ProtocolError` for what JSON cannot say: NaN and Infinity, lone surrogates, objects of
    other types, nesting without end.
    """
    try:
        text = json.dumps(
            value,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            default=_refuse_object,
        )
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not expressible in JSON: {error}") from error
