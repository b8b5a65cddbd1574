"""What an agent is and has: parameters, attributes, conversation, usage, copies."""

from __future__ import annotations

import threading
from typing import Any, NewType

import anyio
import attrs
import pytest

import motus.agent.base_agent
from motus import resolve, shutdown
from motus.agent import AgentBase, ReActAgent, UsageLimitExceeded, UsageLimits
from motus.memory import BasicMemory, CompactionMemory, CompactionMemoryConfig
from motus.messages import ChatMessage, FunctionCall, ToolCall
from motus.models.base import AUTO_REASONING, CachePolicy, ReasoningConfig
from motus.runtime import AgentFuture, agent_task
from motus.testing import ScriptedClient, call
from motus.tools import DictTools, tool
from tests.agent.models import answer, echo

pytestmark = pytest.mark.anyio


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def make(**options: Any) -> ReActAgent[Any]:
    return ReActAgent(ScriptedClient(echo), "m", **options)


async def test_an_agent_answers() -> None:
    client = ScriptedClient([call("weather", city="Rome"), "It is sunny."])
    agent = ReActAgent(client, "m", system_prompt="Be brief.", tools=[weather])
    future = agent("How is the weather in Rome?")
    assert isinstance(future, AgentFuture)
    assert await future == "It is sunny."
    first, second = client.requests
    assert first.model == "m"
    assert [message.role for message in first.messages] == ["system", "user"]
    assert first.messages[0].content == "Be brief."
    assert [definition.name for definition in first.tools] == ["weather"]
    assert [message.role for message in second.messages[2:]] == ["assistant", "tool"]
    result = second.messages[-1]
    assert (result.content, result.name, result.tool_call_id) == (
        "sunny in Rome",
        "weather",
        "call_1",
    )
    assert [message.role for message in agent.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    last = agent.get_last_assistant_message()
    assert last is not None
    assert last.content == "It is sunny."


async def test_it_remembers_and_forgets() -> None:
    agent = make(system_prompt="P")
    assert agent.get_last_assistant_message() is None
    assert await agent("a") == "1: a"
    assert await agent("b") == "3: b"
    agent.reset()
    assert await agent("c") == "1: c"
    agent.clear_messages()
    assert [message.content for message in agent.messages] == ["P"]
    assert agent.usage["completion_tokens"] > 0


@pytest.mark.realtime
def test_it_is_called_from_synchronous_code() -> None:
    agent = make()
    try:
        assert resolve(agent("a"), timeout=30) == "1: a"
        assert resolve([agent("b"), agent("c")], timeout=30) == ["3: b", "5: c"]
    finally:
        shutdown()


@pytest.mark.realtime
def test_it_is_called_from_one_loop_after_another_and_from_two_at_once() -> None:
    agent = make()

    async def ask(text: str) -> str:
        return str(await agent(text))

    answers = [anyio.run(ask, "a", backend=backend) for backend in ("trio", "asyncio", "trio")]
    assert answers == ["1: a", "3: a", "5: a"]

    def several(backend: str) -> None:
        for _ in range(10):
            anyio.run(ask, "b", backend=backend)

    threads = [
        threading.Thread(target=several, args=(backend,)) for backend in ("trio", "asyncio") * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [message.content for message in agent.messages if message.role == "assistant"]
    assert said[3:] == [f"{number}: b" for number in range(7, 87, 2)]
    assert agent.usage["completion_tokens"] > 0


async def test_a_prompt_may_be_a_future_or_a_message_or_nothing() -> None:
    @agent_task
    async def ask() -> str:
        return "from a task"

    agent = make()
    assert await agent(ask()) == "1: from a task"
    await agent.add_user_message("by hand", "aW1n")
    assert await agent() == "3: by hand"
    assert agent.messages[2].base64_image == "aW1n"
    picture = ChatMessage.user_message("look", "aW1n")
    assert await agent(picture) == "5: look"
    assert agent.messages[4] == picture
    with pytest.raises(TypeError, match="a prompt is text or a ChatMessage, not int"):
        await agent(5)


async def test_messages_can_be_added_by_hand() -> None:
    agent = make()
    calls = [ToolCall("1", FunctionCall("weather", "{}"))]
    await agent.add_user_message("a")
    await agent.add_assistant_message("b", calls)
    await agent.add_tool_message("c", "1", "weather")
    await agent.add_message(ChatMessage.user_message("d"))
    assert await agent() == "4: d"
    assert [message.content for message in agent.get_context()] == ["a", "b", "c", "d", "4: d"]
    assert agent.messages[1].tool_calls == calls


async def test_the_name_is_that_of_the_callers_variable() -> None:
    weather_bot = make()
    await weather_bot("a")
    assert weather_bot.name == "weather_bot"
    other = weather_bot
    assert other.name == "weather_bot"
    agents = [make()]
    await agents[0]("a")
    assert agents[0].name == "ReActAgent"
    assert make(name="given").name == "given"
    specialist = make()
    assert specialist.as_tool().name == "specialist"
    assert list(make(tools=[specialist]).tools or ()) == ["specialist"]


class Documented(AgentBase[str]):
    """An agent with a loop of its own, as the examples of older versions have them."""

    async def _run(self, user_prompt: str | None = None, **kwargs: Any) -> str:
        if user_prompt is not None:
            await self.add_user_message(user_prompt)
        completion = await self._client.create(self._model_name, self.get_context())
        await self.add_assistant_message(completion.content)
        return f"{completion.content} {kwargs}"


async def test_a_loop_of_ones_own() -> None:
    assert motus.agent.base_agent.AgentBase is AgentBase
    agent = Documented(ScriptedClient(echo), "m")
    assert agent.max_steps is None
    assert await agent("a", mood="good") == "1: a {'mood': 'good'}"
    fork = agent.fork()
    assert await fork("b") == "3: b {}"
    with pytest.raises(TypeError, match="abstract"):
        AgentBase(ScriptedClient([]), "m")  # type: ignore[abstract]  # what is tested


async def test_parameters_are_attributes() -> None:
    client = ScriptedClient([])
    memory = BasicMemory()
    agent = ReActAgent(
        client,
        "m",
        "bot",
        "P",
        [weather],
        None,
        7,
        30.0,
        memory=memory,
        reasoning=ReasoningConfig.disabled(),
        cache_policy="auto_1h",
    )
    assert (agent.client, agent.model_name, agent.name) == (client, "m", "bot")
    assert (agent.max_steps, agent.timeout, agent.response_format) == (7, 30.0, None)
    assert agent.memory is memory
    assert (agent.reasoning, agent.cache_policy) == (
        ReasoningConfig.disabled(),
        CachePolicy.AUTO_1H,
    )
    assert agent.system_prompt == "P"
    agent.max_steps = 8
    agent.system_prompt = "Q"
    assert (agent.max_steps, agent.messages) == (8, [ChatMessage.system_message("Q")])
    agent.system_prompt = None
    assert (agent.system_prompt, agent.messages) == (None, [])
    defaults = make()
    assert (defaults.max_steps, defaults.timeout, defaults.tools) == (20, None, None)
    assert (defaults.reasoning, defaults.cache_policy) == (AUTO_REASONING, CachePolicy.AUTO)
    assert isinstance(defaults.memory, BasicMemory)
    assert isinstance(make(memory_type="compact").memory, CompactionMemory)


async def test_reasoning_and_cache_policy_reach_the_client() -> None:
    client = ScriptedClient(echo)
    await ReActAgent(client, "m", reasoning=ReasoningConfig.light(), cache_policy="none")("a")
    assert client.requests[0].reasoning == ReasoningConfig.light()
    assert client.requests[0].options == {"cache_policy": CachePolicy.NONE}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_type": "database"}, "'database'.*'basic' or 'compact'"),
        ({"cache_policy": "sometimes"}, "sometimes"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": "30"}, "timeout must be a positive number of seconds, not '30'"),
        ({"max_steps": 0}, "max_steps must be a positive whole number"),
        ({"max_steps": True}, "max_steps must be a positive whole number"),
        ({"tools": [weather, weather]}, "Duplicate tool name: weather"),
    ],
)
def test_wrong_parameters_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"input_guardrails": weather}, "input_guardrails must be a list of functions"),
        (
            {"output_guardrails": ["polite"]},
            "output_guardrails must be a list of functions, not .polite.",
        ),
        ({"step_callback": "print"}, "step_callback must be a function, not 'print'"),
        (
            {"system_prompt": ChatMessage.system_message("P")},
            "system_prompt must be a text, not ChatMessage",
        ),
        ({"reasoning": "high"}, r"a ReasoningConfig, such as .*\(effort='high'\), not 'high'"),
        ({"response_format": {"type": "json"}}, "response_format must be a class .*, not dict"),
        ({"response_format": "City"}, "response_format must be a class .*, not str"),
        ({"response_format": UsageLimits()}, "response_format must be a class .*, not UsageLimits"),
        ({"usage_limits": {"tokens": 5}}, r"must be UsageLimits\(.*, not {'tokens': 5}"),
        ({"memory": CompactionMemory}, r"must be an object .*: pass CompactionMemory\(...\)"),
        ({"memory": "compact"}, "memory must be an object of a BaseMemory, not str$"),
    ],
)
def test_what_would_fail_later_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make(**options)


