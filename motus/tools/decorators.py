"""`@tool` and `@tools`: what a function or a class says about itself as tools."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

import attrs

from motus.guardrails import Guardrail
from motus.tools.base import Hook, Tool
from motus.tools.function_tool import ToolOptions, ToolSchema, options_of

__all__ = ["ToolsOptions", "tool", "tools", "tools_options_of", "warn_of_both_lists"]

T = TypeVar("T")


@attrs.frozen
class ToolsOptions:
    """What `@tools` leaves on a class or an instance."""

    prefix: str = ""
    include_private: bool = False
    method_schemas: Mapping[str, ToolSchema] = attrs.field(factory=dict, converter=dict)
    method_aliases: Mapping[str, str] = attrs.field(factory=dict, converter=dict)
    allowlist: frozenset[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(frozenset)
    )
    blocklist: frozenset[str] = attrs.field(factory=frozenset, converter=frozenset)
    input_guardrails: tuple[Guardrail, ...] = attrs.field(default=(), converter=tuple)
    output_guardrails: tuple[Guardrail, ...] = attrs.field(default=(), converter=tuple)


@overload
def tool(obj: T, /, **options: Any) -> T: ...
@overload
def tool(
    obj: None = None,
    *,
    schema: ToolSchema | None = None,
    name: str | None = None,
    description: str | None = None,
    requires_approval: bool | None = None,
    strict: bool | None = None,
    input_guardrails: Iterable[Guardrail] | None = None,
    output_guardrails: Iterable[Guardrail] | None = None,
    on_start: Hook = None,
    on_end: Hook = None,
    on_error: Hook = None,
) -> Callable[[T], T]: ...
def tool(obj: Any = None, /, **options: Any) -> Any:
    """Say how a function is a tool: `@tool`, `@tool(name=...)` or `tool(function, name=...)`.

    Returns the object itself: a function can still be called as before. A `Tool` is changed where
    it stands. `schema` is a pydantic model or a JSON schema; with `requires_approval` every call
    waits for a human; guardrails run before and after; the hooks are those of `agent_task`;
    `strict` is explained at `FunctionTool`.
    Raises `TypeError` for a class, which `@tools` is for, and for what takes no attributes.
    """
    said = ToolOptions(**options)

    def decorate(obj: Any) -> Any:
        if isinstance(obj, staticmethod | classmethod):
            # Whoever asks a class or an instance for it gets the function inside.
            decorate(obj.__func__)
            return obj
        if isinstance(obj, type):
            raise TypeError(f"@tool takes a function, and {obj.__name__} is a class: use @tools")
        given = {
            key: value
            for key, value in attrs.asdict(said, recurse=False).items()
            if value is not None
        }
        if isinstance(obj, Tool):
            return obj.configure(**given)
        if not callable(obj):
            raise TypeError(f"@tool takes a function or a Tool, not {type(obj).__name__}")
        try:
            obj.__motus_tool__ = attrs.evolve(options_of(obj), **given)
        except AttributeError:
            raise TypeError(
                f"{obj!r:.80} takes no attributes: decorate the function inside of it, or use "
                "FunctionTool(...)"
            ) from None
        return obj

    return decorate if obj is None else decorate(obj)


@overload
def tools(obj: T, /, **options: Any) -> T: ...
@overload
def tools(
    obj: None = None,
    /,
    *,
    prefix: str = "",
    include_private: bool = False,
    method_schemas: Mapping[str, ToolSchema] | None = None,
    method_aliases: Mapping[str, str] | None = None,
    allowlist: Iterable[str] | None = None,
    blocklist: Iterable[str] | None = None,
    input_guardrails: Iterable[Guardrail] | None = None,
    output_guardrails: Iterable[Guardrail] | None = None,
) -> Callable[[T], T]: ...
def tools(obj: Any = None, /, **options: Any) -> Any:
    """Say how the methods of a class, or of one instance, are tools. Returns the object itself.

    All public methods are, with `include_private` those that begin with one underscore too; an
    `allowlist` names the only ones, a `blocklist` those that are not (it is ignored beside an
    allowlist, with a warning). All lists and mappings go by the names of the methods. `prefix`
    comes before every tool's name. Guardrails hold for methods that have none of their own.
    """
    warn_of_both_lists(options.get("allowlist"), options.get("blocklist"))
    said = ToolsOptions(**{name: one for name, one in options.items() if one is not None})

    def decorate(obj: Any) -> Any:
        if inspect.isroutine(obj):
            raise TypeError(f"@tools takes a class or an instance, not {obj!r:.80}: use @tool")
        try:
            obj.__motus_tools__ = said
        except AttributeError:
            raise TypeError(
                f"@tools takes a class or an instance that takes attributes, not {obj!r:.80}"
            ) from None
        return obj

    return decorate if obj is None else decorate(obj)


def warn_of_both_lists(allowlist: object, blocklist: object) -> None:
    """Warn whoever calls the caller if there are two lists."""
    if allowlist is not None and blocklist is not None:
        warnings.warn("beside an allowlist, the blocklist is ignored", stacklevel=3)


def tools_options_of(obj: object) -> ToolsOptions | None:
    """What `@tools` has left on an instance or its class."""
    options = getattr(obj, "__motus_tools__", None)
    return options if isinstance(options, ToolsOptions) else None
