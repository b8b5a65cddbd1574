"""Guardrails: functions that look at what goes in and what comes out, and may change or refuse it.

A guardrail returns None to let the value through, another value to take its place, or raises to
refuse it. It may be a coroutine function. Plain functions are called in the event loop, so they
must not block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import anyio

from motus.errors import MotusError

__all__ = [
    "Guardrail",
    "GuardrailTripped",
    "InputGuardrailTripped",
    "OutputGuardrailTripped",
    "ToolInputGuardrailTripped",
    "ToolOutputGuardrailTripped",
    "ToolRejected",
    "run_guardrails",
    "run_structured_output_guardrails",
    "run_tool_input_guardrails",
    "run_tool_output_guardrails",
]

Guardrail = Callable[..., Any]


class GuardrailTripped(MotusError):  # noqa: N818  # the documented name, as are those below
    """A guardrail refuses a value. Raised by an agent's guardrails, it ends the run."""

    def __init__(self, message: str = "Guardrail tripped") -> None:
        super().__init__(message)
        self.message = message


class InputGuardrailTripped(GuardrailTripped):
    """The prompt of an agent is refused."""


class OutputGuardrailTripped(GuardrailTripped):
    """The answer of an agent is refused."""


class ToolInputGuardrailTripped(GuardrailTripped):
    """The arguments of a tool are refused: the model is told so, and the run goes on."""


class ToolRejected(ToolInputGuardrailTripped):
    """A human has not approved the call of a tool."""


class ToolOutputGuardrailTripped(GuardrailTripped):
    """The result of a tool is refused: the model is told so, and the run goes on."""


async def run_guardrails(
    guardrails: Iterable[Guardrail] | None,
    value: Any,
    *,
    agent: Any = None,
    parallel: bool = False,
) -> Any:
    """The value after all guardrails: each one sees what the one before it has returned.

    Those with a parameter named `agent` get `agent`. With `parallel` they run at the same time on
    the same value, and what they return counts for nothing: the first that raises cancels the
    others.
    """
    bound = [partial(_call_on_value, guardrail, agent) for guardrail in guardrails or ()]
    if parallel:
        await _run_in_parallel([partial(call, value) for call in bound])
        return value
    for call in bound:
        returned = await call(value)
        if returned is not None:
            value = returned
    return value


async def run_tool_input_guardrails(
    guardrails: Iterable[Guardrail] | None, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a tool after all guardrails.

    A guardrail names the arguments that it wants as parameters; one with `**kwargs` gets all. It
    is skipped where an argument that it needs is missing. A dict that it returns is merged into
    the arguments; TypeError if it returns anything else but None.
    """
    return await _run_on_fields(guardrails, kwargs, {})


async def run_tool_output_guardrails(guardrails: Iterable[Guardrail] | None, value: Any) -> Any:
    """The result of a tool after all guardrails, each of which takes the result alone."""
    for guardrail in guardrails or ():
        returned = await _finished(guardrail(value))
        if returned is not None:
            value = returned
    return value


async def run_structured_output_guardrails(
    guardrails: Iterable[Guardrail] | None, fields: Mapping[str, Any], *, agent: Any = None
) -> dict[str, Any]:
    """The fields of a structured answer after all guardrails, which ask for fields by name.

    As with the arguments of a tool, and `agent` goes to those with a parameter of that name,
    unless it is a field's.
    """
    return await _run_on_fields(guardrails, fields, {"agent": agent})


async def _run_on_fields(
    guardrails: Iterable[Guardrail] | None, fields: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    result = dict(fields)
    for guardrail in guardrails or ():
        arguments = _by_name(guardrail, result, extra)
        if arguments is None:
            continue
        returned = await _finished(guardrail(*arguments[0], **arguments[1]))
        if returned is None:
            continue
        if not isinstance(returned, Mapping):
            raise TypeError(
                f"guardrail {_name(guardrail)} must return a dict of what it changes, or None, "
                f"not {type(returned).__name__}"
            )
        result.update(returned)
    return result


def _by_name(
    guardrail: Guardrail, fields: Mapping[str, Any], extra: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a guardrail, positional and by keyword; None if it is to be skipped."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    everything = False
    for name, parameter in inspect.signature(guardrail).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            everything = True
        elif name in fields or name in extra:
            value = fields[name] if name in fields else extra[name]
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                keywords[name] = value
        elif parameter.default is parameter.empty:
            return None
    if everything:
        keywords.update(fields)
    return positional, keywords


async def _call_on_value(guardrail: Guardrail, agent: Any, value: Any) -> Any:
    try:
        wants_agent = "agent" in inspect.signature(guardrail).parameters
    except ValueError:
        # Some built-in functions and types have none that can be looked at.
        wants_agent = False
    keywords = {"agent": agent} if wants_agent else {}
    return await _finished(guardrail(value, **keywords))


async def _finished(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


async def _run_in_parallel(calls: list[Callable[[], Any]]) -> None:
    """Run all; the first error cancels the others and is raised as it is, not in a group."""
    errors: list[Exception] = []

    async def run(call: Callable[[], Any]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001  # raised below
            errors.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(run, call)
    if errors:
        raise errors[0]


def _name(guardrail: Guardrail) -> str:
    return getattr(guardrail, "__qualname__", repr(guardrail))
