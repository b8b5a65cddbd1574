"""`interrupt()`: what it takes, who answers it, and how it ends, in a worker and in a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from motus.runtime import agent_task, resolve, shutdown
from motus.serve.interrupt import MAX_MESSAGE_BYTES, interrupt, interrupts_through
from motus.serve.wire import Interrupt
from motus.serve.workers.interrupts import PendingInterrupts
from motus.testing import UnforeseenError, answer_interrupts

pytestmark = pytest.mark.anyio


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"x": value}
    return value


class Port:
    """A worker's port whose other side is the test."""

    def __init__(self) -> None:
        self.asked: list[Interrupt] = []
        self.pending = PendingInterrupts("t", self._sent)
        self.on_ask: Callable[[Interrupt], None] = lambda _: None

    def _sent(self, message: Interrupt) -> None:
        self.asked.append(message)
        self.on_ask(message)


async def test_outside_of_a_worker_it_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        await interrupt({})
    assert str(caught.value) == "interrupt() called outside motus serve worker subprocess"
    [note] = caught.value.__notes__
    assert "motus serve start" in note
    assert "motus.testing.answer_interrupts" in note


@pytest.mark.parametrize(
    ("payload", "error", "reason"),
    [
        (None, TypeError, r"interrupt\(\) takes a dict, got NoneType"),
        ([1], TypeError, "got list"),
        ("text", TypeError, "got str"),
        ({"x": object()}, TypeError, "not expressible in JSON"),
        ({"x": {1, 2}}, TypeError, "not expressible in JSON"),
        ({("a", "b"): 1}, TypeError, "not expressible in JSON"),
        ({"x": float("nan")}, ValueError, "not expressible in JSON"),
        ({"x": float("-inf")}, ValueError, "not expressible in JSON"),
        ({"x": "\ud800"}, ValueError, "not expressible in JSON"),
        ({"\udfff": 1}, ValueError, "not expressible in JSON"),
        ({"x": 10**5000}, ValueError, "JSON"),
        (nested(65), ValueError, "nested deeper than 64"),
        (nested(3000), ValueError, "Interrupt"),
    ],
    ids=[
        "nothing", "list", "text", "object", "set", "tuple key", "nan", "infinity", "surrogate",
        "surrogate key", "huge number", "deep", "very deep",
    ],
)  # fmt: skip
async def test_a_payload_that_cannot_be_shown_is_refused(
    payload: Any, error: type[Exception], reason: str
) -> None:
    with answer_interrupts([]) as asked, pytest.raises(error, match=reason):
        await interrupt(payload)
    assert asked.payloads == []


async def test_a_payload_is_measured_in_bytes_of_json() -> None:
    room = MAX_MESSAGE_BYTES - len('{"x":""}')
    with answer_interrupts([1]):
        assert await interrupt({"x": "é" * (room // 2)}) == 1
    with (
        answer_interrupts([]),
        pytest.raises(
            ValueError, match=r"^Interrupt message too large: 16386 bytes \(max 16384\)$"
        ),
    ):
        await interrupt({"x": "é" * (room // 2 + 1)})


async def test_the_deepest_payload_goes_through() -> None:
    with answer_interrupts([1]) as asked:
        await interrupt(nested(64))
    assert asked.payloads == [nested(64)]


async def test_values_reach_those_who_asked_whatever_their_order() -> None:
    port = Port()
    got: dict[int, Any] = {}

    async def ask(number: int) -> None:
        got[number] = await interrupt({"number": number})

    with interrupts_through(port.pending):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            for message in reversed(port.asked):
                port.pending.deliver(message.interrupt_id, message.payload["number"] * 10)
    assert got == {number: number * 10 for number in range(5)}
    assert len({message.interrupt_id for message in port.asked}) == 5
    assert len(port.pending) == 0


async def test_a_value_for_nobody_is_dropped() -> None:
    port = Port()
    with interrupts_through(port.pending):
        with anyio.move_on_after(1) as scope:
            await interrupt({})
        assert scope.cancelled_caught
        assert len(port.pending) == 0
        port.pending.deliver(port.asked[0].interrupt_id, "late")
        port.pending.deliver("unknown", 1)
        port.on_ask = lambda message: port.pending.deliver(message.interrupt_id, "in time")
        assert await interrupt({}) == "in time"
        # Twice the same: the second is for nobody.
        port.pending.deliver(port.asked[1].interrupt_id, "again")


async def test_the_end_of_the_turn_is_told_to_those_who_wait_and_will() -> None:
    port = Port()
    ended = 0

    async def ask() -> None:
        nonlocal ended
        with pytest.raises(EOFError, match=r"^Worker pipe closed$"):
            await interrupt({})
        ended += 1

    with interrupts_through(port.pending):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            port.pending.close()
        await ask()
    assert ended == 3
    assert len(port.asked) == 2


@pytest.mark.realtime
async def test_the_value_comes_from_another_thread_to_a_loop_in_a_third(
    anyio_backend: tuple[str, Any],
) -> None:
    port = Port()
    answering: list[threading.Thread] = []

    def answer(message: Interrupt) -> None:
        value = message.payload["x"] + 1
        thread = threading.Thread(target=port.pending.deliver, args=(message.interrupt_id, value))
        answering.append(thread)
        thread.start()

    port.on_ask = answer

    def own_loop(x: int) -> Any:
        return anyio.run(interrupt, {"x": x}, backend=anyio_backend[0])

    with interrupts_through(port.pending):
        assert await interrupt({"x": 1}) == 2
        assert await anyio.to_thread.run_sync(own_loop, 2) == 3
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, interrupt, {"x": 3}) == 4
    for thread in answering:
        thread.join()


@pytest.mark.realtime
async def test_tasks_ask_too() -> None:
    @agent_task
    async def asking(x: int) -> Any:
        return await interrupt({"x": x})

    with answer_interrupts(lambda payload: payload["x"] * 2):
        assert await asking(4) == 8
        assert await anyio.to_thread.run_sync(lambda: resolve(asking(5))) == 10
    await anyio.to_thread.run_sync(shutdown)


async def test_a_function_answers_in_a_test_and_may_be_async() -> None:
    async def slowly(payload: dict[str, Any]) -> str:
        await anyio.sleep(1)
        return str(payload["question"])

    with answer_interrupts(slowly) as asked:
        assert await interrupt({"question": "why"}) == "why"
    assert asked.payloads == [{"question": "why"}]

    def closed(payload: dict[str, Any]) -> Any:
        raise EOFError("Worker pipe closed")

    with answer_interrupts(closed), pytest.raises(EOFError):
        await interrupt({})


async def test_answers_are_given_in_order_and_missed_when_they_run_out() -> None:
    with (
        pytest.raises(UnforeseenError, match=r"no answer is left for the interrupt {'n': 3}"),
        answer_interrupts([None, False]) as asked,
    ):
        assert await interrupt({"n": 1}) is None
        assert await interrupt({"n": 2}) is False
        await interrupt({"n": 3})
    assert [payload["n"] for payload in asked.payloads] == [1, 2, 3]
    with pytest.raises(RuntimeError, match="outside"):
        await interrupt({})


async def test_the_nearest_block_answers() -> None:
    with answer_interrupts(["outer"]):
        with answer_interrupts(["inner"]):
            assert await interrupt({}) == "inner"
        assert await interrupt({}) == "outer"
