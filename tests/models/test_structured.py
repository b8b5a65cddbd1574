"""Classes as schemas, and replies as their objects."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.models import ChatCompletion, StructuredOutputError
from motus.models.structured import structured_output


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@attrs.define
class Shape:
    """Something with corners."""

    name: str
    corners: list[Point]
    color: Color | None = None
    kind: Literal["open", "closed"] = "closed"
    _id: int = 7
    tags: list[str] = attrs.field(factory=list)


class Drawing(pydantic.BaseModel):
    shapes: dict[str, int] = {}
    title: str = pydantic.Field(min_length=1)


def test_an_attrs_class() -> None:
    output = structured_output(Shape)
    assert output.name == "Shape"
    assert output.schema["required"] == ["name", "corners"]
    assert output.schema["properties"].keys() == {"name", "corners", "color", "kind", "id", "tags"}
    assert "$ref" not in str(output.schema)
    made = output.validate('{"name": "a", "corners": [{"x": 1}], "color": "red"}')
    assert made == Shape("a", [Point(1)], Color.RED)


def test_null_is_what_strict_mode_sends_for_what_is_left_out() -> None:
    output = structured_output(Shape)
    assert output.strict is not None
    assert output.strict["required"] == list(output.strict["properties"])
    text = """{"name": "a", "corners": [{"x": 1, "y": null}], "color": null, "kind": null,
               "id": null, "tags": null}"""
    assert output.validate(text) == Shape("a", [Point(1, 0)])


@given(st.builds(Point, st.integers(), st.integers()), st.lists(st.text()))
def test_a_value_survives(point: Point, tags: list[str]) -> None:
    shape = Shape("a", [point, point], Color.BLUE, tags=tags)
    text = pydantic.TypeAdapter(Any).dump_json(
        {"name": "a", "corners": [point, point], "color": "blue", "tags": tags}
    )
    assert structured_output(Shape).validate(text.decode()) == shape


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (int, '{"value": 3}', 3),
        (list[Point], '{"value": [{"x": 1}]}', [Point(1)]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Drawing, '{"title": "t"}', Drawing(title="t")),
    ],
)
def test_other_types(kind: Any, text: str, expected: Any) -> None:
    output = structured_output(kind)
    assert output.schema["type"] == "object"
    assert output.validate(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON: "),
        ("Sure! {", "not JSON: "),
        ("[]", "the whole: "),
        ("{}", "title: Field required"),
        ('{"title": ""}', "title: String should have at least 1 character"),
        ('{"title": "t", "shapes": {"a": "b"}}', "shapes.a: Input should be a valid integer"),
    ],
)
def test_what_does_not_fit_is_explained(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        structured_output(Drawing).validate(text)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "does not fit"), ("length", "was cut off"), ("content_filter", "refused")],
)
def test_why_there_is_no_object(finish: str, reason: str) -> None:
    completion = ChatCompletion("1", "m", "{", finish_reason=finish)
    with pytest.raises(StructuredOutputError, match=f"here: .*{reason}.* no Point") as caught:
        structured_output(Point).fill(completion, "here")
    assert caught.value.completion is completion
    assert completion.parsed is None


def test_what_cannot_be_described() -> None:
    class Opaque:
        pass

    with pytest.raises(TypeError, match=r"Opaque.* cannot be a response_format"):
        structured_output(Opaque)
