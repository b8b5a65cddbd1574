"""The routes of the sessions API."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TypeVar

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Response, g, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import HTTPException
from werkzeug.routing import UnicodeConverter

from motus.errors import MotusError
from motus.serve.apidocs import render
from motus.serve.config import ServerConfig
from motus.serve.events import SessionView, Status
from motus.serve.openapi import describe
from motus.serve.pollers import TooManyPollersError
from motus.serve.schemas import (
    SESSION_UUID,
    Cancelled,
    Health,
    RequestError,
    SessionResponse,
    SessionStatus,
    SessionSummary,
    parse_message,
    parse_new_session,
    parse_resume,
    parse_wait,
    to_json,
)
from motus.serve.session import (
    Session,
    SessionBusyError,
    SessionDeletedError,
    SessionNotWaitingError,
    UnknownInterruptError,
)
from motus.serve.store import SessionExistsError, SessionStore, StoreFullError
from motus.serve.turns import ServerFullError, ServerStoppingError, Turns

__all__ = ["create_app"]

T = TypeVar("T")

# Decoding a longer body than this takes long enough to be felt by everyone else.
MAX_INLINE_BODY_BYTES = 1 << 16
# Of those at a time. More threads would be no faster, with one interpreter for all of them, and
# each is one more that keeps the loop from it, and holds a value many times as large as its text.
MAX_DECODING = 1
SESSIONS_AT_A_TIME = 1000
# What is full now is likely to have room after that many seconds, and asking again is cheap.
RETRY_AFTER_SECONDS = 1

REFUSALS: dict[type[MotusError], int] = {
    SessionBusyError: 409,
    SessionDeletedError: 404,
    SessionExistsError: 409,
    SessionNotWaitingError: 409,
    UnknownInterruptError: 404,
    ServerFullError: 503,
    ServerStoppingError: 503,
    StoreFullError: 503,
    TooManyPollersError: 429,
}


class _Connection(TrioASGIHTTPConnection):
    """Lets the end of a response be sent in peace.

    With the last part of it, Hypercorn reports the end of the request to the application, whose
    other task then cancels the one that sends, inside Hypercorn: the connection would never be
    found idle, and so never time out, nor be closed when the server stops.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_in_peace(message: ASGISendEvent) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            with trio.CancelScope(shield=last):
                await send(message)

        await super().__call__(receive, send_in_peace)


class _SessionId(UnicodeConverter):
    """A UUID's letters may be of either case; the session has one name."""

    def to_python(self, value: str) -> str:
        return value.lower()


class _App(QuartTrio):
    asgi_http_class = _Connection