@pytest.mark.parametrize(
    ("client", "model", "text"),
    [
        ("gpt-4o", ScriptedClient([]), "a client and then .*, not str and ScriptedClient"),
        ("sk-secret", "gpt-4o", "a client and then .*, not str and str"),
        (ScriptedClient([]), None, "a client and then .*, not ScriptedClient and NoneType"),
        (ScriptedClient, "gpt-4o", r"is a class: pass ScriptedClient\(...\)"),
    ],
)
def test_a_client_comes_before_a_name(client: Any, model: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text) as refused:
        ReActAgent(client, model)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", [list[int], int | None, Any, dict[str, int], NewType("N", int)])
def test_whatever_describes_a_type_may_be_a_response_format(kind: Any) -> None:
    assert make(response_format=kind).response_format is kind


async def test_a_conversation_is_handed_over_with_its_memory() -> None:
    memory = BasicMemory()
    await make(memory=memory)("a")
    assert await make(memory=memory.fork())("b") == "3: b"
    assert await make(memory=memory)("c") == "3: c"


async def test_tools_can_be_set() -> None:
    agent = make()
    assert agent.tools_schema() is None
    agent.tools = {"forecast": weather}
    assert isinstance(agent.tools, DictTools)
    assert list(agent.tools) == ["forecast"]
    schema = agent.tools_schema()
    assert schema is not None
    assert [(one.name, one.description) for one in schema] == [
        ("forecast", "The weather in a city.")
    ]
    agent.tools = None
    assert agent.tools is None


