"""Agents as tools of agents."""

from __future__ import annotations

import json
from typing import Any

import anyio
import attrs
import pytest
from pydantic import BaseModel

from motus.agent import ReActAgent, UsageLimitExceeded, UsageLimits
from motus.messages import ChatMessage
from motus.runtime import TaskCancelledError, agent_task, cancel, open_runtime
from motus.testing import ScriptedClient, call
from motus.tools.agent_tool import AgentTool
from tests.agent.models import Journal, answer, assert_valid, echo

pytestmark = pytest.mark.anyio


def supervisor(*replies: Any, tools: Any, **options: Any) -> ReActAgent[str]:
    return ReActAgent(ScriptedClient(replies), "m", tools=tools, **options)


def results(agent: ReActAgent[Any]) -> list[str]:
    return [str(m.content) for m in agent.messages if m.role == "tool"]


async def test_a_specialist_is_a_tool_with_one_parameter() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")
    described = researcher.as_tool(name="research", description="Finds things out.")
    boss = supervisor(call("research", request="fusion"), "done", tools=[described])
    assert await boss("?") == "done"
    (definition,) = boss.tools_schema() or []
    assert (definition.name, definition.description) == ("research", "Finds things out.")
    assert list(definition.parameters["properties"]) == ["request"]
    assert definition.parameters["required"] == ["request"]
    assert results(boss) == ["1: fusion"]
    assert researcher.messages == []
    assert researcher.as_tool().description == "Delegate to sub-agent: researcher"
    named = ReActAgent(ScriptedClient(echo), "m", name="The Great Researcher")
    assert named.as_tool().name == "The_Great_Researcher"
    with pytest.raises(TypeError, match="AgentTool requires an AgentBase instance, got str"):
        AgentTool("researcher")


async def test_an_agent_may_be_given_as_it_is() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")
    boss = supervisor(call("researcher", request="fusion"), "done", tools=[researcher])
    assert await boss("?") == "done"
    assert results(boss) == ["1: fusion"]
    assert_valid(boss.messages)


async def test_stateless_calls_begin_where_the_agent_is() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")
    await researcher("loaded")
    calls = [call("researcher", request=str(i)) for i in range(3)]
    boss = supervisor(calls, call("researcher", request="x"), "done", tools=[researcher])
    await boss("?")
    assert results(boss) == ["3: 0", "3: 1", "3: 2", "3: x"]
    assert len(researcher.messages) == 2


async def test_stateful_calls_of_one_run_share_a_conversation() -> None:
    async def slowly(messages: list[ChatMessage]) -> str:
        await anyio.sleep(5)
        return echo(messages)

    researcher = ReActAgent(ScriptedClient(slowly), "m")
    calls = [call("researcher", request=str(i)) for i in range(3)]
    boss = supervisor(
        calls,
        call("researcher", request="x"),
        "done",
        call("researcher", request="y"),
        "done",
        tools=[researcher.as_tool(stateful=True)],
    )
    started = anyio.current_time()
    await boss("?")
    # One after the other, in order.
    assert anyio.current_time() - started == pytest.approx(20)
    assert results(boss) == ["1: 0", "3: 1", "5: 2", "7: x"]
    # The next run begins anew, and the agent itself has seen nothing.
    await boss("?")
    assert results(boss)[-1] == "1: y"
    assert researcher.messages == []


async def test_two_runs_share_no_specialist() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")
    tool = researcher.as_tool(stateful=True)
    script = [call("researcher", request="a"), call("researcher", request="b"), "done"]
    bosses = [supervisor(*script, tools=[tool]) for _ in range(2)]
    for future in [boss("?") for boss in bosses]:
        await future
    assert [results(boss) for boss in bosses] == [["1: a", "3: b"]] * 2


async def test_a_stateful_tool_without_a_run_remembers_too() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")
    tool = researcher.as_tool(stateful=True)
    assert json.loads(await tool('{"request": "a"}')) == "1: a"
    assert json.loads(await tool('{"request": "b"}')) == "3: b"
    assert researcher.messages == []


