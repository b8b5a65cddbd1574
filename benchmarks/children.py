"""Child processes that take a job as JSON and give an answer as JSON, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["ChildError", "ask", "last_line"]

# Found again in the environment of every process that a child started, whatever it did to get away.
MARK: Final = "MOTUS_BENCHMARK_CHILD"

# What a child may know of our environment. Not the user's home, tokens, or proxies.
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ")

# How long what has been killed may take to disappear, in seconds.
PATIENCE: Final = 5.0


class ChildError(Exception):
    """The child gave no answer; says why in one line."""


def ask(
    command: Sequence[str],
    job: Mapping[str, Any],
    *,
    variables: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> dict[str, Any]:
    """Start a program in a temporary folder, give it the job on stdin, return what it prints.

    ChildError if it fails, prints no JSON object, reports an `error`, or takes longer than
    `timeout` seconds. Whichever it is, it and all that it started is gone when this returns.
    """
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as home:
        mark = secrets.token_hex(16)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"HOME": home, "TMPDIR": home, "NO_PROXY": "*", "DO_NOT_TRACK": "1"}
        environment |= {**(variables or {}), MARK: mark}
        errors = Path(home, "stderr")
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=home,
                env=environment,
                start_new_session=True,
            )
        with child:
            try:
                out, _ = child.communicate(json.dumps(job).encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                raise ChildError(f"no answer within {timeout:.0f} seconds") from None
            finally:
                _end(child, mark)
        return _answer(out, child.returncode, errors)


def _answer(out: bytes, status: int, errors: Path) -> dict[str, Any]:
    try:
        answer = json.loads(out)
    except ValueError:
        said = last_line(errors.read_text(errors="replace"))
        raise ChildError(f"ended with status {status}: {said or 'it said nothing'}") from None
    if not isinstance(answer, dict):
        raise ChildError(f"answered with {type(answer).__name__} instead of an object")
    if "error" in answer:
        raise ChildError(str(answer["error"]))
    return answer


def last_line(text: str) -> str:
    """The last line that says something, cut to a length that fits a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _end(child: subprocess.Popen[bytes], mark: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while family := _family(child, mark):
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)  # whoever inherited them reaps them in a moment
    if child.poll() is None:
        child.kill()


def _family(child: subprocess.Popen[bytes], mark: str) -> set[int]:
    """The child, if it runs, its descendants, its session, and whatever carries the mark.

    Three ways, since helpers may leave the session, lose their parent, or overwrite the memory in
    which the system shows their environment, but hardly do all of it.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    running = child.poll() is None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # The name in parentheses may hold anything; what follows its end does not.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            marked = f"{MARK}={mark}".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is somebody else's
        pid, state, parent, session = int(entry.name), fields[0], int(fields[1]), int(fields[3])
        if state == "Z":
            continue
        parents[pid] = parent
        if marked or session == child.pid or (running and pid == child.pid):
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found
