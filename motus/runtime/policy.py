"""How a task is run: its policy, and everything else that is the same for all of its calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final

import attrs

from motus.runtime.types import NORMAL_TASK

__all__ = [
    "ATTEMPTS",
    "COROUTINE",
    "COROUTINE_LIKE",
    "INLINE",
    "THREAD",
    "RetryOn",
    "TaskPolicy",
    "TaskSpec",
    "gives_a_coroutine",
]


RetryOn = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool] | None
)


def _at_least(least: float) -> Callable[[Any, Any, Any], None]:
    def check(_: Any, attribute: Any, value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not value >= least:
            raise ValueError(
                f"{attribute.name} must be a number of at least {least}, not {value!r}"
            )

    return check


def _timeout(_: Any, attribute: Any, value: Any) -> None:
    if value is not None and (
        not isinstance(value, int | float) or isinstance(value, bool) or not value > 0
    ):
        raise ValueError(
            f"{attribute.name} must be a positive number of seconds, or None, not {value!r}"
        )


def _whole(_: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number of at least 0, not {value!r}")


def _fraction(_: Any, attribute: Any, value: Any) -> None:
    _at_least(0)(_, attribute, value)
    if value > 1:
        raise ValueError(f"{attribute.name} must be between 0 and 1, not {value!r}")


def _retry_on(_: Any, attribute: Any, value: Any) -> None:
    types = value if isinstance(value, tuple) else (value,)
    if all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        return
    if value is not None and (isinstance(value, type | tuple) or not callable(value)):
        raise ValueError(
            f"{attribute.name} must be an exception type, a tuple of them, a function of the "
            f"exception, or None, not {value!r}"
        )


@attrs.frozen
class TaskPolicy:
    """What happens when a task fails or takes too long.

    * `retries`: how often it is tried again after the first failure. Cancellation never is.
    * `timeout`: seconds for each attempt, its children and the futures that it returns included;
      more is a `TimeoutError`, which is a failure.
    * `retry_delay`: seconds before the next attempt, multiplied by `retry_backoff` after each one.
    * `retry_jitter`: the fraction of the delay that is left to chance, between 0 and 1: with 0.5
      the delay is between half of it and all of it.
    * `retry_on`: which failures are retried: an exception type, a tuple of them, or a function of
      the exception; None for all.
    """

    retries: int = attrs.field(default=0, validator=_whole)
    timeout: float | None = attrs.field(default=None, validator=_timeout)
    retry_delay: float = attrs.field(default=0.0, validator=_at_least(0))
    retry_backoff: float = attrs.field(default=1.0, validator=_at_least(1))
    retry_jitter: float = attrs.field(default=0.0, validator=_fraction)
    retry_on: RetryOn = attrs.field(default=None, validator=_retry_on)

    def delay(self, failures: int, chance: float) -> float:
        """Seconds before the next attempt, after so many failures; `chance` in [0, 1)."""
        delay = self.retry_delay * self.retry_backoff ** (failures - 1)
        return delay * (1 - self.retry_jitter * chance)

    def is_retried(self, error: BaseException, failures: int) -> bool:
        """Whether there is another attempt after this failure, the `failures`-th."""
        if failures > self.retries:
            return False
        if self.retry_on is None:
            return True
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)
        return bool(self.retry_on(error))


# How the body of a node is run.
COROUTINE: Final = 0  # an `async def`: driven in the loop, its first step at once
COROUTINE_LIKE: Final = 4  # the same, but calling it may run somebody's code
THREAD: Final = 1  # any other callable: on a worker thread
INLINE: Final = 2  # one of our own that never blocks: called in the loop
ATTEMPTS: Final = 3  # with retries or a timeout, whatever the callable is


class TaskSpec:
    """What is the same for every call of a task."""

    __slots__ = (
        "fn",
        "hooks",
        "is_coroutine",
        "is_method",
        "is_observed",
        "is_part",
        "kind",
        "name",
        "num_returns",
        "policy",
        "task_type",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        is_coroutine: bool,
        inline: bool = False,
        is_part: bool = False,
        policy: TaskPolicy = TaskPolicy(),
        num_returns: int = 1,
        task_type: str = NORMAL_TASK,
        hooks: Mapping[str, tuple[Callable[..., Any], ...]] | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.is_coroutine = is_coroutine
        # One of several results of the task that is its first argument.
        self.is_part = is_part
        self.policy = policy
        self.num_returns = num_returns
        # Of this task alone, by event; the others are in the runtime's HookManager.
        self.hooks = hooks or {}
        self.is_observed = not is_part
        self.is_method = _is_method(fn)
        self.task_type = task_type
        if inline:
            self.kind = INLINE
        elif policy.retries or policy.timeout is not None:
            self.kind = ATTEMPTS
        else:
            self.kind = THREAD
            if is_coroutine:
                plain = isinstance(fn, FunctionType) and fn.__code__.co_flags & inspect.CO_COROUTINE
                self.kind = COROUTINE if plain else COROUTINE_LIKE


def gives_a_coroutine(fn: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object that is like one."""
    if inspect.iscoroutinefunction(fn):
        return True
    return inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  # not whether it can be called


def _is_method(fn: object) -> bool:
    code = getattr(fn, "__code__", None)
    return code is not None and code.co_varnames[:1] == ("self",)
