"""The messages of a conversation, and their JSON form.

These classes carry no behaviour of a provider or of the server: everything above builds on them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from functools import cache, wraps
from typing import Any, Literal, TypeVar, get_args

import attrs
from cattrs import BaseValidationError, Converter
from cattrs.cols import is_sequence, list_structure_factory, mapping_structure_factory
from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.gen import make_dict_structure_fn

__all__ = [
    "ChatCompletion",
    "ChatMessage",
    "FunctionCall",
    "Problem",
    "Role",
    "ToolCall",
    "ToolDefinition",
    "make_converter",
    "message_from_json",
    "message_to_json",
    "messages_from_json",
    "messages_to_json",
    "structure_problems",
]

T = TypeVar("T")

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


def _valid_role(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in ROLES:
        raise ValueError(f"Invalid role {value!r}: expected one of {', '.join(ROLES)}")


def _repr_blob(value: str | None) -> str:
    # A picture in a log line or a traceback hides everything else, and may be private.
    return "None" if value is None else f"<{len(value)} characters>"


# Thoughts are signed and encrypted in base64 too.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _ignoring_unknown(cls: type[T]) -> type[T]:
    """Keywords that are no fields are passed over: what others have saved may have more of them.

    Type checkers do not learn of it, and so still find what is misspelt.
    """
    init = cls.__init__
    fields = {field.name for field in attrs.fields(cls)}  # type: ignore[arg-type]  # all are

    @wraps(init)
    def tolerant(self: T, *args: Any, **kwargs: Any) -> None:
        if not kwargs.keys() <= fields:
            kwargs = {name: value for name, value in kwargs.items() if name in fields}
        init(self, *args, **kwargs)

    cls.__init__ = tolerant  # type: ignore[assignment]  # the same, but for what it ignores
    return cls


def _function_call(value: FunctionCall | Mapping[str, Any]) -> FunctionCall:
    return _from_json(dict(value), FunctionCall) if isinstance(value, Mapping) else value


def _tool_calls(value: Iterable[ToolCall | Mapping[str, Any]] | None) -> list[ToolCall] | None:
    """As they are, but for those that come as dicts of JSON values."""
    if not isinstance(value, list) or not any(isinstance(call, Mapping) for call in value):
        return value  # type: ignore[return-value]  # what else it is nobody has asked for
    return [
        _from_json(dict(call), ToolCall) if isinstance(call, Mapping) else call for call in value
    ]


@attrs.define
class FunctionCall:
    """What a model wants called: a tool's name, and the arguments as JSON text."""

    name: str
    arguments: str


@attrs.define
class ToolCall:
    """One call that a model asks for; the result names it by `id`."""

    id: str
    function: FunctionCall = attrs.field(converter=_function_call)
    type: str = "function"


@attrs.define
class ToolDefinition:
    """A tool as a model is told of it; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = attrs.field(factory=dict)
    strict: bool | None = None


@_ignoring_unknown
@attrs.define
class ChatMessage:
    """One message of a conversation.

    Raises `ValueError` for a role that is none of system, user, assistant and tool, also when it
    is assigned later. `message + other` is the list of both, for a message or a list of messages.
    Tool calls may be given as dicts of JSON values.
    """

    role: Role = attrs.field(validator=_valid_role)
    content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = attrs.field(default=None, repr=_SHORT.repr)
    tool_calls: list[ToolCall] | None = attrs.field(default=None, converter=_tool_calls)
    tool_call_id: str | None = None
    name: str | None = None
    base64_image: str | None = attrs.field(default=None, repr=_repr_blob)
    user_params: dict[str, Any] | None = None

    @classmethod
    def system_message(cls, content: str) -> ChatMessage:
        """What the model is told before the conversation."""
        return cls("system", content)

    @classmethod
    def user_message(cls, content: str | None, base64_image: str | None = None) -> ChatMessage:
        """What the user says; an image is base64, with or without the head of a data URL."""
        return cls("user", content, base64_image=base64_image)

    @classmethod
    def assistant_message(
        cls,
        content: str | None = None,
        tool_calls: list[ToolCall] | None = None,
        base64_image: str | None = None,
        reasoning: str | None = None,
        reasoning_details: Any = None,
    ) -> ChatMessage:
        """What the model says, asks for, and has thought."""
        return cls(
            "assistant",
            content,
            reasoning=reasoning,
            reasoning_details=reasoning_details,
            tool_calls=tool_calls,
            base64_image=base64_image,
        )

    @classmethod
    def tool_message(
        cls, content: str | None, tool_call_id: str, name: str, base64_image: str | None = None
    ) -> ChatMessage:
        """The result of the tool `name`, for the call with that id."""
        return cls("tool", content, tool_call_id=tool_call_id, name=name, base64_image=base64_image)

    @classmethod
    def from_tool_calls(
        cls,
        tool_calls: Iterable[ToolCall],
        content: str | None = "",
        base64_image: str | None = None,
        reasoning: str | None = None,
        reasoning_details: Any = None,
    ) -> ChatMessage:
        """The assistant's message that asks for these calls."""
        return cls.assistant_message(
            content, list(tool_calls), base64_image, reasoning, reasoning_details
        )

    @classmethod
    def from_completion(cls, completion: ChatCompletion) -> ChatMessage:
        """The reply as a message of the conversation."""
        return completion.to_message()

    def __add__(self, other: object) -> list[ChatMessage]:
        if isinstance(other, ChatMessage):
            return [self, other]
        if isinstance(other, list):
            return [self, *other]
        return NotImplemented

    def __radd__(self, other: object) -> list[ChatMessage]:
        if isinstance(other, list):
            return [*other, self]
        return NotImplemented