async def test_options_of_the_tool_are_not_the_agents() -> None:
    def loud(request: str) -> str:
        return request.upper()

    def short(text: str) -> str:
        return text[:4]

    researcher = ReActAgent(ScriptedClient(echo), "m", max_steps=9)
    tool = researcher.as_tool(
        stateful=True, max_steps=1, input_guardrails=[loud], output_guardrails=[short]
    )
    assert json.loads(await tool('{"request": "abc"}')) == "1: A"
    assert researcher.max_steps == 9
    assert await researcher("abc") == "1: abc"

    busy = ReActAgent(ScriptedClient(lambda m: call("work", name="a")), "m", tools=[Journal().work])
    boss = supervisor(call("busy", request="x"), "done", tools=[busy.as_tool(max_steps=2)])
    await boss("?")
    assert "max steps (2)" in results(boss)[0]
    assert busy.max_steps == 20


async def test_a_refused_request_never_reaches_the_specialist() -> None:
    def refuse(text: str, agent: Any) -> None:
        raise PermissionError(f"{agent.name} may not: {text}")

    researcher = ReActAgent(ScriptedClient([]), "m")
    boss = supervisor(
        call("researcher", request="x"),
        "done",
        tools=[researcher.as_tool(input_guardrails=[refuse])],
    )
    await boss("?")
    assert results(boss) == ['{"error": "researcher may not: x"}']


class Analysis(BaseModel):
    summary: str
    evidence: list[str]


@attrs.frozen
class Verdict:
    guilty: bool


async def test_what_is_no_text_becomes_json() -> None:
    judge = ReActAgent(ScriptedClient(answer('{"guilty": true}')), "m", response_format=Verdict)
    analyst = ReActAgent(
        ScriptedClient(answer('{"summary": "s", "evidence": ["e"]}')),
        "m",
        response_format=Analysis,
    )
    extracted = analyst.as_tool(name="short", output_extractor=lambda result: result.summary)
    calls = [call(name, request="x") for name in ("judge", "analyst", "short")]
    boss = supervisor(calls, "done", tools=[judge, analyst, extracted])
    await boss("?")
    assert [json.loads(text) if text != "s" else text for text in results(boss)] == [
        {"guilty": True},
        {"summary": "s", "evidence": ["e"]},
        "s",
    ]


async def test_a_specialist_that_fails_is_an_error_for_the_model() -> None:
    broken = ReActAgent(ScriptedClient([ValueError("no idea")]), "m")
    odd = ReActAgent(ScriptedClient(["x"]), "m").as_tool(
        name="odd", output_extractor=lambda result: result.summary
    )
    calls = [call("broken", request="x"), call("odd", request="x"), call("odd", question="x")]
    boss = supervisor(calls, "done", tools=[broken, odd])
    assert await boss("?") == "done"
    failed, extractor, wrong = (json.loads(text)["error"] for text in results(boss))
    assert failed == "no idea"
    assert "summary" in extractor
    assert "request" in wrong


async def test_what_specialists_use_is_used_by_their_caller() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}

    def client(*replies: Any) -> ScriptedClient:
        return ScriptedClient(replies, usage=usage)

    deep = ReActAgent(client("a", "a", "b"), "gpt-4o")
    middle = ReActAgent(client(call("deep", request="x"), "m"), "gpt-4o", tools=[deep])
    helper = ReActAgent(client("h"), "gpt-4o")

    async def ask() -> str:
        """A tool that asks an agent of its own."""
        return await helper("?")

    calls = [call("middle", request="x"), call("deep", request="y"), call("ask")]
    boss = ReActAgent(client(calls, "done"), "gpt-4o", tools=[middle, deep, ask])
    assert await boss("?") == "done"
    # Two of its own, two of middle and one of the specialist below it, one of deep, one of helper.
    assert boss.usage["total_tokens"] == 7 * 12
    assert boss.usage["input_tokens"] == boss.usage["prompt_tokens"] == 70
    assert boss.cost == pytest.approx(7 * (10 * 2.5 + 2 * 10) / 1e6)
    assert boss.get_execution_trace()["usage"] == boss.usage
    assert helper.usage["total_tokens"] == 12
    # Those that were called are forks: the agents themselves have done nothing.
    assert (middle.usage, deep.usage) == ({}, {})
    # By nobody's run.
    assert await deep("?") == "b"
    assert deep.usage["total_tokens"] == 12
    assert boss.usage["total_tokens"] == 7 * 12


