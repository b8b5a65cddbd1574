"""What the tests of the command line share: a pseudo-terminal, and a server that says its lines."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import attrs
import pytest

from motus.serve.cli import serve
from tests.serve.support import PATIENCE, ROOT

CTRL_C = "\x03"
CTRL_D = "\x04"

# Makes the terminal the controlling one, without which Ctrl+C is a character like any other.
_CLAIM = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    # What a shell runs in the background ignores it, and so would what is started here.
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_=>])")


def plain(text: str) -> str:
    """What is left of a terminal's output without its control sequences."""
    return _SEQUENCES.sub("", text).replace("\r", "")


@attrs.frozen
class Done:
    """How a command ended, and what it wrote where."""

    returncode: int
    stdout: str
    stderr: str


def motus(*arguments: str, text: str | bytes = "", **environment: str) -> Done:
    """Run a command of `motus serve` with pipes for all its streams."""
    done = subprocess.run(
        [sys.executable, "-m", "motus.serve", *arguments],
        cwd=ROOT, input=text.encode() if isinstance(text, str) else text, capture_output=True,
        timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def motus_here(*arguments: str, text: str | bytes = "", **environment: str) -> Done:
    """The same in this process, which saves the time to start another one."""
    given = text.encode() if isinstance(text, str) else text
    stdin, stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8") for data in (given, b"", b"")
    )
    with (
        patch.dict(os.environ, environment),
        patch("sys.stdin", stdin),
        patch("sys.stdout", stdout),
        patch("sys.stderr", stderr),
        pytest.raises(SystemExit) as exited,
    ):
        serve.main(arguments, prog_name="motus serve")
    texts = []
    for stream in (stdout, stderr):
        stream.seek(0)
        texts.append(stream.read())
    return Done(int(exited.value.code or 0), *texts)


class PseudoTerminal:
    """`motus serve ...` with a terminal of its own; killed at the end if it is still there."""

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        variables = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **environment}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLAIM, "-m", "motus.serve", *arguments],
            cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **variables},
        )  # fmt: skip
        os.close(slave)
        self._output = b""
        self._read_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._master)
        self._process.kill()
        self._process.wait()

    @property
    def output(self) -> str:
        """Everything that was written to the terminal so far, as it was written."""
        return self._output.decode(errors="ignore")

    def type(self, text: str) -> None:
        if text == CTRL_C:
            # Between its prompt and its wait for a key, readline overlooks a signal.
            deadline = time.monotonic() + PATIENCE
            while not self._is_asleep():
                assert time.monotonic() < deadline, "always busy"
                time.sleep(0.001)
        os.write(self._master, text.encode())

    def _is_asleep(self) -> bool:
        """Whether the main thread waits for something."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "S"

    def until(self, text: str, seconds: float = PATIENCE) -> str:
        """What appears until the text has appeared, without control sequences."""
        deadline = time.monotonic() + seconds
        while True:
            shown = plain(self.output)[self._read_to :]
            if text in shown:
                end = shown.index(text) + len(text)
                self._read_to += end
                return shown[:end]
            assert self._read(deadline), f"ended without {text!r}: {shown!r}"

    def end(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """The exit code, and what appears until the end."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self._process.wait(seconds), plain(self.output)[self._read_to :]

    def _read(self, deadline: float) -> bool:
        """Read more; False at the end."""
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"not in time after {plain(self.output)[self._read_to :]!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # How Linux says that nobody has the other end open any more.
            return False
        self._output += data
        return bool(data)


LOST = "the connection breaks"

Reply = tuple[int, Any] | str | Callable[[], tuple[int, Any]]


@attrs.frozen
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedServer:
    """Answers one request after the other as the script says, and fails the test otherwise.

    An entry is what the request has to be ("GET /sessions/s") and the reply: status and body, a
    function that gives them, or `LOST`.
    """

    def __init__(self, *script: tuple[str, Reply]) -> None:
        self._script = list(script)
        self._problems: list[str] = []
        self.requests: list[Request] = []
        self._gate = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def do(self) -> None:
                outer.serve(self)

            do_GET = do_POST = do_DELETE = do  # noqa: N815  # the names that the library looks for

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its signature
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if error is None:
            assert not self._problems, self._problems
            assert not self._script, f"never asked for: {self._script}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else None
        request = Request(handler.command, handler.path, dict(handler.headers), body)
        said = f"{handler.command} {path}"
        with self._gate:
            self.requests.append(request)
            if not self._script or self._script[0][0] != said:
                self._problems.append(f"{said}, not {self._script[:1]}")
                reply: Reply = (500, {"detail": "this is not in the script"})
            else:
                reply = self._script.pop(0)[1]
        if isinstance(reply, str):
            return
        status, answer = reply() if callable(reply) else reply
        data = b"" if answer is None else json.dumps(answer).encode()
        handler.send_response(status)
        if 300 <= status < 400:
            handler.send_header("Location", answer["location"])
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