async def test_a_given_memory_keeps_its_prompt_unless_there_is_another() -> None:
    memory = BasicMemory(system_prompt="of the memory")
    assert make(memory=memory.fork()).system_prompt == "of the memory"
    assert make(memory=memory, system_prompt="of the agent").system_prompt == "of the agent"


async def test_usage_has_both_namings_and_only_counts_up() -> None:
    client = ScriptedClient(
        [call("weather", city="Rome"), "a", "b"],
        usage={"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "note": "x"},
    )
    agent = ReActAgent(client, "gpt-4o", tools=[weather])
    assert agent.usage == {}
    assert agent.cost == 0
    await agent("?")
    agent.reset()
    await agent("?")
    assert agent.usage == {
        "prompt_tokens": 30,
        "input_tokens": 30,
        "completion_tokens": 6,
        "output_tokens": 6,
        "total_tokens": 36,
    }
    assert agent.cost == pytest.approx((30 * 2.5 + 6 * 10) / 1e6)
    assert agent.fork().usage == {}
    trace = agent.get_execution_trace()
    assert (trace["model"], trace["usage"], trace["cost_usd"]) == (
        "gpt-4o",
        agent.usage,
        agent.cost,
    )
    assert trace["total_events"] == 2


async def test_an_unknown_model_has_no_cost() -> None:
    agent = make()
    assert agent.cost is None
    await agent("a")
    assert agent.cost is None
    assert "cost_usd" not in agent.get_execution_trace()


async def test_the_context_window() -> None:
    config = CompactionMemoryConfig(token_threshold=1_000)
    agent = make(memory=CompactionMemory(config=config))
    await agent.add_user_message("x" * 464)
    assert agent.context_window_usage == {
        "estimated_tokens": 120,
        "threshold": 1_000,
        "ratio": 0.12,
        "percent": "12%",
    }
    assert make().context_window_usage["threshold"] == 96_000


async def test_summaries_are_used_too() -> None:
    client = ScriptedClient(["a", "summary"], usage={"prompt_tokens": 5})
    agent = ReActAgent(client, "m", memory_type="compact")
    await agent("?")
    assert await agent.compact_memory() == "summary"
    assert agent.usage["prompt_tokens"] == 10
    assert "summary" in str(agent.messages[0].content)


async def test_the_memorys_tools_are_the_agents(tmp_path: Any) -> None:
    config = CompactionMemoryConfig(log_base_path=tmp_path)
    client = ScriptedClient(
        [call("search_conversation_log", query="code"), "found", "summary", "x"]
    )
    agent = ReActAgent(client, "m", tools=[weather], memory=CompactionMemory(config=config))
    await agent("the code is 4711")
    names = ["weather", "search_conversation_log", "read_compaction_summary"]
    assert [one.name for one in client.requests[0].tools] == names
    assert '"count": 1' in str(client.requests[1].messages[-1].content)
    assert list(agent.tools or ()) == ["weather"]
    # Those of a fork look into the fork's log.
    fork = agent.fork()
    assert [one.name for one in fork.tools_schema() or ()] == names
    await fork.add_user_message("and 4712")
    session = fork.memory
    assert isinstance(session, CompactionMemory)
    assert session.session_id != agent.memory.session_id  # type: ignore[attr-defined]  # of the same class


async def test_forks_carry_everything_over_and_share_nothing() -> None:
    @tool
    def lookup() -> str:
        """Look."""
        return "x"

    agent = make(
        name="original",
        system_prompt="P",
        tools=[lookup],
        max_steps=3,
        timeout=9.0,
        reasoning=ReasoningConfig.disabled(),
        cache_policy="none",
    )
    await agent("a")
    left, right = agent.fork(), agent.fork()
    for fork in (left, right):
        for name in (
            *("client", "model_name", "name", "system_prompt", "max_steps", "timeout"),
            *("reasoning", "cache_policy", "response_format"),
        ):
            assert getattr(fork, name) == getattr(agent, name), name
        assert list(fork.tools or ()) == ["lookup"]
        assert fork.messages == agent.messages
    assert await left("b") == "3: b"
    assert await right("c") == "3: c"
    assert await agent("d") == "3: d"
    left.max_steps = 1
    left.system_prompt = "Q"
    assert (agent.max_steps, agent.system_prompt) == (3, "P")
    left.memory.messages[0].content = "changed"
    assert agent.memory.messages[0].content == "a"


async def test_what_a_fork_has_taken_over_works_in_it() -> None:
    seen: list[str] = []
    rome = call("weather", city="Rome")
    agent = ReActAgent(
        ScriptedClient([rome, "done", [rome, rome]]),
        "m",
        tools=[weather],
        input_guardrails=[lambda prompt: seen.append("in")],
        output_guardrails=[lambda answer: seen.append("out")],
        step_callback=lambda content, calls: seen.append("step"),
        usage_limits=UsageLimits(tool_calls=1),
    )
    fork = agent.fork().fork()
    assert await fork("a") == "done"
    assert seen == ["in", "step", "out"]
    with pytest.raises(UsageLimitExceeded):
        await fork("b")


async def test_a_subclass_with_a_constructor_of_its_own_can_be_forked() -> None:
    class Bot(ReActAgent[str]):
        def __init__(self, mood: str) -> None:
            super().__init__(ScriptedClient(echo), "m")
            self.mood = mood

    bot = Bot("good")
    await bot("a")
    assert (await bot.fork()("b"), bot.fork().mood) == ("3: b", "good")


async def test_a_client_of_ones_own_needs_no_cache_policy() -> None:
    @attrs.define
    class Client:
        async def create(
            self, model: str, messages: Any, tools: Any = None, reasoning: Any = None
        ) -> Any:
            return await ScriptedClient(answer("hi")).create(model, messages)

    assert await ReActAgent(Client(), "m")("a") == "hi"  # type: ignore[arg-type]  # like one


async def test_leaving_the_block_closes_what_the_tools_own() -> None:
    closed = []

    class Session:
        async def aclose(self) -> None:
            closed.append(True)
            if len(closed) == 1:
                raise OSError("the first one fails")

    with pytest.raises(OSError, match="the first one"):
        async with make() as agent:
            agent.tools = DictTools([], owned_sessions=[Session(), Session()])
            assert await agent("a") == "1: a"
            assert closed == []
    assert closed == [True, True]
