"""What the server serves, as an OpenAPI 3.1 description, made from the classes of the bodies."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from motus._version import __version__
from motus.messages import ChatMessage, FunctionCall, ToolCall
from motus.serve.events import Status, Webhook
from motus.serve.schemas import (
    FALSE_WORDS,
    MAX_WAIT_SECONDS,
    SESSION_UUID,
    TRUE_WORDS,
    Cancelled,
    CreateSessionBody,
    ErrorBody,
    Health,
    InterruptInfo,
    ResumeBody,
    SessionResponse,
    SessionStatus,
    SessionSummary,
    ShapeErrorBody,
    ShapeProblem,
)
from motus.serve.webhook_rules import MAX_WEBHOOK_LENGTH, WEBHOOK_TOKEN, WEBHOOK_URL

__all__ = ["describe"]

Json = dict[str, Any]


@attrs.frozen
class _Answer:
    """One status of one operation; `links` are the operations that its body leads to."""

    description: str
    body: Any = None
    location: bool = False
    links: tuple[str, ...] = ()


@attrs.frozen
class _Operation:
    name: str
    method: str
    path: str
    summary: str
    description: str
    answers: Mapping[int, _Answer]
    body: Any = None
    body_required: bool = True
    parameters: tuple[Json, ...] = ()
    tag: str = "sessions"


@attrs.define
class MessageBody(ChatMessage):
    """Only to be described: `parse_message` takes such a body apart."""

    webhook: Webhook | None = None


_ID = "session_id"
_FOLLOW = ("getSession", "sendMessage", "listMessages", "cancel", "deleteSession")

_INTRODUCTION = """\
Conversations with an agent. A session holds one conversation; each message starts a turn, which \
runs in a process of its own.

Create a session, send a message, and wait for the session with `wait=true`. Its status is then \
`idle` (there is a response), `error` (there is none, and why), or `interrupted`: the agent waits \
for a human. Answer each of its interrupts with a resume, and wait again. A session whose turn \
failed or was cancelled goes on with the next message, as if that turn had never been.

