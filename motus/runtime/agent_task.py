"""`@agent_task`: a function whose calls become nodes of the task graph."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import CodeType
from typing import (
    Any,
    Generic,
    Literal,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import attrs

from motus.runtime.future import AgentFuture
from motus.runtime.hooks import HookCallback
from motus.runtime.policy import RetryOn, TaskPolicy, TaskSpec, gives_a_coroutine
from motus.runtime.submit import submit
from motus.runtime.types import NORMAL_TASK

__all__ = [
    "AgentTaskDefinition",
    "PolicyOptions",
    "TaskOptions",
    "agent_task",
    "make_spec",
    "register_agent_task",
    "resolve",
]

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")

Hook = HookCallback | Iterable[HookCallback] | None


class PolicyOptions(TypedDict, total=False):
    """The fields of `TaskPolicy`, as keyword arguments."""

    retries: int
    timeout: float | None
    retry_delay: float
    retry_backoff: float
    retry_jitter: float
    retry_on: RetryOn


class TaskOptions(PolicyOptions, total=False):
    """What `agent_task` takes beside the number of results."""

    task_type: str
    on_start: Hook
    on_end: Hook
    on_error: Hook


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
        self._become(spec, bound)

    def _become(self, spec: TaskSpec, bound: tuple[Any, ...]) -> None:
        self._spec = spec
        self._bound = bound
        self._many = spec.num_returns > 1
        self._special = self._many or bool(bound)

    def _copy(self, spec: TaskSpec, bound: tuple[Any, ...]) -> AgentTaskDefinition[Any]:
        """With whatever others have left on this one, as on any function."""
        copied = copy.copy(self)
        copied._become(spec, bound)  # noqa: SLF001  # of the same class
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        frame = sys._getframe(1)  # noqa: SLF001  # documented; inspect's way costs a hundred times as much
        if self._special:
            return self.call_from(frame.f_code, frame.f_lasti, (*self._bound, *args), kwargs)
        return submit(AgentFuture, self._spec, args, kwargs, frame.f_code, frame.f_lasti)  # type: ignore[return-value]  # R_co is AgentFuture here

    def call_from(
        self, code: CodeType, instruction: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> R_co:
        """Call it as from another place, of a frame's `f_code` and `f_lasti`."""
        spec = self._spec
        whole = submit(AgentFuture, spec, args, kwargs, code, instruction)
        if not self._many:
            return cast("R_co", whole)
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
        return self._copy(self._spec, (instance, *self._bound))

    def __repr__(self) -> str:
        return f"<agent_task '{self._spec.name}'>"

    @overload
    def policy(self, **changes: Unpack[PolicyOptions]) -> AgentTaskDefinition[R_co]: ...
    @overload
    def policy(
        self, *, num_returns: int, **changes: Unpack[PolicyOptions]
    ) -> AgentTaskDefinition[Any]: ...
    def policy(self, *, num_returns: int | None = None, **changes: Any) -> AgentTaskDefinition[Any]:
        """The same task with another policy; this one stays as it is.

        TypeError for a name that is not one of TaskPolicy's, ValueError for a value out of range.
        """
        _check_known("policy", changes, PolicyOptions)
        spec = self._spec
        changed = make_spec(
            self._fn,
            attrs.evolve(spec.policy, **changes),
            spec.num_returns if num_returns is None else num_returns,
            spec.task_type,
            spec.hooks,
        )
        return self._copy(changed, self._bound)

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
    *, num_returns: Literal[1] = ..., **options: Unpack[TaskOptions]
) -> _Decorator: ...
@overload
def agent_task(*, num_returns: Literal[2], **options: Unpack[TaskOptions]) -> _PairDecorator: ...
@overload
def agent_task(*, num_returns: Literal[3], **options: Unpack[TaskOptions]) -> _TripleDecorator: ...
@overload
def agent_task(*, num_returns: int, **options: Unpack[TaskOptions]) -> _ManyDecorator: ...
def agent_task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    task_type: str = NORMAL_TASK,
    retries: int = 0,
    timeout: float | None = None,
    retry_delay: float = 0.0,
    retry_backoff: float = 1.0,
    retry_jitter: float = 0.0,
    retry_on: RetryOn = None,
    num_returns: int = 1,
    on_start: Hook = None,
    on_end: Hook = None,
    on_error: Hook = None,
    **unknown: Any,
) -> Any:
    """Make a function, or any callable, a task: `@agent_task` or `@agent_task(retries=2)`.

    Calls return an `AgentFuture`, or a tuple of `num_returns` of them. Coroutine functions run in
    the runtime's event loop, everything else on a worker thread. `retries`, `timeout` and the
    options that begin with `retry_` are those of `TaskPolicy`; `on_start`, `on_end` and `on_error`
    are hooks, one or a list, for this task alone. ValueError if a value is out of range.
    """
    _check_known("option", unknown, TaskOptions)
    policy = TaskPolicy(
        retries=retries,
        timeout=timeout,
        retry_delay=retry_delay,
        retry_backoff=retry_backoff,
        retry_jitter=retry_jitter,
        retry_on=retry_on,
    )
    hooks = _hooks(on_start, on_end, on_error)

    def decorate(fn: Any) -> Any:
        if isinstance(fn, classmethod | staticmethod):
            return type(fn)(decorate(fn.__func__))
        if isinstance(fn, AgentTaskDefinition):
            raise TypeError(f"{fn!r} is a task already: change it with .policy(...)")
        if not callable(fn):
            raise TypeError(f"agent_task takes a callable, not {type(fn).__name__}")
        return AgentTaskDefinition(fn, make_spec(fn, policy, num_returns, task_type, hooks))

    return decorate if fn is None else decorate(fn)


