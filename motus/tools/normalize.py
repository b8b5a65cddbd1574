"""Whatever a user calls tools, as tools."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs
from pydantic import BaseModel

from motus.guardrails import Guardrail
from motus.runtime.agent_task import AgentTaskDefinition
from motus.tools.base import Tool
from motus.tools.collection import DictTools
from motus.tools.decorators import ToolsOptions, tools_options_of, warn_of_both_lists
from motus.tools.function_tool import FunctionTool, ToolSchema, options_of

__all__ = ["normalize_tools", "tools_from"]

_LISTS: Final = (Sequence, AbstractSet)
_TEXTS: Final = (str, bytes, bytearray, memoryview)


def normalize_tools(tools: Any) -> DictTools:
    """The tools that an agent is given, by name.

    Takes functions, methods, tasks, `Tool`s, agents, instances (their methods), mappings (whose
    keys are the names), lists of all of these, and None. Raises `ValueError` where two have the
    same name or one has none, `TypeError` for what cannot be a tool.
    """
    if isinstance(tools, DictTools):
        return tools
    return DictTools(_tools_in(tools))


def tools_from(
    instance: Any,
    *,
    prefix: str | None = None,
    include_private: bool | None = None,
    method_schemas: Mapping[str, ToolSchema] | None = None,
    method_aliases: Mapping[str, str] | None = None,
    allowlist: Iterable[str] | None = None,
    blocklist: Iterable[str] | None = None,
    input_guardrails: Iterable[Guardrail] | None = None,
    output_guardrails: Iterable[Guardrail] | None = None,
) -> list[Tool]:
    """The methods of an instance as tools. The options are those of `@tools`, and override them.

    Raises `TypeError` for a class, which has nothing to call the methods on, and `ValueError` for
    names that are no methods.
    """
    if isinstance(instance, type):
        raise TypeError(
            f"tools_from() takes an instance, and {instance.__name__} is a class: "
            f"pass {instance.__name__}(...)"
        )
    warn_of_both_lists(allowlist, blocklist)
    given: dict[str, Any] = {
        "prefix": prefix,
        "include_private": include_private,
        "method_schemas": method_schemas,
        "method_aliases": method_aliases,
        "allowlist": allowlist,
        "blocklist": blocklist,
        "input_guardrails": input_guardrails,
        "output_guardrails": output_guardrails,
    }
    options = attrs.evolve(
        tools_options_of(instance) or ToolsOptions(),
        **{name: value for name, value in given.items() if value is not None},
    )
    methods = dict(_methods(instance))
    _check_names(instance, options, methods)
    return [
        _method_tool(options, name, method)
        for name, method in methods.items()
        if _is_exposed(options, name)
    ]


def _tools_in(source: Any, name: str | None = None) -> Iterator[Tool]:
    """The tools that something stands for; `name` is for what has none of its own."""
    if source is None:
        return
    if isinstance(source, Tool):
        yield source
    elif isinstance(source, Mapping):
        for key, one in source.items():
            yield _named(str(key), one)
    elif isinstance(source, _LISTS) and not isinstance(source, _TEXTS):
        for one in source:
            yield from _tools_in(one)
    elif isinstance(source, type):
        raise _no_tool(source, f"pass an instance: {source.__name__}(...)")
    elif callable(getattr(source, "as_tool", None)):
        yield source.as_tool()
    elif _is_function(source):
        yield FunctionTool(source, name)
    elif type(source).__module__ != "builtins" and (found := tools_from(source)):
        yield from found
    elif callable(source):
        yield FunctionTool(source, name)
    else:
        raise _no_tool(source, "pass functions, tools, agents, or objects with methods")


def _named(name: str, source: Any) -> Tool:
    found = list(_tools_in(source, name))
    if len(found) != 1:
        raise _no_tool(source, f"there must be one tool for {name!r}, not {len(found)}")
    return found[0].renamed(name)


def _no_tool(source: object, advice: str) -> TypeError:
    return TypeError(f"Cannot use {type(source).__name__} ({source!r:.80}) as a tool: {advice}")


def _is_function(source: object) -> bool:
    return (
        inspect.isroutine(source)
        or isinstance(source, AgentTaskDefinition | functools.partial)
        # What functools.cache and the like return is no function by any other sign.
        or (callable(source) and hasattr(source, "__wrapped__"))
    )


def _methods(instance: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """In the order in which they are written, those of base classes first."""
    seen = set()
    for cls in reversed(type(instance).__mro__[:-1]):
        if cls is BaseModel:
            continue  # what it can do is not what its subclasses are for
        for name, found in vars(cls).items():
            # Looked up without calling anything: a property may do work.
            current = inspect.getattr_static(instance, name)
            plain = current.__func__ if isinstance(current, staticmethod | classmethod) else current
            if name in seen or (name.startswith("__") and name.endswith("__")):
                continue
            seen.add(name)
            if _is_function(plain) and found is not None:
                yield name, getattr(instance, name)


def _check_names(
    instance: object, options: ToolsOptions, methods: Mapping[str, Callable[..., Any]]
) -> None:
    asked = {
        *options.method_schemas,
        *options.method_aliases,
        *(options.allowlist or ()),
        *options.blocklist,
    }
    if unknown := sorted(asked - set(methods)):
        raise ValueError(
            f"{type(instance).__name__} has no methods {', '.join(unknown)}: "
            f"it has {', '.join(methods) or 'none'}"
        )


def _is_exposed(options: ToolsOptions, name: str) -> bool:
    if options.allowlist is not None:
        return name in options.allowlist
    return name not in options.blocklist and (options.include_private or not name.startswith("_"))


def _method_tool(options: ToolsOptions, name: str, method: Callable[..., Any]) -> Tool:
    own = options_of(method)
    return FunctionTool(
        method,
        options.prefix + (options.method_aliases.get(name) or own.name or name),
        options.method_schemas.get(name) or own.schema,
        options.input_guardrails if own.input_guardrails is None else own.input_guardrails,
        options.output_guardrails if own.output_guardrails is None else own.output_guardrails,
    )
