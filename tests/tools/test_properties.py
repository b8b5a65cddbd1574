"""Any value of any signature survives: its JSON fits the schema, and the call gets it back."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import uuid
from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict

from motus.tools import FunctionTool
from motus.tools.results import to_jsonable
from motus.tools.schema import strict_schema, tidy_schema


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    first: int
    second: str


class Kind:
    """A type, and a strategy for its values.

    `apart` is what a union tells it from others by: "any" if it cannot be told apart, such as a
    date, which may be a number.
    """

    def __init__(
        self, annotation: Any, values: st.SearchStrategy[Any], apart: str, hashable: bool = False
    ) -> None:
        self.annotation = annotation
        self.values = values
        self.apart = apart
        self.hashable = hashable

    def __repr__(self) -> str:
        return f"Kind({self.annotation})"


texts = st.text(st.characters(codec="utf-8"), max_size=8)
zones = st.just(timezone(timedelta(hours=2)))

PLAIN = [
    Kind(int, st.integers(-(2**70), 2**70), "number", True),
    Kind(Annotated[int, Field(ge=0, lt=100)], st.integers(0, 99), "number", True),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False), "number"),
    Kind(str, texts, "text", True),
    Kind(Annotated[str, "What it is"], texts, "text", True),
    Kind(bool, st.booleans(), "bool"),
    Kind(Literal["a", "b", 3], st.sampled_from(["a", "b", 3]), "any", True),
    Kind(Color, st.sampled_from(Color), "any", True),
    Kind(Level, st.sampled_from(Level), "any"),
    Kind(date, st.dates(), "any", True),
    Kind(datetime, st.datetimes(timezones=zones), "any"),
    Kind(timedelta, st.timedeltas(timedelta(-9), timedelta(9)), "any"),
    Kind(uuid.UUID, st.uuids(), "any", True),
    Kind(Decimal, st.decimals(-1000, 1000, places=3), "any"),
    Kind(bytes, texts.map(str.encode), "any"),
    Kind(Pair, st.builds(Pair, st.integers(), texts), "list"),
    Kind(Any, st.none() | st.integers() | texts | st.lists(st.booleans()), "any"),
]
KEYS = [Kind(str, texts, "text"), Kind(int, st.integers(), "number")]
# Names that mean something to pydantic, to JSON schemas or to Python's classes.
NAMES = [
    "a", "b", "title", "schema", "json", "copy", "model_config", "type", "properties", "items_",
    "validate", "default", "p0", "p1", "x9", "ref",
]  # fmt: skip


def _fields(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> dict[str, Kind]:
    names = draw(st.lists(st.sampled_from(NAMES[:4]), min_size=1, max_size=3, unique=True))
    return {f"{name}_f": draw(inner) for name in names}


def _default(draw: st.DrawFn, kind: Kind) -> Any:
    return draw(kind.values)


@st.composite
def _class(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    what = draw(st.sampled_from(["pydantic", "dataclass", "attrs", "typed dict"]))
    if what != "attrs":
        # The others belong to pydantic, which does not know these.
        inner = inner.filter(lambda kind: "Attrs" not in repr(kind.annotation))
    fields = _fields(draw, inner)
    optional = {name for name in fields if draw(st.booleans())}
    # Those with defaults come last, where order matters.
    fields = {name: fields[name] for name in sorted(fields, key=lambda name: name in optional)}
    defaults = {name: _default(draw, fields[name]) for name in optional}
    annotations = {name: kind.annotation for name, kind in fields.items()}
    cls: Any
    if what == "pydantic":
        pairs: dict[str, Any] = {
            name: (one, defaults.get(name, ...)) for name, one in annotations.items()
        }
        cls = create_model("Model", **pairs)
    elif what == "dataclass":
        cls = dataclasses.make_dataclass(
            "Data",
            [
                (name, one, dataclasses.field(default_factory=lambda v=defaults[name]: v))  # type: ignore[misc]  # bound at once
                if name in optional
                else (name, one)
                for name, one in annotations.items()
            ],
        )
    elif what == "attrs":
        cls = attrs.make_class(
            "Attrs",
            {
                name: attrs.field(type=one, factory=lambda v=defaults[name]: v)  # type: ignore[misc]  # bound at once
                if name in optional
                else attrs.field(type=one)
                for name, one in annotations.items()
            },
        )
    else:
        # Made of values, which type checkers do not know.
        make: Any = TypedDict
        may_miss: Any = NotRequired
        cls = make(
            "Dict", {n: may_miss[one] if n in optional else one for n, one in annotations.items()}
        )
    required = {name: kind.values for name, kind in fields.items() if name not in optional}
    may_be = {name: kind.values for name, kind in fields.items() if name in optional}
    values = st.fixed_dictionaries(required, optional=may_be).map(lambda given: cls(**given))
    return Kind(cls, values, "object")


@st.composite
def _union(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    """Of types that JSON tells apart."""
    kinds = draw(st.lists(inner, min_size=2, max_size=3, unique_by=lambda kind: kind.apart))
    kinds = [kind for kind in kinds if kind.apart != "any"] or kinds[:1]
    annotation = kinds[0].annotation
    for kind in kinds[1:]:
        annotation = annotation | kind.annotation
    return Kind(annotation, st.one_of([kind.values for kind in kinds]), "any")


def _larger(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    hashable = inner.filter(lambda kind: kind.hashable)
    return st.one_of(
        inner.map(lambda k: _of(list, [k], st.lists(k.values, max_size=3))),
        inner.map(lambda k: _of(tuple, [k, ...], st.lists(k.values, max_size=3).map(tuple))),
        st.tuples(inner, inner).map(
            lambda both: _of(tuple, both, st.tuples(*(one.values for one in both)))
        ),
        hashable.map(lambda k: _of(set, [k], st.sets(k.values, max_size=3))),
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda both: _of(dict, both, st.dictionaries(*(one.values for one in both), max_size=3))
        ),
        inner.map(lambda k: Kind(Optional[k.annotation], st.none() | k.values, k.apart)),  # noqa: UP045  # made of values
        _class(inner),
        _union(inner),
    )


def _of(origin: Any, of: Iterable[Any], values: st.SearchStrategy[Any]) -> Kind:
    args = tuple(one.annotation if isinstance(one, Kind) else one for one in of)
    return Kind(types.GenericAlias(origin, args), values, "object" if origin is dict else "list")


kinds = st.recursive(st.sampled_from(PLAIN), _larger, max_leaves=4)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """A function that returns its arguments, and arguments for it."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    parameters, values, annotations = [], {}, {}
    for name in names:
        kind = draw(kinds)
        annotations[name] = kind.annotation
        has_default = draw(st.booleans())
        default = draw(kind.values | st.none()) if has_default else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        if not has_default or draw(st.booleans()):
            values[name] = draw(kind.values)

    async def function(**kwargs: Any) -> None:
        function.got = kwargs  # type: ignore[attr-defined]  # where the test looks

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # as functools.wraps does
    function.__annotations__ = annotations
    return function, values


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON value fits a schema, as far as pydantic's schemas go."""
    classes: dict[str, Any] = {
        "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list,
        "object": dict, "null": type(None),
    }  # fmt: skip
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    kind = schema.get("type")
    if kind and not isinstance(value, classes[kind]):
        return False
    if isinstance(value, bool) and kind not in {"boolean", None}:
        return False
    if isinstance(value, dict) and kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        # Null may stand for what is left out, and the schema does not say so.
        value = {k: v for k, v in value.items() if v is not None or k in schema.get("required", ())}
        return all(name in value for name in schema.get("required", ())) and all(
            fits(one, known[name])
            if name in known
            else (fits(one, others) if isinstance(others, dict) else others)
            for name, one in value.items()
        )
    if isinstance(value, list) and kind == "array":
        begin = schema.get("prefixItems", [])
        rest = schema.get("items", {})
        return all(
            fits(one, begin[n] if n < len(begin) else rest if isinstance(rest, dict) else {})
            for n, one in enumerate(value)
        )
    return True


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@given(calls())
def test_values_survive(backend: str, call: tuple[Any, dict[str, Any]]) -> None:
    function, values = call
    called = FunctionTool(function)
    sent = json.dumps(to_jsonable(values))
    assert fits(json.loads(sent), called.json_schema), called.json_schema
    assert "$ref" not in json.dumps(called.json_schema)
    answer = _run(backend, called, sent)
    assert answer == "null", answer
    assert function.got == values
    assert _types(function.got) == _types(values)


