"""Turns that wait for a human: slots, deadlines, values, and every way in which they end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from motus.serve.events import Status
from motus.serve.session import SessionDeletedError, SessionNotWaitingError, UnknownInterruptError
from tests.serve.fakes import FakeWorker, House, house, settle

pytestmark = pytest.mark.anyio

INSTANT = 1e-6


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def agent(worker: FakeWorker) -> str:
    """Does what the message says: `ask`, `ask 2`, `work 5`, in that order, by commas."""
    told: list[Any] = []
    for step in worker.content.split(","):
        verb, _, number = step.strip().partition(" ")
        if verb == "ask":
            asked = [worker.ask(type="user_input") for _ in range(int(number or "1"))]
            told += [await worker.value(one) for one in asked]
        elif verb == "work":
            await trio.sleep(float(number or "1"))
        elif verb == "hang":
            await trio.sleep_forever()
        elif verb == "die":
            worker.die("SIGKILL")
            await trio.sleep_forever()
    return f"told {told}"


def asked(house: House, session: Any) -> list[str]:
    return [pending.interrupt_id for pending in session.view().interrupts or ()]


async def test_a_turn_waits_for_its_human_and_goes_on() -> None:
    async with house(agent) as h:
        session = await h.posted("ask")
        assert session.view().status is Status.INTERRUPTED
        [one] = asked(h, session)
        h.turns.resume(session, one, {"approved": True})
        # The answer comes at once; the value follows.
        assert session.view().status is Status.RUNNING
        await settle()
        assert session.view().status is Status.IDLE
        assert session.view().response.content == "told [{'approved': True}]"  # type: ignore[union-attr]  # there is one


async def test_a_waiting_human_holds_no_slot() -> None:
    async with house(agent, max_workers=1) as h:
        waiting = [await h.posted("ask") for _ in range(5)]
        assert [s.status for s in waiting] == [Status.INTERRUPTED] * 5
        assert (h.turns.running_workers, h.turns.interrupted) == (0, 5)
        other = await h.posted("nothing")
        assert other.view().status is Status.IDLE


async def test_a_value_waits_for_a_slot_ahead_of_turns_that_have_not_begun() -> None:
    async with house(agent, max_workers=1) as h:
        first = await h.posted("ask, work 5")
        busy = await h.posted("work 10")
        queued = [await h.posted("work 1") for _ in range(3)]
        h.turns.resume(first, asked(h, first)[0], "x")
        await settle()
        assert first.view().status is Status.RUNNING
        assert h.pool.workers[0].sent == []
        assert h.turns.queued == 4
        await trio.sleep(10 + INSTANT)
        assert busy.view().status is Status.IDLE
        assert [r.value for r in h.pool.workers[0].sent] == ["x"]
        assert len(h.pool.workers) == 2
        await trio.sleep(5)
        assert first.view().status is Status.IDLE
        await trio.sleep(3)
        assert [s.status for s in queued] == [Status.IDLE] * 3


async def test_several_interrupts_of_one_turn_in_any_order() -> None:
    async with house(agent) as h:
        session = await h.posted("ask 3")
        one, two, three = asked(h, session)
        for interrupt, value in ((three, 3), (one, 1)):
            h.turns.resume(session, interrupt, value)
            await settle()
            # The worker has the value, and the slot is free again: others are still waited for.
            assert h.pool.workers[0].sent[-1].value == value
            assert (session.status, h.turns.running_workers) == (Status.INTERRUPTED, 0)
            with pytest.raises(UnknownInterruptError):
                h.turns.resume(session, interrupt, "again")
        h.turns.resume(session, two, 2)
        await settle()
        assert session.view().response.content == "told [1, 2, 3]"  # type: ignore[union-attr]  # there is one


async def test_an_interrupt_while_a_value_is_on_its_way_leaves_nothing_held() -> None:
    async def asks_twice(worker: FakeWorker) -> str:
        first, second = worker.ask(), None
        await trio.sleep(5)
        second = worker.ask()
        return f"{await worker.value(first)} {await worker.value(second)}"

    async with house(asks_twice, max_workers=1) as h:
        session = await h.posted()
        other = await h.posted()
        busy = await h.posted()  # as `other`: interrupted at once
        await trio.sleep(4)
        # All three are interrupted; give one its value while another one has the slot.
        h.turns.resume(session, asked(h, session)[0], "a")
        await settle()
        assert h.turns.running_workers == 1
        await trio.sleep(1 + INSTANT)
        assert session.view().status is Status.INTERRUPTED
        assert h.turns.running_workers == 0
        for one in (session, other, busy):
            for interrupt in asked(h, one):
                h.turns.resume(one, interrupt, "b")
        await settle()
        assert {s.status for s in (session, other, busy)} == {Status.IDLE}


@pytest.mark.parametrize("days", [0, 1, 30])
async def test_human_time_does_not_use_up_the_deadline(days: int) -> None:
    async with house(agent, timeout=10) as h:
        session = await h.posted("work 6, ask, work 3, ask, work 2")
        for _ in range(2):
            await trio.sleep(6 + INSTANT)
            assert session.view().status is Status.INTERRUPTED
            await trio.sleep(days * 86400)
            h.turns.resume(session, asked(h, session)[0], "x")
        # 6 and 3 seconds are used up: the third one passes, the fourth does not come.
        await trio.sleep(1 - 10 * INSTANT)
        assert session.view().status is Status.RUNNING
        await trio.sleep(20 * INSTANT)
        assert session.view().error == "Agent timed out"


async def test_waiting_for_a_slot_does_not_use_up_the_deadline() -> None:
    async with house(agent, timeout=10, max_workers=1) as h:
        session = await h.posted("work 9, ask")
        await trio.sleep(9 + INSTANT)
        busy = await h.posted("work 9")
        h.turns.resume(session, asked(h, session)[0], "x")
        await trio.sleep(9 + 2 * INSTANT)
        assert (busy.status, session.status) == (Status.IDLE, Status.IDLE)


async def test_a_stuck_worker_holds_up_nobody_but_its_own_turn() -> None:
    async with house(agent, timeout=10, max_workers=1) as h:
        session = await h.posted("ask")
        h.pool.workers[0].stuck = True
        h.turns.resume(session, asked(h, session)[0], "x" * 1_000_000)
        await settle()
        assert session.view().status is Status.RUNNING
        await trio.sleep(10 + INSTANT)
        assert session.view().error == "Agent timed out"
        assert (await h.posted("nothing")).view().status is Status.IDLE


async def test_a_stuck_worker_ends_at_its_deadline_also_while_something_else_is_asked() -> None:
    async with house(agent, timeout=10, max_workers=1) as h:
        session = await h.posted("ask 2")
        h.pool.workers[0].stuck = True
        h.turns.resume(session, asked(h, session)[0], "x" * 1_000_000)
        await settle()
        # The slot is held until the worker has its value, so that must not be for ever.
        assert (session.status, h.turns.running_workers) == (Status.INTERRUPTED, 1)
        await trio.sleep(10 + INSTANT)
        assert session.view().error == "Agent timed out"
        assert (await h.posted("nothing")).view().status is Status.IDLE


async def test_an_abandoned_interrupt_ends_within_a_second() -> None:
    async with house(agent, interrupt_ttl=60, ttl=5) as h:
        session = await h.posted("ask 2")
        await trio.sleep(59)
        # Who answers one of them is there: the time begins again.
        h.turns.resume(session, asked(h, session)[0], "x")
        await trio.sleep(59)
        assert session.view().status is Status.INTERRUPTED
        await trio.sleep(2)
        assert session.view().status is Status.ERROR
        assert session.view().error == "No reply to an interrupt within 60 s"
        assert not h.pool.alive
        await trio.sleep(6)
        assert len(h.store) == 0


async def test_an_interrupted_session_does_not_expire() -> None:
    async with house(agent, ttl=5) as h:
        session = await h.posted("ask")
        await trio.sleep(1000)
        assert h.store.get(session.session_id) is session


async def test_interrupted_sessions_have_a_bound_of_their_own() -> None:
    async with house(agent, max_interrupted=2) as h:
        first, second, third = [await h.posted("ask 2") for _ in range(3)]
        assert (first.status, second.status) == (Status.INTERRUPTED,) * 2
        assert third.view().error == "Too many sessions are interrupted (at most 2)"
        await h.turns.cancel(first)
        assert (await h.posted("ask")).view().status is Status.INTERRUPTED


async def test_cancelling_stops_the_turn_and_returns_when_it_is_gone() -> None:
    async with house(agent, max_workers=1) as h:
        h.pool.kill_seconds = 0.5
        for content in ("hang", "ask", "ask 2"):
            session = await h.posted(content)
            if content == "ask 2":
                h.turns.resume(session, asked(h, session)[0], "x")
            began = trio.current_time()
            assert await h.turns.cancel(session)
            assert trio.current_time() - began == pytest.approx(0.5)
            assert not h.pool.alive
            assert (session.status, session.view().error) == (Status.IDLE, None)
            assert (session.message_count, h.turns.running_workers) == (0, 0)
            assert not await h.turns.cancel(session)


async def test_cancelling_a_turn_that_has_no_slot_yet() -> None:
    async with house(agent, max_workers=1) as h:
        await h.posted("hang")
        queued = await h.posted("hang")
        assert h.turns.queued == 1
        assert await h.turns.cancel(queued)
        assert (queued.status, h.turns.queued, len(h.pool.workers)) == (Status.IDLE, 0, 1)


async def test_a_resume_of_a_turn_that_is_being_stopped_finds_nobody() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 5
        session = await h.posted("ask")
        [one] = asked(h, session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.turns.cancel, session)
            await settle()
            assert session.view().status is Status.INTERRUPTED
            with pytest.raises(UnknownInterruptError, match="not actively waiting for resume"):
                h.turns.resume(session, one, "x")
        with pytest.raises(SessionNotWaitingError, match="Session is idle, not interrupted"):
            h.turns.resume(session, one, "x")


async def test_a_worker_that_dies_while_a_human_thinks_ends_the_turn() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 1
        session = await h.posted("ask")
        h.pool.workers[0].die("SIGKILL")
        await settle()
        with pytest.raises(UnknownInterruptError):
            h.turns.resume(session, asked(h, session)[0], "x")
        await trio.sleep(1 + INSTANT)
        assert session.view().error == "Worker process exited unexpectedly (SIGKILL)"


async def test_a_worker_that_dies_while_its_value_waits_for_a_slot() -> None:
    async with house(agent, max_workers=1) as h:
        session = await h.posted("ask")
        await h.posted("hang")
        h.turns.resume(session, asked(h, session)[0], "x")
        await settle()
        h.pool.workers[0].die("SIGSEGV")
        await settle()
        assert session.view().error == "Worker process exited unexpectedly (SIGSEGV)"
        assert (h.turns.queued, h.turns.running_workers) == (0, 1)


async def test_deleting_an_interrupted_session() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 1
        session = await h.posted("ask")
        [one] = asked(h, session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.turns.delete, session)
            await settle()
            with pytest.raises(SessionDeletedError):
                h.turns.resume(session, one, "x")
            with pytest.raises(SessionDeletedError):
                await h.turns.cancel(session)
        assert not h.pool.alive
        assert (len(h.store), h.turns.interrupted) == (0, 0)


async def test_a_stopping_server_ends_who_waits_for_a_human_now_and_later() -> None:
    async with house(agent, max_workers=2) as h:
        waiting, coming, working = [
            await h.posted(content) for content in ("ask", "work 5, ask", "work 8")
        ]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.turns.drain, 0)
            await settle()
            assert waiting.view().error == "Server is shutting down"
        assert trio.current_time() - began == pytest.approx(8)
        assert coming.view().error == "Server is shutting down"
        assert working.view().status is Status.IDLE


async def test_an_answer_comes_also_while_something_is_still_asked() -> None:
    async def impatient(worker: FakeWorker) -> str:
        worker.ask()
        await trio.sleep(5)
        return "never mind"

    async with house(impatient, max_workers=1) as h:
        session = await h.posted()
        await trio.sleep(5 + INSTANT)
        assert session.view().interrupts is None
        assert session.view().status is Status.IDLE
        assert h.turns.interrupted == 0


@pytest.mark.parametrize("wrong", ["twice", "many", "large"])
async def test_interrupts_that_no_worker_of_ours_would_raise(wrong: str) -> None:
    async def hostile(worker: FakeWorker) -> None:
        if wrong == "twice":
            worker.ids = iter([1, 1])
        for _ in range({"twice": 2, "many": 1001, "large": 1}[wrong]):
            worker.ask(text="x" * (100_000 if wrong == "large" else 1))
        await trio.sleep_forever()

    async with house(hostile) as h:
        session = h.session()
        h.post(session)
        await trio.sleep(1)
        assert session.view().status is Status.ERROR
        assert str(session.view().error).startswith("Worker broke the protocol: ")
