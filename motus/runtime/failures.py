"""What a failed task keeps: its error, where the task came from, and whether anybody looked."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from types import CodeType, TracebackType

from motus.runtime.node import CANCELLING, Node

__all__ = ["Failure", "creation_chain", "is_made_of", "log_failures", "warn_of_dropped"]

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
        self._about = about
        self._traceback = _without_our_frames(error.__traceback__)
        # Our frames lead to the node, and so back to this: a circle, which would delay the log.
        self.error = _with_traceback(error, self._traceback)
        self._retrieved = about is None

    @classmethod
    def of(cls, node: Node, error: BaseException) -> Failure:
        """The failure of this task; the error gets a note that says where the task came from."""
        _note(node, error)
        name, number, code = node.af_spec.name, node.af_id, node.af_code
        instruction = node.af_instruction

        def about() -> str:
            place = _called_at(code, instruction, name)
            return f"Task '{name}' (id={number}){place}{place and ','}"

        return cls(error, about)

    def retrieve(self) -> BaseException:
        """The exception, to be raised."""
        self._retrieved = True
        return _with_traceback(self.error, self._traceback)

    @property
    def retrieved(self) -> bool:
        """Whether anybody has asked."""
        return self._retrieved

    def tell(self) -> None:
        """Log it, unless somebody has asked for it or it was logged before."""
        if not getattr(self, "_retrieved", True) and self._about is not None:
            error = self.retrieve()
            _log.error("%s failed, and nobody asked for its result", self._about(), exc_info=error)

    __del__ = tell


def log_failures() -> None:
    """Log those that nobody has asked for until now: at the end of the program, the last chance.

    Afterwards the interpreter takes down what logging needs before the futures that are left.
    """
    for one in gc.get_objects():
        if type(one) is Failure:
            one.tell()


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


def warn_of_dropped(nodes: Iterable[Node]) -> None:
    """Say in the log how many tasks are lost with these, and where the first of them was called.

    What they are children of is lost too, and what depends on any of them; what was told to stop
    already is not, for somebody wanted that.
    """
    seen: set[int] = set()
    count, first = 0, None
    search = list(nodes)
    while search:
        node = search.pop()
        if node.af_state >= CANCELLING or node.af_id in seen:
            continue
        seen.add(node.af_id)
        if node.af_spec.is_observed:
            count += 1
            if first is None or node.af_id < first.af_id:
                first = node
        if node.af_parent is not None:
            search.append(node.af_parent)
        if isinstance(node.af_dependents, list):
            search += node.af_dependents
        elif node.af_dependents is not None:
            search.append(node.af_dependents)
    if first is not None:
        name = first.af_spec.name
        _log.warning(
            "Motus runtime shut down, unfinished tasks dropped: %d. The first is '%s' (id=%d)%s. "
            "Before the program ends, resolve() the futures that matter.",
            count,
            name,
            first.af_id,
            _called_at(first.af_code, first.af_instruction, name),
        )


def is_made_of(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether it is such an error, or a group of nothing else, however deep.

    By its type: `isinstance` would ask the error for its class, and some lie or raise.
    """
    errors = [error]
    while errors:
        one = errors.pop()
        if issubclass(type(one), BaseExceptionGroup):
            errors += one.exceptions  # type: ignore[attr-defined]  # it is one
        elif not issubclass(type(one), kind):
            return False
    return True


def _note(node: Node, error: BaseException) -> None:
    try:
        # A task that fails because one below it did has the note already, with its own line in it.
        if not any(note.startswith(_CHAIN) for note in getattr(error, "__notes__", ())):
            chain = creation_chain(node)
            if chain:
                error.add_note("\n".join([_CHAIN, *chain]))
    except Exception:  # noqa: BLE001  # exceptions are the users' own classes, and some take no notes
        return


def _with_traceback(error: BaseException, traceback: TracebackType | None) -> BaseException:
    try:
        return error.with_traceback(traceback)
    except Exception:  # noqa: BLE001  # as above: frozen ones take none
        return error


def _called_at(code: CodeType | None, instruction: int, name: str) -> str:
    return "" if code is None else f", called at {_place(code, instruction, name)}"


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
