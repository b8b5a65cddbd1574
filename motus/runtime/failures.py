"""What a failed task keeps: its error, where the task came from, and whether anybody looked."""

from __future__ import annotations

import logging
from types import CodeType, TracebackType

from motus.runtime.node import Node

__all__ = ["Failure", "creation_chain"]

_log = logging.getLogger("motus.runtime")

_CHAIN = "Task creation chain (outermost first):"


class Failure:
    """The failure of a task and of everything downstream, which all share this object.

    Whoever asks gets the same exception object, each time with the traceback of the failure alone:
    raised again as it is, it would grow with every waiter and keep their frames alive. If nobody
    has asked by the time the last future that carries it is gone, it is logged, once.
    """

    __slots__ = ("_about", "_retrieved", "_traceback", "error")

    def __init__(self, error: BaseException, about: str | None) -> None:
        """`about` begins the line in the log; without it there will be none."""
        self.error = error
        self._about = about
        self._traceback = _without_our_frames(error.__traceback__)
        self._retrieved = about is None

    @classmethod
    def of(cls, node: Node, error: BaseException) -> Failure:
        """The failure of this task; the error gets a note that says where the task came from."""
        chain = creation_chain(node)
        about = f"Task '{node.af_spec.name}' (id={node.af_id})"
        if chain:
            about += f", called at {chain[-1].strip()},"
            if not any(note.startswith(_CHAIN) for note in getattr(error, "__notes__", ())):
                error.add_note("\n".join([_CHAIN, *chain]))
        return cls(error, about)

    def retrieve(self) -> BaseException:
        """The exception, to be raised."""
        self._retrieved = True
        return self.error.with_traceback(self._traceback)

    @property
    def retrieved(self) -> bool:
        """Whether anybody has asked."""
        return self._retrieved

    def __del__(self) -> None:
        if not getattr(self, "_retrieved", True):
            error = self.error.with_traceback(self._traceback)
            _log.error("%s failed, and nobody asked for its result", self._about, exc_info=error)


def creation_chain(node: Node) -> list[str]:
    """Where the task and those above it were called, outermost first, as lines of a traceback."""
    lines = []
    above: Node | None = node
    while above is not None:
        if above.af_code is not None:
            code: CodeType = above.af_code
            lines.append(
                f'  File "{code.co_filename}", line {_line(code, above.af_instruction)}, '
                f"in {code.co_qualname}: {above.af_spec.name}"
            )
        above = above.af_parent
    lines.reverse()
    return lines


def _line(code: CodeType, instruction: int) -> int:
    # Frames know their line only while they run; the table leads from the instruction to it.
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    while (
        traceback is not None
        and traceback.tb_next is not None
        and traceback.tb_frame.f_globals.get("__name__", "").startswith("motus.runtime.")
    ):
        traceback = traceback.tb_next
    return traceback
