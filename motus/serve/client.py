"""A client of the sessions API for the command line: one call for each route."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from motus.errors import MotusError

__all__ = ["Client", "ConnectionLostError", "ServerRefusedError"]

CONNECT_SECONDS = 10.0
# Beyond the time that the server was asked to wait for.
ANSWER_SECONDS = 30.0
POLL_SECONDS = 60.0


class ConnectionLostError(MotusError):
    """There is no server at the address, or it went away."""


class ServerRefusedError(MotusError):
    """The server answered with an error; the message is its status and body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} - {body}")
        self.status = status


class Client:
    """Blocking calls to one server. Each raises `ConnectionLostError` or `ServerRefusedError`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # A proxy of the environment cannot reach this machine by these names.
            mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def health(self) -> Any:
        return self._call("GET", "/health")

    def create(self) -> Any:
        return self._call("POST", "/sessions")

    def sessions(self) -> Any:
        return self._call("GET", "/sessions")

    def get(self, session_id: str) -> Any:
        return self._call("GET", _path(session_id))

    def delete(self, session_id: str) -> None:
        self._call("DELETE", _path(session_id))

    def messages(self, session_id: str) -> Any:
        return self._call("GET", _path(session_id, "/messages"))

    def send(self, session_id: str, message: dict[str, Any]) -> Any:
        return self._call("POST", _path(session_id, "/messages"), body=message)

    def wait(
        self,
        session_id: str,
        *,
        timeout: float | None = None,
        poll_seconds: float = POLL_SECONDS,
        on_poll: Callable[[], None] | None = None,
    ) -> Any:
        """The session once it is not running, or as it is after `timeout` seconds.

        `on_poll` is called each time a poll of `poll_seconds` has ended without a result.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            seconds = poll_seconds
            if give_up is not None:
                seconds = max(0.0, min(seconds, give_up - time.monotonic()))
            session = self._call(
                "GET",
                _path(session_id),
                query={"wait": "true", "timeout": f"{seconds:.3f}"},
                seconds=seconds + ANSWER_SECONDS,
            )
            over = give_up is not None and time.monotonic() >= give_up
            if session["status"] != "running" or over:
                return session
            if on_poll is not None:
                on_poll()

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            response = self._http.request(method, path, json=body, params=query, timeout=timeout)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ConnectionLostError(f"Could not connect to {self._url}") from error
        if response.is_error:
            raise ServerRefusedError(response.status_code, response.text)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            # Something else than a Motus server lives at that address.
            raise ServerRefusedError(response.status_code, response.text[:200]) from error


def _path(session_id: str, rest: str = "") -> str:
    return f"/sessions/{quote(session_id, safe='')}{rest}"
