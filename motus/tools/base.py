"""What a tool is, and the way of every call: from the model's text to the text for the model."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import FrameType
from typing import Any, Final, Self

from pydantic_core import from_json

from motus.guardrails import (
    Guardrail,
    ToolRejected,
    run_tool_input_guardrails,
    run_tool_output_guardrails,
)
from motus.messages import ToolDefinition
from motus.runtime.future import AgentFuture
from motus.runtime.hooks import HookCallback
from motus.runtime.policy import TaskSpec
from motus.runtime.submit import submit
from motus.runtime.types import TOOL_CALL
from motus.serve.interrupt import interrupt
from motus.tools.results import (
    encode_error,
    encode_json,
    encode_text,
    is_failure,
    log_failure,
    to_jsonable,
)

__all__ = ["Hook", "Tool", "callbacks", "check_name", "decode_arguments"]

Hook = HookCallback | Iterable[HookCallback] | None

# What every provider takes, and how much of it: 64 is the limit of OpenAI and of Gemini, which
# wants no digit and no dash at the beginning.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class Tool(ABC):
    """Something that a model can call.

    Subclasses give `invoke`, which gets checked arguments and returns any value, or `_invoke`,
    which gets them as keywords; everything around it is done here: decoding, guardrails, approval,
    hooks, encoding. Whatever goes wrong becomes the result `{"error": ...}`, so that the model can
    do better; only cancellation does not.

    `tool(arguments)` takes the arguments as the JSON text of an object and returns a future of the
    result as JSON. `tool.run(arguments)` is the same for a conversation: there a result that is a
    string stays as it is. Each call is a `tool_call` task, which fails where the call does: that
    is what hooks and traces see. What `invoke` raises is logged as well.
    """

    # False for our own tools, whose errors are written for a model.
    logs_failures = True

    def __init__(
        self,
        name: str,
        description: str = "",
        json_schema: dict[str, Any] | None = None,
        *,
        requires_approval: bool = False,
        input_guardrails: Iterable[Guardrail] | None = None,
        output_guardrails: Iterable[Guardrail] | None = None,
        on_start: Hook = None,
        on_end: Hook = None,
        on_error: Hook = None,
    ) -> None:
        self.name = check_name(name)
        self.description = description
        self.json_schema = json_schema or {"type": "object", "properties": {}}
        # None leaves it to the provider; True promises that the schema keeps to its strict subset.
        self.strict: bool | None = None
        self.requires_approval = requires_approval
        self.input_guardrails = list(input_guardrails or ())
        self.output_guardrails = list(output_guardrails or ())
        self.on_start = callbacks(on_start)
        self.on_end = callbacks(on_end)
        self.on_error = callbacks(on_error)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_invoke" in vars(cls) and "invoke" not in vars(cls):
            cls.invoke = _by_keywords  # type: ignore[method-assign]  # it is made of the other one

    def definition(self) -> ToolDefinition:
        """The tool as a model is told of it."""
        return ToolDefinition(self.name, self.description, self.json_schema, self.strict)

    def __call__(self, arguments: str = "{}") -> AgentFuture[str]:
        """Call it with the JSON text of an object; the result as JSON, strings in quotes."""
        return self.call_from(sys._getframe(1), arguments, encode_json)  # noqa: SLF001  # as in AgentTaskDefinition

    def run(self, arguments: str) -> AgentFuture[str]:
        """Call it as a model does; the result as a conversation shows it, strings as they are."""
        return self.call_from(sys._getframe(1), arguments, encode_text)  # noqa: SLF001  # as above

    def call_from(
        self, frame: FrameType, arguments: str, encode: Callable[[Any], str]
    ) -> AgentFuture[str]:
        """Call it as from another place; `encode` makes the result a text."""
        args = (self, arguments, encode)
        return submit(AgentFuture, self._specs[0], args, None, frame.f_code, frame.f_lasti)

    def start(self, frame: FrameType, arguments: str) -> AgentFuture[str]:
        """Like `run`, but the future fails where the call does: it is the `tool_call` itself.

        For an agent's loop, which makes a result of the error: one node less for each call. A
        class with a `__call__` of its own, which may have reasons, is called by that instead.
        """
        if type(self).__call__ is not Tool.__call__:
            own = self._specs[2]
            return submit(AgentFuture, own, (self, arguments), None, frame.f_code, frame.f_lasti)
        args = (self, arguments, encode_text)
        return submit(AgentFuture, self._specs[1], args, None, frame.f_code, frame.f_lasti)

    def validate(self, arguments: str) -> dict[str, Any]:
        """What `invoke` gets. Raises `ValueError` that tells the model what is wrong."""
        return decode_arguments(arguments)

    async def guard(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments after the input guardrails, which may raise to refuse them."""
        return await run_tool_input_guardrails(self.input_guardrails, arguments)

    @abstractmethod
    async def invoke(self, arguments: dict[str, Any]) -> Any:
        """Do it. What it raises is what the model is told."""

    def configure(self, **changes: Any) -> Self:
        """Set what the constructor has set, where it is not None; returns the tool itself.

        Raises `TypeError` for `schema` and `strict`, which only tools made of functions have.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        if unknown := {"schema", "strict"} & set(given):
            raise TypeError(f"{self!r} has a schema of its own: {', '.join(unknown)} cannot be set")
        # All of it is looked at before any of it holds.
        checked = {name: _CHECKS.get(name, _as_it_is)(value) for name, value in given.items()}
        for name, value in checked.items():
            setattr(self, name, value)
        self.__dict__.pop("_specs", None)
        return self

    def renamed(self, name: str) -> Self:
        """The same tool under another name; this one stays as it is."""
        return self if name == self.name else copy.copy(self).configure(name=name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.name}'>"

    @cached_property
    def _specs(self) -> tuple[TaskSpec, TaskSpec, TaskSpec]:
        hooks = {"task_start": self.on_start, "task_end": self.on_end, "task_error": self.on_error}
        inner = TaskSpec(
            Tool._perform,
            name=self.name,
            is_coroutine=True,
            task_type=TOOL_CALL,
            hooks={event: several for event, several in hooks.items() if several},
        )
        outer = TaskSpec(Tool._outcome, name=self.name, is_coroutine=True)
        own = TaskSpec(Tool._called, name=self.name, is_coroutine=True)
        outer.is_observed = own.is_observed = False
        return outer, inner, own

    async def _called(self, arguments: str) -> str:
        """The result of a `__call__` of the subclass's own, which is a `tool_call` if it wants."""
        result = self(arguments)
        return encode_text(await result if inspect.isawaitable(result) else result)

    async def _outcome(self, arguments: str, encode: Callable[[Any], str]) -> str:
        """The result of a call, its failure being one too."""
        try:
            inner = self._specs[1]
            args = (self, arguments, encode)
            future: AgentFuture[str] = submit(AgentFuture, inner, args, None, None, 0)
            return await future
        except BaseException as error:
            # Nothing that a tool does ends the run.
            if is_failure(error):
                return encode_error(error)
            raise

    async def _perform(self, arguments: str, encode: Callable[[Any], str]) -> str:
        """One call, from the model's text to the text for the model: the `tool_call` task."""
        told = self.validate(arguments)
        given = await self.guard(told) if self.input_guardrails else told
        if self.requires_approval:
            # What guardrails give to private parameters is hidden from the model, and no less so
            # from the clients of the session.
            shown = {k: v for k, v in given.items() if k in told or not k.startswith("_")}
            try:
                await _ask_approval(self.name, shown)
            except RuntimeError as error:
                # There is no session, so that this tool will never run.
                log_failure(self.name, error)
                raise
        try:
            result = await self.invoke(given)
            if not self.output_guardrails:
                return encode(result)
        except BaseException as error:
            if self.logs_failures:
                log_failure(self.name, error)
            raise
        return encode(await run_tool_output_guardrails(self.output_guardrails, result))


