"""A client of the sessions API for the command line: one call for each route."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
MAX_SHOWN_CHARACTERS = 2000


class ConnectionLostError(MotusError):
    """There is no server at the address, or it went away.

    `delivered` is False when the request cannot have reached it, None when nobody knows; `reason`
    is what the message says of the cause, if anything.
    """

    def __init__(self, url: str, *, delivered: bool | None, reason: str = "") -> None:
        super().__init__(f"Could not connect to {url}{reason and f': {reason}'}")
        self.delivered = delivered
        self.reason = reason


class ServerRefusedError(MotusError):
    """The server answered with an error; the message is its status and body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} - {body[:MAX_SHOWN_CHARACTERS]}")
        self.status = status


class Client:
    """Blocking calls to one server. Each raises `ConnectionLostError` or `ServerRefusedError`.

    The token goes to the host of the URL and nowhere else: redirects are not followed. `around`
    makes a context for each request. Raises `ValueError` for a token that cannot be sent.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        headers = {}
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise ValueError("the token must be of visible ASCII characters")
            headers["Authorization"] = f"Bearer {token}"
        self._around = around
        self.url = url.rstrip("/")
        try:
            address = httpx.URL(url if "://" in url else f"http://{url}")
        except httpx.InvalidURL as error:
            raise ConnectionLostError(self.url, delivered=False) from error
        if address.userinfo:
            # Also, they would take the place of the token.
            raise ValueError("the URL must not hold credentials: set MOTUS_AUTH_TOKEN instead")
        self._http = httpx.Client(
            base_url=address,
            headers=headers,
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

    def health(self) -> dict[str, Any]:
        return self._object("GET", "/health", "status")

    def create(self) -> dict[str, Any]:
        return self._object("POST", "/sessions", "session_id")

    def sessions(self) -> Any:
        return self._call("GET", "/sessions")

    def get(self, session_id: str) -> dict[str, Any]:
        return self._object("GET", _path(session_id), "status")

    def delete(self, session_id: str) -> None:
        self._call("DELETE", _path(session_id))

    def messages(self, session_id: str) -> Any:
        return self._call("GET", _path(session_id, "/messages"))

    def send(self, session_id: str, message: dict[str, Any]) -> dict[str, Any]:
        return self._object("POST", _path(session_id, "/messages"), "status", body=message)

    def resume(self, session_id: str, interrupt_id: str, value: Any) -> dict[str, Any]:
        body = {"interrupt_id": interrupt_id, "value": value}
        return self._object("POST", _path(session_id, "/resume"), "status", body=body)

    def cancel(self, session_id: str) -> dict[str, Any]:
        return self._object("POST", _path(session_id, "/cancel"), "status")

    def wait(self, session_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """The session once it is not running, or as it is after `timeout` seconds."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            seconds = POLL_SECONDS
            if give_up is not None:
                seconds = max(0.0, min(seconds, give_up - time.monotonic()))
            session = self._object(
                "GET",
                _path(session_id),
                "status",
                query={"wait": "true", "timeout": f"{seconds:.3f}"},
                seconds=seconds + ANSWER_SECONDS,
            )
            over = give_up is not None and time.monotonic() >= give_up
            if session["status"] != "running" or over:
                return session

    def _object(
        self,
        method: str,
        path: str,
        key: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """The answer of a route whose answer has `key`."""
        answer = self._call(method, path, body=body, query=query, seconds=seconds)
        if not isinstance(answer, dict) or key not in answer:
            raise ServerRefusedError(200, f"not a Motus server: {str(answer)[:200]}")
        return answer

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
            with self._around():
                response = self._http.request(
                    method, path, json=body, params=query, timeout=timeout
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            reason = _tls_problem(error)
            raise ConnectionLostError(self.url, delivered=False, reason=reason) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise ConnectionLostError(self.url, delivered=None) from error
        if response.has_redirect_location:
            where = response.headers["Location"]
            raise ServerRefusedError(response.status_code, f"redirects are not followed: {where}")
        if not response.is_success:
            raise ServerRefusedError(response.status_code, response.text)
        if not response.content:
            return None
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            # Something else than a Motus server lives at that address.
            raise ServerRefusedError(response.status_code, response.text[:200]) from error


def _path(session_id: str, rest: str = "") -> str:
    return f"/sessions/{quote(session_id, safe='')}{rest}"


def _tls_problem(error: BaseException | None) -> str:
    """What is wrong with the server's certificate, if that is it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""
