"""From a signature to a JSON schema, and from a model's JSON to the arguments of a call."""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PydanticUserError,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import CoreSchema, PydanticSerializationError, core_schema

from motus.runtime.agent_task import AgentTaskDefinition
from motus.tools.schema import tidy_schema

__all__ = ["InputSchema", "SchemaArguments", "SignatureArguments", "innermost", "layers", "plain"]

_MAX_PROBLEMS: Final = 10


class InputSchema(BaseModel):
    """A base for the `schema` of a tool: its JSON schema is as short as a model needs it.

    Pydantic models of any other base will do as well.
    """

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without titles, references, and nulls that only mean "left out"."""
        return tidy_schema(super().model_json_schema(*args, **kwargs))


class _JsonSchema(GenerateJsonSchema):
    # A default that JSON cannot express is simply not told.
    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012  # as pydantic declares it
        "skipped-choice",
        "non-serializable-default",
    }

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False)
        except ValueError as error:
            # Infinity, for one, which would spoil the whole request.
            raise PydanticSerializationError(str(error)) from error
        return encoded


def _json_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = tidy_schema(model.model_json_schema(schema_generator=_JsonSchema))
    # Of the whole, the description is the tool's, and `additionalProperties` is for strict modes.
    return {k: v for k, v in schema.items() if k not in {"description", "additionalProperties"}}


class SchemaArguments:
    """The arguments of a function as a pydantic model describes them: its fields, by name.

    Raises `TypeError` for a field that the function has no parameter for.
    """

    def __init__(self, function: Callable[..., Any], model: type[BaseModel]) -> None:
        self.model = model
        parameters = inspect.signature(plain(function)).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [name for name in model.model_fields if name not in parameters]
        if unknown and not takes_any:
            raise TypeError(
                f"{model.__name__} has fields that {_label(function)} has no parameters for: "
                f"{', '.join(unknown)}"
            )

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        return _json_schema(self.model)

    def validate(self, arguments: str) -> dict[str, Any]:
        """The arguments by parameter name, defaults of the model included."""
        value = _validated(self.model, arguments)
        return {name: getattr(value, name) for name in type(value).model_fields}


class SignatureArguments:
    """The arguments of a function as its signature describes them.

    Parameters without an annotation, private ones, those that a `partial` has set, `self`, `cls`,
    `*args` and `**kwargs` are not told to a model, which cannot set them either. `untold` are those
    of them that a call cannot do without, for want of an annotation.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        bound = [one.keywords for one in layers(function) if isinstance(one, partial)]
        hidden = {"self", "cls"}.union(*bound)
        told = [
            parameter
            for name, parameter in inspect.signature(plain(function)).parameters.items()
            if not name.startswith("_")
            and name not in hidden
            and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        ]
        annotations = _annotations(function, [parameter.name for parameter in told])
        self._parameters = [parameter for parameter in told if parameter.name in annotations]
        self.untold = [p.name for p in told if p.name not in annotations and p.default is p.empty]
        fields = [
            (p.name, annotations[p.name], ... if p.default is p.empty else p.default)
            for p in self._parameters
        ]
        self.model = _model(_label(function), fields, {})
        try:
            self.model.model_rebuild()
            self.json_schema = _json_schema(self.model)
        except PydanticUserError as error:
            raise TypeError(f"the parameters of {_label(function)}: {error.message}") from error

    def validate(self, arguments: str) -> dict[str, Any]:
        """The arguments by parameter name: those given, and defaults that pydantic alone knows."""
        value = _validated(self.model, arguments)
        return {
            parameter.name: getattr(value, field)
            for field, parameter in zip(type(value).model_fields, self._parameters, strict=True)
            if field in value.model_fields_set
            or parameter.default is parameter.empty
            or isinstance(parameter.default, FieldInfo)
        }


def _model(
    name: str,
    fields: list[tuple[str, Any, Any]],
    known: dict[type[Any], type[BaseModel]],
    **options: Any,
) -> type[BaseModel]:
    """A model of these names, annotations and defaults (`...` where there is none).

    Its own fields have names that cannot be those of pydantic's methods; JSON has the real ones.
    `known` are the models of the attrs classes that have come so far.
    """
    names = {f"p{index}": field for index, (field, _, _) in enumerate(fields)}
    config = ConfigDict(
        extra="forbid",
        alias_generator=lambda field: names.get(field, field),
        # JSON has no such numbers, and no comparison holds back one that a model writes as a text.
        allow_inf_nan=False,
        # An attrs class that contains itself asks for its model before it is there.
        defer_build=True,
    )
    definitions: dict[str, Any] = {
        f"p{index}": (_prepared(annotation, known), default)
        for index, (_, annotation, default) in enumerate(fields)
    }
    return create_model(name, __config__=config, **options, **definitions)


def _prepared(annotation: Any, known: dict[type[Any], type[BaseModel]]) -> Any:
    """The annotation for pydantic: texts in Annotated are descriptions, attrs classes are known."""
    if isinstance(annotation, type) and attrs.has(annotation) and get_origin(annotation) is None:
        return Annotated[annotation, _AttrsClass(annotation, known)]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *extra = args
        notes = [Field(description=note) if isinstance(note, str) else note for note in extra]
        return Annotated[(_prepared(inner, known), *notes)]
    if origin is None or origin is Literal:
        return annotation
    prepared = tuple(_prepared(arg, known) for arg in args)
    if prepared == args:
        return annotation
    if origin in {Union, types.UnionType}:
        return Union[prepared]  # noqa: UP007  # made of values
    return origin[prepared]