def register_agent_task(
    func: Callable[..., Any],
    *args: Any,
    policy: TaskPolicy | None = None,
    num_returns: int = 1,
    creation_stack: object = None,
    on_start: Hook = None,
    on_end: Hook = None,
    on_error: Hook = None,
    parent_stack: object = None,
    task_type: str = NORMAL_TASK,
    **kwargs: Any,
) -> Any:
    """Call a function as a task without decorating it; what a decorated one would return.

    `creation_stack` and `parent_stack` are accepted for compatibility: where the call was made is
    found out here.
    """
    hooks = _hooks(on_start, on_end, on_error)
    spec = make_spec(func, policy or TaskPolicy(), num_returns, task_type, hooks)
    frame = sys._getframe(1)  # noqa: SLF001  # as in AgentTaskDefinition
    return AgentTaskDefinition(func, spec).call_from(frame.f_code, frame.f_lasti, args, kwargs)


def _check_known(kind: str, given: Mapping[str, Any], options: type) -> None:
    known = options.__annotations__
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"unknown {kind} {', '.join(unknown)}: it must be one of "
            f"{', '.join(sorted({*known, 'num_returns'}))}"
        )


def _hooks(on_start: Hook, on_end: Hook, on_error: Hook) -> dict[str, tuple[HookCallback, ...]]:
    given = {"task_start": on_start, "task_end": on_end, "task_error": on_error}
    hooks: dict[str, tuple[HookCallback, ...]] = {}
    for event, hook in given.items():
        if hook is None:
            continue
        callbacks = (hook,) if callable(hook) else tuple(hook)
        for callback in callbacks:
            if not callable(callback):
                raise TypeError(f"a hook must be callable, not {type(callback).__name__}")
        hooks[event] = callbacks
    return hooks


def make_spec(
    fn: Callable[..., Any],
    policy: TaskPolicy,
    num_returns: Any,
    task_type: str,
    hooks: Mapping[str, tuple[HookCallback, ...]],
) -> TaskSpec:
    """What is the same for every call of the function.

    ValueError for a wrong `num_returns`, TypeError for an asynchronous generator function.
    """
    if not isinstance(num_returns, int) or isinstance(num_returns, bool) or num_returns < 1:
        raise ValueError(f"num_returns must be a whole number of at least 1, not {num_returns!r}")
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    name = getattr(plain, "__qualname__", type(plain).__qualname__)
    if inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"'{name}' cannot be a task: an `async def` with `yield` gives values one by one, and "
            "a task has one result. Return a list of them, or call a task for each."
        )
    return TaskSpec(
        fn,
        name=name,
        is_coroutine=gives_a_coroutine(plain),
        policy=policy,
        num_returns=num_returns,
        task_type=task_type,
        hooks=hooks,
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
def resolve(future: Iterable[AgentFuture[T]], *, timeout: float | None = None) -> list[T]: ...
def resolve(future: Any, *, timeout: float | None = None) -> Any:
    """Block this thread until the future has its value, and return it; of several, a list.

    Raises the task's own error, `TaskCancelledError` if it was cancelled, `TimeoutError` after
    `timeout` seconds for each future (the task goes on), `RuntimeError` in the runtime's own event
    loop, where it would wait for itself: there, `await` the future.
    """
    if isinstance(future, AgentFuture):
        return future.af_result(timeout)
    if isinstance(future, Iterable) and not isinstance(future, str | bytes | Mapping):
        return [one.af_result(timeout) for one in list(future)]
    raise TypeError(f"resolve() takes a future or several in a list, not {type(future).__name__}")
