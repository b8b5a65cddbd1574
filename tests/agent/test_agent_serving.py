"""Turns: an agent answers from a given state, and keeps nothing of it."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from motus.agent import ReActAgent
from motus.agent.base import AgentBase
from motus.memory import CompactionMemory, CompactionMemoryConfig
from motus.messages import (
    ChatMessage,
    FunctionCall,
    ToolCall,
    messages_from_json,
    messages_to_json,
)
from motus.runtime import get_runtime, open_runtime
from motus.serve.agents import ServableAgent
from motus.testing import ScriptedClient, answer_interrupts, call
from motus.tools import tool
from tests.agent.models import Journal, assert_valid, echo

pytestmark = pytest.mark.anyio

USER = ChatMessage.user_message


def journey(state: list[ChatMessage]) -> list[ChatMessage]:
    """The state as the server keeps it."""
    return messages_from_json(json.loads(json.dumps(messages_to_json(state))))


async def test_an_agent_can_be_served() -> None:
    agent = ReActAgent(ScriptedClient(echo), "m", system_prompt="P")
    assert isinstance(agent, ServableAgent)
    reply, state = await agent.run_turn(USER("a"), [])
    assert reply == ChatMessage.assistant_message("1: a")
    assert state == [USER("a"), reply]
    reply, state = await agent.run_turn(USER("b"), journey(state))
    assert reply.content == "3: b"
    assert len(state) == 4


async def test_nothing_of_an_earlier_turn_leaks_in() -> None:
    client = ScriptedClient(echo)
    agent = ReActAgent(client, "m", system_prompt="P")
    await agent("by hand")
    await agent.run_turn(USER("secret"), [])
    reply, state = await agent.run_turn(USER("b"), [])
    assert reply.content == "1: b"
    assert "secret" not in str(client.requests[-1].messages)
    assert [message.content for message in state] == ["b", "1: b"]
    assert len(agent.memory.messages) == 2
    assert agent.usage["completion_tokens"] > 0


async def test_turns_run_side_by_side() -> None:
    async def slowly(messages: list[ChatMessage]) -> str:
        await anyio.sleep(10)
        return echo(messages)

    agent = ReActAgent(ScriptedClient(slowly), "m")
    answers: list[str | None] = []

    async def turn(text: str) -> None:
        reply, _ = await agent.run_turn(USER(text), [])
        answers.append(reply.content)

    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for text in "abc":
            tasks.start_soon(turn, text)
    assert sorted(map(str, answers)) == ["1: a", "1: b", "1: c"]
    assert anyio.current_time() - started == pytest.approx(10)


async def test_everything_in_the_state_survives() -> None:
    calls = [ToolCall("1", FunctionCall("look", "{}"))]
    details = [{"type": "thinking", "signature": "abc"}]
    state = [
        ChatMessage("user", "look", name="ann", base64_image="aW1n", user_params={"a": 1}),
        ChatMessage.assistant_message(None, calls, reasoning="hm", reasoning_details=details),
        ChatMessage.tool_message("seen", "1", "look", base64_image="aW1n"),
        ChatMessage.assistant_message("a picture"),
    ]
    client = ScriptedClient(echo)
    agent = ReActAgent(client, "m", system_prompt="P")
    message = ChatMessage("user", None, name="bob", base64_image="aW1n")
    _, after = await agent.run_turn(message, journey(state))
    assert after[:5] == [*state, message]
    assert client.requests[0].messages == [ChatMessage.system_message("P"), *state, message]


async def test_system_messages_of_the_state_are_passed_over() -> None:
    client = ScriptedClient(echo)
    agent = ReActAgent(client, "m", system_prompt="P")
    _, state = await agent.run_turn(USER("b"), [ChatMessage.system_message("Q"), USER("a")])
    assert [m.content for m in client.requests[0].messages] == ["P", "a", "b"]
    assert [m.role for m in state] == ["user", "user", "assistant"]


async def test_a_state_that_was_left_open_is_repaired() -> None:
    opened = ChatMessage.from_tool_calls([ToolCall("1", FunctionCall("look", "{}"))])
    client = ScriptedClient(echo)
    agent = ReActAgent(client, "m")
    _, state = await agent.run_turn(USER("b"), [USER("a"), opened])
    assert_valid(client.requests[0].messages)
    assert_valid(state)


async def test_a_failed_turn_raises() -> None:
    agent = ReActAgent(ScriptedClient([ValueError("no")]), "m")
    with pytest.raises(ValueError, match="no"):
        await agent.run_turn(USER("a"), [])
    assert agent.memory.messages == []


async def test_a_cancelled_turn_has_stopped_when_it_is_over() -> None:
    journal = Journal(seconds=60)
    agent = ReActAgent(
        ScriptedClient(lambda messages: call("work", name="a")), "m", tools=[journal.work]
    )
    async with open_runtime() as runtime:
        with anyio.move_on_after(5) as scope:
            await agent.run_turn(USER("go"), [])
        assert scope.cancelled_caught
        assert journal.events == ["begin a", "stop a"]
        assert not runtime.scheduler.running


async def test_what_stops_a_turn_is_what_is_raised() -> None:
    async def rude() -> str:
        """Break everything when stopped."""
        try:
            await anyio.sleep_forever()
        finally:
            get_runtime().shutdown()
        return "never"

    agent = ReActAgent(ScriptedClient([call("rude")]), "m", tools=[rude])
    async with open_runtime():
        with anyio.move_on_after(5) as scope:
            await agent.run_turn(USER("go"), [])
    assert scope.cancelled_caught


async def test_a_compacted_state_is_the_next_turns() -> None:
    config = CompactionMemoryConfig(token_threshold=50)
    memory = CompactionMemory(config=config, compact_fn=lambda messages, prompt: "S")
    agent = ReActAgent(ScriptedClient(echo), "m", memory=memory)
    _, state = await agent.run_turn(USER("word " * 60), [])
    assert len(state) == 1
    _, state = await agent.run_turn(USER("b"), journey(state))
    assert "<context_summary>" in str(state[0].content)
    assert memory.messages == []


async def test_a_loop_that_writes_nothing_down_is_answered_all_the_same() -> None:
    class Quiet(AgentBase[int]):
        async def _run(self, user_prompt: Any = None, **kwargs: Any) -> int:
            return 42

    reply, state = await Quiet(ScriptedClient([]), "m").run_turn(USER("?"), [])
    assert reply.content == "42"
    assert state == []


async def test_a_tool_that_needs_approval_asks_for_it() -> None:
    @tool(requires_approval=True)
    async def delete(path: str) -> str:
        """Delete a file."""
        return f"{path} is gone"

    client = ScriptedClient([[call("delete", path="a"), call("delete", path="b")], "done"])
    agent = ReActAgent(client, "m", tools=[delete])
    with answer_interrupts(lambda asked: {"approved": asked["tool_args"]["path"] == "a"}) as asked:
        _, state = await agent.run_turn(USER("tidy up"), [])
    assert [payload["tool_name"] for payload in asked.payloads] == ["delete", "delete"]
    assert [message.content for message in state if message.role == "tool"] == [
        "a is gone",
        '{"error": "User rejected delete"}',
    ]
