"""The session machine: every event in every status, and every short history."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from motus.messages import ChatMessage
from motus.serve.session import (
    DeletionRequested,
    DeliverResume,
    Event,
    InterruptRaised,
    MessagePosted,
    PendingInterrupt,
    ResumePosted,
    Session,
    SessionBusyError,
    SessionDeleted,
    SessionDeletedError,
    SessionNotWaitingError,
    SessionView,
    StartTurn,
    Status,
    StopTurn,
    TurnCancelled,
    TurnFailed,
    TurnSucceeded,
    UnknownInterruptError,
    WakeWaiters,
)
from motus.serve.wire import EMPTY_STATE

HELLO = ChatMessage.user_message("hello")
ANSWER = ChatMessage.assistant_message("answer")
STATE = b'[{"role":"user"}]'

POSTED = MessagePosted("t1", HELLO)
SUCCEEDED = TurnSucceeded("t1", ANSWER, STATE, 1)
FAILED = TurnFailed("t1", "boom")
CANCELLED = TurnCancelled("t1")
ASKED = InterruptRaised("t1", "i1", {"type": "user_input"})
ANSWERED = ResumePosted("i1", 42)


def session_after(*events: Event) -> Session:
    session = Session("s", 0.0)
    for event in events:
        session.handle(event, 1.0)
    return session


def test_a_turn_that_succeeds() -> None:
    session = Session("s", 0.0)
    assert session.handle(POSTED, 1.0) == [StartTurn("t1", HELLO, EMPTY_STATE)]
    assert session.view() == SessionView("s", Status.RUNNING)
    done = SessionView("s", Status.IDLE, ANSWER)
    assert session.handle(SUCCEEDED, 2.0) == [WakeWaiters(done)]
    assert session.view() == done
    assert (session.state, session.message_count, session.turn_id) == (STATE, 1, None)


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [(TurnFailed("t2", "boom"), Status.ERROR, "boom"), (TurnCancelled("t2"), Status.IDLE, None)],
)
def test_a_turn_that_does_not_succeed_leaves_the_state(
    end: Event, status: Status, error: str | None
) -> None:
    session = session_after(POSTED, SUCCEEDED, MessagePosted("t2", HELLO))
    assert session.view().response is None
    view = SessionView("s", status, None, error)
    assert session.handle(end, 2.0) == [WakeWaiters(view)]
    assert (session.state, session.message_count) == (STATE, 1)
    # Both go on from there, and a new turn clears the error.
    assert session.handle(MessagePosted("t3", HELLO), 3.0) == [StartTurn("t3", HELLO, STATE)]
    assert session.view() == SessionView("s", Status.RUNNING)


def test_a_message_while_running_or_interrupted_is_refused() -> None:
    with pytest.raises(SessionBusyError, match=r"^Session is running$"):
        session_after(POSTED).handle(MessagePosted("t2", HELLO), 2.0)
    with pytest.raises(SessionBusyError, match=r"^Session is interrupted$"):
        session_after(POSTED, ASKED).handle(MessagePosted("t2", HELLO), 2.0)


def test_an_interrupt_wakes_who_waits_and_shows_what_is_asked() -> None:
    session = session_after(POSTED)
    pending = PendingInterrupt("i1", {"type": "user_input"})
    view = SessionView("s", Status.INTERRUPTED, interrupts=(pending,))
    assert session.handle(ASKED, 2.0) == [WakeWaiters(view)]
    assert pending.type == "user_input"
    assert PendingInterrupt("i", {}).type == PendingInterrupt("i", {"type": 5}).type == "unknown"


def test_several_interrupts_are_resumed_in_any_order() -> None:
    session = session_after(POSTED, ASKED)
    assert session.handle(InterruptRaised("t1", "i2", {}), 2.0) == []
    assert session.handle(ResumePosted("i2", "x"), 3.0) == [DeliverResume("t1", "i2", "x")]
    assert session.status is Status.INTERRUPTED
    with pytest.raises(UnknownInterruptError, match=r"^Unknown interrupt_id: i2$"):
        session.handle(ResumePosted("i2", "again"), 3.0)
    assert session.handle(ANSWERED, 4.0) == [DeliverResume("t1", "i1", 42)]
    assert session.view() == SessionView("s", Status.RUNNING)


@pytest.mark.parametrize("events", [(), (POSTED,), (POSTED, FAILED)], ids=["idle", "run", "error"])
def test_a_resume_while_nothing_waits_is_refused(events: tuple[Event, ...]) -> None:
    session = session_after(*events)
    with pytest.raises(SessionNotWaitingError, match=rf"^Session is {session.status}, not interr"):
        session.handle(ANSWERED, 2.0)


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, CANCELLED])
def test_the_end_of_a_turn_ends_its_interrupts(end: Event) -> None:
    session = session_after(POSTED, ASKED, end)
    assert session.view().interrupts is None
    with pytest.raises(SessionNotWaitingError):
        session.handle(ANSWERED, 2.0)


def test_an_old_turn_changes_nothing() -> None:
    session = session_after(POSTED, FAILED, MessagePosted("t2", HELLO))
    before = session.view()
    for late in (SUCCEEDED, FAILED, CANCELLED, ASKED):
        assert session.handle(late, 9.0) == []
        assert session.view() == before
    # The same id, made again: what the old one ran is nothing to it.
    again = Session("s", 2.0)
    assert again.handle(SUCCEEDED, 3.0) == []
    again.handle(MessagePosted("t9", HELLO), 3.0)
    assert again.handle(SUCCEEDED, 4.0) == []
    assert again.status is Status.RUNNING


def test_deletion_stops_the_turn_first_and_tells_waiters_last() -> None:
    session = session_after(POSTED)
    assert session.handle(DeletionRequested(), 2.0) == [StopTurn()]
    assert session.handle(DeletionRequested(), 2.0) == []
    # Until everything is gone the session looks as before; its turn's end wakes nobody.
    assert session.status is Status.RUNNING
    assert session.handle(CANCELLED, 3.0) == []
    with pytest.raises(SessionDeletedError, match=r"^Session deleted$"):
        session.handle(MessagePosted("t2", HELLO), 3.0)
    assert session.handle(SessionDeleted(), 4.0) == [WakeWaiters(None)]
    assert session.handle(SUCCEEDED, 5.0) == []


def test_only_resting_sessions_expire() -> None:
    session = Session("s", 10.0)
    assert session.expires_at(5.0) == 15.0
    session.handle(POSTED, 20.0)
    assert session.expires_at(5.0) is None
    session.handle(ASKED, 21.0)
    assert session.expires_at(5.0) is None
    session.handle(FAILED, 30.0)
    assert session.expires_at(5.0) == 35.0
    session.handle(DeletionRequested(), 31.0)
    assert session.expires_at(5.0) is None


ALPHABET: tuple[Event, ...] = (
    POSTED, MessagePosted("t2", HELLO), SUCCEEDED, TurnSucceeded("t2", ANSWER, b"[2]", 2), FAILED,
    CANCELLED, ASKED, ANSWERED, DeletionRequested(), SessionDeleted(),
)  # fmt: skip
REFUSALS = (
    SessionBusyError, SessionDeletedError, SessionNotWaitingError, UnknownInterruptError
)  # fmt: skip


def check(session: Session, before: SessionView, state: bytes, event: Any, done: list[Any]) -> None:
    view = session.view()
    busy = view.status in (Status.RUNNING, Status.INTERRUPTED)
    if not isinstance(event, SessionDeleted) and not session.deleting:
        assert busy == (session.turn_id is not None)
    assert (view.interrupts is not None) == (view.status is Status.INTERRUPTED)
    assert (view.error is not None) == (view.status is Status.ERROR)
    assert not (busy and view.response)
    if session.state != state:
        assert isinstance(event, TurnSucceeded)
        assert session.state == event.state
    started = [i for i in done if isinstance(i, StartTurn)]
    assert bool(started) == isinstance(event, MessagePosted)
    if not session.deleting:
        woken = [i for i in done if isinstance(i, WakeWaiters)]
        left_running = before.status is Status.RUNNING and view.status is not Status.RUNNING
        ended = before.status is Status.INTERRUPTED and not busy
        assert bool(woken) == (left_running or ended)
        assert all(i.view == view for i in woken)


def test_every_history_of_five_events_keeps_the_rules() -> None:
    for history in itertools.product(ALPHABET, repeat=5):
        session = Session("s", 0.0)
        for now, event in enumerate(history):
            before, state = session.view(), session.state
            try:
                done = session.handle(event, float(now))
            except REFUSALS:
                assert isinstance(event, MessagePosted | ResumePosted)
                assert (session.view(), session.state) == (before, state)
            else:
                check(session, before, state, event, done)
