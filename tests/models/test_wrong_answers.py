"""Whatever a server answers, it is a reply or a `ModelError`."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from motus.messages import message_from_json, message_to_json
from motus.models import ChatCompletion, ModelError, StreamEvent, ToolCallDelta
from tests.models.providers import HELLO, PROVIDERS, Provider
from tests.models.wire.server import Reply, wire_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("provider", PROVIDERS, ids=str),
    # The SDKs leave the generators of a stream that they cannot read to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # And warn of values that they do not know.
    pytest.mark.filterwarnings("ignore:.*is not a valid:UserWarning"),
]

TRIALS = 5_000 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 30
WRONG: list[Any] = [None, 0, -1.5, "", "x", [], [None], ["x"], {}, {"x": 1}, True]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoilt(piece: bytes | str, chance: random.Random) -> bytes:
    """The same with one value in it missing, or another."""
    assert isinstance(piece, bytes)
    head, found, text = piece.rpartition(b"data: ")
    try:
        value = json.loads(text)
    except ValueError:
        return piece
    container, key = chance.choice(list(places(value)))
    if chance.random() < 0.3:
        del container[key]
    else:
        container[key] = chance.choice(WRONG)
    return head + found + json.dumps(value).encode() + (b"\n\n" if found else b"")


def check(event: StreamEvent) -> None:
    """Everything in it is of the kind that it is said to be."""
    if isinstance(event, ChatCompletion):
        message = event.to_message()
        assert message_from_json(message_to_json(message)) == message
        assert all(type(count) is int for count in event.usage.values())
    elif isinstance(event, ToolCallDelta):
        assert isinstance(event.arguments, str)
        assert isinstance(event.id or event.name or "", str)
    else:
        assert isinstance(event.text, str)


@pytest.mark.parametrize("call", ["create", "stream"])
async def test_spoilt_answers(provider: Provider, call: str) -> None:
    chance = random.Random(f"{provider} {call}")
    whole = [provider.calls(), provider.text()]
    if call == "stream":
        whole = [provider.call_stream(), provider.streams()]
    replies = []
    for trial in range(TRIALS):
        reply = whole[trial % 2]
        pieces = list(reply.pieces)
        which = chance.randrange(len(pieces))
        pieces[which] = spoilt(pieces[which], chance)
        replies.append(Reply(tuple(pieces), headers=reply.headers))
    async with (
        wire_server(*replies) as server,
        provider.client(server.url, max_retries=0) as client,
    ):
        for _ in replies:
            with contextlib.suppress(ModelError):
                if call == "create":
                    check(await client.create(provider.model, HELLO))
                else:
                    async for event in client.stream(provider.model, HELLO):
                        check(event)
    assert len(server.requests) == TRIALS
