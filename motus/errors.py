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
    """

    def __init__(self, task_name: str, task_id: int) -> None:
        super().__init__(f"Task '{task_name}' was cancelled (id={task_id})")
        self.task_name = task_name
        self.task_id = task_id

    def __reduce__(self) -> tuple[type[TaskCancelledError], tuple[str, int]]:
        # The default would call __init__ with the message alone.
        return type(self), (self.task_name, self.task_id)


class InvalidTransitionError(MotusError):
    """A state machine was told of something that cannot happen in its state: a bug in Motus.

    The message names the subject, its state and the event.
    """


class ProtocolError(MotusError):
    """The other end of a stream did not speak the protocol: drop that stream, and only that."""
