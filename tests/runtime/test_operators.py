"""Operators extend the graph; barriers block and say so."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from motus.runtime import (
    AgentFuture,
    agent_task,
    get_runtime,
    init,
    open_runtime,
    resolve,
    shutdown,
)


@agent_task
async def later(x: Any) -> Any:
    await anyio.sleep(0.01)
    return x


class Matrix:
    def __init__(self, *values: int) -> None:
        self.values = values

    def __matmul__(self, other: Matrix) -> int:
        return sum(a * b for a, b in zip(self.values, other.values, strict=True))

    def plus(self, n: int, *, times: int = 1) -> Matrix:
        return Matrix(*(v + n * times for v in self.values))

    async def total(self) -> int:
        await anyio.lowlevel.checkpoint()
        return sum(self.values)

    @agent_task
    async def first(self) -> int:
        return self.values[0]


DEFERRED: list[tuple[str, Callable[[Any], Any], Any]] = [
    ("7 + x", lambda x: 7 + x, 12),
    ("x + 7", lambda x: x + 7, 12),
    ("x - 7", lambda x: x - 7, -2),
    ("7 - x", lambda x: 7 - x, 2),
    ("x * 7", lambda x: x * 7, 35),
    ("7 * x", lambda x: 7 * x, 35),
    ("x / 2", lambda x: x / 2, 2.5),
    ("10 / x", lambda x: 10 / x, 2.0),
    ("x // 2", lambda x: x // 2, 2),
    ("11 // x", lambda x: 11 // x, 2),
    ("x % 3", lambda x: x % 3, 2),
    ("7 % x", lambda x: 7 % x, 2),
    ("x ** 2", lambda x: x**2, 25),
    ("2 ** x", lambda x: 2**x, 32),
    ("pow(x, 2, 7)", lambda x: pow(x, 2, 7), 4),
    ("x & 4", lambda x: x & 4, 4),
    ("4 & x", lambda x: 4 & x, 4),
    ("x | 2", lambda x: x | 2, 7),
    ("2 | x", lambda x: 2 | x, 7),
    ("x ^ 1", lambda x: x ^ 1, 4),
    ("1 ^ x", lambda x: 1 ^ x, 4),
    ("x << 1", lambda x: x << 1, 10),
    ("1 << x", lambda x: 1 << x, 32),
    ("x >> 1", lambda x: x >> 1, 2),
    ("64 >> x", lambda x: 64 >> x, 2),
    ("-x", lambda x: -x, -5),
    ("+x", lambda x: +x, 5),
    ("~x", lambda x: ~x, -6),
    ("abs(x)", lambda x: abs(-x), 5),
    ("round(x)", lambda x: round(x / 3, 1), 1.7),
    ("divmod(x, 3)", lambda x: divmod(x, 3), (1, 2)),
    ("divmod(11, x)", lambda x: divmod(11, x), (2, 1)),
    ("x < 6", lambda x: x < 6, True),
    ("x <= 5", lambda x: x <= 5, True),
    ("x > 6", lambda x: x > 6, False),
    ("x >= 5", lambda x: x >= 5, True),
    ("x.real", lambda x: x.real, 5),
    ("x.bit_length()", lambda x: x.bit_length(), 3),
    ("x + x", lambda x: x + x, 10),
]
NAMES = [row[0] for row in DEFERRED]


@pytest.mark.anyio
@pytest.mark.realtime
@pytest.mark.parametrize(
    ("text", "expression", "value"), DEFERRED, ids=[row[0] for row in DEFERRED]
)
async def test_operators_give_futures(
    text: str, expression: Callable[[Any], Any], value: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with open_runtime():
            future = expression(later(5))
            assert type(future) is AgentFuture
            assert not future.af_done()
            assert await future == value


@pytest.mark.anyio
@pytest.mark.realtime
async def test_items_attributes_and_calls() -> None:
    async with open_runtime():
        box = later({"a": [1, 2, 3], "m": Matrix(1, 2)})
        assert await box["a"][later(1)] == 2
        assert await box["a"][0:2] == [1, 2]
        matrix = box["m"]
        assert await (matrix @ Matrix(3, 4)) == 11
        assert await matrix.plus(later(1), times=2).values == (3, 4)
        assert await matrix.total() == 3
        assert await matrix.first() == 1
        assert await later(Matrix)(7).values == (7,)
        assert sum([await one for one in [later(1) + 1, later(2) + 1]]) == 5
        added: Any = sum([later(1), later(2)], later(3))
        assert await added == 6


@pytest.mark.anyio
async def test_a_failing_operator_says_where_it_was_written() -> None:
    async with open_runtime():
        with pytest.raises(ZeroDivisionError) as caught:
            await (later(1) / 0)
        assert "test_operators.py" in caught.value.__notes__[0]
        with pytest.raises(AttributeError):
            await later(1).nothing
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await (ends() + 1)


@agent_task
async def ends() -> Any:
    class Ends:
        def __add__(self, other: int) -> int:
            raise StopIteration

    return Ends()


@pytest.fixture
def background() -> Iterator[None]:
    init()
    yield
    shutdown()


BARRIERS: list[tuple[str, Callable[[Any], Any], Any, Any]] = [
    ("bool", bool, 5, True),
    ("str", str, 5, "5"),
    ("len", len, [1, 2], 2),
    ("iter", lambda x: [y for y in x], [1, 2], [1, 2]),  # noqa: C416  # list() also asks for the length
    ("int", int, 5.5, 5),
    ("float", float, 5, 5.0),
    ("complex", complex, 5, 5 + 0j),
    ("index", lambda x: [0, 1, 2][x], 1, 1),
    ("eq", lambda x: x == 5, 5, True),
    ("ne", lambda x: x != 5, 5, False),
    ("hash", hash, 5, hash(5)),
    ("contains", lambda x: 2 in x, [1, 2], True),
    ("format", lambda x: f"{x:>3}", 5, "  5"),
]


@pytest.mark.realtime
@pytest.mark.usefixtures("background")
@pytest.mark.parametrize(
    ("name", "operation", "value", "result"), BARRIERS, ids=[row[0] for row in BARRIERS]
)
def test_barriers_block_and_warn(
    name: str,
    operation: Callable[[Any], Any],
    value: Any,
    result: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = rf"AgentFuture.__{name}__\(\) implicitly blocked to resolve value. Set MOTUS_QUIET_SYNC"
    with pytest.warns(UserWarning, match=text) as caught:
        assert operation(later(value)) == result
    assert caught[0].filename == __file__
    # Read when the barrier fires.
    for quiet in ("1", "true", "YES", "on"):
        monkeypatch.setenv("MOTUS_QUIET_SYNC", quiet)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert operation(later(value)) == result


@pytest.mark.realtime
@pytest.mark.usefixtures("background")
def test_two_futures_compare_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTUS_QUIET_SYNC", "1")
    assert later(5) == later(5)
    assert later(5) != later(6)
    assert later(5) in {later(5): 1}
    a, b = later([1, 2])
    assert (a, b) == (1, 2)


@pytest.mark.anyio
async def test_a_barrier_in_the_runtimes_own_loop_is_refused() -> None:
    async with open_runtime():
        future = later(5)
        with (
            pytest.raises(RuntimeError, match="await future"),
            pytest.warns(UserWarning, match="__bool__"),
        ):
            bool(future)
        await future
        with pytest.warns(UserWarning, match="__bool__"):
            assert bool(future)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (str, "str()"),
        (bool, "bool()"),
        (lambda x: f"{x}", "format()"),
        (lambda x: x == 5, "=="),
        (lambda x: 5 in x, "in"),
    ],
)
async def test_a_barrier_that_is_refused_says_which_it_was_and_of_which_task(
    operation: Callable[[Any], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTUS_QUIET_SYNC", "1")
    async with open_runtime():
        with pytest.raises(RuntimeError) as caught:
            operation(later(5))
    begin, _, end = str(caught.value).partition(" Here ")
    assert begin.endswith("Use 'await future' instead.")
    assert end.startswith(f"{name} needs the value of task 'later' (id=")
    assert end.endswith("apply it to what 'await' returns.")


@pytest.mark.anyio
async def test_who_gathers_futures_is_told_how_to_wait_for_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOTUS_QUIET_SYNC", "1")
    async with open_runtime():
        futures = [later(1), later(2)]
        # asyncio.gather() does the same.
        with pytest.raises(
            RuntimeError, match=r"asyncio\.gather.*: \[await one for one in futures\]\.$"
        ):
            set(futures)
        assert [await one for one in futures] == [1, 2]


@pytest.mark.realtime
@pytest.mark.usefixtures("background")
def test_looking_at_a_future_adds_no_task() -> None:
    future = later(1)
    resolve(future)
    graph = get_runtime().scheduler.graph
    before = graph.unfinished
    for name in ("__array__", "__wrapped__", "__len_hint__", "af_nothing"):
        assert not hasattr(future, name)
    assert copy.copy(future) is future
    assert not inspect.iscoroutinefunction(future)
    assert inspect.isawaitable(future)
    repr(future)
    dir(future)
    assert graph.unfinished == before
    with pytest.raises(AttributeError):
        setattr(future, "x", 1)  # noqa: B010  # mypy knows that it has no attributes of its own