async def test_a_specialist_without_a_price_leaves_its_caller_without_a_cost() -> None:
    nameless = ReActAgent(ScriptedClient(answer("a")), "nobody-knows-it")
    boss = ReActAgent(
        ScriptedClient([call("nameless", request="x"), "done"]), "gpt-4o", tools=[nameless]
    )
    assert boss.cost == 0
    await boss("?")
    assert boss.cost is None


async def test_what_specialists_use_counts_against_the_limits() -> None:
    usage = {"prompt_tokens": 100}
    costly = ReActAgent(ScriptedClient(answer("a"), usage=usage), "gpt-4o")
    for limits in (UsageLimits(tokens=200), UsageLimits(cost=200 * 2.5 / 1e6)):
        client = ScriptedClient([call("costly", request="x")], usage=usage)
        boss = ReActAgent(client, "gpt-4o", tools=[costly], usage_limits=limits)
        with pytest.raises(UsageLimitExceeded):
            await boss("?")
        assert_valid(boss.messages)


async def test_a_specialist_that_reaches_a_limit_of_its_caller_stops_there() -> None:
    usage = {"total_tokens": 40}
    client = ScriptedClient(lambda messages: call("work", name="x"), usage=usage)
    busy = ReActAgent(client, "m", tools=[Journal().work])
    middle = ReActAgent(
        ScriptedClient([call("busy", request="x"), "x"], usage=usage), "m", tools=[busy]
    )
    boss = ReActAgent(
        ScriptedClient([call("middle", request="x")], usage=usage),
        "m",
        tools=[middle],
        usage_limits=UsageLimits(tokens=200),
    )
    with pytest.raises(UsageLimitExceeded, match=r"240 tokens used \(limit: 200\)"):
        await boss("?")
    # One reply of boss and one of middle, then three; and middle would have gone on.
    assert len(client.requests) == 3
    assert boss.usage["total_tokens"] == 240
    assert_valid(boss.messages)
    assert "usage limit" in results(boss)[0]


async def test_a_cancelled_supervisor_leaves_no_specialist_running() -> None:
    journal = Journal(seconds=60)
    deep = ReActAgent(ScriptedClient(lambda m: call("work", name="x")), "m", tools=[journal.work])
    middle = ReActAgent(ScriptedClient(lambda m: call("deep", request="x")), "m", tools=[deep])
    boss = supervisor([call("middle", request=str(i)) for i in range(5)], tools=[middle])
    async with open_runtime() as runtime:
        future = boss("?")
        await anyio.sleep(1)
        assert journal.events == ["begin x"] * 5
        cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert journal.events == ["begin x"] * 5 + ["stop x"] * 5
        assert not runtime.scheduler.running
    assert_valid(boss.messages)


async def test_a_deadline_above_ends_everything_below() -> None:
    journal = Journal(seconds=60)
    deep = ReActAgent(ScriptedClient(lambda m: call("work", name="x")), "m", tools=[journal.work])
    boss = supervisor(call("deep", request="x"), tools=[deep], timeout=3)
    with pytest.raises(TimeoutError, match=r"after 3\.0s"):
        await boss("?")
    assert journal.events == ["begin x", "stop x"]


async def test_a_specialists_deadline_is_its_own() -> None:
    journal = Journal(seconds=60)
    slow = ReActAgent(
        ScriptedClient(lambda m: call("work", name="x")), "m", tools=[journal.work], timeout=3
    )
    boss = supervisor(call("slow", request="x"), "done", tools=[slow])
    assert await boss("?") == "done"
    assert "Agent timed out after 3.0s" in results(boss)[0]


async def test_agents_and_workflows_call_each_other() -> None:
    researcher = ReActAgent(ScriptedClient(echo), "m")

    @agent_task
    async def research(topics: list[str]) -> list[str]:
        """Look into several topics."""
        return [await future for future in [researcher.fork()(topic) for topic in topics]]

    boss = supervisor(call("research", topics=["a", "b"]), "done", tools=[research])

    @agent_task
    async def report(topic: str) -> str:
        return f"report: {await boss(topic)}"

    assert await report("x") == "report: done"
    assert json.loads(results(boss)[0]) == ["1: a", "1: b"]
