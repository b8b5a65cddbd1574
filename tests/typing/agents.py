"""Checked by mypy, never run: what a type checker knows of agents.

Lines that end in `# E: code` must be errors of that code; `tests/test_types.py` sees to it.
"""

from __future__ import annotations

from typing import Any, assert_type

import attrs

from motus import resolve
from motus.agent import AgentBase, ReActAgent, UsageLimits
from motus.messages import ChatMessage
from motus.runtime import AgentFuture
from motus.serve.agents import ServableAgent
from motus.testing import ScriptedClient, call


@attrs.frozen
class City:
    name: str


client = ScriptedClient([call("tool", city="Rome"), "text"])
talker = ReActAgent(client, "m", system_prompt="P", usage_limits=UsageLimits(tokens=1))
assert_type(talker, ReActAgent[str])
assert_type(talker("hello"), AgentFuture[str])
assert_type(resolve(talker("hello")), str)
typed = ReActAgent(client, "m", response_format=City)
assert_type(typed, ReActAgent[City])
assert_type(typed("hello"), AgentFuture[City])
assert_type(typed.fork(), ReActAgent[City])
servable: ServableAgent = talker


async def use() -> None:
    assert_type(await talker(), str)
    assert_type((await typed("hello")).name, str)
    assert_type(
        await talker.run_turn(ChatMessage.user_message("a"), []),
        tuple[ChatMessage, list[ChatMessage]],
    )


class Counter(AgentBase[int]):
    async def _run(self, user_prompt: Any = None, **kwargs: Any) -> int:
        return 1


assert_type(Counter(client, "m")("x"), AgentFuture[int])
ReActAgent(client, "m", memory_type="database")  # E: arg-type
ReActAgent(client)  # E: call-arg
UsageLimits(1)  # E: call-arg
