"""JSON schemas: what a model is told of a signature, and the strict form of it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import attrs
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from motus.tools import FunctionTool, InputSchema, tool
from motus.tools.schema import strict_schema, tidy_schema, without_added_nulls


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """Somewhere."""

    name: str
    title: Annotated[str | None, Field(description="How it is called")] = None


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@dataclasses.dataclass
class Span:
    start: date
    days: int = 1


@attrs.define
class Point:
    x: float
    _color: Color = Color.RED
    tags: list[str] = attrs.field(factory=list)
    hidden: int = attrs.field(default=0, init=False)


@attrs.define
class Link:
    name: str
    next: Link | None = None
    others: list[Link] = attrs.field(factory=list)


class Options(TypedDict):
    verbose: bool


def schema_of(function: Any) -> dict[str, Any]:
    return FunctionTool(function, "f").json_schema


def everything_in(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        inner = [pair for one in value.values() for pair in everything_in(one)]
        return [*value.items(), *inner]
    if isinstance(value, list):
        return [pair for one in value for pair in everything_in(one)]
    return []


def test_what_a_parameter_says_of_itself() -> None:
    def f(
        city: Annotated[str, "Name of the city"],
        days: Annotated[int, Field(ge=1, le=7, description="How many")] = 3,
        unit: Literal["C", "F"] = "C",
        color: Color = Color.RED,
        note: str | None = None,
        other: Optional[int] = 5,  # noqa: UP045  # the old way of writing it
        needed: int | None = Field(),
        limit: int = Field(10, description="At most"),
    ) -> None: ...

    assert schema_of(f) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "days": {
                "type": "integer",
                "minimum": 1,
                "maximum": 7,
                "description": "How many",
                "default": 3,
            },
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            # Null would say what leaving it out says.
            "note": {"type": "string"},
            "other": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 5},
            "needed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "limit": {"type": "integer", "description": "At most", "default": 10},
        },
        "required": ["city", "needed"],
    }


def test_what_a_model_is_not_told() -> None:
    class Owner:
        def method(self, a: int, b, _private: int = 1, *rest: int, c: str, **more: int) -> None:  # type: ignore[no-untyped-def]  # that is the point
            ...

        @classmethod
        def of_class(cls, a: int) -> None: ...

    expected = {"a": {"type": "integer"}, "c": {"type": "string"}}
    for function in (Owner().method, Owner.method):
        assert schema_of(function) == {
            "type": "object",
            "properties": expected,
            "required": ["a", "c"],
        }
    assert list(schema_of(Owner.of_class)["properties"]) == ["a"]
    assert schema_of(lambda: None) == {"type": "object", "properties": {}}


def test_classes_are_written_out_where_they_stand() -> None:
    def f(
        place: Annotated[Place, "Where"],
        span: Span,
        points: list[Point],
        by_name: dict[str, Point],
        either: Point | int,
        options: Options,
    ) -> None: ...

    schema = schema_of(f)
    keys = {key for key, _ in everything_in(schema)}
    assert not keys & {"$ref", "$defs"}
    assert schema["properties"]["place"] == {
        "type": "object",
        "description": "Where",
        "properties": {
            "name": {"type": "string"},
            # A property of this name is one; a title of the schema is gone.
            "title": {"type": "string", "description": "How it is called"},
        },
        "required": ["name"],
    }
    # Some versions of pydantic close these and some do not.
    span = {k: v for k, v in schema["properties"]["span"].items() if k != "additionalProperties"}
    assert span == {
        "type": "object",
        "properties": {
            "start": {"type": "string", "format": "date"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["start"],
    }
    point = schema["properties"]["points"]["items"]
    assert set(point["properties"]) == {"x", "color", "tags"}
    assert point["required"] == ["x"]
    assert point["properties"]["color"]["enum"] == ["red", "blue"]
    assert schema["properties"]["by_name"]["additionalProperties"] == point
    assert point in schema["properties"]["either"]["anyOf"]
    assert schema["properties"]["options"]["required"] == ["verbose"]


def test_a_class_that_contains_itself_is_written_out_once() -> None:
    def f(tree: Tree) -> None: ...

    assert schema_of(f)["properties"]["tree"]["properties"]["children"]["items"] == {
        "type": "object",
        "description": "Another Tree, of the same form",
    }


def test_an_attrs_class_that_contains_itself_is_checked_all_the_way_down() -> None:
    def f(link: Link, again: dict[str, Link]) -> None: ...

    called = FunctionTool(f)
    inside = called.json_schema["properties"]["link"]["properties"]
    another = {"type": "object", "description": "Another Link, of the same form"}
    assert (inside["next"], inside["others"]["items"]) == (another, another)
    sent = '{"link": {"name": "a", "next": {"name": "b", "others": [{"name": "c"}]}}, "again": {}}'
    link = Link("a", Link("b", None, [Link("c")]))
    assert called.validate(sent) == {"link": link, "again": {}}
    with pytest.raises(ValueError, match=r"link\.next\.others\.0\.name: Input should be a valid"):
        called.validate(sent.replace('"c"', "5"))


def test_names_that_pydantic_has_methods_of() -> None:
    def f(schema: int, json: int, model_config: int, copy: int, validate: int) -> None: ...

    names = ["schema", "json", "model_config", "copy", "validate"]
    assert list(schema_of(f)["properties"]) == names


def test_a_default_that_json_cannot_express_is_not_told() -> None:
    def f(x: Any = object()) -> None: ...  # noqa: B008  # any object will do

    assert schema_of(f) == {"type": "object", "properties": {"x": {}}}


def test_a_number_that_json_does_not_know_is_not_told_either() -> None:
    def f(x: float = math.inf, y: float = math.nan, z: float = 1.5) -> None: ...

    schema = schema_of(f)
    json.dumps(schema, allow_nan=False)
    assert [one.get("default") for one in schema["properties"].values()] == [None, None, 1.5]


def test_classes_defined_in_a_function() -> None:
    class Local(BaseModel):
        y: int

    def f(x: Local) -> None: ...

    assert schema_of(f)["properties"]["x"]["required"] == ["y"]


def test_what_others_call_by_the_same_name_is_not_mistaken_for_it() -> None:
    class Local(BaseModel):
        y: int

    class Here(BaseModel):
        z: Local

    def f(x: Local, date: date, here: Here) -> None: ...

    def elsewhere(Place: int, date: int, frame: int) -> dict[str, Any]:  # noqa: N803  # that is the point
        return schema_of(f)

    properties = elsewhere(1, 2, 3)["properties"]
    assert properties["x"]["required"] == ["y"]
    assert properties["date"] == {"type": "string", "format": "date"}
    assert properties["here"]["properties"]["z"]["required"] == ["y"]


def test_annotations_that_cannot_be_evaluated_are_an_error_at_once() -> None:
    def f(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # that is the point

    with pytest.raises(TypeError, match=r"annotations of .*f cannot be evaluated.*'Nowhere'"):
        FunctionTool(f)


def test_only_what_a_model_is_told_needs_to_be_there() -> None:
    def f(x: int, _y: Nowhere | None = None, *args: Nowhere, **more: Nowhere) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821  # as with imports for type checkers alone

    assert list(schema_of(f)["properties"]) == ["x"]
    assert list(schema_of(functools.partial(f, 1))["properties"]) == []


@pytest.mark.parametrize("annotation", [Exception, Callable[[int], int], "Callable[..., int]"])
def test_types_that_json_cannot_express_are_an_error_at_once(annotation: Any) -> None:
    def f(x: Any) -> None: ...

    f.__annotations__["x"] = annotation
    with pytest.raises(TypeError, match=r"the parameters of f: .*(Exception|Callable)"):
        FunctionTool(f)


def test_a_description_is_the_whole_docstring() -> None:
    """Whatever its style: what it says of parameters is for the model too."""

    class Base:
        def google(self, x: int) -> None:
            """Do it.

            Args:
                x: How often.
            """

        def sphinx(self, x: int) -> None:
            """Do it.

            :param x: How often.
            """

        def numpy(self, x: int) -> None:
            """Do it.

            Parameters
            ----------
            x : int
                How often.
            """

    class Derived(Base):
        def google(self, x: int) -> None: ...

    for method in (Base().google, Base().sphinx, Base().numpy, Derived().google):
        description = FunctionTool(method).description
        assert description.startswith("Do it.\n\n")
        assert description.endswith("How often.")
        assert "\n            " not in description


def test_a_schema_of_ones_own() -> None:
    class Arguments(InputSchema):
        """Not for the model."""

        city: str = Field(description="Where")
        places: list[Place] = Field(default_factory=list)
        note: str | None = None

    def f(city: str, **others: Any) -> None: ...

    schema = FunctionTool(f, schema=Arguments).json_schema
    assert schema["properties"]["city"] == {"type": "string", "description": "Where"}
    assert schema["properties"]["note"] == {"type": "string"}
    assert not {"$ref", "$defs"} & {key for key, _ in everything_in(schema)}
    own = Arguments.model_json_schema()
    assert own["properties"] == schema["properties"]
    assert "title" not in own
    raw = {"type": "object", "properties": {"city": {"type": "string", "title": "T"}}}
    assert FunctionTool(f, schema=raw).json_schema == raw
    with pytest.raises(TypeError, match="must be a pydantic model or a JSON schema, not 'text'"):
        FunctionTool(f, schema="text")  # type: ignore[arg-type]  # that is the point


def test_a_schema_with_fields_that_the_function_does_not_take() -> None:
    class Arguments(BaseModel):
        city: str
        other: int

    def f(city: str) -> None: ...

    with pytest.raises(
        TypeError, match=r"Arguments has fields that f has no parameters for: other"
    ):
        FunctionTool(f, schema=Arguments)


def test_keywords_are_not_mistaken_for_names_nor_data_for_schemas() -> None:
    schema = {
        "title": "Gone",
        "type": "object",
        "properties": {
            "title": {"type": "string", "title": "Gone"},
            "$ref": {"const": {"title": "stays"}},
            "default": {"enum": [{"title": "stays"}], "default": {"title": "stays"}},
        },
        "required": ["title", "$ref"],
    }
    assert tidy_schema(schema) == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "$ref": {"const": {"title": "stays"}},
            "default": {"enum": [{"title": "stays"}], "default": {"title": "stays"}},
        },
        "required": ["title", "$ref"],
    }


def test_the_strict_form() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: int = 9

    class Dog(BaseModel):
        kind: Literal["dog"]

    @tool(strict=True)
    def f(
        a: int,
        pet: Annotated[Cat | Dog, Field(discriminator="kind")],
        b: int = 3,
        c: str | None = None,
        d: Annotated[list[Cat], "Cats"] = [],  # noqa: B006  # it is not changed
        e: int | str = 1,
    ) -> None: ...

    definition = FunctionTool(f).definition()
    cat = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "const": "cat"},
            "lives": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["kind", "lives"],
        "additionalProperties": False,
    }
    assert definition.strict is True
    assert definition.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "pet": {
                "anyOf": [
                    cat,
                    {
                        "type": "object",
                        "properties": {"kind": {"type": "string", "const": "dog"}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    },
                ]
            },
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "c": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "d": {
                "anyOf": [{"type": "array", "items": cat}, {"type": "null"}],
                "description": "Cats",
            },
            "e": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        },
        "required": ["a", "pet", "b", "c", "d", "e"],
        "additionalProperties": False,
    }


def test_limits_that_the_strict_form_does_not_know_are_told() -> None:
    def f(
        tags: Annotated[set[str], Field(description="Some")],
        name: Annotated[str, Field(max_length=3, pattern="^a")],
        place: Path,
        when: date,
        note: Annotated[str, Field(min_length=2)] = "no",
    ) -> None: ...

    called = FunctionTool(f, strict=True)
    assert called.json_schema["properties"] == {
        "tags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Some (uniqueItems: true)",
        },
        "name": {"type": "string", "pattern": "^a", "description": "(maxLength: 3)"},
        "place": {"type": "string", "description": '(format: "path")'},
        "when": {"type": "string", "format": "date"},
        "note": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": "(minLength: 2)",
        },
    }
    # And hold all the same.
    with pytest.raises(ValueError, match="name: String should have at most 3"):
        called.validate('{"tags": [], "name": "abcd", "place": "/", "when": "2026-01-01"}')


@pytest.mark.parametrize("annotation", [dict[str, int], tuple[int, str], dict, Any, list[Any]])
def test_what_the_strict_form_has_no_words_for(annotation: Any) -> None:
    def f(x: Any) -> None: ...

    f.__annotations__["x"] = annotation
    FunctionTool(f)
    with pytest.raises(ValueError, match="a strict schema cannot describe"):
        FunctionTool(f, strict=True)


_NULL = {"type": "null"}


def test_nulls_that_strictness_asked_for_are_taken_out_again() -> None:
    loose = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "c": {
                "type": "array",
                "items": {"type": "object", "properties": {"d": {"type": "string"}}},
            },
            "e": {"anyOf": [{"type": "object", "properties": {"f": {"enum": [1]}}}, _NULL]},
            "g": {},
            "h": {
                "anyOf": [
                    {"type": "integer"},
                    {
                        "type": "array",
                        "items": {"type": "object", "properties": {"i": {"enum": [1]}}},
                    },
                    {"type": "object", "properties": {"j": {"enum": [1]}, "k": {"type": "string"}}},
                    {"type": "object", "properties": {"k": _NULL}},
                ]
            },
        },
        "required": ["b"],
    }
    sent: dict[str, Any]
    for given, left in (([{"i": None}], [{}]), ({"j": None, "k": None}, {}), ({"k": None},) * 2):
        assert without_added_nulls({"b": 1, "h": given}, loose) == {"b": 1, "h": left}
    sent = {"a": None, "b": None, "c": [{"d": None}, {"d": "x"}], "e": {"f": None}, "g": None}
    assert without_added_nulls(sent, loose) == {
        "b": None,
        "c": [{}, {"d": "x"}],
        "e": {},
        "g": None,
    }
    closed = strict_schema(loose | {"properties": {"a": {"type": "integer"}}})
    assert closed["additionalProperties"] is False


@attrs.define
class Settings:
    size: int | None = 3
    tags: list[str] | None = attrs.field(factory=lambda: ["new"])
    name: str | None = None


def test_null_means_null_where_leaving_out_means_something_else() -> None:
    def f(settings: Settings) -> None: ...

    called = FunctionTool(f, strict=True)
    sent = '{"settings": {"size": null, "tags": null, "name": null}}'
    assert called.validate(sent) == {"settings": Settings(None, None, None)}
    loose = FunctionTool(f)
    assert loose.validate('{"settings": {}}') == {"settings": Settings(3, ["new"], None)}
    told = loose.json_schema["properties"]["settings"]["properties"]
    assert told["size"]["default"] == 3
    assert told["name"] == {"type": "string"}
