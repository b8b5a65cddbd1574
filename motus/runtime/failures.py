"""What a failed task keeps: its error, where the task came from, and whether anybody looked."""

from __future__ import annotations

import logging
from collections.abc import Callable
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

    def __init__(self, error: BaseException, about: Callable[[], str] | None) -> None:
        """`about` gives the beginning of the line in the log; without it there will be none."""
        self.error = error
        self._about = about
        self._traceback = _without_our_frames(error.__traceback__)
        self._retrieved = about is None

    @classmethod
    def of(cls, node: Node, error: BaseException) -> Failure:
        """The failure of this task; the error gets a note that says where the task came from."""
        _note(node, error)
        name, number, code = node.af_spec.name, node.af_id, node.af_code
        instruction = node.af_instruction

        def about() -> str:
            place = "" if code is None else f", called at {_place(code, instruction, name)},"
            return f"Task '{name}' (id={number}){place}"

        return cls(error, about)

    def retrieve(self) -> BaseException:
        """The exception, to be raised."""
        self._retrieved = True
        return _with_traceback(self.error, self._traceback)

    @property
    def retrieved(self) -> bool:
        """Whether anybody has asked."""
        return self._retrieved

    def __del__(self) -> None:
        if not getattr(self, "_retrieved", True) and self._about is not None:
            error = _with_traceback(self.error, self._traceback)
            _log.error("%s failed, and nobody asked for its result", self._about(), exc_info=error)


def creation_chain(node: Node) -> list[str]:
    """Where the task and those above it were called, outermost first, as lines of a traceback."""
    lines = []
    above: Node | None = node
    while above is not None:
        if above.af_code is not None:
            lines.append("  " + _place(above.af_code, above.af_instruction, above.af_spec.name))
        above = above.af_parent
    lines.reverse()
    return lines


def _note(node: Node, error: BaseException) -> None:
    try:
        # A task that fails because one below it did has the note already, with its own line in it.
        if not any(note.startswith(_CHAIN) for note in getattr(error, "__notes__", ())):
            chain = creation_chain(node)
            if chain:
                error.add_note("\n".join([_CHAIN, *chain]))
    except Exception:  # noqa: BLE001 - exceptions are the users' own classes, and some take no notes
        return


def _with_traceback(error: BaseException, traceback: TracebackType | None) -> BaseException:
    try:
        return error.with_traceback(traceback)
    except Exception:  # noqa: BLE001 - as above: frozen ones take none
        return error


def _place(code: CodeType, instruction: int, name: str) -> str:
    return (
        f'File "{code.co_filename}", line {_line(code, instruction)}, in {code.co_qualname}: {name}'
    )


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
        and str(traceback.tb_frame.f_globals.get("__name__")).startswith("motus.runtime.")
    ):
        traceback = traceback.tb_next
    return traceback
