"""The session machine: every event in every status, every short history, and long random ones."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from motus.messages import ChatMessage
from motus.serve.events import (
    CallWebhook,
    CancelRequested,
    DeletionRequested,
    DeliverResume,
    Event,
    Instruction,
    InterruptRaised,
    MessagePosted,
    PauseTurn,
    PendingInterrupt,
    ResumePosted,
    SessionDeleted,
    SessionView,
    StartTurn,
    Status,
    StopRequested,
    StopTurn,
    TurnEnded,
    TurnFailed,
    TurnSucceeded,
    WakeWaiters,
    Webhook,
)
from motus.serve.session import (
    Session,
    SessionBusyError,
    SessionDeletedError,
    SessionNotWaitingError,
    UnknownInterruptError,
)
from motus.serve.wire import EMPTY_STATE

HELLO = ChatMessage.user_message("hello")
ANSWER = ChatMessage.assistant_message("answer")
STATE = b'[{"role":"user"}]'

POSTED = MessagePosted("t1", HELLO)
SUCCEEDED = TurnSucceeded("t1", ANSWER, STATE, 1)
FAILED = TurnFailed("t1", "boom")
ENDED = TurnEnded("t1", "the worker died")
CANCEL = CancelRequested()
TIMED_OUT = StopRequested("t1", "timed out")
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


@pytest.mark.parametrize("asked", [[], [ASKED]], ids=["running", "interrupted"])
@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ([FAILED], Status.ERROR, "boom"),
        ([ENDED], Status.ERROR, "the worker died"),
        ([CANCEL, ENDED], Status.IDLE, None),
        ([TIMED_OUT, ENDED], Status.ERROR, "timed out"),
    ],
    ids=["failed", "ended", "cancelled", "stopped"],
)
def test_a_turn_that_does_not_succeed_leaves_the_state(
    asked: list[Event], end: list[Event], status: Status, error: str | None
) -> None:
    session = session_after(MessagePosted("t0", HELLO), TurnSucceeded("t0", ANSWER, STATE, 1))
    session.handle(POSTED, 1.0)
    for event in (*asked, *end[:-1]):
        session.handle(event, 1.0)
    assert session.view().response is None
    view = SessionView("s", status, None, error)
    assert session.handle(end[-1], 2.0) == [WakeWaiters(view)]
    assert (session.view(), session.state, session.message_count) == (view, STATE, 1)
    # Every one of them goes on from there, and a new turn clears the error.
    assert session.handle(MessagePosted("t3", HELLO), 3.0) == [StartTurn("t3", HELLO, STATE)]
    assert session.view() == SessionView("s", Status.RUNNING)


def test_the_first_word_about_how_a_turn_ends_is_the_last() -> None:
    late: tuple[Event, ...] = (SUCCEEDED, FAILED, ASKED, CANCEL, TIMED_OUT)
    for first, error in ((CANCEL, None), (TIMED_OUT, "timed out")):
        session = session_after(POSTED)
        assert session.handle(first, 2.0) == [StopTurn()]
        before = session.view()
        for event in late:
            assert session.handle(event, 3.0) == []
            assert session.view() == before
        session.handle(ENDED, 4.0)
        assert session.view().error == error
    # An answer that was there before is not taken back.
    session = session_after(POSTED, SUCCEEDED)
    before = session.view()
    for event in (CANCEL, TIMED_OUT, ENDED, FAILED, SUCCEEDED, ASKED):
        assert session.handle(event, 3.0) == []
        assert session.view() == before


def test_who_cancels_knows_whether_that_is_how_the_turn_will_end() -> None:
    assert session_after(POSTED, CANCEL).cancelling
    assert not session_after(POSTED, CANCEL, ENDED).cancelling
    assert not session_after(POSTED, TIMED_OUT, CANCEL).cancelling
    assert not session_after(CANCEL).cancelling
    assert not session_after(POSTED, DeletionRequested()).cancelling


@pytest.mark.parametrize("stop", [CANCEL, TIMED_OUT])
def test_nobody_resumes_a_turn_that_is_being_stopped(stop: Event) -> None:
    session = session_after(POSTED, ASKED, stop)
    with pytest.raises(UnknownInterruptError, match=r"^Session not actively waiting for resume$"):
        session.handle(ANSWERED, 2.0)


def test_a_webhook_hears_of_every_end_once_and_of_no_interrupt() -> None:
    webhook = Webhook("http://x", "secret")
    assert "secret" not in repr(webhook)
    posted = MessagePosted("t1", HELLO, webhook)
    ends: tuple[list[Event], ...] = ([SUCCEEDED], [FAILED], [ENDED], [CANCEL, ENDED])
    for end in ends:
        session = session_after(posted, ASKED, ANSWERED, *end[:-1])
        done = session.handle(end[-1], 2.0)
        assert done[1:] == [CallWebhook(webhook, "t1", session.view(), session.state)]
        # The next turn has none, unless it brings one.
        session.handle(MessagePosted("t2", HELLO), 3.0)
        assert len(session.handle(TurnFailed("t2", "x"), 4.0)) == 1
    # Who deletes the session does not want to hear of it any more.
    assert session_after(posted, DeletionRequested()).handle(ENDED, 2.0) == []


def test_a_message_while_running_or_interrupted_is_refused() -> None:
    with pytest.raises(SessionBusyError, match=r"^Session is running$"):
        session_after(POSTED).handle(MessagePosted("t2", HELLO), 2.0)
    with pytest.raises(SessionBusyError, match=r"^Session is interrupted$"):
        session_after(POSTED, ASKED).handle(MessagePosted("t2", HELLO), 2.0)


def test_an_interrupt_wakes_who_waits_and_shows_what_is_asked() -> None:
    session = session_after(POSTED)
    pending = PendingInterrupt("i1", {"type": "user_input"})
    view = SessionView("s", Status.INTERRUPTED, interrupts=(pending,))
    assert session.handle(ASKED, 2.0) == [PauseTurn("t1"), WakeWaiters(view)]
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


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, ENDED])
def test_the_end_of_a_turn_ends_its_interrupts(end: Event) -> None:
    session = session_after(POSTED, ASKED, end)
    assert session.view().interrupts is None
    with pytest.raises(SessionNotWaitingError):
        session.handle(ANSWERED, 2.0)


def test_an_old_turn_changes_nothing() -> None:
    session = session_after(POSTED, FAILED, MessagePosted("t2", HELLO))
    before = session.view()
    for late in (SUCCEEDED, FAILED, ENDED, TIMED_OUT, ASKED):
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
    assert session.handle(SUCCEEDED, 3.0) == []
    assert session.handle(ENDED, 3.0) == []
    for event in (MessagePosted("t2", HELLO), ANSWERED, CANCEL):
        with pytest.raises(SessionDeletedError, match=r"^Session deleted$"):
            session.handle(event, 3.0)
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


def test_only_interrupted_sessions_can_be_abandoned() -> None:
    session = session_after(POSTED)
    assert session.abandoned_at(5.0) is None
    session.handle(ASKED, 10.0)
    session.handle(InterruptRaised("t1", "i2", {}), 12.0)
    assert session.abandoned_at(5.0) == 17.0
    session.handle(ANSWERED, 16.0)
    assert session.abandoned_at(5.0) == 21.0
    session.handle(CANCEL, 20.0)
    assert session.abandoned_at(5.0) is None


ALPHABET: tuple[Event, ...] = (
    POSTED, MessagePosted("t2", HELLO), SUCCEEDED, TurnSucceeded("t2", ANSWER, b"[2]", 2), FAILED,
    ENDED, CANCEL, TIMED_OUT, ASKED, ANSWERED, DeletionRequested(), SessionDeleted(),
)  # fmt: skip
REFUSALS = (
    SessionBusyError, SessionDeletedError, SessionNotWaitingError, UnknownInterruptError
)  # fmt: skip
FROM_CLIENTS = MessagePosted | ResumePosted | CancelRequested


class Witness:
    """Watches one session, and keeps the rules of the room from outside."""

    def __init__(self) -> None:
        self.session = Session("s", 0.0)
        self.now = 0.0
        self.started: list[str] = []
        self.delivered: list[tuple[str, str]] = []
        self.called: list[str] = []
        self.stopping = False

    def see(self, event: Event) -> list[Instruction] | None:
        """What the session says to the event; None when it refuses."""
        session, before, state = self.session, self.session.view(), self.session.state
        turn = session.turn_id
        self.now += 1
        try:
            done = session.handle(event, self.now)
        except REFUSALS:
            assert isinstance(event, FROM_CLIENTS)
            assert (session.view(), session.state, session.turn_id) == (before, state, turn)
            return None
        self._check_view(event)
        view = session.view()
        if session.state != state:
            assert isinstance(event, TurnSucceeded)
            assert (session.state, event.turn_id, self.stopping) == (event.state, turn, False)
        started = [i.turn_id for i in done if isinstance(i, StartTurn)]
        assert started == ([event.turn_id] if isinstance(event, MessagePosted) else [])
        assert not started or before.status in (Status.IDLE, Status.ERROR)
        self.started += started
        self.delivered += [
            (i.turn_id, i.interrupt_id) for i in done if isinstance(i, DeliverResume)
        ]
        self.called += [i.turn_id for i in done if isinstance(i, CallWebhook)]
        if session.turn_id is None:
            self.stopping = False
        elif any(isinstance(i, StopTurn) for i in done):
            self.stopping = True
        if not session.deleting:
            woken = [i for i in done if isinstance(i, WakeWaiters)]
            left_running = before.status is Status.RUNNING and view.status is not Status.RUNNING
            ended = before.status is Status.INTERRUPTED and session.turn_id is None
            assert bool(woken) == (left_running or ended)
            assert all(i.view == view for i in woken)
        paused = [i.turn_id for i in done if isinstance(i, PauseTurn)]
        became = view.status is Status.INTERRUPTED is not before.status
        assert paused == ([session.turn_id] if became else [])
        return done

    def _check_view(self, event: Event) -> None:
        view, session = self.session.view(), self.session
        busy = view.status in (Status.RUNNING, Status.INTERRUPTED)
        if not isinstance(event, SessionDeleted) and not session.deleting:
            assert busy == (session.turn_id is not None)
        assert (view.interrupts is not None) == (view.status is Status.INTERRUPTED)
        assert (view.error is not None) == (view.status is Status.ERROR)
        assert not (busy and view.response)
        assert (session.expires_at(1.0) is not None) == (not busy and not session.deleting)


def test_every_short_history_keeps_the_rules() -> None:
    length = 5 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 4
    for history in itertools.product(ALPHABET, repeat=length):
        witness = Witness()
        for event in history:
            witness.see(event)


class Histories(RuleBasedStateMachine):
    """Clients, a worker and a server that do what they like, late echoes of old turns included."""

    turns: st.SearchStrategy[int] = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness()
        self.count = 0
        self.with_webhook: set[str] = set()
        self.raised: dict[tuple[str, str], int] = {}

    def turn(self, age: int) -> str:
        """The running turn (mostly), or one that is over, or none that ever was."""
        running = self.witness.session.turn_id
        return running if running is not None and age else f"t{max(self.count - age, 0)}"

    @rule(calls=st.booleans())
    def post(self, calls: bool) -> None:
        self.count += 1
        turn_id = f"t{self.count}"
        webhook = Webhook("http://x") if calls else None
        if self.witness.see(MessagePosted(turn_id, HELLO, webhook)) is not None and calls:
            self.with_webhook.add(turn_id)

    @rule(age=turns, number=st.integers(1, 4))
    def interrupt(self, age: int, number: int) -> None:
        turn_id, interrupt_id = self.turn(age), f"i{number}"
        new = interrupt_id not in self.witness.session.pending
        self.witness.see(InterruptRaised(turn_id, interrupt_id, {}))
        if new and interrupt_id in self.witness.session.pending:
            key = turn_id, interrupt_id
            self.raised[key] = self.raised.get(key, 0) + 1

    @rule(number=st.integers(1, 4))
    def resume(self, number: int) -> None:
        pending = f"i{number}" in self.witness.session.pending
        accepted = self.witness.see(ResumePosted(f"i{number}", "x")) is not None
        assert not accepted or pending

    @rule(age=turns)
    def succeed(self, age: int) -> None:
        self.witness.see(TurnSucceeded(self.turn(age), ANSWER, f"[{self.count}]".encode(), 1))

    @rule(age=turns)
    def fail(self, age: int) -> None:
        self.witness.see(TurnFailed(self.turn(age), "boom"))

    @rule(age=turns)
    def end(self, age: int) -> None:
        self.witness.see(TurnEnded(self.turn(age), "died"))

    @rule(age=turns)
    def time_out(self, age: int) -> None:
        self.witness.see(StopRequested(self.turn(age), "timed out"))

    @rule()
    def cancel(self) -> None:
        self.witness.see(CancelRequested())

    @rule(really=st.integers(0, 9))
    def delete(self, really: int) -> None:
        if not really:
            self.witness.see(DeletionRequested())

    @precondition(lambda self: self.witness.session.deleting)
    @rule()
    def gone(self) -> None:
        self.witness.see(SessionDeleted())

    @invariant()
    def turns_start_once_and_end_once(self) -> None:
        witness = self.witness
        assert len(set(witness.started)) == len(witness.started)
        assert len(set(witness.called)) == len(witness.called)
        assert set(witness.called) <= self.with_webhook

    @invariant()
    def no_value_is_delivered_twice(self) -> None:
        for key in self.witness.delivered:
            assert self.witness.delivered.count(key) <= self.raised[key]


Histories.TestCase.settings = settings(stateful_step_count=40)
TestHistories = Histories.TestCase
