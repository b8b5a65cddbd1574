"""Scripts and tools that several tests use."""

from __future__ import annotations

from typing import Any

import anyio
import attrs

from motus.agent.base import AgentBase
from motus.messages import ChatMessage
from motus.models.base import BaseChatClient
from motus.models.errors import ModelError

__all__ = ["HangingClient", "Journal", "answer", "assert_valid", "echo", "go_on_with"]


def assert_valid(messages: list[ChatMessage]) -> None:
    """What every provider asks of a conversation: each step is followed by exactly its results."""
    index = 0
    while index < len(messages):
        message = messages[index]
        assert message.role != "tool", f"a result without a call at {index}"
        index += 1
        if message.tool_calls:
            count = len(message.tool_calls)
            results = messages[index : index + count]
            asked = sorted(call.id for call in message.tool_calls)
            assert sorted(str(result.tool_call_id) for result in results) == asked
            assert {result.role for result in results} == {"tool"}
            index += count


def echo(messages: list[ChatMessage]) -> str:
    """A script: the model says what it was told, and how much it was told before."""
    said = [message for message in messages if message.role != "system"]
    return f"{len(said)}: {said[-1].content}"


def answer(text: str) -> Any:
    """A script that always gives the same answer."""
    return lambda messages: text


def go_on_with(agent: AgentBase[Any], client: BaseChatClient) -> None:
    """Let another script speak from now on, in the same conversation."""
    agent._client = client  # noqa: SLF001  # a client is for life, but scripts are short


@attrs.define
class Journal:
    """A tool that notes when it begins, ends, and is stopped."""

    seconds: float = 1.0
    events: list[str] = attrs.field(factory=list)

    async def work(self, name: str) -> str:
        """Do something."""
        self.events.append(f"begin {name}")
        try:
            await anyio.sleep(self.seconds)
        except BaseException:
            self.events.append(f"stop {name}")
            raise
        self.events.append(f"end {name}")
        return f"{name} is done"

    async def fail(self, name: str) -> str:
        """Fail."""
        raise ValueError(f"{name} is impossible")


class HangingClient(BaseChatClient):
    """A model that never answers; `stopped` counts the calls that were given up."""

    def __init__(self) -> None:
        self.asked = 0
        self.stopped = 0

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.stopped += 1

    async def parse(self, *args: Any, **kwargs: Any) -> Any:
        raise ModelError("not here")
