"""Replies that are recorded once and replayed, streams piece for piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from motus.messages import ChatCompletion, ChatMessage, FunctionCall, ToolCall
from motus.models import (
    ModelServerError,
    ReasoningDelta,
    StreamEvent,
    StructuredOutputError,
    TextDelta,
    ToolCallDelta,
)
from motus.models.requests import ModelRequest
from motus.testing import RecordingClient, ReplayingClient, ReplayMissError, ScriptedClient

pytestmark = pytest.mark.anyio

HELLO = [ChatMessage.user_message("hello")]
CALL = ToolCall("c1", FunctionCall("add", '{"a": 1}'))
WHOLE = ChatCompletion(
    "1", "m", "Hello!", "Hm.", [{"type": "thinking", "thinking": "Hm.", "signature": "s"}], [CALL],
    "tool_calls", usage={"total_tokens": 3},
)  # fmt: skip
PIECES: list[StreamEvent] = [
    ReasoningDelta("Hm."),
    TextDelta("Hel"),
    TextDelta("lo!"),
    ToolCallDelta(0, "c1", "add"),
    ToolCallDelta(0, arguments='{"a": 1}'),
    WHOLE,
]


class Streaming(ScriptedClient):
    """Gives the pieces; an exception among them is raised, and a number of seconds waited for."""

    def __init__(self, *pieces: Any) -> None:
        super().__init__([])
        self.pieces = pieces
        self.closed = 0

    async def _pieces(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, int):
                    await anyio.sleep(piece)
                else:
                    yield piece
        finally:
            self.closed += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.jsonl"


async def test_a_stream_is_replayed_in_its_pieces(path: Path) -> None:
    recorded = [
        event async for event in RecordingClient(Streaming(*PIECES), path).stream("m", HELLO)
    ]
    assert recorded == PIECES
    client = ReplayingClient(path)
    stream = client.stream("m", HELLO)
    assert [event async for event in stream] == PIECES
    assert stream.completion == WHOLE
    assert client.replies_left == 0


async def test_what_the_consumer_does_to_a_reply_is_not_recorded(path: Path) -> None:
    conversation = list(HELLO)
    stream = RecordingClient(Streaming(ChatCompletion("1", "m", "whole")), path).stream(
        "m", conversation
    )
    conversation.append(ChatMessage.user_message("later"))
    async for event in stream:
        assert isinstance(event, ChatCompletion)
        event.content = "changed"
    [replayed] = [event async for event in ReplayingClient(path).stream("m", HELLO)]
    assert isinstance(replayed, ChatCompletion)
    assert replayed.content == "whole"


@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_a_stream_that_was_left_early(how: str, path: Path) -> None:
    real = Streaming(*PIECES[:2], 3600, *PIECES[2:])
    with anyio.move_on_after(1):
        async with RecordingClient(real, path).stream("m", HELLO) as stream:
            async for event in stream:
                if how == "left" and event == TextDelta("Hel"):
                    break
    assert real.closed == 1
    replayed = []
    with pytest.raises(ReplayMissError, match="left here"):
        async for event in ReplayingClient(path).stream("m", HELLO):
            replayed.append(event)  # noqa: PERF401  # what came before the end is wanted
    assert replayed == PIECES[:2]
    async with ReplayingClient(path).stream("m", HELLO) as stream:
        assert await anext(stream) == PIECES[0]


async def test_a_stream_that_failed_is_not_recorded(path: Path) -> None:
    real = Streaming(TextDelta("Hel"), ModelServerError("down"))
    with pytest.raises(ModelServerError, match="down"):
        async for _ in RecordingClient(real, path).stream("m", HELLO):
            pass
    # Nor is one that was never read.
    await RecordingClient(Streaming(*PIECES), path).stream("m", HELLO).aclose()
    with pytest.raises(ReplayMissError, match="nothing was recorded"):
        await anext(ReplayingClient(path).stream("m", HELLO))


async def test_whole_replies_and_streams_are_told_apart(path: Path) -> None:
    client = RecordingClient(ScriptedClient(["one", "two"]), path)
    await client.create("m", HELLO)
    async for _ in client.stream("m", HELLO):
        pass
    replaying = ReplayingClient(path)
    events = [event async for event in replaying.stream("m", HELLO)]
    assert events[0] == TextDelta("two")
    assert (await replaying.create("m", HELLO)).content == "one"
    with pytest.raises(ReplayMissError, match="less often"):
        await anext(replaying.stream("m", HELLO))


async def test_equal_requests_are_answered_in_the_order_in_which_they_were_made(path: Path) -> None:
    delays = iter([3, 1, 2])

    async def script(messages: list[ChatMessage]) -> str:
        delay = next(delays)
        await anyio.sleep(delay)
        return f"after {delay}"

    client = RecordingClient(ScriptedClient(script), path)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(client.create, "m", HELLO)
            await anyio.sleep(0.1)
    replaying = ReplayingClient(path)
    replies = [await replaying.create("m", HELLO) for _ in range(3)]
    assert [reply.content for reply in replies] == ["after 3", "after 1", "after 2"]


class Answer(BaseModel):
    value: int


async def test_a_reply_of_the_wrong_form_is_recorded_too(path: Path) -> None:
    """A conversation may have gone on after it."""
    recording = RecordingClient(ScriptedClient(["{}", '{"value": 7}']), path)
    with pytest.raises(StructuredOutputError, match=r"scripted: .*value"):
        await recording.parse("m", HELLO, Answer)
    assert (await recording.parse("m", HELLO, Answer)).parsed == Answer(value=7)
    replaying = ReplayingClient(path)
    with pytest.raises(StructuredOutputError, match=r"recorded: .*value") as caught:
        await replaying.parse("m", HELLO, Answer)
    assert caught.value.completion.content == "{}"
    assert (await replaying.parse("m", HELLO, Answer)).parsed == Answer(value=7)
