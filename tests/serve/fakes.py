"""Workers without processes: the pool's face over agents that are coroutines of the test."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import trio
from quart.typing import TestClientProtocol

from motus.messages import ChatMessage
from motus.serve.app import create_app
from motus.serve.config import ServerConfig
from motus.serve.events import CallWebhook
from motus.serve.session import Session
from motus.serve.store import MemoryStore
from motus.serve.turns import Turns
from motus.serve.wire import (
    TO_WORKER,
    Failure,
    FrameDecoder,
    FromWorker,
    Interrupt,
    Result,
    Resume,
    Turn,
    decode_state,
    encode_state,
)
from motus.serve.workers.pool import WorkerDiedError, WorkerPool
from tests.serve.contract import check

Script = Callable[["FakeWorker"], Awaitable[Any]]


class FakeWorker:
    """What `WorkerPool.worker` yields, and what its script plays the agent with."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.turn: Turn | None = None
        self.sent: list[Resume] = []
        self.exit_seconds = 0.0
        self.stuck = False
        self.exited = trio.Event()
        self._begun = trio.Event()
        self._decoder = FrameDecoder(TO_WORKER)
        self.ids: Iterator[int] = itertools.count(1)
        self._values: dict[str, Any] = {}
        self._changed = trio.Event()
        self._out, self._in = trio.open_memory_channel[FromWorker | Exception](1000)

    # The server's side.

    async def send(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self.stuck:
            await trio.sleep_forever()
        self._decoder.feed(frame)
        while (message := self._decoder.next_message()) is not None:
            if isinstance(message, Turn):
                self.turn = message
                self._begun.set()
            else:
                assert isinstance(message, Resume)
                self.sent.append(message)
                self._values[message.interrupt_id] = message.value
                self._changed.set()
                self._changed = trio.Event()

    async def receive(self) -> FromWorker:
        message = await self._in.receive()
        if isinstance(message, Exception):
            raise message
        return message

    async def wait_exited(self) -> None:
        await self.exited.wait()

    # The agent's side.

    @property
    def content(self) -> str:
        assert self.turn is not None
        return self.turn.message.content or ""

    def say(self, message: FromWorker | Exception) -> None:
        self._out.send_nowait(message)

    def ask(self, **payload: Any) -> str:
        """Raise an interrupt; its id."""
        assert self.turn is not None
        interrupt_id = f"{self.number}.{next(self.ids)}"
        self.say(Interrupt(self.turn.turn_id, interrupt_id, payload))
        return interrupt_id

    async def value(self, interrupt_id: str) -> Any:
        while interrupt_id not in self._values:
            await self._changed.wait()
        return self._values[interrupt_id]

    async def interrupt(self, **payload: Any) -> Any:
        return await self.value(self.ask(**payload))

    def answer(self, text: str) -> None:
        assert self.turn is not None
        response = ChatMessage.assistant_message(text)
        state = [*decode_state(self.turn.state), self.turn.message, response]
        self.say(Result(self.turn.turn_id, response, len(state), encode_state(state)))

    def fail(self, error: str) -> None:
        assert self.turn is not None
        self.say(Failure(self.turn.turn_id, error, "Traceback: ..."))

    def die(self, cause: str) -> None:
        self.say(WorkerDiedError(cause))

    async def run(self, script: Script) -> None:
        await self._begun.wait()
        text = await script(self)
        if isinstance(text, str):
            self.answer(text)
        if self.exit_seconds:
            await trio.sleep(self.exit_seconds)
        self.exited.set()


@attrs.define
class FakePool:
    """Every turn plays `script`; `workers` are all that there were, `alive` those that are."""

    script: Script
    # For what a killed process takes to be gone.
    kill_seconds: float = 0.0
    workers: list[FakeWorker] = attrs.field(factory=list)
    alive: set[FakeWorker] = attrs.field(factory=set)
    mode: str = "fake"

    @asynccontextmanager
    async def worker(self, on_output: Callable[[str], None]) -> AsyncIterator[FakeWorker]:
        worker = FakeWorker(len(self.workers) + 1)
        self.workers.append(worker)
        self.alive.add(worker)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run, self.script)
                yield worker
                nursery.cancel_scope.cancel()
        finally:
            if self.kill_seconds and not worker.exited.is_set():
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.kill_seconds)
            self.alive.discard(worker)


@attrs.define
class Calls:
    """Webhooks that would have been called."""

    made: list[CallWebhook] = attrs.field(factory=list)

    def deliver(self, call: CallWebhook) -> None:
        self.made.append(call)


@attrs.define
class House:
    """Turns over fake workers, and the application in front of them."""

    pool: FakePool
    store: MemoryStore
    turns: Turns
    calls: Calls
    http: TestClientProtocol
    ids: Any = attrs.field(factory=lambda: itertools.count(1))

    def session(self) -> Session:
        session = Session(f"s{next(self.ids)}", trio.current_time())
        self.store.add(session)
        return session

    def post(self, session: Session, content: str = "go") -> None:
        self.turns.post(session, ChatMessage.user_message(content))

    async def posted(self, content: str = "go") -> Session:
        """A fresh session whose turn has come as far as it can."""
        session = self.session()
        self.post(session, content)
        await settle()
        return session

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of a request to the application."""
        response = await self.http.open(path, method=method, json=body)
        data = await response.get_data(as_text=False)
        check(method, path.partition("?")[0], response.status_code, response.headers, data)
        return response.status_code, json.loads(data) if data else None


async def settle() -> None:
    """Let everybody do what they can do at this instant."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def house(script: Script, **settings: Any) -> AsyncIterator[House]:
    config = ServerConfig(**{"max_workers": 1, **settings})
    pool, store, calls = FakePool(script), MemoryStore(config.max_sessions), Calls()
    turns = Turns(cast(WorkerPool, pool), store, config, calls)
    # Not the framework's test application: it does not survive a test that fails inside it.
    http = create_app(turns, store, config).test_client()
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        yield House(pool, store, turns, calls, http)
        turns.close()
    assert not pool.alive
    assert turns.running_workers == 0
