"""The routes of the sessions API."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Response, g, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import HTTPException

from motus.serve.schemas import (
    Health,
    MessageAccepted,
    RequestError,
    SessionResponse,
    SessionSummary,
    parse_message,
    parse_new_session,
    parse_wait,
    to_json,
)
from motus.serve.session import (
    Session,
    SessionBusyError,
    SessionDeletedError,
    SessionView,
)
from motus.serve.store import SessionExistsError, SessionStore, StoreFullError
from motus.serve.turns import ServerStoppingError, Turns

__all__ = ["MAX_BODY_BYTES", "create_app"]

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_BODY_SECONDS = 60.0
# Decoding a longer body than this takes long enough to be felt by everyone else.
MAX_INLINE_BODY_BYTES = 1 << 16


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


class _App(QuartTrio):
    asgi_http_class = _Connection


def create_app(
    turns: Turns, store: SessionStore, *, allow_custom_ids: bool, shutdown_timeout: float
) -> QuartTrio:
    """An ASGI application for trio; the turns run from its startup to its shutdown."""
    # The framework would serve a folder of this package otherwise.
    app = _App("motus.serve", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = None

    @app.before_serving
    async def _start() -> None:
        await app.nursery.start(turns.run)

    @app.after_serving
    async def _stop() -> None:
        await turns.drain(shutdown_timeout)
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

    @app.errorhandler(HTTPException)
    async def _http_error(error: HTTPException) -> Response:
        response = _json({"detail": error.name}, error.code or 500)
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    @app.get("/health")
    async def _health() -> Response:
        return _json(Health("ok", turns.max_workers, turns.running_workers, len(store)))

    @app.post("/sessions")
    async def _create_session() -> Response:
        return await create(str(uuid.uuid4()))

    @app.put("/sessions/<session_id>")
    async def _create_session_as(session_id: str) -> Response:
        if not allow_custom_ids:
            raise RequestError(405, "Custom session IDs are not enabled")
        if not _is_uuid(session_id):
            raise RequestError(400, "Session ID must be a valid UUID")
        return await create(session_id)

    async def create(session_id: str) -> Response:
        new = await _read(parse_new_session)
        session = Session(
            session_id, anyio.current_time(), state=new.state, message_count=new.message_count
        )
        try:
            store.add(session)
        except SessionExistsError as error:
            raise RequestError(409, str(error)) from error
        except StoreFullError as error:
            raise RequestError(503, str(error)) from error
        return _json(SessionResponse.of(session.view()), 201, location=f"/sessions/{session_id}")

    @app.get("/sessions")
    async def _list_sessions() -> Response:
        return _json([SessionSummary.of(session) for session in store])

    @app.get("/sessions/<session_id>")
    async def _get_session(session_id: str) -> Response:
        session = find(session_id)
        seconds = parse_wait(request.args)
        view: SessionView | None = session.view()
        if seconds is not None:
            view = await turns.wait(session, seconds)
        if view is None:
            raise RequestError(404, "Session deleted")
        return _json(SessionResponse.of(view))

    @app.delete("/sessions/<session_id>")
    async def _delete_session(session_id: str) -> Response:
        if not await turns.delete(find(session_id)):
            raise RequestError(404, "Session not found")
        response = Response(b"", 204)
        # The framework names one also where there is nothing to name.
        del response.headers["Content-Type"]
        return response

    @app.get("/sessions/<session_id>/messages")
    async def _list_messages(session_id: str) -> Response:
        # The state is kept in the very form in which it is answered.
        return Response(find(session_id).state, 200, content_type="application/json")

    @app.post("/sessions/<session_id>/messages")
    async def _send_message(session_id: str) -> Response:
        message = await _read(parse_message)
        session = find(session_id)
        try:
            turns.post(session, message)
        except SessionBusyError as error:
            raise RequestError(409, str(error)) from error
        except SessionDeletedError as error:
            raise RequestError(404, str(error)) from error
        except ServerStoppingError as error:
            raise RequestError(503, str(error)) from error
        return _json(MessageAccepted(session_id), 202, location=f"/sessions/{session_id}")

    def find(session_id: str) -> Session:
        session = store.get(session_id)
        if session is None:
            raise RequestError(404, "Session not found")
        return session

    return app


async def _read(parse: Callable[[bytes, str], T]) -> T:
    """The parsed body. Raises `RequestError`."""
    # Not `request.get_json`: it answers 500 to deep nesting and to what is not UTF-8.
    data = await _body()
    if len(data) <= MAX_INLINE_BODY_BYTES:
        return parse(data, request.mimetype)
    return await anyio.to_thread.run_sync(parse, data, request.mimetype)


async def _body() -> bytes:
    """The whole body. Raises `RequestError` when it is too long or takes too long.

    Not left to the framework's own limit: it answers while the body is still coming, which
    leaves the connection in a state where the client's next request is never answered.
    """
    data = bytearray()
    received = 0
    with anyio.move_on_after(MAX_BODY_SECONDS) as scope:
        async for chunk in request.body:
            received += len(chunk)
            if received <= MAX_BODY_BYTES:
                data += chunk
            elif received > 2 * MAX_BODY_BYTES:
                break
        else:
            g.body_is_read = True
    if scope.cancelled_caught:
        raise RequestError(408, "Request body took too long")
    if received > MAX_BODY_BYTES:
        raise RequestError(413, f"Request body is too large (at most {MAX_BODY_BYTES} bytes)")
    return bytes(data)


def _json(body: object, status: int = 200, *, location: str | None = None) -> Response:
    response = Response(to_json(body), status, content_type="application/json")
    if location is not None:
        response.headers["Location"] = location
    return response


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