async def _ask_approval(name: str, arguments: dict[str, Any]) -> None:
    """Ask whoever uses the session. Raises `ToolRejected` unless the answer approves."""
    shown = to_jsonable(arguments, "what is to be approved")
    answer = await interrupt({"type": "tool_approval", "tool_name": name, "tool_args": shown})
    # Nothing but true is a yes.
    if not isinstance(answer, Mapping) or answer.get("approved") is not True:
        raise ToolRejected(f"User rejected {name}")


async def _by_keywords(self: Any, arguments: dict[str, Any]) -> Any:
    """The `invoke` of a class that has an `_invoke`."""
    result = self._invoke(**arguments)
    return await result if inspect.isawaitable(result) else result


def callbacks(hook: Hook) -> tuple[HookCallback, ...]:
    """One hook or several, as a tuple. Raises `TypeError` for what cannot be called."""
    several = tuple(hook) if isinstance(hook, Iterable) else () if hook is None else (hook,)
    for one in several:
        if not callable(one):
            raise TypeError(f"a hook must be callable, not {type(one).__name__}")
    return several


def check_name(name: str) -> str:
    """The name of a tool, if providers take it. Raises `ValueError`."""
    if not name:
        raise ValueError(
            "Tool is missing a name: a lambda has none, so use a function, or {'name': function}"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"Invalid tool name {name!r:.80}: at most 64 letters, digits, '_' and '-', of which "
            "the first is a letter or '_'"
        )
    return name


def _as_it_is(value: Any) -> Any:
    return value


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": check_name,
    "input_guardrails": list,
    "output_guardrails": list,
    "on_start": callbacks,
    "on_end": callbacks,
    "on_error": callbacks,
}


def decode_arguments(arguments: str) -> dict[str, Any]:
    """The JSON object that a model has written. Raises `ValueError` that says what is wrong."""
    # Some models send nothing where there is nothing to say.
    if not arguments.strip():
        return {}
    try:
        # Stricter than `json.loads`: no NaN, no lone surrogates, nothing nested too deeply.
        value = from_json(arguments.encode(), allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(
            f"the arguments are not valid JSON: {error}. Send one JSON object."
        ) from error
    if not isinstance(value, dict):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"the arguments must be one JSON object, not {kind}")  # noqa: TRY004  # it is the model's text that is wrong
    return value
