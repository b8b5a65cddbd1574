"""A session is sequential (G10): what concurrent clients saw of it fits one order of turns.

Clients, kills and timeouts hit a few sessions at random instants of virtual time. Every request
and its answer go into a history; the checks below read nothing but that and what the workers saw.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.serve.fakes import FakeWorker, House, house

pytestmark = pytest.mark.anyio

HISTORIES = 2_000 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 6
SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@attrs.define
class Call:
    """One request: when it was made and answered, and with what."""

    what: str
    session: str
    began: float
    tag: str = ""
    ended: float = 0.0
    status: int = 0
    body: Any = None


@attrs.define
class Span:
    """A turn as its worker saw it: from its message to its answer, or to its end without one."""

    session: str
    tag: str
    began: float
    ended: float


@attrs.define
class History:
    """What clients saw, and what workers did."""

    house: House
    chance: random.Random
    until: float
    calls: list[Call] = attrs.field(factory=list)
    turns: list[Span] = attrs.field(factory=list)
    tags: Any = attrs.field(factory=lambda: itertools.count(1))

    async def call(self, what: str, session: str, method: str, rest: str, body: Any = None) -> Call:
        tag = "" if not isinstance(body, dict) else str(body.get("content", body.get("value", "")))
        call = Call(what, session, trio.current_time(), tag)
        path = f"/sessions/{session}{rest}"
        call.status, call.body = await self.house.ask(method, path, body)
        call.ended = trio.current_time()
        self.calls.append(call)
        return call

    async def agent(self, worker: FakeWorker) -> None:
        assert worker.turn is not None
        began, ended = trio.current_time(), None
        chance = self.chance
        try:
            for _ in range(chance.randint(0, 2)):
                await trio.sleep(chance.uniform(0, 1))
                for one in [worker.ask() for _ in range(chance.randint(1, 3))]:
                    await worker.value(one)
            await trio.sleep(chance.uniform(0, 1))
            end = chance.random()
            if end < 0.1:
                worker.die("SIGKILL")
            elif end < 0.2:
                worker.fail("ValueError: boom")
            else:
                worker.answer(f"to {worker.content}")
            ended = trio.current_time()
            await trio.sleep(chance.uniform(0, 0.5))
        finally:
            ended = trio.current_time() if ended is None else ended
            self.turns.append(Span(worker.turn.session_id, worker.content, began, ended))

    async def client(self, sessions: list[str]) -> None:
        """Does as it pleases, as do the others."""
        chance = self.chance
        while trio.current_time() < self.until:
            await trio.sleep(chance.choice([0, 0, chance.uniform(0, 1)]))
            session = chance.choice(sessions)
            what = chance.random()
            if what < 0.4:
                tag = f"m{next(self.tags)}"
                await self.call("post", session, "POST", "/messages", {"content": tag})
            elif what < 0.8:
                seen = await self.call("get", session, "GET", chance.choice(["", "?wait=true"]))
                for one in (seen.body.get("interrupts") or []) if seen.status == 200 else []:
                    body = {"interrupt_id": one["interrupt_id"], "value": f"v{next(self.tags)}"}
                    call = await self.call("resume", session, "POST", "/resume", body)
                    call.body = one["interrupt_id"]
            elif what < 0.95:
                await self.call("cancel", session, "POST", "/cancel")
            else:
                await self.call("messages", session, "GET", "/messages")

    async def deleter(self, session: str) -> None:
        await trio.sleep(self.chance.uniform(0, SECONDS))
        await self.call("delete", session, "DELETE", "")


def check(history: History) -> Counter[str]:
    """Hold the rules against the history; what happened in it, counted."""
    calls, workers = history.calls, history.house.pool.workers
    posts = {call.tag: call for call in calls if call.what == "post"}
    accepted = {tag: call for tag, call in posts.items() if call.status == 202}
    assert {call.status for call in posts.values()} <= {202, 404, 409}
    # What ran was accepted, in that session, and ran once.
    assert len({span.tag for span in history.turns}) == len(history.turns)
    for span in history.turns:
        assert accepted[span.tag].session == span.session
    # One turn at a time, in the order in which they were accepted.
    for session in {call.session for call in calls}:
        spans = sorted((s for s in history.turns if s.session == session), key=lambda s: s.began)
        for one, following in itertools.pairwise(spans):
            assert one.ended <= accepted[following.tag].ended
            assert one.ended <= following.began
            assert accepted[one.tag].ended <= accepted[following.tag].ended
    # A value is accepted once for each interrupt, and delivered at most once, to that interrupt.
    resumes = {call.tag: call for call in calls if call.what == "resume"}
    assert {call.status for call in resumes.values()} <= {200, 404, 409}
    taken = {tag: call for tag, call in resumes.items() if call.status == 200}
    assert len({(call.session, call.body) for call in taken.values()}) == len(taken)
    delivered = [(worker, resume) for worker in workers for resume in worker.sent]
    assert len({resume.value for _, resume in delivered}) == len(delivered)
    for worker, resume in delivered:
        assert worker.turn is not None
        assert resume.turn_id == worker.turn.turn_id
        call = taken[resume.value]
        assert (call.session, call.body) == (worker.turn.session_id, resume.interrupt_id)
    # A conversation is made of whole turns, in the order in which they were accepted; it only
    # grows, and no cancelled turn is in it.
    spoken: dict[str, list[str]] = {}
    for call in calls:
        if (call.what, call.status) == ("messages", 200):
            contents = [message["content"] for message in call.body]
            tags = contents[::2]
            assert contents[1::2] == [f"to {tag}" for tag in tags]
            times = [accepted[tag].ended for tag in tags]
            assert times == sorted(times)
            before = spoken.get(call.session, [])
            assert tags[: len(before)] == before
            spoken[call.session] = tags
    for call in calls:
        if call.what == "cancel" and call.status == 200 and call.body["cancelled"]:
            for span in history.turns:
                if span.session == call.session and span.began < call.began < span.ended:
                    assert span.tag not in spoken.get(call.session, [])
    seen = Counter(f"{call.what} {call.status}" for call in calls)
    seen["values delivered"] = len(delivered)
    return seen


async def observed(seed: int) -> Counter[str]:
    chance = random.Random(seed)
    histories: list[History] = []

    async def agent(worker: FakeWorker) -> None:
        await histories[0].agent(worker)

    settings = {"max_workers": chance.randint(1, 3), "timeout": chance.choice([0, 1.5])}
    async with house(agent, interrupt_ttl=chance.choice([0, 4]), **settings) as h:
        h.pool.kill_seconds = chance.choice([0, 0.2])
        history = History(h, chance, trio.current_time() + SECONDS)
        histories.append(history)
        sessions = [(await h.ask("POST", "/sessions"))[1]["session_id"] for _ in range(3)]
        async with trio.open_nursery() as clients:
            for _ in range(4):
                clients.start_soon(history.client, sessions)
            clients.start_soon(history.deleter, sessions[0])
        # Nobody was left waiting.
        assert trio.current_time() < history.until + 20
    return check(history)


async def test_concurrent_clients_see_one_order_of_turns() -> None:
    totals: Counter[str] = Counter()
    for seed in range(HISTORIES):
        try:
            totals += await observed(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    # Everything that the rules speak of has happened.
    for what in (
        "post 202", "post 409", "post 404", "get 200", "get 404", "resume 200", "resume 404",
        "resume 409", "cancel 200", "delete 204", "messages 200", "values delivered",
    ):  # fmt: skip
        assert totals[what] >= HISTORIES / 2, totals
