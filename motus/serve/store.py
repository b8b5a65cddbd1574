"""Where sessions live: an interface small enough for a database to stand behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from motus.errors import MotusError
from motus.serve.session import Session

__all__ = ["MemoryStore", "SessionExistsError", "SessionStore", "StoreFullError"]


class StoreFullError(MotusError):
    """No more sessions fit: delete some, or try again later."""


class SessionExistsError(MotusError):
    """A session with that id is there already."""


class SessionStore(Protocol):
    """The sessions of one server. Every method returns at once."""

    def add(self, session: Session) -> None:
        """Keep a new session. Raises `StoreFullError` or `SessionExistsError`."""
        ...

    def get(self, session_id: str) -> Session | None: ...

    def remove(self, session: Session) -> None:
        """Forget that very session; one that took over its id stays."""
        ...

    def __iter__(self) -> Iterator[Session]:
        """The sessions at this moment, oldest first."""
        ...

    def __len__(self) -> int: ...


class MemoryStore:
    """Sessions in memory; they are gone with the process. `max_sessions` 0 means no limit."""

    def __init__(self, max_sessions: int = 0) -> None:
        self._limit = max_sessions
        self._sessions: dict[str, Session] = {}

    def add(self, session: Session) -> None:
        if session.session_id in self._sessions:
            raise SessionExistsError("Session already exists")
        if self._limit and len(self._sessions) >= self._limit:
            raise StoreFullError("Maximum number of sessions reached")
        self._sessions[session.session_id] = session

    def get(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def remove(self, session: Session) -> None:
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)