Errors are an object with a `detail`. What was refused with 429 or 503 may be asked again after \
`Retry-After` seconds."""

_NO_SESSION = _Answer("There is no such session, or it was deleted meanwhile.", ErrorBody)
# What any request may meet before its route is asked.
_COMMON = {
    401: _Answer("A token is missing or wrong, or needed from where the request comes.", ErrorBody),
    403: _Answer("The Host or Origin header names no host of this server.", ErrorBody),
    415: _Answer("There is a body, and its content type is not JSON.", ErrorBody),
    431: _Answer("The headers are too large, or too many.", ErrorBody),
    503: _Answer("The server is full or stopping.", ErrorBody),
}
_WITH_BODY = {
    400: _Answer(
        "The body is not JSON, not UTF-8, not finite, nested too deep, or of too many parts.",
        ErrorBody,
    ),
    408: _Answer("The body took too long.", ErrorBody),
    413: _Answer("The body is too large.", ErrorBody),
    422: _Answer("The body has another shape; `loc` leads to the field.", ShapeErrorBody),
}

_UUID: Json = {
    "name": _ID,
    "in": "path",
    "required": True,
    "description": "A UUID, with or without hyphens; capitals in it are read as small letters.",
    "schema": {"type": "string", "pattern": f"^{SESSION_UUID}$"},
}
_WAIT: Json = {
    "name": "wait",
    "in": "query",
    "description": "Answer when the session is not running any more.",
    "schema": {"enum": [*TRUE_WORDS, *FALSE_WORDS], "default": "false"},
}
_TIMEOUT: Json = {
    "name": "timeout",
    "in": "query",
    "description": "Seconds after which to answer anyway, with the session as it is then; "
    f"at most {MAX_WAIT_SECONDS:g} count.",
    "schema": {"type": "number", "minimum": 0, "default": MAX_WAIT_SECONDS},
}

OPERATIONS = (
    _Operation(
        "health", "get", "/health", "Is the server well?",
        "Needs no token.",
        {200: _Answer("It is.", Health)},
        tag="server",
    ),
    _Operation(
        "createSession", "post", "/sessions", "Create a session",
        "It may begin with a conversation. A body is not needed.",
        {
            201: _Answer("The new session.", SessionResponse, location=True, links=_FOLLOW),
            **_WITH_BODY,
        },
        body=CreateSessionBody | None, body_required=False,
    ),
    _Operation(
        "listSessions", "get", "/sessions", "List the sessions", "Oldest first.",
        {200: _Answer("All sessions.", list[SessionSummary])},
    ),
    _Operation(
        "createSessionAs", "put", "/sessions/{session_id}", "Create a session with a chosen id",
        "For servers that were started with `--allow-custom-ids`.",
        {
            201: _Answer("The new session.", SessionResponse, location=True),
            **_WITH_BODY,
            400: _Answer("The id is not a UUID, or the body is not JSON.", ErrorBody),
            405: _Answer("The server does not allow chosen ids.", ErrorBody),
            409: _Answer("The id is taken.", ErrorBody),
        },
        body=CreateSessionBody | None, body_required=False, parameters=(_UUID,),
    ),
    _Operation(
        "getSession", "get", "/sessions/{session_id}", "Show a session, or wait for it",
        "With `wait` the answer comes when the turn is over, or waits for a human: as soon as the "
        "status is not `running`.",
        {
            200: _Answer("The session as it is now.", SessionResponse, links=("resume",)),
            404: _NO_SESSION,
            422: _Answer("A parameter is wrong.", ShapeErrorBody),
            429: _Answer("Too many requests wait already; ask without `wait`.", ErrorBody),
        },
        parameters=(_WAIT, _TIMEOUT),
    ),
    _Operation(
        "deleteSession", "delete", "/sessions/{session_id}", "Delete a session",
        "Stops its turn. The answer comes when nothing of the session is alive.",
        {204: _Answer("It is gone."), 404: _NO_SESSION},
    ),
    _Operation(
        "listMessages", "get", "/sessions/{session_id}/messages", "Show the conversation",
        "The state that the agent left, which it may have shortened or restructured.",
        {200: _Answer("The messages, without their nulls.", list[ChatMessage]), 404: _NO_SESSION},
    ),
    _Operation(
        "sendMessage", "post", "/sessions/{session_id}/messages", "Send a message",
        "Starts a turn and answers at once. `webhook` is called when the turn is over.",
        {
            202: _Answer(
                "The turn has begun.", SessionStatus, location=True, links=("getSession", "cancel")
            ),
            **_WITH_BODY,
            404: _NO_SESSION,
            409: _Answer("The session is running or interrupted.", ErrorBody),
        },
        body=MessageBody,
    ),
    _Operation(
        "resume", "post", "/sessions/{session_id}/resume", "Answer an interrupt",
        "The agent gets `value`. The session is running again when all its interrupts have theirs.",
        {
            200: _Answer("The value is on its way.", SessionStatus),
            **_WITH_BODY,
            404: _Answer("No such session, or nobody waits for this interrupt.", ErrorBody),
            409: _Answer("The session is not interrupted.", ErrorBody),
        },
        body=ResumeBody,
    ),
    _Operation(
        "cancel", "post", "/sessions/{session_id}/cancel", "Cancel the turn",
        "Stops a running or interrupted turn; the conversation is as it was before. The answer "
        "comes when nothing of the turn is alive. Without a turn it changes nothing, and "
        "`cancelled` is false.",
        {200: _Answer("Nothing of the turn is alive.", Cancelled), 404: _NO_SESSION},
    ),
    _Operation(
        "describe", "get", "/openapi.json", "This description", "",
        {200: _Answer("An OpenAPI 3.1 document.", dict[str, Any])},
        tag="server",
    ),
    _Operation(
        "docs", "get", "/docs", "This description, for reading", "",
        {200: _Answer("A page without scripts.", "text/html")},
        tag="server",
    ),
)  # fmt: skip

# What is not to be seen from a field's name and type.
FIELDS: dict[type, dict[str, str]] = {
    Health: {
        "status": 'Always "ok".',
        "running_workers": "Worker slots in use.",
        "queued_turns": "Turns that wait for a slot.",
        "interrupted_sessions": "Sessions that wait for a human. They hold no slot.",
        "workers_mode": "How workers are started: fork or exec.",
    },
    SessionResponse: {
        "response": "What the agent answered, once the turn is over.",
        "error": "Why the turn has no answer.",
        "interrupts": "What the agent waits for; null when it waits for nothing.",
    },
    SessionSummary: {"total_messages": "The length of the conversation."},
    InterruptInfo: {
        "type": 'The payload\'s own `type`, or "unknown". '
        "`tool_approval` and `user_input` are those of Motus.",
        "payload": "What the agent said about what it wants.",
    },
    ResumeBody: {"value": "Any JSON value; its form is between the agent and the client."},
    Cancelled: {"cancelled": "Whether there was a turn to cancel."},
    CreateSessionBody: {"state": "The conversation to begin with."},
    Webhook: {
        "url": "Called with POST when the turn is over, cancelled ones included.",
        "token": "Sent as a bearer token.",
        "include_messages": "Send the whole conversation along.",
    },
    ChatMessage: {
        "reasoning_details": "What a provider wants to see again, as it was.",
        "tool_call_id": "Which call a message of role `tool` answers.",
        "base64_image": "A picture, as base64 or a data URL.",
        "user_params": "Parameters of this message for the agent.",
    },
    FunctionCall: {"arguments": "JSON, as text."},
    ToolCall: {"id": "The name of this call."},
    ShapeProblem: {
        "loc": "Where: body or query, then keys and indices.",
        "msg": "What is wrong there.",
    },
}
_RULES: dict[tuple[type, str], Json] = {
    (Webhook, "url"): {"pattern": f"^{WEBHOOK_URL}$", "maxLength": MAX_WEBHOOK_LENGTH},
    (Webhook, "token"): {"pattern": f"^{WEBHOOK_TOKEN}$"},
}
_SIMPLE: dict[Any, Json] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    types.NoneType: {"type": "null"},
    Any: {},
}


class _Schemas:
    """The schemas of types; those of classes are kept by name, and referred to."""

    def __init__(self) -> None:
        self.named: dict[str, Json] = {}

    def of(self, kind: Any) -> Json:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return _either([self.of(one) for one in arguments])
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object"}
        if kind in _SIMPLE:
            return dict(_SIMPLE[kind])
        if kind is Status:
            return {"enum": [str(status) for status in Status]}
        if kind.__name__ not in self.named:
            self.named[kind.__name__] = {}
            self.named[kind.__name__] = self._of_class(kind)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _of_class(self, kind: Any) -> Json:
        hints = get_type_hints(kind)
        properties: dict[str, Json] = {}
        required: list[str] = []
        for field in attrs.fields(kind):
            schema = self.of(hints[field.name])
            schema |= _RULES.get((kind, field.name), {})
            for owner in kind.__mro__:
                if (text := FIELDS.get(owner, {}).get(field.name)) is not None:
                    schema["description"] = text
            if field.default is attrs.NOTHING:
                required.append(field.name)
            elif field.default is not None:
                schema["default"] = field.default
            properties[field.name] = schema
        if kind is MessageBody:
            required.remove("role")
            properties["role"]["default"] = "user"
        return {"type": "object", "properties": properties} | (
            {"required": required} if required else {}
        )


def _either(schemas: list[Json]) -> Json:
    """The union: as a list of types where that says it all, which is easier to read."""
    if all(schema.keys() == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def describe() -> Json:
    """The OpenAPI document of the server."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        path = paths.setdefault(operation.path, {})
        if "{" in operation.path:
            path["parameters"] = [
                {"name": _ID, "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        path[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Motus",
            "version": __version__,
            "description": _INTRODUCTION,
        },
        "tags": [{"name": "sessions"}, {"name": "server"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # The second, empty one: a server without a token serves its own machine.
        "security": [{"token": []}, {}],
    }


def _operation(operation: _Operation, schemas: _Schemas) -> Json:
    is_open = operation.name == "health"
    refusals = {s: a for s, a in _COMMON.items() if not (is_open and s in (401, 403))}
    answers = {**operation.answers, **refusals}
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schemas.of(operation.body)}},
        }
    described["responses"] = {
        str(status): _response(status, answer, schemas)
        for status, answer in sorted(answers.items())
    }
    if is_open:
        described["security"] = []
    return described


def _response(status: int, answer: _Answer, schemas: _Schemas) -> Json:
    described: Json = {"description": answer.description}
    headers: Json = {}
    if answer.location:
        headers["Location"] = {
            "description": "The path of the session.", "schema": {"type": "string"}
        }  # fmt: skip
    if status in (429, 503):
        headers["Retry-After"] = {
            "description": "Seconds after which to ask again.", "schema": {"type": "integer"}
        }  # fmt: skip
    if headers:
        described["headers"] = headers
    if isinstance(answer.body, str):
        described["content"] = {answer.body: {"schema": {"type": "string"}}}
    elif answer.body is not None:
        described["content"] = {"application/json": {"schema": schemas.of(answer.body)}}
    if answer.links:
        described["links"] = {name: _link(name) for name in answer.links}
    return described


def _link(name: str) -> Json:
    link: Json = {"operationId": name, "parameters": {_ID: f"$response.body#/{_ID}"}}
    if name == "resume":
        first = "$response.body#/interrupts/0/interrupt_id"
        link["requestBody"] = {"interrupt_id": first, "value": {"approved": True}}
    if name == "getSession":
        link["parameters"]["wait"] = "true"
    return link
