"""The turns of a server: performs what the session machine decides.

Turns live in a task group of the server, not of the request that started them: a web framework
cancels a request's tasks when its client goes away, and the turn is to go on.
"""

from __future__ import annotations

import logging
import math
import uuid
from functools import partial

import anyio
import attrs
from anyio.abc import TaskGroup, TaskStatus

from motus.errors import MotusError, ProtocolError
from motus.messages import ChatMessage
from motus.serve.session import (
    AGENT_TIMED_OUT,
    SHUTTING_DOWN,
    DeletionRequested,
    DeliverResume,
    Event,
    InterruptRaised,
    MessagePosted,
    Session,
    SessionDeleted,
    SessionView,
    StartTurn,
    Status,
    StopTurn,
    TurnCancelled,
    TurnFailed,
    TurnSucceeded,
    WakeWaiters,
    worker_died,
)
from motus.serve.store import SessionStore
from motus.serve.wire import Failure, Interrupt, Result, Resume, Turn, encode_frame
from motus.serve.workers.pool import Worker, WorkerDiedError, WorkerPool

__all__ = ["ServerStoppingError", "Turns"]

logger = logging.getLogger("motus.serve")
agent_logger = logging.getLogger("motus.serve.agent")

# From the answer to the exit of the worker, which has nothing left to do then.
EXIT_GRACE_SECONDS = 3.0
# Between two sweeps for expired sessions, at least, however many expire one after the other.
SWEEP_PAUSE_SECONDS = 0.25


class ServerStoppingError(MotusError):
    """The server takes no new turns. Try another one, or later."""


@attrs.define(eq=False)
class _LiveTurn:
    """A turn of which something may be alive: the scope it runs in, and how to end it."""

    session: Session
    turn_id: str
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    worker: Worker | None = None
    ended: anyio.Event = attrs.field(factory=anyio.Event)
    # What to report when it has been stopped; without one, the deadline stopped it.
    stopped_as: Event | None = None

    def stop(self, report: Event) -> None:
        if self.stopped_as is None:
            self.stopped_as = report
            self.scope.cancel()


@attrs.define(eq=False)
class _Wake:
    """Those who wait for one session to stop running, and what they will be told."""

    event: anyio.Event = attrs.field(factory=anyio.Event)
    view: SessionView | None = None


