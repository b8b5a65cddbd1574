"""Futures inside lists, tuples and dict values: finding them, and putting values in their place.

Only these types, the dicts of `collections` and named tuples are looked into; every other object is
passed as it is.
Nothing here recurses in Python, so nesting may be as deep as memory allows, and a container that
contains itself is visited once.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any, Final

from motus.runtime.node import DONE, Node

__all__ = [
    "AMONG_ARGUMENTS",
    "ATOMS",
    "CONTAINERS",
    "INSIDE_CONTAINERS",
    "NO_FUTURES",
    "futures_in",
    "is_container",
    "is_future",
    "may_hold_futures",
    "replace_futures",
    "replace_in_flat",
]

# Where the futures of a call are: it decides how its arguments are filled.
NO_FUTURES: Final = 0
AMONG_ARGUMENTS: Final = 1
INSIDE_CONTAINERS: Final = 2

_DICTS: Final = frozenset({dict, OrderedDict, defaultdict})
CONTAINERS: Final = _DICTS | {list, tuple}
# What most values are, and never a future nor a container: the cheapest first question.
ATOMS: Final = frozenset({int, str, float, bool, type(None), bytes})


def is_future(value: Any) -> bool:
    """Whether the value is a future.

    By its type: `isinstance` would believe what an object says of its class, and some lie or raise.
    """
    return issubclass(type(value), Node)


def is_container(value: Any) -> bool:
    """Whether the value can contain futures that count."""
    return _is_container_type(type(value))


def _is_container_type(kind: type) -> bool:
    # A named tuple has no base class of its own to ask for.
    return kind in CONTAINERS or (issubclass(kind, tuple) and hasattr(kind, "_make"))


def may_hold_futures(value: Any) -> bool:
    """Whether it is a future, or could contain one."""
    return type(value) not in ATOMS and (is_future(value) or is_container(value))


def futures_in(values: Iterable[Any]) -> list[Node]:
    """The futures among the values and in the containers among them, in order."""
    found: list[Node] = []
    futures, containers = _kinds(values)
    if futures:
        found = [value for value in values if type(value) in futures]
    if containers:
        _search([value for value in values if type(value) in containers], found)
    return found


def _kinds(values: Iterable[Any]) -> tuple[set[type[Node]], set[type]]:
    """Which types among the values are futures, and which are containers.

    Values are many and types are few: what is asked of each value must be quick.
    """
    kinds = set(map(type, values)) - ATOMS
    futures = {kind for kind in kinds if issubclass(kind, Node)}
    return futures, {kind for kind in kinds - futures if _is_container_type(kind)}


def _search(containers: list[Any], found: list[Node]) -> None:
    seen: set[int] = set()
    while containers:
        container = containers.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        values = container.values() if type(container) in _DICTS else container
        futures, inside = _kinds(values)
        if futures:
            found += [value for value in values if type(value) in futures]
        if inside:
            containers += [value for value in values if type(value) in inside]


def replace_futures(value: Any) -> Any:
    """The value with every future in it replaced by its result.

    A future that is not done stays as it is: it was put there after the others were counted.

    Containers without a future are passed as they are; the others are copied, and keep their type.
    """
    if is_future(value):
        return _result(value)
    if not is_container(value):
        return value
    if type(value) is list:
        # The common case, which may be long.
        filled = replace_in_flat(value)
        if filled is not None:
            return filled
    elif type(value) is tuple and len(value) == 1 and type(value[0]) is list:
        # The arguments of a call with one list.
        filled = replace_futures(value[0])
        return value if filled is value[0] else (filled,)
    order = _containers_below(value)
    holding = _holding_futures(order)
    if id(value) not in holding:
        return value
    # Containers are made first and filled afterwards, so that cycles come out as cycles; tuples
    # cannot be, so they are made once all that they contain is there.
    made: dict[int, Any] = {}
    for container in order:
        if id(container) in holding and not isinstance(container, tuple):
            made[id(container)] = _empty(container)

    def new(item: Any) -> Any:
        return _result(item) if is_future(item) else made.get(id(item), item)

    # `order` has every container after those that contain it: the innermost tuple comes first.
    for container in reversed(order):
        if id(container) in holding and isinstance(container, tuple):
            items = [new(item) for item in container]
            # Not the class itself: a named tuple's takes the items one by one.
            made[id(container)] = tuple.__new__(type(container), items)
    for container in order:
        if id(container) in holding:
            if isinstance(container, list):
                made[id(container)].extend([new(item) for item in container])
            elif isinstance(container, dict):
                made[id(container)].update((key, new(item)) for key, item in container.items())
    return made[id(value)]


def replace_in_flat(values: list[Any]) -> list[Any] | None:
    """The same for a list that contains no container; None if it does."""
    futures, containers = _kinds(values)
    if containers:
        return None
    # There is one class of futures, but for those of tests.
    for future in futures:
        values = [
            # As in _result, without a call for each.
            item.af_value if type(item) is future and item.af_state == DONE else item
            for item in values
        ]
    return values


def _containers_below(value: Any) -> list[Any]:
    """The container and all in it, each after everything that contains it (cycles aside)."""
    finished: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(value, False)]
    while stack:
        container, left = stack.pop()
        if left:
            finished.append(container)
            continue
        if id(container) in seen:
            continue
        seen.add(id(container))
        stack.append((container, True))
        items = container.values() if type(container) in _DICTS else container
        stack.extend((item, False) for item in items if is_container(item))
    finished.reverse()
    return finished


def _holding_futures(order: list[Any]) -> set[int]:
    """The ids of the containers that hold a future somewhere below."""
    above: dict[int, list[int]] = {}
    holding: list[int] = []
    for container in order:
        for item in container.values() if type(container) in _DICTS else container:
            if is_future(item):
                holding.append(id(container))
            elif is_container(item):
                above.setdefault(id(item), []).append(id(container))
    found: set[int] = set()
    while holding:
        one = holding.pop()
        if one not in found:
            found.add(one)
            holding.extend(above.get(one, ()))
    return found


def _empty(container: Any) -> Any:
    if type(container) is defaultdict:
        return defaultdict(container.default_factory)
    return type(container)()


def _result(future: Node) -> Any:
    return future.af_value if future.af_state == DONE else future