@attrs.frozen(eq=False)
class _AttrsClass:
    """Tells pydantic how an attrs class is made: from its `__init__` arguments."""

    cls: type[Any]
    known: dict[type[Any], type[BaseModel]]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        fields = [field for field in attrs.fields(self.cls) if field.init]
        names = [field.alias or field.name for field in fields]
        if self.cls not in self.known:
            hints = _resolved(self.cls)
            told = [
                (name, hints.get(field.name, Any), _told_default(field))
                for name, field in zip(names, fields, strict=True)
            ]
            self.known[self.cls] = _model(
                self.cls.__name__, told, self.known, __doc__=self.cls.__doc__
            )

        def build(value: BaseModel) -> Any:
            pairs = zip(type(value).model_fields, names, strict=True)
            given = {n: getattr(value, f) for f, n in pairs if f in value.model_fields_set}
            try:
                return self.cls(**given)
            except TypeError as error:
                # From a validator of attrs; pydantic takes these errors for what they say.
                raise ValueError(str(error)) from error

        schema = handler.generate_schema(self.known[self.cls])
        return core_schema.no_info_after_validator_function(build, schema)


def _told_default(field: attrs.Attribute[Any]) -> Any:
    """What a schema says of the default of an attrs field, which attrs itself fills in."""
    if field.default is attrs.NOTHING:
        return ...
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # attrs types it as a function
        # There is one, and nothing is known of it: null, where it is allowed, means null.
        return Field(default_factory=lambda: None)
    return field.default


def _validated(model: type[BaseModel], arguments: str) -> BaseModel:
    try:
        return model.model_validate_json(arguments)
    except ValidationError as error:
        raise ValueError(_explained(error, model)) from None


def _explained(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong, so that a model can put it right."""
    problems = error.errors(include_url=False, include_context=False)
    lines = []
    for problem in problems[:_MAX_PROBLEMS]:
        # All of it may be of any length: names are what the model has made of them.
        where = f"{'.'.join(map(str, problem['loc'])) or 'arguments':.100}"
        if problem["type"] == "missing":
            lines.append(f"{where}: missing")
        elif problem["type"] == "extra_forbidden":
            lines.append(f"{where}: there is no such parameter")
        else:
            lines.append(f"{where}: {problem['msg']:.300}, got {problem['input']!r:.80}")
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    told = [
        (field.alias or name) + (" (required)" if field.is_required() else "")
        for name, field in model.model_fields.items()
    ]
    parameters = ", ".join(told) or "none"
    return f"invalid arguments: {'; '.join(lines)}. The parameters are: {parameters}"


def layers(function: Callable[..., Any]) -> Iterator[Any]:
    """The function, what is inside of it if it is a task, a partial or a wrapper, and so on."""
    one: Any = function
    while one is not None:
        yield one
        if isinstance(one, AgentTaskDefinition):
            one = one.unwrap_task()
        elif isinstance(one, partial):
            one = one.func
        elif inspect.ismethod(one):
            one = one.__func__
        else:
            one = getattr(one, "__wrapped__", None)


def innermost(function: Callable[..., Any]) -> Any:
    """The function that was written, inside of tasks, partial objects and wrappers."""
    *_, last = layers(function)
    return last


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a task, whose signature is that of a call."""
    return function.unwrap_task() if isinstance(function, AgentTaskDefinition) else function


def _label(function: Callable[..., Any]) -> str:
    return getattr(innermost(function), "__name__", type(function).__name__)


def _annotations(function: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of these parameters that have one. What the others, and the result, are annotated with
    may be there for type checkers alone.
    """
    inside = innermost(function)
    owner = inside if inspect.isroutine(inside) else type(inside).__call__
    written = inspect.get_annotations(owner)
    needed = types.SimpleNamespace(
        __annotations__={name: written[name] for name in names if name in written},
        __type_params__=getattr(owner, "__type_params__", ()),
        __qualname__=getattr(owner, "__qualname__", repr(owner)),
    )
    return _resolved(needed, getattr(owner, "__globals__", {}))


def _resolved(owner: Any, scope: dict[str, Any] | None = None) -> dict[str, Any]:
    """The annotations of an object, evaluated where they are texts; `scope` is for what has no
    module of its own.
    """
    names: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(owner, scope, names or None, include_extras=True)
        except NameError as error:
            # Of a class that is defined in a function: it can only be a local of somebody above.
            missing = error.name or ""
            found = None if missing in names else _local_above(missing)
            if found is None:
                raise TypeError(
                    f"the annotations of {getattr(owner, '__qualname__', owner)} cannot be "
                    f"evaluated: {error}. Define the class at the top of a module, or import it "
                    "there."
                ) from None
            names[missing] = found


def _local_above(name: str) -> Any:
    """What a function that is running has of this name, the nearest one; None if none has."""
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001  # as pydantic does it for models
    while frame is not None:
        if frame.f_globals.get("__name__") != __name__ and name in frame.f_locals:
            return frame.f_locals[name]
        frame = frame.f_back
    return None
