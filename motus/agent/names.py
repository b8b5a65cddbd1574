"""Which variable of the caller an agent is in."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

__all__ = ["variable_of"]

_OURS: Final = __name__.partition(".")[0] + "."
# Where our own code is called back: a check against a protocol looks at every property.
_BETWEEN: Final = {"abc", "copy", "inspect", "typing"}


def variable_of(value: object) -> str | None:
    """The name that the calling code has for the object; None if it has none.

    The nearest one: a local variable of whoever called, then a global one, then those of the
    caller's caller, and so on.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # documented
    while frame is not None:
        if not _is_ours(frame):
            for variables in (frame.f_locals, frame.f_globals):
                for name, bound in list(variables.items()):
                    # Debuggers and test runners put names of their own there.
                    if bound is value and name != "self" and name.isidentifier():
                        return name
        frame = frame.f_back
    return None


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and (name.startswith(_OURS) or name in _BETWEEN)
