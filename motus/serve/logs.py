"""The server's log: one line for each record, whoever wrote the text of it."""

from __future__ import annotations

import logging
import sys
import time

__all__ = ["LogFormatter", "configure_logging"]

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x09: "\t",
    0x0A: "\\n",
    0x0D: "\\r",
    # Line separators to many terminals and log readers.
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class LogFormatter(logging.Formatter):
    """`time level logger [session turn] message`, in UTC, with control characters escaped.

    Clients and agents choose much of what is logged; a newline in it must not look like a record
    of ours, nor an escape sequence reach a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        ids = [str(getattr(record, name, "")) for name in ("session_id", "turn_id")]
        about = " ".join(part for part in ids if part)
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        prefix = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {record.name}"
        line = f"{prefix} [{about}] {text}" if about else f"{prefix} {text}"
        return line.translate(_CONTROL)


def configure_logging(level: str) -> None:
    """Log to stderr from `level` on. For programs only: a library leaves logging to its user."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It announces an address before it serves there; ours comes when it does.
    logging.getLogger("motus.serve.http").setLevel(logging.WARNING)
