"""Replies as Anthropic's messages write them: always streams, because the client asks for one."""

from __future__ import annotations

import json
from typing import Any

from tests.models.wire.server import Reply

START_USAGE = {
    "input_tokens": 60,
    "cache_read_input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "output_tokens": 1,
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start() -> bytes:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-6",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": START_USAGE,
    }
    return event("message_start", message=message)


def end(stop_reason: str) -> list[bytes]:
    usage = {"output_tokens": 20, "output_tokens_details": {"thinking_tokens": 5}}
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage=usage), event("message_stop")]


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=content),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text(index: int, *pieces: str) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thinking(index: int, text: str, signature: str) -> list[bytes]:
    return block(
        index,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": text},
        {"type": "signature_delta", "signature": signature},
    )


def tool_use(index: int, call_id: str, name: str, *pieces: str) -> list[bytes]:
    content = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, content, *deltas)


def message(*blocks: list[bytes], stop_reason: str = "end_turn") -> Reply:
    pieces = [piece for block in blocks for piece in block]
    return Reply.events([start(), event("ping"), *pieces, *end(stop_reason)])


def error(status: int, kind: str, message: str, **headers: str) -> Reply:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return Reply.of(body, status, **headers)
