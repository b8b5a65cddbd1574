"""What a server sends, made fit for a terminal.

An agent repeats what models, web pages and files say. None of that may move the cursor, change the
title or the colours, or show text in another order than it has: what a person approves must be
what they see.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["json_text", "unhidden", "visible", "without_nulls"]

# Control characters but tab and newline, the marks that reorder text, and lone surrogates.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What nobody sees: soft hyphens, spaces without width, joiners, marks of direction, tags. In a text
# they are harmless and wanted by some scripts; two paths may differ by nothing else.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028\u2029\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """The text with every character that would do something to a terminal written out."""
    return _UNFIT.sub(_written_out, text.replace("\r\n", "\n"))


def unhidden(text: str) -> str:
    """Visible text in which the characters are written out too that take no room."""
    return _HIDDEN.sub(_written_out, text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""JSON that says the same and is fit for a terminal: an escape character is `\u001b`."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_nulls(value: Any) -> Any:
    """The value without the keys of its objects that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
