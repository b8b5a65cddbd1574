"""Operators on futures.

Most extend the graph: `total + 1` is a new future. A few have to give a plain value at once: those
are barriers, which block until it is there and warn that they did.

Python's own protocol names (`__x__`) and the `af_` names never become tasks by attribute access,
so that `copy`, `pickle`, `inspect` and debuggers can look at a future without adding to the graph.
"""

from __future__ import annotations

import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from motus.runtime.node import DONE, Node
from motus.runtime.policy import TaskSpec, gives_a_coroutine
from motus.runtime.submit import submit
from motus.runtime.types import MAGIC_TASK

if TYPE_CHECKING:
    from motus.runtime.future import AgentFuture

__all__ = ["Operators"]


# How a program writes the operations that are no calls.
_SIGNS: Final = {"__eq__": "==", "__ne__": "!=", "__contains__": "in"}


def _inline(name: str, fn: Callable[..., Any]) -> TaskSpec:
    return TaskSpec(fn, name=name, is_coroutine=False, inline=True, task_type=MAGIC_TASK)


def _deferred(name: str, fn: Callable[..., Any]) -> Callable[..., AgentFuture[Any]]:
    spec = _inline(name, fn)

    def method(self: Node, *others: Any) -> AgentFuture[Any]:
        frame = sys._getframe(1)  # noqa: SLF001  # documented; inspect's way costs a hundred times as much
        future: Any = submit(type(self), spec, (self, *others), None, frame.f_code, frame.f_lasti)
        return future  # type: ignore[no-any-return]  # the class of `self`

    method.__name__ = name
    method.__doc__ = "A future of the operation's result."
    return method


def _reflected(name: str, fn: Callable[..., Any]) -> Callable[..., AgentFuture[Any]]:
    return _deferred(name, lambda value, other: fn(other, value))


def _barrier(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    operation = _SIGNS.get(name, f"{name.strip('_')}()")

    def method(self: AgentFuture[Any], *others: Any) -> Any:
        _warn(name)
        futures = type(self)
        value = _value(self, operation)
        return fn(value, *(_value(o, operation) if isinstance(o, futures) else o for o in others))

    method.__name__ = name
    method.__doc__ = "Blocks until the value is there."
    return method


def _value(future: AgentFuture[Any], operation: str) -> Any:
    if future.af_state < DONE:
        reason = (
            f" Here {operation} needs the value of task '{future.af_spec.name}' "
            f"(id={future.af_id}): apply it to what 'await' returns."
        )
        if operation == "hash()":
            # What `asyncio.gather(*futures)` comes to.
            reason += (
                " Sets, dict keys and asyncio.gather() hash what they get; to wait for several "
                "futures: [await one for one in futures]."
            )
        future.af_runtime.block(future, None, reason)
    return future.af_result()


def _warn(name: str) -> None:
    if os.environ.get("MOTUS_QUIET_SYNC", "").lower() in ("1", "true", "yes", "on"):
        return
    warnings.warn(
        f"AgentFuture.{name}() implicitly blocked to resolve value. "
        "Set MOTUS_QUIET_SYNC=1 to suppress.",
        UserWarning,
        stacklevel=3,
    )


async def _call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], future: type[Node]
) -> Any:
    """Call what a future stands for: coroutines and tasks here, anything else on a thread."""
    if gives_a_coroutine(function):
        return await function(*args, **kwargs)
    if hasattr(function, "unwrap_task"):
        return function(*args, **kwargs)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    spec = TaskSpec(function, name=name, is_coroutine=False, task_type=MAGIC_TASK)
    return submit(future, spec, args, kwargs, None, 0)


_ATTRIBUTE: Final = _inline("__getattr__", getattr)
_CALL: Final = TaskSpec(_call, name="__call__", is_coroutine=True, task_type=MAGIC_TASK)


