"""A run stopped at any moment, by anything: what it leaves is a conversation to go on with."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from motus.agent import ReActAgent, UsageLimits
from motus.guardrails import OutputGuardrailTripped
from motus.memory import BaseMemory, BasicMemory, CompactionMemory, CompactionMemoryConfig
from motus.messages import ChatMessage
from motus.models.errors import ModelContextOverflowError, ModelServerError
from motus.runtime import cancel, open_runtime
from motus.testing import ScriptedClient, call
from tests.agent.models import assert_valid, go_on_with
from tests.conftest import VirtualTimeLoop


@attrs.frozen
class Answer:
    value: int


@attrs.frozen
class Program:
    """What the model replies, how long everything takes, and what stops the run."""

    replies: list[Any]
    memory: str
    stopped_by: str
    seconds: float
    checkpoints: int
    max_steps: int
    max_tokens: int | None
    callback: str
    refused: bool


work = st.builds(
    lambda seconds, fails: call("work", seconds=seconds, fails=fails),
    st.integers(0, 3),
    st.booleans(),
)
specialists = st.sampled_from(["forked", "stateful"]).map(lambda name: call(name, request="x"))
calls = st.lists(work | work | specialists, min_size=1, max_size=3)
others = st.sampled_from(["no answer of the type", ModelServerError, ModelContextOverflowError])
programs = st.builds(
    Program,
    replies=st.lists(calls | calls | others, max_size=4),
    memory=st.sampled_from(["basic", "compact", "slow"]),
    stopped_by=st.sampled_from(["cancel", "deadline", "reset", "nothing"]),
    seconds=st.integers(0, 24).map(lambda halves: halves / 2),
    checkpoints=st.integers(0, 12),
    max_steps=st.sampled_from([1, 2, 20]),
    max_tokens=st.sampled_from([None, 150]),
    callback=st.sampled_from(["none", "waits", "fails"]),
    refused=st.booleans(),
)


class SlowMemory(BasicMemory):
    """One that writes to a database first."""

    async def add_message(self, message: ChatMessage) -> None:
        await anyio.sleep(0.5)
        await super().add_message(message)


def memory_of(program: Program) -> BaseMemory:
    async def summary(messages: list[ChatMessage], system_prompt: str) -> str:
        await anyio.sleep(1)
        return "S"

    if program.memory == "compact":
        config = CompactionMemoryConfig(token_threshold=60)
        return CompactionMemory(config=config, compact_fn=summary)
    return SlowMemory() if program.memory == "slow" else BasicMemory()


class Run:
    """One agent with one program, and what was seen of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.replies = list(program.replies)
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.client = ScriptedClient(self.model)
        self.specialists_client = ScriptedClient(self.specialist)
        specialist = ReActAgent(self.specialists_client, "m", tools=[self.work])
        self.agent: ReActAgent[Answer] = ReActAgent(
            self.client,
            "m",
            tools=[
                self.work,
                specialist.as_tool(name="forked"),
                specialist.as_tool(name="stateful", stateful=True),
            ],
            response_format=Answer,
            memory=memory_of(program),
            max_steps=program.max_steps,
            timeout=program.seconds or None if program.stopped_by == "deadline" else None,
            step_callback=None if program.callback == "none" else self.callback,
            output_guardrails=[self.guard] if program.refused else None,
            usage_limits=UsageLimits(tokens=program.max_tokens),
        )

    async def model(self, messages: list[ChatMessage]) -> Any:
        await anyio.sleep(1)
        reply = self.replies.pop(0) if self.replies else Answer(1)
        return reply("not now") if isinstance(reply, type) else reply

    async def specialist(self, messages: list[ChatMessage]) -> Any:
        await anyio.sleep(1)
        return call("work", seconds=1, fails=False) if messages[-1].role == "user" else "done"

    async def work(self, seconds: int, fails: bool) -> str:
        """Work."""
        self.begun.append("work")
        try:
            await anyio.sleep(seconds)
        finally:
            self.ended.append("work")
        if fails:
            raise ValueError("it failed")
        return "done"

    async def callback(self, content: str | None, tool_calls: list[dict[str, str]]) -> None:
        await anyio.sleep(1)
        if self.program.callback == "fails":
            raise PermissionError("not that")

    async def guard(self, value: int) -> None:
        await anyio.sleep(1)
        raise OutputGuardrailTripped("no")

    async def stopped(self) -> None:
        program, agent = self.program, self.agent
        async with open_runtime() as runtime:
            future = agent("go")
            await anyio.sleep(program.seconds)
            for _ in range(program.checkpoints):
                await anyio.lowlevel.checkpoint()
            fork = agent.fork()
            if program.stopped_by == "cancel":
                cancel(future)
            elif program.stopped_by == "reset":
                agent.reset()
            with contextlib.suppress(Exception):
                await future
            assert not runtime.scheduler.running
            assert self.begun == self.ended
            assert_valid(agent.memory.messages)
            await goes_on(agent)
            await goes_on(fork)
        for request in (*self.client.requests, *self.specialists_client.requests):
            assert_valid(request.messages)


async def goes_on(agent: ReActAgent[Answer]) -> None:
    """The agent answers, in a conversation that every provider accepts."""
    client = ScriptedClient(lambda messages: Answer(2))
    go_on_with(agent, client)
    # What has stopped it must not stop it again.
    agent._timeout = None  # noqa: SLF001  # fixed when it is made, as the next two are
    agent._usage_limits = None  # noqa: SLF001  # as above
    agent._output_guardrails.clear()  # noqa: SLF001  # as above
    assert await agent("and now?") == Answer(2)
    for request in client.requests:
        assert_valid(request.messages)
    assert_valid(agent.memory.messages)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@given(program=programs)
def test_stopped_at_any_moment_it_can_go_on(backend: str, program: Program) -> None:
    options: dict[str, Any] = (
        {"clock": trio.testing.MockClock(autojump_threshold=0)}
        if backend == "trio"
        else {"loop_factory": VirtualTimeLoop}
    )
    anyio.run(Run(program).stopped, backend=backend, backend_options=options)
