"""Worker slots: handed out in order, and none is lost with somebody who stops waiting."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from motus.serve.slots import Slots

pytestmark = pytest.mark.trio


async def test_slots_are_handed_out_in_order_and_ahead_of_those_who_begin() -> None:
    slots = Slots(1)
    await slots.take()
    order: list[str] = []

    async def take(name: str, ahead: bool) -> None:
        await slots.take(ahead=ahead)
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name, ahead in (("a", False), ("b", False), ("c", True), ("d", True)):
            nursery.start_soon(take, name, ahead)
            await wait_all_tasks_blocked()
        assert (slots.free, slots.taken, slots.waiting) == (0, 1, 4)
        for _ in range(4):
            slots.give()
            await wait_all_tasks_blocked()
    assert order == ["c", "d", "a", "b"]
    slots.give()
    assert (slots.free, slots.taken, slots.waiting) == (1, 0, 0)


async def test_whoever_is_cancelled_leaves_the_queue() -> None:
    slots = Slots(1)
    await slots.take()
    with trio.move_on_after(0.001) as scope:
        await slots.take()
    assert scope.cancelled_caught
    assert slots.waiting == 0
    slots.give()
    assert slots.free == 1


async def test_a_slot_that_comes_together_with_the_cancellation_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.take()
    scope = trio.CancelScope()
    taken: list[str] = []

    async def give_up() -> None:
        with scope:
            await slots.take()
            taken.append("first")

    async def stay() -> None:
        await slots.take()
        taken.append("second")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await wait_all_tasks_blocked()
            nursery.start_soon(stay)
            await wait_all_tasks_blocked()
            # Cancelled, it has had no chance yet to leave the queue.
            scope.cancel()
            slots.give()
    assert taken == ["second"]
    assert (slots.taken, slots.waiting) == (1, 0)


async def test_random_takers_never_lose_a_slot_nor_share_one() -> None:
    chance = random.Random(3)
    slots = Slots(3)
    inside = 0

    async def visit() -> None:
        nonlocal inside
        with trio.move_on_after(chance.choice([0, 0.001, 0.003, 1])):
            await slots.take(ahead=chance.random() < 0.3)
            inside += 1
            try:
                assert inside <= 3
                await trio.lowlevel.checkpoint()
            finally:
                inside -= 1
                slots.give()

    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(visit)
    assert (slots.free, slots.taken, slots.waiting) == (3, 0, 0)
