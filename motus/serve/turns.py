"""The turns of a server: performs what the session machine decides.

Turns live in a task group of the server, not of the request that started them: a web framework
cancels a request's tasks when its client goes away, and the turn is to go on.
"""

from __future__ import annotations

import logging
import math
import uuid
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from motus.errors import MotusError, ProtocolError
from motus.messages import ChatMessage
from motus.serve.agents import AgentLoadError
from motus.serve.config import ServerConfig
from motus.serve.events import (
    AGENT_TIMED_OUT,
    SHUTTING_DOWN,
    CallWebhook,
    CancelRequested,
    DeletionRequested,
    DeliverResume,
    Event,
    InterruptRaised,
    MessagePosted,
    PauseTurn,
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
from motus.serve.interrupt import MAX_MESSAGE_BYTES
from motus.serve.live_turn import LiveTurn, explained
from motus.serve.pollers import Pollers, sweep
from motus.serve.session import Session
from motus.serve.slots import Slots
from motus.serve.store import SessionStore
from motus.serve.strict_json import encode_json
from motus.serve.wire import Failure, Interrupt, Result, Resume, Turn, encode_frame
from motus.serve.workers.pool import Worker, WorkerDiedError, WorkerPool

__all__ = [
    "ServerFullError",
    "ServerStoppingError",
    "Turns",
    "WebhookDelivery",
]

logger = logging.getLogger("motus.serve")
agent_logger = logging.getLogger("motus.serve.agent")

# From the answer to the exit of the worker, which has nothing left to do then.
EXIT_GRACE_SECONDS = 3.0
# For a worker that means harm; each is as long as an interrupt may be, and kept.
MAX_PENDING_INTERRUPTS = 1000


class ServerStoppingError(MotusError):
    """The server takes no new turns. Try another one, or later."""


class ServerFullError(MotusError):
    """As many turns wait for a worker as may. Try again later."""


class WebhookDelivery(Protocol):
    """Calls webhooks, in its own time."""

    def deliver(self, call: CallWebhook) -> None:
        """Take the call over; returns at once, raises nothing."""
        ...


class Turns:
    """Runs turns, at most `config.max_workers` at a time; the others wait for a slot in order.

    A turn holds a slot while its session is running. One that waits for a human holds none, and
    its deadline stands still; the first value that it gets takes a slot again, ahead of the turns
    that have not begun, and the deadline goes on. Where other interrupts of the same turn are still
    open, the slot is given back once the value is with the worker.
    """

    def __init__(
        self,
        pool: WorkerPool,
        store: SessionStore,
        config: ServerConfig,
        webhooks: WebhookDelivery,
    ) -> None:
        self._pool = pool
        self._store = store
        self._config = config
        self._webhooks = webhooks
        self._slots = Slots(config.max_workers)
        self._live: dict[Session, dict[str, LiveTurn]] = {}
        self._interrupted: set[Session] = set()
        # Turns that have not had a slot yet, those included that are about to find one free.
        self._not_begun = 0
        self._pollers = Pollers(config.max_pollers)
        self._deletions: dict[Session, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._closing = anyio.Event()
        self._draining = False

    @property
    def max_workers(self) -> int:
        return self._config.max_workers

    @property
    def running_workers(self) -> int:
        """Worker slots in use; a slot is free again when its worker's exit is confirmed."""
        return self._slots.taken

    @property
    def queued(self) -> int:
        """Turns that wait for a slot, to begin or to go on."""
        return self._slots.waiting

    @property
    def interrupted(self) -> int:
        """Sessions that wait for a human."""
        return len(self._interrupted)

    @property
    def workers_mode(self) -> str | None:
        """How workers are started: "fork" or "exec"; None while that is not known."""
        return self._pool.mode

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be the home of the turns until `close` is called; then none of them is left.

        When it is cancelled, every turn is stopped with it.
        """
        self._closing = anyio.Event()
        self._draining = False
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if ttl := self._config.ttl:
                tasks.start_soon(sweep, self._store, ttl, Session.expires_at, self._expire)
            if ttl := self._config.interrupt_ttl:
                tasks.start_soon(sweep, self._store, ttl, Session.abandoned_at, self._abandon)
            task_status.started()
            await self._closing.wait()
            self.stop_all()
            await self._all_ended()
            tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Make `run` stop every turn and return."""
        self._draining = True
        self._closing.set()

    async def drain(self, grace: float) -> None:
        """Take no new turns and return when none is left.

        Turns that wait for a human end at once, also those that come to it from now on; the others
        have `grace` seconds, 0 for as long as they need. Cancelling it ends the waiting only.
        """
        self._draining = True
        for session in list(self._interrupted):
            self._stop(session, SHUTTING_DOWN)
        with anyio.move_on_after(grace or None):
            await self._all_ended()
        self.stop_all()
        await self._all_ended()

    def stop_all(self) -> None:
        """Stop every turn now; their sessions end in an error that says so."""
        for session, turns in list(self._live.items()):
            self._stop(session, SHUTTING_DOWN)
            # Those as well that have answered, and of which only the process is left.
            for live in turns.values():
                live.scope.cancel()

    def post(self, session: Session, message: ChatMessage, webhook: Webhook | None = None) -> None:
        """Start a turn.

        Raises what `Session.handle` does, `ServerStoppingError` and `ServerFullError`.
        """
        if self._draining:
            raise ServerStoppingError(SHUTTING_DOWN)
        self._home()
        room = self._slots.free + self._config.max_queued
        if session.turn_id is None and self._not_begun >= room:
            raise ServerFullError("Too many turns are waiting for a worker")
        self._apply(session, MessagePosted(uuid.uuid4().hex, message, webhook))

    def resume(self, session: Session, interrupt_id: str, value: Any) -> None:
        """Send the value for which an interrupt waits; the turn gets it when it has a slot.

        Raises what `Session.handle` does.
        """
        self._apply(session, ResumePosted(interrupt_id, value))

    async def cancel(self, session: Session) -> bool:
        """Stop what the session runs; False when there was nothing to cancel.

        Returns when nothing of it is alive. Raises what `Session.handle` does. Cancelling it ends
        the waiting only.
        """
        self._apply(session, CancelRequested())
        cancelling = session.cancelling
        for live in list(self._live.get(session, {}).values()):
            await live.ended.wait()
        return cancelling

    async def wait(self, session: Session, seconds: float) -> SessionView | None:
        """The session as soon as it is not running, or as it is after `seconds`.

        None when it was deleted meanwhile. Raises `TooManyPollersError`. Cancelling it ends the
        waiting only.
        """
        return await self._pollers.wait(session, seconds)

    async def delete(self, session: Session) -> bool:
        """Stop what the session runs and forget it; True when this call was the one to do it.

        Returns when nothing of the session is alive. Cancelling it ends the waiting only.
        """
        if (done := self._deletions.get(session)) is not None:
            await done.wait()
            return False
        tasks = self._home()
        done = self._deletions[session] = anyio.Event()
        self._apply(session, DeletionRequested())
        tasks.start_soon(self._finish_deletion, session, done)
        await done.wait()
        return True

    async def _finish_deletion(self, session: Session, done: anyio.Event) -> None:
        for live in list(self._live.get(session, {}).values()):
            await live.ended.wait()
        self._forget(session)
        del self._deletions[session]
        done.set()

    def _forget(self, session: Session) -> None:
        self._store.remove(session)
        self._apply(session, SessionDeleted())
        logger.info("session deleted", extra={"session_id": session.session_id})

    def _stop(self, session: Session, error: str) -> None:
        if session.turn_id is not None:
            self._apply(session, StopRequested(session.turn_id, error))

    async def _all_ended(self) -> None:
        while waiting := [
            *(live.ended for turns in self._live.values() for live in turns.values()),
            *self._deletions.values(),
        ]:
            await waiting[0].wait()

    def _apply(self, session: Session, event: Event) -> None:
        instructions = session.handle(event, anyio.current_time())
        if session.status is Status.INTERRUPTED:
            self._interrupted.add(session)
        else:
            self._interrupted.discard(session)
        for instruction in instructions:
            match instruction:
                case StartTurn():
                    self._start(session, instruction)
                case PauseTurn(turn_id):
                    live = self._live[session][turn_id]
                    # Otherwise the slot is needed, and given back after that.
                    if not live.deliveries:
                        self._give_slot(live)
                case DeliverResume(turn_id, interrupt_id, value):
                    live = self._live[session][turn_id]
                    assert live.tasks is not None
                    live.deliveries.append(Resume(turn_id, interrupt_id, value))
                    if len(live.deliveries) == 1:
                        live.tasks.start_soon(self._deliver, live)
                case StopTurn():
                    # All of them: the worker of an answered turn may not have exited yet.
                    for live in self._live.get(session, {}).values():
                        live.scope.cancel()
                case WakeWaiters(view):
                    self._pollers.wake(session, view)
                case CallWebhook():
                    self._webhooks.deliver(instruction)

    def _start(self, session: Session, start: StartTurn) -> None:
        live = LiveTurn(session, start.turn_id, self._config.timeout or math.inf)
        self._live.setdefault(session, {})[start.turn_id] = live
        self._not_begun += 1
        self._home().start_soon(self._run, live, start)

    def _home(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("turns need `run`, which the application's lifespan startup calls")
        return self._tasks

    async def _run(self, live: LiveTurn, start: StartTurn) -> None:
        # Unless something below says otherwise, the task was cancelled with the whole server.
        error = SHUTTING_DOWN
        try:
            with live.scope:
                try:
                    await self._take_slot(live)
                finally:
                    self._not_begun -= 1
                logger.info("turn started", extra=live.ids)
                await self._serve(live, start)
            if live.scope.cancelled_caught:
                # Or because the turn was to be stopped, which the session knows better.
                error = AGENT_TIMED_OUT
        # Of a worker, too, that was to import the agent itself and did not come to that.
        except (WorkerDiedError, ProtocolError, OSError, AgentLoadError) as problem:
            error = explained(problem)
        # A mistake of ours in one turn must not end the turns of everyone else.
        except Exception:  # as said above; it is logged
            logger.exception("turn failed inside the server", extra=live.ids)
            error = "Internal error"
        finally:
            self._give_slot(live)
            if not live.answered:
                self._apply(live.session, TurnEnded(live.turn_id, error))
                if (shown := live.session.view().error) is not None:
                    logger.warning("turn failed: %s", shown, extra=live.ids)
            turns = self._live[live.session]
            del turns[live.turn_id]
            if not turns:
                del self._live[live.session]
            live.ended.set()
            logger.info("turn over", extra=live.ids)

    async def _take_slot(self, live: LiveTurn, *, ahead: bool = False) -> None:
        await self._slots.take(ahead=ahead)
        live.has_slot = True
        live.set_clock()

    def _give_slot(self, live: LiveTurn) -> None:
        if live.has_slot:
            live.has_slot = False
            live.set_clock()
            self._slots.give()

    async def _serve(self, live: LiveTurn, start: StartTurn) -> None:
        """Have a worker serve the turn, report its answer, and see it go."""
        turn = Turn(live.session.session_id, start.turn_id, start.message, start.state)
        try:
            frame = encode_frame(turn)
        except ProtocolError as error:
            self._stop(live.session, f"The conversation is too long: {error}")
            return
        on_output = partial(agent_logger.info, "%s", extra=live.ids)
        async with self._pool.worker(on_output) as live.worker:
            async with anyio.create_task_group() as live.tasks:
                try:
                    await live.worker.send(frame)
                    await self._listen(live, live.worker)
                except (WorkerDiedError, ProtocolError, OSError) as problem:
                    self._stop(live.session, explained(problem))
                live.tasks.cancel_scope.cancel()
            live.set_clock()
            with anyio.move_on_after(EXIT_GRACE_SECONDS):
                await live.worker.wait_exited()

    async def _listen(self, live: LiveTurn, worker: Worker) -> None:
        """Report what the worker says, until that is an answer."""
        while not live.answered:
            message = await worker.receive()
            if getattr(message, "turn_id", None) not in (live.turn_id, None):
                raise ProtocolError("an answer to another turn")
            match message:
                case Interrupt():
                    self._take_interrupt(live, message)
                case Result():
                    self._apply(live.session, self._outcome(live, message))
                case Failure():
                    logger.warning("agent failed: %s", message.error, extra=live.ids)
                    for line in message.traceback_lines:
                        agent_logger.error("%s", line, extra={**live.ids, "continues": True})
                    self._apply(live.session, TurnFailed(live.turn_id, message.error))
                case _:
                    raise ProtocolError("a message that has no place in a turn")

    def _outcome(self, live: LiveTurn, result: Result) -> TurnSucceeded | TurnFailed:
        size, limit = len(result.state), self._config.max_state_size
        if size > limit:
            error = f"The conversation is too long: {size} bytes (at most {limit})"
            return TurnFailed(live.turn_id, error)
        return TurnSucceeded(live.turn_id, result.response, result.state, result.message_count)

    def _take_interrupt(self, live: LiveTurn, message: Interrupt) -> None:
        session, limit = live.session, self._config.max_interrupted
        if live.scope.cancel_called:
            # It was on its way already when the turn's time was over.
            return
        if message.interrupt_id in session.pending:
            raise ProtocolError("two interrupts with one id")
        if len(session.pending) >= MAX_PENDING_INTERRUPTS:
            raise ProtocolError("too many interrupts at a time")
        if len(encode_json(message.payload)) > MAX_MESSAGE_BYTES:
            raise ProtocolError("an interrupt that is too large")
        if self._draining:
            self._stop(session, SHUTTING_DOWN)
        elif limit and session.status is Status.RUNNING and len(self._interrupted) >= limit:
            self._stop(session, f"Too many sessions are interrupted (at most {limit})")
        else:
            self._apply(
                session, InterruptRaised(live.turn_id, message.interrupt_id, message.payload)
            )

    async def _deliver(self, live: LiveTurn) -> None:
        """Send the worker its values, in order, with a slot for what it does with them."""
        assert live.worker is not None
        if not live.has_slot:
            await self._take_slot(live, ahead=True)
        while live.deliveries:
            await live.worker.send(encode_frame(live.deliveries[0]))
            live.deliveries.popleft()
        if live.session.status is Status.INTERRUPTED:
            self._give_slot(live)

    def _expire(self, session: Session) -> None:
        # The process of its last turn may still be there; its time comes then.
        if session not in self._live:
            self._apply(session, DeletionRequested())
            self._forget(session)

    def _abandon(self, session: Session) -> None:
        self._stop(session, f"No reply to an interrupt within {self._config.interrupt_ttl:g} s")
