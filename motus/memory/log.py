"""Conversations on disk: one file for each session, one JSON object in each line.

A file is only ever appended to, each line in one go. A process that dies while it writes leaves a
line without an end; whoever appends next begins a new one, and readers pass over the torn one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

__all__ = ["DEFAULT_LOG_PATH", "ConversationLogStore", "LocalConversationLogStore"]

DEFAULT_LOG_PATH: Final = "~/.motus/conversation_logs"

_log = logging.getLogger("motus.memory")


class ConversationLogStore(ABC):
    """Where `CompactionMemory` writes down what happens to a session's conversation.

    `append` is called between two steps of an agent, in the event loop: it should return at once.
    """

    @abstractmethod
    def append(self, session_id: str, entry: dict[str, Any]) -> None:
        """Add an entry, a JSON object, to the log of the session."""

    @abstractmethod
    def read_entries(self, session_id: str) -> list[dict[str, Any]]:
        """Every entry in order; none for a session that there is not."""

    def search_messages(
        self, session_id: str, query: str, max_results: int = 10
    ) -> list[dict[str, Any]]:
        """The first messages whose content contains the text, in any case: role, content, ts."""
        wanted = query.casefold()
        found: list[dict[str, Any]] = []
        for entry in self.read_entries(session_id):
            if len(found) >= max_results:
                break
            message = entry.get("message") if entry.get("type") == "message" else None
            content = message.get("content") if isinstance(message, dict) else None
            if message and isinstance(content, str) and wanted in content.casefold():
                found.append(
                    {"role": message.get("role"), "content": content, "ts": entry.get("ts")}
                )
        return found

    def exists(self, session_id: str) -> bool:
        """Whether anything was ever logged for the session."""
        return bool(self.read_entries(session_id))

    @abstractmethod
    def list_sessions(self) -> list[str]:
        """The ids of all sessions."""


class LocalConversationLogStore(ConversationLogStore):
    """Files `<session id>.jsonl` in a directory, which only their owner can read.

    Session ids are names of files: letters, digits and `._-`, at most 200 of them, else
    `ValueError`. One process at a time should append to a session: nothing that two of them write
    is lost, but it is no conversation.
    """

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_LOG_PATH) -> None:
        self._path = Path(path).expanduser()

    @property
    def path(self) -> Path:
        """The directory; it is made when something is logged."""
        return self._path

    def _file(self, session_id: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", session_id):
            raise ValueError(
                f"session id {session_id!r:.80} cannot be the name of a file: use letters, digits, "
                "'.', '_' and '-'"
            )
        return self._path / f"{session_id}.jsonl"

    def append(self, session_id: str, entry: dict[str, Any]) -> None:
        """Add a line. `OSError` if it cannot be written whole, `ValueError` for what is no JSON."""
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        path = self._file(session_id)
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Conversations are private, whatever the umask says.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and os.pread(descriptor, 1, file.tell() - 1) != b"\n":
                line = b"\n" + line
            written = file.write(line)
        if written != len(line):
            raise OSError(f"{path}: only {written} of {len(line)} bytes could be written")

    def read_entries(self, session_id: str) -> list[dict[str, Any]]:
        """Every line; what is torn or no JSON object is passed over, with a warning."""
        try:
            data = self._file(session_id).read_bytes()
        except FileNotFoundError:
            return []
        entries = []
        bad = 0
        # The last one may be without its end, but whole: the beginning of an object is never one.
        for line in filter(None, data.split(b"\n")):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                entries.append(entry)
            else:
                bad += 1
        if bad:
            _log.warning("%d lines of the log of session %s cannot be read", bad, session_id)
        return entries

    def exists(self, session_id: str) -> bool:
        """Whether the session has a file."""
        return self._file(session_id).exists()

    def list_sessions(self) -> list[str]:
        """The ids of all sessions, sorted."""
        return sorted(path.stem for path in self._path.glob("*.jsonl"))