def _run(backend: str, called: FunctionTool, sent: str) -> str:
    async def main() -> str:
        return await called.run(sent)

    return anyio.run(main, backend=backend)


def _types(value: Any) -> Any:
    """The classes of everything in a value: 1, 1.0 and True are equal, and not the same."""
    if isinstance(value, dict):
        return {key: _types(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_types(one) for one in value]
    if isinstance(value, BaseModel):
        return type(value), _types(dict(value))
    if dataclasses.is_dataclass(value) or attrs.has(type(value)):
        return type(value), _types({name: getattr(value, name) for name in value.__annotations__})
    return type(value)


@given(calls())
def test_values_survive_strictness(call: tuple[Any, dict[str, Any]]) -> None:
    function, values = call
    try:
        called = FunctionTool(function, strict=True)
    except ValueError as error:
        if "a strict schema cannot describe" not in str(error):
            raise
        return
    loose = FunctionTool(function).json_schema
    assert tidy_schema(loose) == loose
    assert strict_schema(called.json_schema) == called.json_schema
    sent = _with_nulls(json.loads(json.dumps(to_jsonable(values))), loose)
    assert fits(sent, called.json_schema)
    _closed(called.json_schema)
    given_back = called.validate(json.dumps(sent))
    # Null where a default is not null is how a strict model leaves something out.
    expected = {k: v for k, v in values.items() if k in given_back}
    given_back = {k: v for k, v in given_back.items() if k in values}
    assert _without_nulls(to_jsonable(given_back)) == _without_nulls(to_jsonable(expected))


def _without_nulls(value: Any) -> Any:
    """In dicts, null and nothing cannot be told apart after that; and sets have no order."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        inner = [_without_nulls(one) for one in value]
        return sorted(inner, key=lambda one: json.dumps(one, sort_keys=True))
    return value


def _with_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """As a model that is held to the strict form sends it."""
    if isinstance(value, dict) and "properties" in schema:
        return {
            name: _with_nulls(value[name], inner) if name in value else None
            for name, inner in schema["properties"].items()
        }
    if isinstance(value, list) and "items" in schema:
        return [_with_nulls(one, schema["items"]) for one in value]
    for one in schema.get("anyOf", ()):
        if fits(value, one):
            return _with_nulls(value, one)
    return value


def _closed(schema: Any) -> None:
    if isinstance(schema, list):
        for one in schema:
            _closed(one)
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema.get("type"), str):
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
        for one in schema.values():
            _closed(one)


@given(st.text(), st.dictionaries(texts, st.integers() | texts))
def test_whatever_a_model_writes_is_answered(text: str, arguments: dict[str, Any]) -> None:
    async def f(a: int, b: str = "x") -> str:
        return f"{a}{b}"

    called = FunctionTool(f)

    async def main() -> None:
        for sent in (text, json.dumps(arguments)):
            (await called.run(sent)).encode()

    anyio.run(main, backend="trio")
