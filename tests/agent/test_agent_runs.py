"""Runs: tools side by side, time, cancellation, order, hooks. All in virtual time."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from motus.agent import ReActAgent, UsageLimitExceeded, UsageLimits, model_serve_task
from motus.agent.base import AgentBase
from motus.agent.deadline import Deadline
from motus.memory import BasicMemory, CompactionMemory, CompactionMemoryConfig
from motus.messages import ChatMessage
from motus.models.errors import ModelContextOverflowError, ModelServerError
from motus.runtime import (
    AgentFuture,
    HookEvent,
    TaskCancelledError,
    cancel,
    get_runtime,
    open_runtime,
    resolve,
)
from motus.serve.interrupt import clocks, interrupt
from motus.testing import ScriptedClient, answer_interrupts, call
from motus.tools import tool
from tests.agent.models import HangingClient, Journal, assert_valid, echo, go_on_with

pytestmark = pytest.mark.anyio


def results(agent: AgentBase[Any]) -> list[str]:
    return [str(m.content) for m in agent.memory.messages if m.role == "tool"]


def too_long() -> ModelContextOverflowError:
    return ModelContextOverflowError("too long", provider="p", status=400)


async def goes_on(agent: ReActAgent[Any]) -> None:
    """The conversation is valid, and the agent answers in it."""
    assert_valid(agent.memory.messages)
    go_on_with(agent, ScriptedClient(echo))
    assert str(await agent("and now?")).endswith("and now?")
    assert_valid(agent.memory.messages)


# ---------------------------------------------------------------------- tools


async def test_ten_tool_calls_take_the_time_of_one() -> None:
    journal = Journal(seconds=10)
    client = ScriptedClient([[call("work", name=str(i)) for i in range(10)], "done"])
    agent = ReActAgent(client, "m", tools=[journal.work])
    started = anyio.current_time()
    assert await agent("go") == "done"
    assert anyio.current_time() - started == pytest.approx(10)
    assert results(agent) == [f"{i} is done" for i in range(10)]


async def test_a_tool_that_fails_harms_no_other() -> None:
    journal = Journal()
    calls = [call("work", name="a"), call("fail", name="b"), call("work", name="c")]
    agent = ReActAgent(ScriptedClient([calls, "done"]), "m", tools=[journal.work, journal.fail])
    assert await agent("go") == "done"
    assert results(agent) == ["a is done", '{"error": "b is impossible"}', "c is done"]


async def test_bad_calls_are_explained_to_the_model() -> None:
    journal = Journal()
    calls = [call("wrok", name="a"), call("work"), call("work", name="c")]
    calls[2].function.arguments = "{not json"
    agent = ReActAgent(ScriptedClient([calls, "sorry"]), "m", tools=[journal.work])
    assert await agent("go") == "sorry"
    unknown, missing, broken = (json.loads(text)["error"] for text in results(agent))
    assert "'wrok'" in unknown
    assert "work" in unknown
    assert "name" in missing
    assert "JSON" in broken
    assert journal.events == []
    bare = ReActAgent(ScriptedClient([call("any"), "x"]), "m")
    assert await bare("go") == "x"
    assert "error" in results(bare)[0]


async def test_a_call_that_somebody_cancels_is_an_error_for_the_model() -> None:
    journal = Journal(seconds=5)
    calls = [call("work", name="a"), call("work", name="b")]
    agent = ReActAgent(ScriptedClient([calls, "done"]), "m", tools=[journal.work])
    called: list[AgentFuture[str]] = []
    start = agent.tools.start  # type: ignore[union-attr]  # it has tools

    def remember(name: str, arguments: str) -> AgentFuture[str]:
        called.append(start(name, arguments))
        return called[-1]

    agent.tools.start = remember  # type: ignore[union-attr, method-assign]  # to get at the future
    answer = agent("go")
    await anyio.sleep(1)
    cancel(called[0])
    assert await answer == "done"
    assert results(agent) == ['{"error": "the call was cancelled"}', "b is done"]


# ---------------------------------------------------------------------- limits


async def test_steps_run_out() -> None:
    client = ScriptedClient(lambda messages: call("work", name="a"))
    agent = ReActAgent(client, "m", tools=[Journal().work], max_steps=3)
    with pytest.raises(RuntimeError, match=r"^ReactAgent reached max steps \(3\) without"):
        await agent("go")
    assert len(client.requests) == 3
    assert len(results(agent)) == 3
    await goes_on(agent)


async def test_time_runs_out_during_a_model_call() -> None:
    client = HangingClient()
    agent = ReActAgent(client, "m", timeout=5)
    started = anyio.current_time()
    with pytest.raises(
        TimeoutError, match=r"^Agent timed out after 5\.0s \(limit: 5s, steps completed: 0\)"
    ):
        await agent("go")
    assert anyio.current_time() - started == pytest.approx(5)
    assert (client.asked, client.stopped) == (1, 1)
    assert [message.content for message in agent.messages] == ["go"]
    await goes_on(agent)


async def test_time_runs_out_during_tools() -> None:
    slow, quick = Journal(seconds=60), Journal(seconds=1)
    calls = [call("work", name="a"), call("quick", name="b")]
    client = ScriptedClient([call("quick", name="first"), calls])
    tools = {"work": slow.work, "quick": quick.work}
    agent = ReActAgent(client, "m", tools=tools, timeout=7.5)
    with pytest.raises(TimeoutError, match=r"after 7\.5s \(limit: 7\.5s, steps completed: 1\)"):
        await agent("go")
    # What had been done stays, what had not is an error.
    assert results(agent)[:2] == [
        "first is done",
        '{"error": "the run was stopped before this call had finished"}',
    ]
    assert results(agent)[2] == "b is done"
    assert slow.events == ["begin a", "stop a"]
    await goes_on(agent)


async def test_nothing_goes_on_while_a_stopped_run_is_put_in_order() -> None:
    class Slow(BasicMemory):
        async def add_message(self, message: ChatMessage) -> None:
            if message.role == "tool":
                await anyio.sleep(2)
            await super().add_message(message)

    journal = Journal(seconds=4)
    calls = [call("work", name="a"), call("work", name="b")]
    agent = ReActAgent(ScriptedClient([calls]), "m", tools=[journal.work], memory=Slow(), timeout=3)
    future = agent("go")
    await anyio.sleep(3.5)
    assert sorted(journal.events) == ["begin a", "begin b", "stop a", "stop b"]
    with pytest.raises(TimeoutError):
        await future
    await goes_on(agent)


async def test_the_time_of_a_human_does_not_count() -> None:
    async def human(payload: dict[str, Any]) -> Any:
        await anyio.sleep(1_000 if payload["tool_args"]["name"] == "slow" else 10)
        return {"approved": True}

    @tool(requires_approval=True)
    async def ask(name: str) -> str:
        """Ask."""
        await anyio.sleep(3)
        return f"{name} is approved"

    asking = ReActAgent(
        ScriptedClient(lambda m: call("ask", name="deep") if len(m) == 1 else "yes"),
        "m",
        tools=[ask],
        timeout=5,
    )
    calls = [call("ask", name="slow"), call("ask", name="quick"), call("asking", request="x")]
    agent = ReActAgent(ScriptedClient([calls, "done"]), "m", tools=[ask, asking], timeout=5)
    with answer_interrupts(human):
        assert await agent("go") == "done"
        # All that was asked for together: the time stood still until the last one was answered.
        assert anyio.current_time() == pytest.approx(1_003)
        assert results(agent) == ["slow is approved", "quick is approved", "yes"]
        # What comes before and after is the agent's own time.
        go_on_with(agent, ScriptedClient([call("ask", name="slow"), call("ask", name="slow")]))
        with pytest.raises(
            TimeoutError, match=r"^Agent timed out after 5\.0s \(limit: 5s, steps completed: 1\)"
        ):
            await agent("again")
        assert anyio.current_time() == pytest.approx(1_003 + 2_005)
    await goes_on(agent)


async def test_a_human_who_is_not_waited_for_any_more_does_not_stop_the_time() -> None:
    async def impatient() -> str:
        """Ask, and give up."""
        with anyio.move_on_after(100):
            await interrupt({"type": "question"})
        await anyio.sleep(60)
        return "never"

    agent = ReActAgent(ScriptedClient([call("impatient")]), "m", tools=[impatient], timeout=5)
    with answer_interrupts(lambda payload: anyio.sleep_forever()), pytest.raises(TimeoutError):
        await agent("go")
    assert anyio.current_time() == pytest.approx(105)


@pytest.mark.realtime
async def test_a_tool_on_a_thread_stops_the_time_and_is_counted_as_well() -> None:
    async def human(payload: dict[str, Any]) -> str:
        stood_still.extend(
            isinstance(clock, Deadline) and clock.scope.deadline == math.inf
            for clock in clocks.get()
        )
        return "yes"

    def ask() -> str:
        """Ask a human, and then an agent."""
        said = anyio.from_thread.run(interrupt, {"type": "question"})
        return f"{said}, {resolve(helper('?'))}"

    stood_still: list[bool] = []
    helper = ReActAgent(ScriptedClient(echo, usage={"total_tokens": 7}), "m")
    client = ScriptedClient([call("ask"), "done"], usage={"total_tokens": 1})
    agent = ReActAgent(client, "m", tools=[ask], timeout=60)
    with answer_interrupts(human):
        assert await agent("go") == "done"
    assert results(agent) == ["yes, 1: ?"]
    assert stood_still == [True]
    assert agent.usage["total_tokens"] == 9


@pytest.mark.realtime
async def test_any_thread_can_stop_the_time() -> None:
    async with open_runtime() as runtime:
        deadline = Deadline(60, runtime.scheduler)

        async def changed(change: Callable[[], None]) -> bool:
            """Whether the deadline stands still afterwards."""
            await anyio.to_thread.run_sync(change)
            done = anyio.Event()
            # Behind what the thread has left to be done.
            runtime.scheduler.post(lambda _one, _two: done.set(), None, None)
            await done.wait()
            return deadline.scope.deadline == math.inf

        changes = [deadline.stop, deadline.stop, deadline.go_on, deadline.go_on]
        assert [await changed(change) for change in changes] == [True, True, True, False]


async def test_the_deadline_is_that_of_one_run() -> None:
    agent = ReActAgent(
        ScriptedClient([call("work", name="a"), "x", call("work", name="b"), "y"]),
        "m",
        tools=[Journal(seconds=4).work],
        timeout=5,
    )
    # The second waits for the first, which is not its time.
    first, second = agent("1"), agent("2")
    assert [await first, await second] == ["x", "y"]


async def test_usage_limits_end_a_run() -> None:
    def spending(usage: dict[str, int]) -> ScriptedClient:
        return ScriptedClient(lambda messages: call("work", name="a"), usage=usage)

    client, limits = spending({"total_tokens": 40}), UsageLimits(tokens=100)
    agent = ReActAgent(client, "m", tools=[Journal().work], usage_limits=limits)
    with pytest.raises(UsageLimitExceeded, match=r"120 tokens used \(limit: 100\)"):
        await agent("go")
    await goes_on(agent)
    client = spending({"prompt_tokens": 100})
    for model, cost, text in [("gpt-4o", 1e-9, "spent"), ("m", 1.0, "price is not known")]:
        agent = ReActAgent(
            client, model, tools=[Journal().work], usage_limits=UsageLimits(cost=cost)
        )
        with pytest.raises(UsageLimitExceeded, match=text):
            await agent("go")


async def test_an_answer_is_given_whatever_it_has_used() -> None:
    client = ScriptedClient(["done"], usage={"total_tokens": 40})
    agent = ReActAgent(client, "m", usage_limits=UsageLimits(tokens=1))
    assert await agent("go") == "done"


# ---------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("seconds", [1, 2.5])
async def test_cancelled_in_mid_call_nothing_is_left(seconds: float) -> None:
    journal = Journal(seconds=2)
    hanging = HangingClient()
    script = ScriptedClient([[call("work", name="a"), call("work", name="b")]])

    async def create(*args: Any, **kwargs: Any) -> Any:
        client = script if script.replies_left else hanging
        return await client.create(*args, **kwargs)

    client = HangingClient()
    client.create = create  # type: ignore[method-assign]  # first the one, then the other
    async with open_runtime() as runtime:
        agent = ReActAgent(client, "m", tools=[journal.work])
        future = agent("go")
        await anyio.sleep(seconds)
        assert cancel(future)
        with pytest.raises(TaskCancelledError):
            await future
        assert not runtime.scheduler.running
        assert_valid(agent.memory.messages)
        if seconds < 2:
            assert sorted(journal.events) == ["begin a", "begin b", "stop a", "stop b"]
            assert all("stopped" in text for text in results(agent))
        else:
            assert (hanging.asked, hanging.stopped) == (1, 1)
            assert results(agent) == ["a is done", "b is done"]
        await goes_on(agent)


async def test_a_cancelled_block_takes_the_agent_along() -> None:
    journal = Journal(seconds=10)
    agent = ReActAgent(ScriptedClient([call("work", name="a")]), "m", tools=[journal.work])
    with anyio.move_on_after(3):
        async with open_runtime():
            await agent("go")
    assert journal.events == ["begin a", "stop a"]
    assert_valid(agent.memory.messages)


async def test_a_conversation_that_is_too_long_for_the_model_is_compacted_once() -> None:
    client = ScriptedClient(
        ["a", [call("work", name="x")], too_long(), "the summary", "b"], usage={"total_tokens": 1}
    )
    agent = ReActAgent(client, "m", tools=[Journal().work], memory_type="compact")
    await agent("one")
    assert await agent("two") == "b"
    sent = client.requests[-1].messages
    assert "the summary" in str(sent[0].content)
    assert [message.role for message in sent] == ["user", "assistant", "tool"]
    assert_valid(sent)
    assert agent.memory.get_memory_trace()["total_compactions"] == 1
    # The call that failed has used nothing.
    assert agent.usage["total_tokens"] == 4


async def test_then_it_is_an_error_that_says_so() -> None:
    client = ScriptedClient(["a", too_long(), "the summary", too_long()])
    agent = ReActAgent(client, "m", memory_type="compact")
    await agent("one")
    with pytest.raises(
        ModelContextOverflowError, match=r"^too long \(also after the conversation was compacted"
    ) as caught:
        await agent("two")
    assert (caught.value.provider, caught.value.status) == ("p", 400)
    assert client.replies_left == 0
    await goes_on(agent)
    # Nothing to compact, or nobody who does.
    for memory_type, prompt in [("basic", "two"), ("compact", "one")]:
        client = ScriptedClient(["a", too_long()] if prompt == "two" else [too_long()])
        agent = ReActAgent(client, "m", memory_type=memory_type)  # type: ignore[arg-type]  # both are
        if prompt == "two":
            await agent("one")
        with pytest.raises(ModelContextOverflowError, match=r"^too long") as caught:
            await agent(prompt)
        assert "also" not in str(caught.value)
        await goes_on(agent)


async def test_an_answer_is_not_lost_for_a_summary_that_fails() -> None:
    client = ScriptedClient(["the answer " * 50, ModelServerError("down"), "S", "b"])
    config = CompactionMemoryConfig(token_threshold=100)
    agent = ReActAgent(client, "m", memory=CompactionMemory(config=config))
    assert (await agent("?")).startswith("the answer")
    assert len(agent.messages) == 2
    assert await agent("??") == "b"
    assert "S" in str(agent.messages[0].content)


async def test_a_reset_ends_the_run_that_goes_on() -> None:
    journal = Journal()

    async def forget() -> str:
        """Begin anew."""
        agent.reset()
        return "forgotten"

    calls = [call("forget"), call("work", name="a")]
    client = ScriptedClient([calls])
    agent = ReActAgent(client, "m", tools=[journal.work, forget])
    with pytest.raises(RuntimeError, match="the conversation was reset"):
        await agent("go")
    assert agent.messages == []
    assert journal.events == ["begin a", "end a"]
    await goes_on(agent)


async def test_what_is_on_its_way_into_a_memory_that_is_reset_is_forgotten_too() -> None:
    class Slow(BasicMemory):
        async def add_message(self, message: ChatMessage) -> None:
            await anyio.sleep(2)
            await super().add_message(message)

    for reply in (call("work", name="a"), "the answer"):
        agent = ReActAgent(ScriptedClient([reply]), "m", tools=[Journal().work], memory=Slow())
        future = agent("go")
        # While the reply is added; later, while the result is.
        await anyio.sleep(3 if reply == "the answer" else 6)
        agent.reset()
        with contextlib.suppress(RuntimeError):
            await future
        assert agent.messages == []
        await goes_on(agent)


async def test_a_loop_of_ones_own_is_put_in_order_too() -> None:
    class Careless(AgentBase[str]):
        async def _run(self, user_prompt: Any = None, **kwargs: Any) -> str:
            await self.add_user_message(user_prompt)
            completion = await model_serve_task(self.client, self.model_name, self.get_context())
            await self.add_message(completion.to_message())
            raise LookupError("and now?")

    client = ScriptedClient([[call("work", name="a"), call("work", name="b")]])
    agent = Careless(client, "m")
    with pytest.raises(LookupError):
        await agent("go")
    assert_valid(agent.memory.messages)
    assert len(results(agent)) == 2
    # Its model calls are counted as well.
    assert agent.usage["total_tokens"] > 0


async def test_a_fork_in_the_middle_of_a_run_is_an_agent_of_its_own() -> None:
    journal = Journal(seconds=10)
    client = ScriptedClient([call("work", name="a"), "done"])
    agent = ReActAgent(client, "m", tools=[journal.work])
    future = agent("go")
    await anyio.sleep(5)
    fork = agent.fork()
    go_on_with(fork, ScriptedClient(echo))
    assert str(await fork("and now?")).endswith("and now?")
    assert_valid(fork.memory.messages)
    assert "stopped" in results(fork)[0]
    assert await future == "done"
    assert results(agent) == ["a is done"]


async def test_the_time_of_a_run_says_nothing_of_the_one_before() -> None:
    async def slow(prompt: str) -> None:
        await anyio.sleep(3 if prompt == "quick" else 60)

    client = ScriptedClient([call("work", name="a"), "done"])
    agent = ReActAgent(client, "m", tools=[Journal().work], timeout=5, input_guardrails=[slow])
    assert await agent("quick") == "done"
    with pytest.raises(TimeoutError, match="steps completed: 0"):
        await agent("slow")


async def test_a_call_takes_a_prompt_and_nothing_else() -> None:
    agent = ReActAgent(ScriptedClient(echo), "m")
    with pytest.raises(TypeError, match="takes a prompt and nothing else, not max_steps"):
        await agent("go", max_steps=3)
    assert agent.messages == []


async def test_a_model_that_fails_fails_the_run() -> None:
    client = ScriptedClient([call("work", name="a"), ModelServerError("down"), "back"])
    agent = ReActAgent(client, "m", tools=[Journal().work])
    with pytest.raises(ModelServerError, match="down"):
        await agent("go")
    assert await agent() == "back"
    assert results(agent) == ["a is done"]


async def test_a_memory_that_is_slow_is_not_waited_for_when_all_ends() -> None:
    class Slow(BasicMemory):
        async def add_message(self, message: ChatMessage) -> None:
            await super().add_message(message)
            if message.role == "tool":
                await anyio.sleep_forever()

    agent = ReActAgent(
        ScriptedClient([[call("work", name="a"), call("work", name="b")]]),
        "m",
        tools=[Journal().work],
        memory=Slow(),
        timeout=3,
    )
    started = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"after 8\.0s"):
        await agent("go")
    assert anyio.current_time() - started == pytest.approx(8)


# ---------------------------------------------------------------------- order


async def test_calls_of_one_agent_run_in_order() -> None:
    async def slowly(messages: list[ChatMessage]) -> str:
        await anyio.sleep(10 / len(messages))
        return f"{len(messages)}"

    agent = ReActAgent(ScriptedClient(slowly), "m")
    futures = [agent(str(i)) for i in range(4)]
    assert [await future for future in futures] == ["1", "3", "5", "7"]
    asked = [message.content for message in agent.messages[::2]]
    assert asked == ["0", "1", "2", "3"]


async def test_one_that_is_cancelled_while_it_waits_lets_nobody_pass() -> None:
    async def slowly(messages: list[ChatMessage]) -> str:
        await anyio.sleep(10)
        return str(messages[-1].content)

    agent = ReActAgent(ScriptedClient(slowly), "m")
    first, second, third = agent("1"), agent("2"), agent("3")
    await anyio.sleep(1)
    cancel(second)
    with pytest.raises(TaskCancelledError):
        await second
    started = anyio.current_time()
    assert (await third, await first) == ("3", "1")
    assert anyio.current_time() - started == pytest.approx(19)
    assert [message.content for message in agent.messages] == ["1", "1", "3", "3"]


async def test_a_failed_run_does_not_fail_the_next() -> None:
    agent = ReActAgent(ScriptedClient([ValueError("first"), "second"]), "m")
    first, second = agent("1"), agent("2")
    assert await second == "second"
    with pytest.raises(ValueError, match="first"):
        await first


async def test_an_agent_that_waits_for_itself_is_told_so() -> None:
    async def again() -> str:
        """Ask yourself."""
        return str(await agent("and again"))

    agent = ReActAgent(ScriptedClient([call("again"), "given up"]), "m", tools=[again])
    assert await agent("go") == "given up"
    assert "error" in results(agent)[0]


async def test_two_agents_that_wait_for_each_other_are_told_so() -> None:
    asked: list[str] = []
    both = anyio.Event()

    async def ask(other: ReActAgent[Any], request: str) -> str:
        asked.append(request)
        if len(asked) == 2:
            both.set()
        await both.wait()
        return str(await other(request))

    async def ask_right(request: str) -> str:
        """Ask the one on the right."""
        return await ask(right, request)

    async def ask_left(request: str) -> str:
        """Ask the one on the left."""
        return await ask(left, request)

    def asks(tool: str) -> ScriptedClient:
        return ScriptedClient([call(tool, request="and you?"), "done", "asked"])

    left = ReActAgent(asks("ask_right"), "m", tools=[ask_right])
    right = ReActAgent(asks("ask_left"), "m", tools=[ask_left])
    futures = [left("go"), right("go")]
    with anyio.fail_after(60):
        assert [await future for future in futures] == ["done", "done"]
    told = [*results(left), *results(right)]
    assert ["this would never end" in one for one in told].count(True) == 1


async def test_forks_run_in_parallel() -> None:
    async def slowly(messages: list[ChatMessage]) -> str:
        await anyio.sleep(10)
        return "done"

    agent = ReActAgent(ScriptedClient(slowly), "m")
    started = anyio.current_time()
    futures = [agent.fork()(str(i)) for i in range(20)]
    assert {await future for future in futures} == {"done"}
    assert anyio.current_time() - started == pytest.approx(10)


# ---------------------------------------------------------------------- watching


async def test_the_step_callback_sees_each_step_before_its_tools() -> None:
    seen: list[Any] = []
    journal = Journal()

    async def callback(content: str | None, tool_calls: list[dict[str, str]]) -> None:
        await anyio.sleep(1)
        seen.append((content, tool_calls, list(journal.events)))

    client = ScriptedClient([[call("work", name="a"), call("work", name="b")], "done"])
    agent = ReActAgent(client, "m", tools=[journal.work], step_callback=callback)
    await agent("go")
    calls = [{"name": "work", "arguments": f'{{"name": "{name}"}}'} for name in "ab"]
    assert seen == [(None, calls, [])]


async def test_a_step_callback_may_stop_the_run() -> None:
    def callback(content: str | None, tool_calls: list[dict[str, str]]) -> None:
        raise PermissionError("not that")

    journal = Journal()
    client = ScriptedClient([call("work", name="a")])
    agent = ReActAgent(client, "m", tools=[journal.work], step_callback=callback)
    with pytest.raises(PermissionError, match="not that"):
        await agent("go")
    assert journal.events == []
    await goes_on(agent)


async def test_hooks_see_agents_models_and_tools() -> None:
    seen: list[tuple[str | None, str | None]] = []

    def note(event: HookEvent) -> None:
        seen.append((event.task_type, event.name))

    async with open_runtime():
        get_runtime().hooks.register("task_start", note)
        client = ScriptedClient([call("work", name="a"), "done"])
        weather_bot = ReActAgent(client, "m", tools=[Journal().work])
        await weather_bot("go")
    assert seen == [
        ("agent_call", "weather_bot"),
        ("model_call", "model_serve_task"),
        ("tool_call", "work"),
        ("model_call", "model_serve_task"),
    ]


async def test_the_errors_of_a_run_say_where_it_was_called() -> None:
    agent = ReActAgent(HangingClient(), "m", timeout=1)
    with pytest.raises(TimeoutError) as caught:
        await agent("go")
    (note,) = caught.value.__notes__
    assert "test_agent_runs.py" in note
    assert note.endswith(": agent")