@attrs.define
class ChatCompletion:
    """What a model answered; `parsed` is the structured output, when one was asked for."""

    id: str
    model: str
    content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = attrs.field(default=None, repr=_SHORT.repr)
    tool_calls: list[ToolCall] | None = attrs.field(default=None, converter=_tool_calls)
    finish_reason: str = "stop"
    parsed: Any = None
    usage: dict[str, Any] = attrs.field(factory=dict)

    def to_message(self) -> ChatMessage:
        """The assistant's message that continues the conversation."""
        return ChatMessage.assistant_message(
            self.content,
            self.tool_calls,
            reasoning=self.reasoning,
            reasoning_details=self.reasoning_details,
        )


@attrs.frozen
class Problem:
    """One thing that is wrong with a JSON value: where (keys and indices), and what."""

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path)
        return f"{where.lstrip('.')}: {self.message}" if where else self.message


_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


def _json_name(value: object) -> str:
    return "null" if value is None else _JSON_NAMES.get(type(value), "a number")


def make_converter(*, forbid_extra_keys: bool = False) -> Converter:
    """A converter for JSON values that never guesses.

    cattrs would turn 5 into "5" and a string into a list of its characters; here a wrong type is
    an error that `structure_problems` explains.
    """
    converter = Converter(forbid_extra_keys=forbid_extra_keys)

    def strictly(kind: type[T], name: str) -> None:
        def hook(value: object, _: object) -> T:
            # bool is an int to Python, never to JSON.
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise TypeError(f"expected {name}, got {_json_name(value)}")
            return value

        converter.register_structure_hook(kind, hook)

    strictly(str, "a string")
    strictly(int, "an integer")
    strictly(bool, "true or false")

    @converter.register_structure_hook_factory(is_sequence)
    def _list(cls: Any, converter: Converter) -> Any:
        structure = list_structure_factory(cls, converter)

        def hook(value: object, cls: Any) -> Any:
            if not isinstance(value, list):
                raise TypeError(f"expected a list, got {_json_name(value)}")
            return structure(value, cls)

        return hook

    def is_object(cls: Any) -> bool:
        return getattr(cls, "__origin__", None) is dict

    @converter.register_structure_hook_factory(is_object)
    def _object(cls: Any, converter: Converter) -> Any:
        structure = mapping_structure_factory(cls, converter)

        def hook(value: object, cls: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"expected an object, got {_json_name(value)}")
            return structure(value, cls)

        return hook

    @converter.register_structure_hook_factory(attrs.has)
    def _class(cls: Any, converter: Converter) -> Any:
        # Without the argument, the function would not forbid what its converter forbids.
        structure = make_dict_structure_fn(
            cls, converter, _cattrs_forbid_extra_keys=forbid_extra_keys
        )

        def hook(value: object, cls: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"expected an object, got {_json_name(value)}")
            return structure(value, cls)

        return hook

    def role(value: object, _: object) -> str:
        if not isinstance(value, str) or value not in ROLES:
            raise ValueError(f"expected one of {', '.join(ROLES)}, got {value!r:.80}")
        return value

    converter.register_structure_hook_func(lambda cls: cls == Role, role)
    return converter


def structure_problems(error: BaseException) -> list[Problem]:
    """What a converter of `make_converter` objected to, with the path to each field."""
    return list(_problems(error, ()))


def _problems(error: BaseException, path: tuple[str | int, ...]) -> Iterable[Problem]:
    if isinstance(error, ClassValidationError):
        fields, others = error.group_exceptions()
        for inner, field in fields:
            yield from _problems(inner, (*path, field.name))
        for inner in others:
            yield from _problems(inner, path)
    elif isinstance(error, IterableValidationError):
        items, others = error.group_exceptions()
        for inner, item in items:
            yield from _problems(inner, (*path, item.index))
        for inner in others:
            yield from _problems(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(map(str, error.extra_fields)):
            yield Problem((*path, key), "unknown field")
    elif isinstance(error, KeyError):
        yield Problem(path, "missing")
    else:
        yield Problem(path, str(error))


@cache
def _converter() -> Converter:
    return make_converter()


def message_to_json(message: ChatMessage, omit_none: bool = False) -> dict[str, Any]:
    """The message as a JSON object: all nine keys, or only those that are not null."""
    result: dict[str, Any] = _converter().unstructure(message)
    if omit_none:
        return {key: value for key, value in result.items() if value is not None}
    return result


def messages_to_json(
    messages: Iterable[ChatMessage], omit_none: bool = False
) -> list[dict[str, Any]]:
    return [message_to_json(message, omit_none) for message in messages]


def message_from_json(value: object) -> ChatMessage:
    """The message that a JSON value stands for; unknown keys are ignored.

    Raises `ValueError` that names each field that is wrong, for example
    `tool_calls[0].id: missing`.
    """
    return _from_json(value, ChatMessage)


def messages_from_json(value: object) -> list[ChatMessage]:
    """Like `message_from_json`, for a list: `[2].role: expected one of ...`."""
    return _from_json(value, list[ChatMessage])


def _from_json(value: object, kind: type[T]) -> T:
    try:
        return _converter().structure(value, kind)
    except (BaseValidationError, TypeError, ValueError) as error:
        problems = "; ".join(str(problem) for problem in structure_problems(error))
        raise ValueError(problems) from error
