"""What the tests of the server share: servers, in this process and in others, and patience."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import httpx
import trio

from motus.serve import AgentServer
from tests.serve.contract import check_answer

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


def alive(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def reported(directory: Path, name: str, seconds: float = PATIENCE) -> int:
    """The number that an agent in a worker tells the test."""
    path = directory / name
    until(path.exists, f"{name} in {directory}", seconds)
    return int(path.read_text())


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for other processes; nothing tells us of what they do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


async def reported_async(directory: Path, name: str) -> int:
    path = directory / name
    await until_async(path.exists, f"{name} in {directory}")
    return int(path.read_text())


async def until_async(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110  # what happens in another process sets no event
            await trio.sleep(0.005)
        return
    raise AssertionError(f"not within {seconds} s: {what}")


@attrs.define
class Api:
    """A server in this process, and a client of it."""

    server: AgentServer
    http: httpx.AsyncClient

    async def create(self, **body: Any) -> str:
        response = await self.http.post("/sessions", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["session_id"])

    async def post(self, session: str, content: str | None, **body: Any) -> httpx.Response:
        return await self.http.post(
            f"/sessions/{session}/messages", json={"content": content, **body}
        )

    async def wait(self, session: str, timeout: float = PATIENCE) -> dict[str, Any]:  # noqa: ASYNC109  # the query's parameter
        response = await self.http.get(
            f"/sessions/{session}", params={"wait": "true", "timeout": timeout}
        )
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def turn(self, session: str, content: str | None, **body: Any) -> dict[str, Any]:
        """Send a message and wait for the end of the turn."""
        accepted = await self.post(session, content, **body)
        assert accepted.status_code == 202, accepted.text
        return await self.wait(session)

    async def answer(self, content: str | None) -> str:
        """The text that a fresh session answers."""
        outcome = await self.turn(await self.create(), content)
        assert outcome["error"] is None, outcome
        return str(outcome["response"]["content"])

    async def error(self, content: str | None) -> str:
        """The error that a fresh session ends in."""
        outcome = await self.turn(await self.create(), content)
        assert outcome["status"] == "error", outcome
        return str(outcome["error"])

    async def messages(self, session: str) -> list[dict[str, Any]]:
        response = await self.http.get(f"/sessions/{session}/messages")
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()
        return found


@asynccontextmanager
async def served(agent: object, **options: Any) -> AsyncIterator[Api]:
    server = AgentServer(agent, **options)
    async with (
        server.serving() as serving,
        httpx.AsyncClient(
            base_url=serving.url,
            timeout=PATIENCE * 2,
            trust_env=False,
            event_hooks={"response": [check_answer]},
        ) as http,
    ):
        yield Api(server, http)


class ServerProcess:
    """`python -m motus.serve start` on a free port; killed at the end if it is still there.

    The agent is one of tests/serve/agents.py, or a whole import path.
    """

    def __init__(self, agent: str, log: Path, *options: str, module: str = "motus.serve") -> None:
        self._log = log
        path = agent if ":" in agent else f"tests.serve.agents:{agent}"
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "start", path,
                 "--host", "127.0.0.1", "--port", "0", *options],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Serving "), (line, self.log)
        self.url = line.split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE * 2, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if error is None:
            # A traceback of the server's own is a mistake, whatever the test was about.
            assert "Exception Group" not in self.log, self.log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def create(self) -> str:
        return str(self.http.post("/sessions").json()["session_id"])

    def post(self, session: str, content: str) -> httpx.Response:
        return self.http.post(f"/sessions/{session}/messages", json={"content": content})

    def wait(self, session: str, timeout: float = PATIENCE) -> dict[str, Any]:
        params: dict[str, Any] = {"wait": "true", "timeout": timeout}
        found: dict[str, Any] = self.http.get(f"/sessions/{session}", params=params).json()
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)
