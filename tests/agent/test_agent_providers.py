"""Agents over the real SDKs: what they send after a run was stopped is valid for the provider."""

from __future__ import annotations

import anyio
import pytest

from motus.agent import ReActAgent
from motus.runtime import TaskCancelledError, cancel, open_runtime
from tests.agent.models import assert_valid
from tests.models.conftest import (  # noqa: F401  # fixtures for tests with the SDKs
    anyio_backend,
    bare_environment,
)
from tests.models.providers import PROVIDERS, Provider
from tests.models.wire.server import HANG, Reply, wire_server

# Virtual time would pass while something is on its way through a socket.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.realtime,
    pytest.mark.parametrize("provider", PROVIDERS, ids=str),
]

RESULTS = {
    "openai": b'"role":"tool"',
    "openrouter": b'"role":"tool"',
    "anthropic": b'"type":"tool_result"',
    "gemini": b'"functionResponse"',
}


async def add(a: int) -> str:
    """Adds."""
    return f"added {a}"


def count(body: bytes, mark: bytes) -> int:
    return body.replace(b'": ', b'":').count(mark)


async def test_a_run_with_tools(provider: Provider) -> None:
    async def sub(b: int) -> str:
        """Subtracts."""
        return f"subtracted {b}"

    async with (
        wire_server(provider.calls(), provider.text()) as server,
        provider.client(server.url) as client,
    ):
        agent = ReActAgent(client, provider.model, tools=[add, sub], system_prompt="P")
        assert await agent("go") == "Hello!"
        assert agent.usage["total_tokens"] == 240
        # Of the other two the tests' models have no price.
        assert provider.name in ("openrouter", "gemini") or (agent.cost or 0) > 0
        assert agent.context_window_usage["threshold"] > 0
        body = server.requests[1].body
        assert count(body, RESULTS[provider.name]) == 2
        assert b"added 1" in body
        assert b"subtracted 2" in body


async def test_cancelled_while_the_model_answers(provider: Provider) -> None:
    async with (
        wire_server(Reply((HANG,)), provider.text()) as server,
        provider.client(server.url) as client,
        open_runtime() as runtime,
    ):
        agent = ReActAgent(client, provider.model)
        future = agent("go")
        await server.hangs.wait()
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert not runtime.scheduler.running
        await server.disconnected.wait()
        assert server.open_connections == 0
        assert await agent("again") == "Hello!"
        assert_valid(agent.memory.messages)


async def test_cancelled_while_tools_run(provider: Provider) -> None:
    started = anyio.Event()

    async def sub(b: int) -> str:
        """Subtracts."""
        started.set()
        await anyio.sleep_forever()
        return "never"

    async with (
        wire_server(provider.calls(), provider.text()) as server,
        provider.client(server.url) as client,
        open_runtime() as runtime,
    ):
        agent = ReActAgent(client, provider.model, tools=[add, sub])
        future = agent("go")
        await started.wait()
        await anyio.wait_all_tasks_blocked()
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert not runtime.scheduler.running
        assert_valid(agent.memory.messages)
        assert await agent("again") == "Hello!"
        body = server.requests[1].body
        assert count(body, RESULTS[provider.name]) == 2
        assert b"added 1" in body
        assert b"the run was stopped before this call had finished" in body


async def test_a_conversation_that_is_too_long_is_compacted(provider: Provider) -> None:
    replies = [provider.text(), provider.overflow(), provider.text(), provider.text()]
    async with (
        wire_server(*replies) as server,
        provider.client(server.url) as client,
    ):
        agent = ReActAgent(client, provider.model, memory_type="compact")
        await agent("the first thing")
        assert await agent("the second thing") == "Hello!"
        summary, last = (request.body for request in server.requests[2:])
        assert b"[user]\\nthe first thing" in summary
        assert b"the second thing" not in summary
        assert b"context_summary" in last
        assert b"the second thing" in last