class Operators(Node):
    """The operators of `AgentFuture`; its own attributes all begin with `af_`."""

    __slots__ = ()

    __add__ = _deferred("__add__", operator.add)
    __radd__ = _reflected("__radd__", operator.add)
    __sub__ = _deferred("__sub__", operator.sub)
    __rsub__ = _reflected("__rsub__", operator.sub)
    __mul__ = _deferred("__mul__", operator.mul)
    __rmul__ = _reflected("__rmul__", operator.mul)
    __truediv__ = _deferred("__truediv__", operator.truediv)
    __rtruediv__ = _reflected("__rtruediv__", operator.truediv)
    __floordiv__ = _deferred("__floordiv__", operator.floordiv)
    __rfloordiv__ = _reflected("__rfloordiv__", operator.floordiv)
    __mod__ = _deferred("__mod__", operator.mod)
    __rmod__ = _reflected("__rmod__", operator.mod)
    __matmul__ = _deferred("__matmul__", operator.matmul)
    __rmatmul__ = _reflected("__rmatmul__", operator.matmul)
    __pow__ = _deferred("__pow__", pow)
    __rpow__ = _reflected("__rpow__", operator.pow)
    __divmod__ = _deferred("__divmod__", divmod)
    __rdivmod__ = _reflected("__rdivmod__", divmod)
    __and__ = _deferred("__and__", operator.and_)
    __rand__ = _reflected("__rand__", operator.and_)
    __or__ = _deferred("__or__", operator.or_)
    __ror__ = _reflected("__ror__", operator.or_)
    __xor__ = _deferred("__xor__", operator.xor)
    __rxor__ = _reflected("__rxor__", operator.xor)
    __lshift__ = _deferred("__lshift__", operator.lshift)
    __rlshift__ = _reflected("__rlshift__", operator.lshift)
    __rshift__ = _deferred("__rshift__", operator.rshift)
    __rrshift__ = _reflected("__rrshift__", operator.rshift)
    __neg__ = _deferred("__neg__", operator.neg)
    __pos__ = _deferred("__pos__", operator.pos)
    __abs__ = _deferred("__abs__", abs)
    __invert__ = _deferred("__invert__", operator.invert)
    __round__ = _deferred("__round__", round)
    __lt__ = _deferred("__lt__", operator.lt)
    __le__ = _deferred("__le__", operator.le)
    __gt__ = _deferred("__gt__", operator.gt)
    __ge__ = _deferred("__ge__", operator.ge)
    __getitem__ = _deferred("__getitem__", operator.getitem)

    __bool__ = _barrier("__bool__", bool)
    __str__ = _barrier("__str__", str)
    __len__ = _barrier("__len__", len)
    __iter__: Callable[..., Iterator[Any]] = _barrier("__iter__", iter)
    __int__ = _barrier("__int__", int)
    __float__ = _barrier("__float__", float)
    __complex__ = _barrier("__complex__", complex)
    __index__ = _barrier("__index__", operator.index)
    __eq__ = _barrier("__eq__", operator.eq)
    __ne__ = _barrier("__ne__", operator.ne)
    __hash__ = _barrier("__hash__", hash)
    __contains__ = _barrier("__contains__", operator.contains)
    __format__ = _barrier("__format__", format)

    def __getattr__(self, name: str) -> AgentFuture[Any]:
        if name.startswith("af_") or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"a future has no attribute {name!r}")
        frame = sys._getframe(1)  # noqa: SLF001  # as above
        future: Any = submit(
            type(self), _ATTRIBUTE, (self, name), None, frame.f_code, frame.f_lasti
        )
        return future  # type: ignore[no-any-return]  # the class of `self`

    def __call__(self, *args: Any, **kwargs: Any) -> AgentFuture[Any]:
        """A future of the result of calling what this future stands for."""
        frame = sys._getframe(1)  # noqa: SLF001  # as above
        arguments = (self, args, kwargs, type(self))
        future: Any = submit(type(self), _CALL, arguments, None, frame.f_code, frame.f_lasti)
        return future  # type: ignore[no-any-return]  # the class of `self`
