"""Holds what is served against what is described: every answer that a test gets passes here."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import httpx
from jsonschema_rs import Draft202012Validator

from motus.serve.openapi import describe

Json = dict[str, Any]


def _closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed:
        closed["additionalProperties"] = False
    return closed


@cache
def _operations() -> list[tuple[str, re.Pattern[str], Json]]:
    return [
        (method.upper(), re.compile(re.sub(r"{\w+}", "[^/]+", path)), operation)
        for path, item in describe()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


@cache
def _validator(operation: str, status: str) -> Draft202012Validator:
    description = describe()
    [found] = [o for _, _, o in _operations() if o["operationId"] == operation]
    schema = found["responses"][status]["content"]["application/json"]["schema"]
    return Draft202012Validator(_closed({**schema, "components": description["components"]}))


def check(method: str, path: str, status: int, headers: Any, body: bytes) -> None:
    """Fail unless the answer is one that the description of its operation names."""
    found = [o for known, way, o in _operations() if known == method and way.fullmatch(path)]
    if not found:
        return
    [operation] = found
    what = f"{method} {path} -> {status}"
    assert str(status) in operation["responses"], f"{what} is not described"
    answer = operation["responses"][str(status)]
    for name in ("Location", "Retry-After"):
        assert (name in headers) == (name in answer.get("headers", {})), f"{what}: {name}"
    if "content" not in answer:
        assert body == b"", what
        return
    kind, *_ = headers["content-type"].split(";")
    assert [kind] == list(answer["content"]), what
    if kind == "application/json":
        _validator(operation["operationId"], str(status)).validate(json.loads(body))


async def check_answer(response: httpx.Response) -> None:
    """The same, as a hook of a client."""
    request = response.request
    body = await response.aread()
    path = request.url.raw_path.partition(b"?")[0].decode()
    check(request.method, path, response.status_code, response.headers, body)
