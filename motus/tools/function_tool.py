"""Functions as tools."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, ParamSpec, Self, TypeVar

import attrs
from pydantic import BaseModel

from motus.guardrails import Guardrail
from motus.runtime.agent_task import AgentTaskDefinition
from motus.runtime.containers import ATOMS, futures_in
from motus.runtime.future import AgentFuture
from motus.runtime.hooks import HookCallback
from motus.runtime.policy import TaskSpec, gives_a_coroutine
from motus.runtime.submit import submit
from motus.tools.arguments import (
    SchemaArguments,
    SignatureArguments,
    innermost,
    layers,
    plain,
)
from motus.tools.base import Hook, Tool, callbacks, decode_arguments
from motus.tools.schema import strict_schema, without_added_nulls

__all__ = ["FunctionTool", "Parameters", "ReturnType", "ToolOptions", "ToolSchema", "options_of"]

Parameters = ParamSpec("Parameters")
ReturnType = TypeVar("ReturnType")

_log: Final = logging.getLogger("motus.tools")

# A pydantic model, or a JSON schema that the model is told while the signature checks.
ToolSchema = type[BaseModel] | dict[str, Any]


def _several(guardrails: Iterable[Guardrail] | None) -> tuple[Guardrail, ...] | None:
    return None if guardrails is None else tuple(guardrails)


def _hooks(hook: Hook) -> tuple[HookCallback, ...] | None:
    return None if hook is None else callbacks(hook)


@attrs.frozen
class ToolOptions:
    """What `@tool` leaves on a function; None is what was not said.

    Of what can be gone through only once there would be nothing left for the second tool.
    """

    name: str | None = None
    description: str | None = None
    schema: ToolSchema | None = None
    requires_approval: bool | None = None
    strict: bool | None = None
    input_guardrails: tuple[Guardrail, ...] | None = attrs.field(default=None, converter=_several)
    output_guardrails: tuple[Guardrail, ...] | None = attrs.field(default=None, converter=_several)
    on_start: tuple[HookCallback, ...] | None = attrs.field(default=None, converter=_hooks)
    on_end: tuple[HookCallback, ...] | None = attrs.field(default=None, converter=_hooks)
    on_error: tuple[HookCallback, ...] | None = attrs.field(default=None, converter=_hooks)


def options_of(function: object) -> ToolOptions:
    """What `@tool` has left on a function, or on one inside of it."""
    for one in layers(function) if callable(function) else ():
        options = getattr(one, "__motus_tool__", None)
        if isinstance(options, ToolOptions):
            return options
    return ToolOptions()


class FunctionTool(Tool):
    """A function that a model can call.

    Name, description and schema come from the function, its docstring and its signature, where
    `@tool` or an argument does not say otherwise. Coroutine functions run in the event loop, tasks
    as tasks, other functions on a worker thread.

    With `strict` the schema is in the subset that providers can hold a model to: objects are
    closed, and null stands for what is left out.

    Raises `ValueError` if there is no name, or for what the strict subset has no words for, and
    `TypeError` for annotations that no JSON schema can express.
    """

    def __init__(
        self,
        func: Callable[Parameters, ReturnType],
        name: str | None = None,
        schema: ToolSchema | None = None,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
        requires_approval: bool | None = None,
        *,
        strict: bool | None = None,
    ) -> None:
        inside, options = innermost(func), options_of(func)
        if name is None:
            name = options.name or str(getattr(inside, "__name__", ""))
            # A lambda has a name that says that it has none.
            name = "" if name == "<lambda>" else name
        if requires_approval is None:
            requires_approval = bool(options.requires_approval)
        documented = inside if inspect.isroutine(inside) else type(inside)
        # A method that says nothing of itself may have one above it that does.
        doc = inspect.getdoc(func) if inspect.ismethod(func) else documented.__doc__
        super().__init__(
            name,
            options.description or inspect.cleandoc(doc or ""),
            requires_approval=requires_approval,
            input_guardrails=_first(input_guardrails, options.input_guardrails),
            output_guardrails=_first(output_guardrails, options.output_guardrails),
            on_start=options.on_start,
            on_end=options.on_end,
            on_error=options.on_error,
        )
        self.func = func
        self.logs_failures = not str(getattr(inside, "__module__", "")).startswith("motus.")
        self._on_thread = _on_thread(func)
        self._positional = _positional_only(func)
        self._set_schema(
            options.schema if schema is None else schema,
            options.strict if strict is None else strict,
        )

    @property
    def schema_model(self) -> type[BaseModel]:
        """The pydantic model that checks the arguments."""
        return self._arguments.model

    def validate(self, arguments: str) -> dict[str, Any]:
        # For its own messages, and for the models that send nothing where there is nothing to say.
        given = decode_arguments(arguments)
        if self.strict:
            given = without_added_nulls(given, self._schema)
        if self.strict or not arguments.strip():
            arguments = json.dumps(given)
        return self._arguments.validate(arguments)

    async def invoke(self, arguments: dict[str, Any]) -> Any:
        args, named = self._split(arguments)
        function: Any = self.func
        result = (
            function(*args, **named)
            if self._on_thread is None
            else submit(AgentFuture, self._on_thread, tuple(args), named, None, 0)
        )
        while inspect.isawaitable(result):
            # More than once where a plain function returns a coroutine.
            result = await result
        if type(result) not in ATOMS and futures_in((result,)):
            return await submit(AgentFuture, _VALUES, (result,), None, None, 0)
        return result

    def _split(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """What is given by position, and what by name."""
        args, named = [], dict(arguments)
        for parameter in self._positional:
            value = named.pop(parameter.name, parameter.default)
            if value is parameter.empty:
                # The function will say what it misses.
                break
            args.append(value)
        return args, named

    def configure(
        self, *, schema: ToolSchema | None = None, strict: bool | None = None, **changes: Any
    ) -> Self:
        super().configure(**changes)
        if schema is not None or strict is not None:
            self._set_schema(
                self._given if schema is None else schema, self.strict if strict is None else strict
            )
        return self

    def _set_schema(self, schema: ToolSchema | None, strict: bool | None) -> None:
        arguments: SchemaArguments | SignatureArguments
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            arguments = SchemaArguments(self.func, schema)
        elif schema is None or isinstance(schema, dict):
            arguments = SignatureArguments(self.func)
            if arguments.untold and not self.input_guardrails:
                # No warning of Python's, which is an error in many tests.
                _log.warning(
                    "tool '%s' cannot be called: a model neither sees nor sets a parameter without "
                    "an annotation, and there is no default for %s",
                    self.name,
                    ", ".join(arguments.untold),
                )
        else:
            raise TypeError(
                f"the schema of {self.name} must be a pydantic model or a JSON schema, "
                f"not {schema!r:.80}"
            )
        loose = schema if isinstance(schema, dict) else arguments.json_schema
        self.json_schema = strict_schema(loose) if strict else loose
        self.strict = strict
        self._given, self._arguments, self._schema = schema, arguments, loose


def _positional_only(func: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that cannot be given by name."""
    parameters = inspect.signature(plain(func)).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_ONLY]


def _first(mine: Iterable[Guardrail] | None, other: Iterable[Guardrail] | None) -> Any:
    return other if mine is None else mine


def _on_thread(func: Callable[..., Any]) -> TaskSpec | None:
    """The function as a task on a thread, hidden from hooks; None if it runs in the loop.

    On a thread of the runtime, because a function that blocks in `resolve()` must not use them up.
    """
    if isinstance(func, AgentTaskDefinition) or gives_a_coroutine(_outermost(func)):
        return None
    inside = innermost(func)
    name = getattr(inside, "__qualname__", type(inside).__qualname__)
    spec = TaskSpec(func, name=name, is_coroutine=False)
    spec.is_observed = False
    return spec


async def _as_it_is(value: Any) -> Any:
    """The body of a task gets the values of futures in their place, however nested."""
    return value


_VALUES: Final = TaskSpec(_as_it_is, name="futures of a result", is_coroutine=True)
_VALUES.is_observed = False


def _outermost(func: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(func, functools.partial):
        func = func.func
    return func