class Turns:
    """Runs turns, at most `max_workers` at a time; the others wait for a slot in order.

    `timeout` is in seconds from the moment a turn has its slot; `ttl` in seconds since a
    session's last activity. Zero switches either off.
    """

    def __init__(
        self,
        pool: WorkerPool,
        store: SessionStore,
        *,
        max_workers: int,
        timeout: float = 0,
        ttl: float = 0,
    ) -> None:
        self._pool = pool
        self._store = store
        self._max_workers = max_workers
        self._slots = anyio.CapacityLimiter(max_workers)
        self._timeout = timeout or math.inf
        self._ttl = ttl
        self._live: dict[str, _LiveTurn] = {}
        self._wakes: dict[Session, _Wake] = {}
        self._deletions: dict[Session, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._closing = anyio.Event()
        self._draining = False

    @property
    def max_workers(self) -> int:
        return self._max_workers

    @property
    def running_workers(self) -> int:
        """Worker slots in use; a slot is free again when its worker's exit is confirmed."""
        return self._slots.borrowed_tokens

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be the home of the turns until `close` is called; then none of them is left.

        When it is cancelled, every turn is stopped with it.
        """
        self._closing = anyio.Event()
        self._draining = False
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._ttl:
                tasks.start_soon(self._sweep)
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

        Turns that wait for a human end at once; the others have `grace` seconds, 0 for as long as
        they need. Cancelling it ends the waiting only.
        """
        self._draining = True
        for live in list(self._live.values()):
            if live.session.status is Status.INTERRUPTED:
                live.stop(TurnFailed(live.turn_id, SHUTTING_DOWN))
        with anyio.move_on_after(grace or None):
            await self._all_ended()
        self.stop_all()
        await self._all_ended()

    def stop_all(self) -> None:
        """Stop every turn now; their sessions end in an error that says so."""
        for live in list(self._live.values()):
            live.stop(TurnFailed(live.turn_id, SHUTTING_DOWN))

    def post(self, session: Session, message: ChatMessage) -> None:
        """Start a turn. Raises what `Session.handle` does, and `ServerStoppingError`."""
        if self._draining:
            raise ServerStoppingError(SHUTTING_DOWN)
        self._home()
        self._apply(session, MessagePosted(uuid.uuid4().hex, message))

    async def wait(self, session: Session, seconds: float) -> SessionView | None:
        """The session as soon as it is not running, or as it is after `seconds`.

        None when it was deleted meanwhile. Cancelling it ends the waiting only.
        """
        if session.status is Status.RUNNING:
            wake = self._wakes.setdefault(session, _Wake())
            with anyio.move_on_after(seconds):
                await wake.event.wait()
                # As it was at that instant: another turn may be running by now.
                return wake.view
        return session.view()

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
        while (live := self._live_turn_of(session)) is not None:
            await live.ended.wait()
        self._forget(session)
        del self._deletions[session]
        done.set()

    def _forget(self, session: Session) -> None:
        self._store.remove(session)
        self._apply(session, SessionDeleted())
        logger.info("session deleted", extra={"session_id": session.session_id})

    def _live_turn_of(self, session: Session) -> _LiveTurn | None:
        return next((live for live in self._live.values() if live.session is session), None)

    async def _all_ended(self) -> None:
        while waiting := [live.ended for live in self._live.values()] + [*self._deletions.values()]:
            await waiting[0].wait()

    def _apply(self, session: Session, event: Event) -> None:
        for instruction in session.handle(event, anyio.current_time()):
            match instruction:
                case StartTurn():
                    self._start(session, instruction)
                case WakeWaiters(view):
                    if (wake := self._wakes.pop(session, None)) is not None:
                        wake.view = view
                        wake.event.set()
                case StopTurn():
                    # All of them: the worker of an answered turn may not have exited yet.
                    for live in list(self._live.values()):
                        if live.session is session:
                            live.stop(TurnCancelled(live.turn_id))
                case DeliverResume(turn_id, interrupt_id, value):
                    worker = self._live[turn_id].worker
                    assert worker is not None
                    frame = encode_frame(Resume(turn_id, interrupt_id, value))
                    self._home().start_soon(worker.send, frame)

    def _start(self, session: Session, start: StartTurn) -> None:
        tasks = self._home()
        live = self._live[start.turn_id] = _LiveTurn(session, start.turn_id)
        tasks.start_soon(self._run, live, start)

    def _home(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("turns need `run`, which the application's lifespan startup calls")
        return self._tasks

    async def _run(self, live: _LiveTurn, start: StartTurn) -> None:
        ids = {"session_id": live.session.session_id, "turn_id": live.turn_id}
        # Unless something below says otherwise, the task was cancelled with the whole server.
        outcome: Event | None = TurnFailed(live.turn_id, SHUTTING_DOWN)
        try:
            with live.scope:
                async with self._slots:
                    live.scope.deadline = anyio.current_time() + self._timeout
                    logger.info("turn started", extra=ids)
                    outcome = await self._serve(live, start)
            if live.scope.cancelled_caught:
                outcome = live.stopped_as or TurnFailed(live.turn_id, AGENT_TIMED_OUT)
        except OSError as error:
            outcome = TurnFailed(live.turn_id, _not_started(error))
        # A mistake of ours in one turn must not end the turns of everyone else.
        except Exception:  # as said above; it is logged
            logger.exception("turn failed inside the server", extra=ids)
            outcome = TurnFailed(live.turn_id, "Internal error")
        finally:
            # Stale, and so without effect, when the worker's answer has been reported already.
            if outcome is not None:
                self._apply(live.session, outcome)
            del self._live[live.turn_id]
            live.ended.set()
            if isinstance(outcome, TurnFailed):
                logger.warning("turn failed: %s", outcome.error, extra=ids)
            logger.info("turn over: session %s", live.session.status, extra=ids)

    async def _serve(self, live: _LiveTurn, start: StartTurn) -> Event | None:
        """Have a worker serve the turn; the event to report now that it is gone, if any."""
        ids = {"session_id": live.session.session_id, "turn_id": live.turn_id}
        on_output = partial(agent_logger.info, "%s", extra=ids)
        turn = Turn(live.session.session_id, start.turn_id, start.message, start.state)
        try:
            frame = encode_frame(turn)
        except ProtocolError as error:
            return TurnFailed(live.turn_id, f"The conversation is too long: {error}")
        async with self._pool.worker(on_output) as worker:
            live.worker = worker
            try:
                await worker.send(frame)
                await self._listen(live, worker)
            except WorkerDiedError as error:
                return TurnFailed(live.turn_id, worker_died(str(error)))
            except OSError as error:
                return TurnFailed(live.turn_id, _not_started(error))
            except ProtocolError as error:
                return TurnFailed(live.turn_id, f"Worker broke the protocol: {error}")
            # The turn is answered: what is left is to see the worker go.
            live.scope.deadline = math.inf
            with anyio.move_on_after(EXIT_GRACE_SECONDS):
                await worker.wait_exited()
        return None

    async def _listen(self, live: _LiveTurn, worker: Worker) -> None:
        """Take the worker's messages until the one that answers the turn, which is reported."""
        while True:
            message = await worker.receive()
            if getattr(message, "turn_id", None) not in (live.turn_id, None):
                raise ProtocolError("an answer to another turn")
            match message:
                case Interrupt():
                    self._apply(
                        live.session,
                        InterruptRaised(live.turn_id, message.interrupt_id, message.payload),
                    )
                case Result():
                    event = TurnSucceeded(
                        live.turn_id, message.response, message.state, message.message_count
                    )
                    self._apply(live.session, event)
                    return
                case Failure():
                    ids = {"session_id": live.session.session_id, "turn_id": live.turn_id}
                    logger.warning("agent failed: %s", message.error, extra=ids)
                    for line in message.traceback.splitlines():
                        agent_logger.error("%s", line, extra=ids)
                    self._apply(live.session, TurnFailed(live.turn_id, message.error))
                    return
                case _:
                    continue  # Ready: the turn is in its pipe already

    async def _sweep(self) -> None:
        """Forget each session whose time is over, within a second."""
        while True:
            now = anyio.current_time()
            times = {session: session.expires_at(self._ttl) for session in self._store}
            for session, time in times.items():
                if time is not None and time <= now and self._live_turn_of(session) is None:
                    self._apply(session, DeletionRequested())
                    self._forget(session)
            # No session that is made or used from now on can expire before that.
            coming = [
                time
                for session, time in times.items()
                if time is not None and self._store.get(session.session_id) is session
            ]
            wake_at = min([now + self._ttl, *coming])
            await anyio.sleep(max(wake_at - now, SWEEP_PAUSE_SECONDS))


def _not_started(error: OSError) -> str:
    return f"Worker could not be started: {error.strerror}"
