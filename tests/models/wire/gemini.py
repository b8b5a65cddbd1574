"""Replies as Gemini writes them."""

from __future__ import annotations

import json
from typing import Any

from tests.models.wire.server import Reply

USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 40,
    "candidatesTokenCount": 15,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 120,
}


def response(*parts: dict[str, Any], finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-3-pro",
        "responseId": "resp-1",
        **more,
    }


def content(*parts: dict[str, Any], finish: str = "STOP") -> Reply:
    return Reply.of(response(*parts, finish=finish))


def call(name: str, arguments: dict[str, Any], signature: str | None = None) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": {"name": name, "args": arguments}}
    if signature is not None:
        part["thoughtSignature"] = signature
    return part


def chunk(*parts: dict[str, Any], finish: str | None = None) -> bytes:
    return b"data: " + json.dumps(response(*parts, finish=finish)).encode() + b"\r\n\r\n"


def error(status: int, name: str, message: str, *details: Any, **headers: str) -> Reply:
    body = {"error": {"code": status, "message": message, "status": name}}
    if details:
        body["error"]["details"] = list(details)
    return Reply.of(body, status, **headers)
