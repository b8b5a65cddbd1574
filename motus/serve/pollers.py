"""Those who wait for a session to stop running, and those sessions whose time runs out."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import attrs

from motus.errors import MotusError
from motus.serve.events import SessionView, Status
from motus.serve.session import Session
from motus.serve.store import SessionStore

__all__ = ["Pollers", "TooManyPollersError", "sweep"]

# Between two sweeps for sessions that are due, at least, however many are, one after the other.
SWEEP_PAUSE_SECONDS = 0.25


class TooManyPollersError(MotusError):
    """As many requests wait for a turn as may. Ask without waiting, or try again later."""


@attrs.define(eq=False)
class _Wake:
    """Those who wait for one session to stop running, and what they will be told."""

    event: anyio.Event = attrs.field(factory=anyio.Event)
    view: SessionView | None = None


class Pollers:
    """At most `limit` of them at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0
        self._wakes: dict[Session, _Wake] = {}

    async def wait(self, session: Session, seconds: float) -> SessionView | None:
        """The session as soon as it is not running, or as it is after `seconds`.

        None when it was deleted meanwhile. Raises `TooManyPollersError`. Cancelling it ends the
        waiting only.
        """
        if session.status is Status.RUNNING and seconds > 0:
            if self._waiting >= self._limit:
                raise TooManyPollersError("Too many requests are waiting for a turn")
            wake = self._wakes.setdefault(session, _Wake())
            self._waiting += 1
            try:
                with anyio.move_on_after(seconds):
                    await wake.event.wait()
                    # As it was at that instant: another turn may be running by now.
                    return wake.view
            finally:
                self._waiting -= 1
        return session.view()

    def wake(self, session: Session, view: SessionView | None) -> None:
        """Answer all who wait for the session."""
        if (wake := self._wakes.pop(session, None)) is not None:
            wake.view = view
            wake.event.set()


async def sweep(
    store: SessionStore,
    ttl: float,
    due: Callable[[Session, float], float | None],
    end: Callable[[Session], None],
) -> None:
    """For ever: `end` each session at the time that `due` names for it, within a second.

    No session that is made or used from now on may be due before `ttl` seconds are over. `end` may
    leave a session for the next time.
    """
    while True:
        now = anyio.current_time()
        for session in store:
            time = due(session, ttl)
            if time is not None and time <= now:
                end(session)
        times = [time for session in store if (time := due(session, ttl)) is not None]
        wake_at = min([now + ttl, *times])
        await anyio.sleep(max(wake_at - now, SWEEP_PAUSE_SECONDS))
