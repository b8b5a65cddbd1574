"""Finding futures in containers and filling in their values, by property."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.runtime.containers import futures_in, may_hold_futures, replace_futures
from motus.runtime.node import DONE, PENDING, Node


class Pair(NamedTuple):
    one: Any
    two: Any


class Listlike(list[Any]):
    """Only the types themselves are looked into."""


def grouped(items: dict[str, Any]) -> defaultdict[str, Any]:
    return defaultdict(list, items)


def future(value: Any, state: int = DONE) -> Node:
    node = Node()
    node.af_value = value
    node.af_state = state
    return node


atoms = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.binary(max_size=2), st.floats())
leaves = st.one_of(atoms, st.builds(future, st.integers()), st.builds(Listlike))
values = st.recursive(
    leaves,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.lists(inside, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=2), inside, max_size=3),
        st.dictionaries(st.text(max_size=2), inside, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(max_size=2), inside, max_size=3).map(grouped),
        st.builds(Pair, inside, inside),
    ),
    max_leaves=20,
)


def naive(value: Any) -> Any:
    if isinstance(value, Node):
        return value.af_value
    if type(value) is list:
        return [naive(item) for item in value]
    if type(value) is tuple:
        return tuple(naive(item) for item in value)
    if type(value) is dict:
        return {key: naive(item) for key, item in value.items()}
    if isinstance(value, OrderedDict):
        return OrderedDict((key, naive(item)) for key, item in value.items())
    if isinstance(value, defaultdict):
        return grouped({key: naive(item) for key, item in value.items()})
    if isinstance(value, Pair):
        return Pair(naive(value.one), naive(value.two))
    return value


def naive_futures(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    if type(value) in (list, tuple) or isinstance(value, Pair):
        return [found for item in value for found in naive_futures(item)]
    if isinstance(value, dict):
        return [found for item in value.values() for found in naive_futures(item)]
    return []


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


@given(values)
def test_filling_equals_the_obvious_recursion(value: Any) -> None:
    assert same(replace_futures(value), naive(value))
    assert same(replace_futures((value, value)), naive((value, value)))


@given(values)
def test_every_future_is_found_once_or_as_often_as_it_is_there(value: Any) -> None:
    found = {id(node) for node in futures_in((value,))}
    assert found == {id(node) for node in naive_futures(value)}
    assert may_hold_futures(value) or not found


@given(values)
def test_what_holds_no_future_is_passed_as_it_is(value: Any) -> None:
    if not naive_futures(value):
        assert replace_futures(value) is value


def test_depth_costs_no_stack_and_circles_end() -> None:
    deep: Any = [future(1)]
    for _ in range(50_000):
        deep = [deep]
    assert len(futures_in((deep,))) == 1
    filled = replace_futures(deep)
    for _ in range(50_000):
        filled = filled[0]
    assert filled == [1]
    circle: dict[str, Any] = {"x": future(1), "inside": []}
    circle["inside"].append(circle)
    filled = replace_futures(circle)
    assert filled["x"] == 1
    assert filled["inside"][0] is filled


@pytest.mark.parametrize("make", [list, tuple, lambda items: dict(enumerate(items))])
def test_a_future_that_is_not_done_stays(make: Any) -> None:
    late = future(None, PENDING)
    filled = replace_futures(make([future(1), late]))
    assert list(filled.values() if isinstance(filled, dict) else filled) == [1, late]
