"""The errors of Motus: one class for each thing that a caller can do about it."""

from __future__ import annotations

__all__ = ["InvalidTransitionError", "MotusError", "ProtocolError", "TaskCancelledError"]


class MotusError(Exception):
    """Base of the errors that Motus itself raises and that are not a built-in's case."""


class TaskCancelledError(MotusError):
    """The task that a future stands for was cancelled; its result will never come.

    Raised by `await future`, `resolve(future)` and `future.af_result()`. Where the task was
    cancelled because something above it was, `__cause__` is the error of the task that the
    cancellation was aimed at.

    `task_name` is the function's name; the message has that of its class too.
    """

    def __init__(self, task_name: str = "", task_id: int | None = None) -> None:
        number = "" if task_id is None else f" (id={task_id})"
        super().__init__(f"Task '{task_name}' was cancelled{number}")
        self.task_name = task_name.rpartition(".")[2]
        self.task_id = task_id
        self._given = task_name

    def __reduce__(self) -> tuple[type[TaskCancelledError], tuple[str, int | None]]:
        # The default would call __init__ with the message alone.
        return type(self), (self._given, self.task_id)


class InvalidTransitionError(MotusError):
    """A state machine was told of something that cannot happen in its state: a bug in Motus.

    The message names the subject, its state and the event.
    """


class ProtocolError(MotusError):
    """The other end of a stream did not speak the protocol: drop that stream, and only that."""