def create_app(turns: Turns, store: SessionStore, config: ServerConfig) -> QuartTrio:
    """An ASGI application for trio; the turns run from its startup to its shutdown."""
    # The framework would serve a folder of this package otherwise.
    app = _App("motus.serve", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = None
    # It would answer with a redirect to wherever the Host header says.
    app.url_map.merge_slashes = False
    app.url_map.converters["session"] = _SessionId

    @app.before_serving
    async def _start() -> None:
        await app.nursery.start(turns.run)

    @app.after_serving
    async def _stop() -> None:
        await turns.drain(config.shutdown_timeout)
        turns.close()

    @app.after_request
    async def _close_after_unread_body(response: Response) -> Response:
        # What has been read of the connection is not where the next request begins.
        has_body = request.content_length or "Transfer-Encoding" in request.headers
        if has_body and not g.get("body_is_read", False):
            response.headers["Connection"] = "close"
        return response

    @app.errorhandler(RequestError)
    async def _request_error(error: RequestError) -> Response:
        return _json({"detail": error.detail}, error.status)

    async def _refusal(error: MotusError) -> Response:
        status = REFUSALS[type(error)]
        response = _json({"detail": str(error)}, status)
        if status in (429, 503):
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response

    for kind in REFUSALS:
        app.register_error_handler(kind, _refusal)

    @app.errorhandler(HTTPException)
    async def _http_error(error: HTTPException) -> Response:
        response = _json({"detail": error.name}, error.code or 500)
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    @app.get("/health")
    async def _health() -> Response:
        return _json(
            Health(
                "ok",
                turns.max_workers,
                turns.running_workers,
                len(store),
                turns.queued,
                turns.interrupted,
                turns.workers_mode,
            )
        )

    decoding = trio.CapacityLimiter(MAX_DECODING)
    description = describe()
    openapi = to_json(description)
    docs = render(description)

    @app.get("/openapi.json")
    async def _describe() -> Response:
        return Response(openapi, 200, content_type="application/json")

    @app.get("/docs")
    async def _show_docs() -> Response:
        response = Response(docs.html, 200, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = docs.content_security_policy
        return response

    @app.post("/sessions")
    async def _create_session() -> Response:
        return await create(str(uuid.uuid4()))

    @app.put("/sessions/<session:session_id>")
    async def _create_session_as(session_id: str) -> Response:
        if not config.allow_custom_ids:
            response = _json({"detail": "Custom session IDs are not enabled"}, 405)
            response.headers["Allow"] = "GET, HEAD, OPTIONS, DELETE"
            return response
        if re.fullmatch(SESSION_UUID, session_id) is None:
            raise RequestError(400, "Session ID must be a valid UUID")
        return await create(session_id)

    async def create(session_id: str) -> Response:
        parse = partial(parse_new_session, max_state_size=config.max_state_size)
        new = await read(parse)
        session = Session(
            session_id, trio.current_time(), state=new.state, message_count=new.message_count
        )
        store.add(session)
        return _json(SessionResponse.of(session.view()), 201, session_id=session_id)

    @app.get("/sessions")
    async def _list_sessions() -> Response:
        # In portions, each as it is at its instant: a hundred thousand would hold the loop.
        sessions, parts = iter(store), []
        while portion := list(islice(sessions, SESSIONS_AT_A_TIME)):
            parts.append(to_json([SessionSummary.of(session) for session in portion])[1:-1])
            await trio.lowlevel.checkpoint()
        return Response(b"[" + b",".join(parts) + b"]", 200, content_type="application/json")

    @app.get("/sessions/<session:session_id>")
    async def _get_session(session_id: str) -> Response:
        session = find(session_id)
        seconds = parse_wait(request.args)
        view: SessionView | None = session.view()
        if seconds is not None:
            view = await turns.wait(session, seconds)
        if view is None:
            raise RequestError(404, "Session deleted")
        return _json(SessionResponse.of(view))

    @app.delete("/sessions/<session:session_id>")
    async def _delete_session(session_id: str) -> Response:
        if not await turns.delete(find(session_id)):
            raise RequestError(404, "Session not found")
        response = Response(b"", 204)
        # The framework names one also where there is nothing to name.
        del response.headers["Content-Type"]
        return response

    @app.get("/sessions/<session:session_id>/messages")
    async def _list_messages(session_id: str) -> Response:
        # The state is kept in the very form in which it is answered.
        return Response(find(session_id).state, 200, content_type="application/json")

    @app.post("/sessions/<session:session_id>/messages")
    async def _send_message(session_id: str) -> Response:
        new = await read(parse_message)
        turns.post(find(session_id), new.message, new.webhook)
        accepted = SessionStatus(session_id, Status.RUNNING)
        return _json(accepted, 202, session_id=session_id)

    @app.post("/sessions/<session:session_id>/resume")
    async def _resume(session_id: str) -> Response:
        body = await read(parse_resume)
        session = find(session_id)
        turns.resume(session, body.interrupt_id, body.value)
        return _json(SessionStatus(session_id, session.status))

    @app.post("/sessions/<session:session_id>/cancel")
    async def _cancel(session_id: str) -> Response:
        session = find(session_id)
        cancelled = await turns.cancel(session)
        if session.deleting:
            raise SessionDeletedError("Session deleted")
        return _json(Cancelled(session_id, session.status, cancelled))

    def find(session_id: str) -> Session:
        session = store.get(session_id)
        if session is None:
            raise RequestError(404, "Session not found")
        return session

    async def read(parse: Callable[[bytes, str], T]) -> T:
        """The parsed body. Raises `RequestError`."""
        # Not `request.get_json`: it answers 500 to deep nesting and to what is not UTF-8.
        data = await _body(config)
        if len(data) <= MAX_INLINE_BODY_BYTES:
            return parse(data, request.mimetype)
        return await trio.to_thread.run_sync(parse, data, request.mimetype, limiter=decoding)

    return app


async def _body(config: ServerConfig) -> bytes:
    """The whole body. Raises `RequestError` when it is too long or takes too long.

    Not left to the framework's own limit: it answers while the body is still coming, which
    leaves the connection in a state where the client's next request is never answered. One that is
    longer by far does not come here.
    """
    data = bytearray()
    received = 0
    with trio.move_on_after(config.body_timeout) as scope:
        async for chunk in request.body:
            received += len(chunk)
            if received <= config.max_body_size:
                data += chunk
        g.body_is_read = True
    if scope.cancelled_caught:
        raise RequestError(408, "Request body took too long")
    if received > config.max_body_size:
        raise RequestError(413, f"Request body is too large (at most {config.max_body_size} bytes)")
    return bytes(data)


def _json(body: object, status: int = 200, *, session_id: str | None = None) -> Response:
    """A response of JSON; with `session_id`, one that says where that session is."""
    response = Response(to_json(body), status, content_type="application/json")
    if session_id is not None:
        # A host may have the application under a path of its own.
        response.headers["Location"] = f"{request.root_path}/sessions/{session_id}"
    return response
