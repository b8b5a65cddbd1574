"""Replies as OpenAI's chat completions write them."""

from __future__ import annotations

import json
from typing import Any

from tests.models.wire.server import Reply

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def completion(
    content: str | None = "Hello!", *calls: dict[str, Any], finish: str | None = None, **more: Any
) -> Reply:
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    if calls:
        message["tool_calls"] = list(calls)
    finish = finish or ("tool_calls" if calls else "stop")
    return Reply.of(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-2024",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": USAGE,
        }
    )


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"choices": [choice], **more})


def event(value: dict[str, Any]) -> bytes:
    whole = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024",
        **value,
    }
    return b"data: " + json.dumps(whole).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*pieces: bytes | str, finish: str = "stop") -> Reply:
    """The pieces, and what a whole stream ends with."""
    usage = event({"choices": [], "usage": USAGE})
    return Reply.events([*pieces, chunk({}, finish), usage, DONE])


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return Reply.of(body, status, **headers)
