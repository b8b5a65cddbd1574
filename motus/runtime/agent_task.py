"""`@agent_task`: a function whose calls become nodes of the task graph."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import CodeType
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, overload

import attrs

from motus.runtime.future import AgentFuture
from motus.runtime.policy import TaskPolicy, TaskSpec, gives_a_coroutine
from motus.runtime.submit import submit
from motus.runtime.types import NORMAL_TASK

__all__ = ["AgentTaskDefinition", "agent_task", "resolve"]

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


class AgentTaskDefinition(Generic[R_co]):
    """A task: calling it adds a node to the graph and returns its future at once.

    The call never blocks and never raises because of what the body does. Arguments may be futures,
    also inside lists, tuples and dict values: the body gets their values. In a class it is a
    method: `self` is bound as usual.
    """

    def __init__(self, fn: Callable[..., Any], spec: TaskSpec, bound: tuple[Any, ...] = ()) -> None:
        functools.update_wrapper(self, fn)
        self.__name__ = getattr(fn, "__name__", spec.name)
        self._fn = fn
        self._spec = spec
        self._bound = bound
        self._many = spec.num_returns > 1

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        frame = sys._getframe(1)  # noqa: SLF001 - documented; inspect's way costs a hundred times as much
        if self._bound:
            args = self._bound + args
        if self._many:
            return self._call_for_many(args, kwargs, frame.f_code, frame.f_lasti)
        return submit(AgentFuture, self._spec, args, kwargs, frame.f_code, frame.f_lasti)  # type: ignore[return-value]  # R_co is AgentFuture here

    def _call_for_many(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], code: CodeType, instruction: int
    ) -> R_co:
        spec = self._spec
        whole = submit(AgentFuture, spec, args, kwargs, code, instruction)
        one = TaskSpec(_one_of, name=spec.name, is_coroutine=False, inline=True, is_part=True)
        count = spec.num_returns
        parts = tuple(
            submit(AgentFuture, one, (whole, index, count, spec.name), None, code, instruction)
            for index in range(count)
        )
        return cast("R_co", parts)

    def __get__(self, instance: Any, owner: type | None = None) -> AgentTaskDefinition[R_co]:
        if instance is None:
            return self
        return AgentTaskDefinition(self._fn, self._spec, (instance, *self._bound))

    def __repr__(self) -> str:
        return f"<agent_task '{self._spec.name}'>"

    @overload
    def policy(
        self, *, retries: int = ..., timeout: float | None = ..., retry_delay: float = ...
    ) -> AgentTaskDefinition[R_co]: ...
    @overload
    def policy(
        self,
        *,
        num_returns: int,
        retries: int = ...,
        timeout: float | None = ...,
        retry_delay: float = ...,
    ) -> AgentTaskDefinition[Any]: ...
    def policy(self, *, num_returns: int | None = None, **changes: Any) -> AgentTaskDefinition[Any]:
        """The same task with another policy; this one stays as it is.

        TypeError for a name that is not one of TaskPolicy's, ValueError for a value out of range.
        """
        known = {field.name for field in attrs.fields(TaskPolicy)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(
                f"unknown policy {', '.join(unknown)}: it must be one of "
                f"{', '.join(sorted(known | {'num_returns'}))}"
            )
        spec = self._spec
        changed = _spec(
            self._fn,
            attrs.evolve(spec.policy, **changes),
            spec.num_returns if num_returns is None else num_returns,
            spec.task_type,
        )
        return AgentTaskDefinition(self._fn, changed, self._bound)

    def unwrap_task(self) -> Callable[..., Any]:
        """The function itself; bound, if this is a bound method."""
        if self._bound:
            return functools.partial(self._fn, *self._bound)
        return self._fn


class _Decorator(Protocol):
    @overload
    def __call__(
        self, fn: Callable[..., Coroutine[Any, Any, AgentFuture[T]]], /
    ) -> AgentTaskDefinition[AgentFuture[T]]: ...
    @overload
    def __call__(
        self, fn: Callable[..., Coroutine[Any, Any, T]], /
    ) -> AgentTaskDefinition[AgentFuture[T]]: ...
    @overload
    def __call__(self, fn: Callable[..., T], /) -> AgentTaskDefinition[AgentFuture[T]]: ...


class _PairDecorator(Protocol):
    @overload
    def __call__(
        self, fn: Callable[..., Coroutine[Any, Any, tuple[T1, T2]]], /
    ) -> AgentTaskDefinition[tuple[AgentFuture[T1], AgentFuture[T2]]]: ...
    @overload
    def __call__(
        self, fn: Callable[..., tuple[T1, T2]], /
    ) -> AgentTaskDefinition[tuple[AgentFuture[T1], AgentFuture[T2]]]: ...


class _TripleDecorator(Protocol):
    @overload
    def __call__(
        self, fn: Callable[..., Coroutine[Any, Any, tuple[T1, T2, T3]]], /
    ) -> AgentTaskDefinition[tuple[AgentFuture[T1], AgentFuture[T2], AgentFuture[T3]]]: ...
    @overload
    def __call__(
        self, fn: Callable[..., tuple[T1, T2, T3]], /
    ) -> AgentTaskDefinition[tuple[AgentFuture[T1], AgentFuture[T2], AgentFuture[T3]]]: ...


class _ManyDecorator(Protocol):
    def __call__(
        self, fn: Callable[..., Any], /
    ) -> AgentTaskDefinition[tuple[AgentFuture[Any], ...]]: ...


@overload
def agent_task(
    fn: Callable[..., Coroutine[Any, Any, AgentFuture[T]]], /
) -> AgentTaskDefinition[AgentFuture[T]]: ...
@overload
def agent_task(
    fn: Callable[..., Coroutine[Any, Any, T]], /
) -> AgentTaskDefinition[AgentFuture[T]]: ...
@overload
def agent_task(fn: Callable[..., T], /) -> AgentTaskDefinition[AgentFuture[T]]: ...
@overload
def agent_task(  # type: ignore[overload-overlap]  # literals are the better match
    *,
    task_type: str = ...,
    retries: int = ...,
    timeout: float | None = ...,
    retry_delay: float = ...,
    num_returns: Literal[1] = ...,
) -> _Decorator: ...
@overload
def agent_task(
    *,
    num_returns: Literal[2],
    task_type: str = ...,
    retries: int = ...,
    timeout: float | None = ...,
    retry_delay: float = ...,
) -> _PairDecorator: ...
@overload
def agent_task(
    *,
    num_returns: Literal[3],
    task_type: str = ...,
    retries: int = ...,
    timeout: float | None = ...,
    retry_delay: float = ...,
) -> _TripleDecorator: ...
@overload
def agent_task(
    *,
    num_returns: int,
    task_type: str = ...,
    retries: int = ...,
    timeout: float | None = ...,
    retry_delay: float = ...,
) -> _ManyDecorator: ...
def agent_task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    task_type: str = NORMAL_TASK,
    retries: int = 0,
    timeout: float | None = None,
    retry_delay: float = 0.0,
    num_returns: int = 1,
) -> Any:
    """Make a function, or any callable, a task: `@agent_task` or `@agent_task(retries=2)`.

    Calls return an `AgentFuture`, or a tuple of `num_returns` of them. Coroutine functions run in
    the runtime's event loop, everything else on a worker thread. `retries`, `timeout` and
    `retry_delay` are those of `TaskPolicy`. ValueError if one is out of range.
    """
    policy = TaskPolicy(retries=retries, timeout=timeout, retry_delay=retry_delay)

    def decorate(fn: Any) -> Any:
        if isinstance(fn, classmethod | staticmethod):
            return type(fn)(decorate(fn.__func__))
        if isinstance(fn, AgentTaskDefinition):
            raise TypeError(f"{fn!r} is a task already: change it with .policy(...)")
        if not callable(fn):
            raise TypeError(f"agent_task takes a callable, not {type(fn).__name__}")
        return AgentTaskDefinition(fn, _spec(fn, policy, num_returns, task_type))

    return decorate if fn is None else decorate(fn)


def _spec(fn: Callable[..., Any], policy: TaskPolicy, num_returns: Any, task_type: str) -> TaskSpec:
    if not isinstance(num_returns, int) or isinstance(num_returns, bool) or num_returns < 1:
        raise ValueError(f"num_returns must be a whole number of at least 1, not {num_returns!r}")
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    return TaskSpec(
        fn,
        name=getattr(plain, "__qualname__", type(plain).__qualname__),
        is_coroutine=gives_a_coroutine(plain),
        policy=policy,
        num_returns=num_returns,
        task_type=task_type,
    )


def _one_of(values: Any, index: int, count: int, name: str) -> Any:
    """One of several results of a task."""
    if isinstance(values, str | bytes | Mapping | AbstractSet) or not hasattr(
        values, "__getitem__"
    ):
        length = "N/A"
    else:
        length = str(len(values))
    if length != str(count):
        raise ValueError(
            f"Task {name} declared num_returns={count} but returned "
            f"{type(values).__name__} of length {length}"
        )
    return values[index]


@overload
def resolve(future: AgentFuture[T], *, timeout: float | None = None) -> T: ...
@overload
def resolve(future: Sequence[AgentFuture[T]], *, timeout: float | None = None) -> list[T]: ...
def resolve(future: Any, *, timeout: float | None = None) -> Any:
    """Block this thread until the future has its value, and return it; of a sequence, a list.

    Raises the task's own error, `TaskCancelledError` if it was cancelled, `TimeoutError` after
    `timeout` seconds for each future (the task goes on), `RuntimeError` in the runtime's own event
    loop, where it would wait for itself: there, `await` the future.
    """
    if isinstance(future, AgentFuture):
        return future.af_result(timeout)
    if isinstance(future, Sequence) and not isinstance(future, str | bytes):
        return [one.af_result(timeout) for one in future]
    raise TypeError(
        f"resolve() takes a future or a sequence of futures, not {type(future).__name__}"
    )
