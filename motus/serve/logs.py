"""The server's log: one line for each record, whoever wrote the text of it."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["JsonFormatter", "LineWriter", "LogFormatter", "logging_to"]

# What may wait to be written. Whoever reads stderr may have stopped; the server must not.
MAX_WAITING_CHARACTERS = 4 << 20
# Of an id, in lines that follow one which has all of it.
SHORT_ID = 8
# For what is still to be written at the end.
FLUSH_SECONDS = 2.0

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x09: "\t",
    0x0A: "\\n",
    0x0D: "\\r",
    # Line separators to many terminals and log readers.
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
# Of libraries that log whole URLs and headers; a webhook's URL is a secret.
_QUIET = ("httpcore", "httpcore2", "httpx", "httpx2")


def _stamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class LogFormatter(logging.Formatter):
    """`time level logger [session turn] message`, in UTC, with control characters escaped.

    A record that `continues` another has only the beginnings of the ids. Clients and agents choose
    much of what is logged; a newline in it must not look like a record of ours, nor an escape
    sequence reach a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        length = SHORT_ID if getattr(record, "continues", False) else None
        ids = [str(getattr(record, name, ""))[:length] for name in ("session_id", "turn_id")]
        about = " ".join(part for part in ids if part)
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        prefix = f"{_stamp(record)} {record.levelname} {record.name}"
        line = f"{prefix} [{about}] {text}" if about else f"{prefix} {text}"
        return line.translate(_CONTROL)


class JsonFormatter(logging.Formatter):
    """One JSON object in ASCII for each record.

    Keys: `time`, `level`, `logger`, `message`, and where there is one `session_id`, `turn_id`,
    `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _stamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("session_id", "turn_id"):
            if value := getattr(record, name, None):
                entry[name] = str(value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class LineWriter:
    """Writes lines to a descriptor on a thread of its own; `write` never waits for it.

    When more waits to be written than `limit` characters, lines are dropped, and the line that
    `describe` makes of their number is written as soon as there is room.
    """

    def __init__(
        self, descriptor: int, describe: Callable[[int], str], limit: int = MAX_WAITING_CHARACTERS
    ) -> None:
        self._descriptor = descriptor
        self._describe = describe
        self._limit = limit
        self._lines: list[str] = []
        self._waiting = 0
        self._dropped = 0
        self._closed = False
        # Reentrant: what is logged while memory is being freed may come in between.
        self._changed = threading.Condition(threading.RLock())
        # A daemon: a reader that has stopped must not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="motus log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        with self._changed:
            if self._closed or self._waiting + len(line) > self._limit:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Write what is left, for so long at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._lines or self._dropped or self._closed):
                    self._changed.wait()
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
                size = sum(map(len, lines))
                closed = self._closed
            if dropped:
                lines.append(self._describe(dropped))
            text = "".join(f"{line}\n" for line in lines)
            with suppress(OSError):  # nobody reads it any more: no reason to stop serving
                _write_all(self._descriptor, text.encode(errors="backslashreplace"))
            with self._changed:
                self._waiting -= size
            if closed:
                return


def _write_all(descriptor: int, data: bytes) -> None:
    # Not through a file object: the interpreter cannot end while a thread is stuck in one.
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


class _LineHandler(logging.Handler):
    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = LineWriter(descriptor, self._describe)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.write(self.format(record))
        # As in every handler: a record that cannot be formatted harms nobody else.
        except Exception:  # noqa: BLE001  # as said above
            self.handleError(record)

    def _describe(self, dropped: int) -> str:
        text = f"{dropped} log records were dropped: nobody reads the log fast enough"
        return self.format(
            logging.LogRecord("motus.serve", logging.WARNING, __file__, 0, text, (), None)
        )


@contextmanager
def logging_to(descriptor: int, level: str = "info", log_format: str = "text") -> Iterator[None]:
    """While the block runs, log to the descriptor from `level` on, and nowhere else.

    For programs only: a library leaves logging to its user.
    """
    handler = _LineHandler(descriptor, JsonFormatter() if log_format == "json" else LogFormatter())
    root = logging.getLogger()
    quiet = [logging.getLogger(name) for name in _QUIET]
    before = root.handlers[:], root.level, [logger.level for logger in quiet]
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for logger in quiet:
        logger.setLevel(max(logging.WARNING, root.level))
    try:
        yield
    finally:
        root.handlers[:], root_level, levels = before
        root.setLevel(root_level)
        for logger, old in zip(quiet, levels, strict=True):
            logger.setLevel(old)
        handler.writer.close(FLUSH_SECONDS)
