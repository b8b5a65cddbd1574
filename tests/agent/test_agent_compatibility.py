"""Agents written for the asyncio original: their clients, tools, messages and logs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from pydantic import BaseModel

import motus.models
from motus.agent import ReActAgent
from motus.agent.base_agent import AgentBase
from motus.memory import CompactionMemory, LocalConversationLogStore
from motus.messages import message_to_json
from motus.models.base import (
    BaseChatClient,
    CachePolicy,
    ChatCompletion,
    ChatMessage,
    FunctionCall,
    ToolCall,
)
from motus.runtime import agent_task, open_runtime
from motus.runtime.types import MODEL_CALL, TOOL_CALL
from motus.testing import ScriptedClient, call
from motus.tools import FunctionTool, Tool
from tests.memory.conversations import ASSISTANT, USER, step

pytestmark = pytest.mark.anyio

HELLO = ChatCompletion("1", "m", "hello", usage={"prompt_tokens": 10, "completion_tokens": 5})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize("provider", ["OpenAI", "OpenRouter", "Anthropic", "Gemini"])
def test_clients_are_found_where_they_were(provider: str) -> None:
    module = importlib.import_module(f"motus.models.{provider.lower()}_client")
    assert getattr(module, f"{provider}ChatClient") is getattr(
        motus.models, f"{provider}ChatClient"
    )


class Answer(BaseModel):
    number: int


def echo(a: str) -> str:
    return a


class KeywordClient(BaseChatClient):
    """Hands on to an SDK whatever it is given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    async def create(self, **kwargs: Any) -> ChatCompletion:  # type: ignore[override]  # users do
        self.given.append(kwargs)
        return HELLO

    async def parse(self, **kwargs: Any) -> ChatCompletion:  # type: ignore[override]  # users do
        self.given.append(kwargs)
        return ChatCompletion("1", "m", '{"number": 5}', parsed=Answer(number=5))


async def test_a_client_is_given_all_by_name_and_nothing_it_may_not_know() -> None:
    client = KeywordClient()
    await ReActAgent(client, "m")("a")
    assert await ReActAgent(client, "m", response_format=Answer)("a") == Answer(number=5)
    created, parsed = client.given
    assert set(created) == {"model", "messages", "tools", "reasoning"}
    assert set(parsed) == {*created, "response_format"}


async def test_a_client_that_names_the_cache_policy_is_given_it_where_it_does() -> None:
    class Client(ScriptedClient):
        policies: list[Any] = []  # noqa: RUF012  # one test's

        async def create(  # type: ignore[override]  # as clients of users are
            self, model: str, messages: Any, tools: Any = None, reasoning: Any = None,
            cache_policy: Any = None,
        ) -> ChatCompletion:  # fmt: skip
            self.policies.append(cache_policy)
            return HELLO

        async def parse(  # type: ignore[override]  # as clients of users are
            self, model: str, messages: Any, response_format: Any, tools: Any = None,
            reasoning: Any = None,
        ) -> ChatCompletion:  # fmt: skip
            return ChatCompletion("1", "m", parsed=Answer(number=5))

    client = Client([])
    await ReActAgent(client, "m", cache_policy="static")("a")
    assert client.policies == [CachePolicy.STATIC]
    assert await ReActAgent(client, "m", response_format=Answer)("a") == Answer(number=5)


@pytest.mark.parametrize("client", [AsyncMock(), MagicMock(), MagicMock(spec=BaseChatClient)])
@pytest.mark.parametrize("model", ["gpt-4o", "m"])
@pytest.mark.parametrize("memory", ["basic", "compact"])
async def test_a_mock_may_be_the_client(client: Any, model: str, memory: Any) -> None:
    client.create = AsyncMock(return_value=HELLO)
    agent = ReActAgent(client, model, memory_type=memory)
    assert await agent("a") == "hello"
    assert client.create.call_args.kwargs["messages"] == [ChatMessage.user_message("a")]
    assert agent.usage["prompt_tokens"] == 10
    assert agent.context_window_usage["threshold"] == 96_000
    assert (agent.cost is None) == (model == "m")


class Echo(AgentBase[str]):
    """As agents are written that know nothing but texts."""

    async def _run(self, user_prompt: Any = None, **kwargs: Any) -> str:
        await self.add_user_message(user_prompt.strip())
        completion = await self._client.create(self._model_name, self.get_context())
        await self.add_assistant_message(completion.content)
        return f"{completion.content} ({user_prompt})"


async def test_a_loop_of_ones_own_gets_the_text_of_a_turn_and_gives_the_reply() -> None:
    client = ScriptedClient(["hi", "hi"])
    agent = Echo(client, "m", output_guardrails=[lambda value: value.replace("secret", "***")])
    said = ChatMessage(role="user", content=" secret ", user_params={"a": 1})
    reply, state = await agent.run_turn(said, [USER("a"), ASSISTANT("b")])
    assert reply == ASSISTANT("hi ( *** )")
    assert state == [USER("a"), ASSISTANT("b"), USER("secret"), ASSISTANT("hi")]
    assert [message.content for message in client.requests[0].messages] == ["a", "b", "secret"]


async def test_a_loop_of_ones_own_answers_as_it_likes() -> None:
    class Loop(AgentBase[Any]):
        returned: Any = None

        async def _run(self, user_prompt: Any = None, **kwargs: Any) -> Any:
            await self.add_user_message(user_prompt)
            await self.add_assistant_message("said")
            return self.returned

    agent = Loop(ScriptedClient([]), "m")
    picture = ChatMessage.user_message("look", base64_image="iVBORw0KGgo=")
    for agent.returned, replied in [
        ("said", "said"), ("other", "other"), (None, "said"), (Answer(number=5), '{"number": 5}'),
    ]:  # fmt: skip
        reply, state = await agent.run_turn(picture, [])
        assert reply == ASSISTANT(replied)
        assert state == [picture, ASSISTANT("said")]


async def test_a_react_agent_may_have_another_loop_around_its_own() -> None:
    class Polite(ReActAgent[str]):
        async def _run(self, user_prompt: Any = None, **kwargs: Any) -> str:
            return f"{await super()._run(user_prompt.upper(), **kwargs)}, please"

    reply, state = await Polite(ScriptedClient(["done"]), "m").run_turn(USER("a"), [])
    assert (reply, state) == (ASSISTANT("done, please"), [USER("A"), ASSISTANT("done")])


async def test_what_a_subclass_adds_to_the_conversation_is_used() -> None:
    added: list[str] = []

    class Kept(ReActAgent[str]):
        async def add_message(self, message: ChatMessage) -> None:
            added.append(message.role)
            await super().add_message(message)

        def get_context(self) -> list[ChatMessage]:
            return [ChatMessage.system_message("It is Monday."), *super().get_context()]

    client = ScriptedClient([call("echo", a="x"), "done"])
    assert await Kept(client, "m", tools=[echo])("a") == "done"
    assert added == ["user", "assistant", "tool", "assistant"]
    assert client.requests[1].messages[0].content == "It is Monday."


async def test_hooks_find_what_a_model_is_asked_by_name() -> None:
    asked: list[Any] = []
    async with open_runtime() as runtime:
        runtime.hooks.register_type_hook(MODEL_CALL, "task_start", lambda e: asked.append(e.kwargs))
        await ReActAgent(ScriptedClient(["b"]), "m")("a")
    [kwargs] = asked
    assert (kwargs["model"], kwargs["tools"]) == ("m", None)
    assert kwargs["messages"] == [USER("a")]


async def ask(tool: Tool) -> str | None:
    """What the model is told of a call of the tool."""
    agent = ReActAgent(ScriptedClient([call(tool.name, a="x"), "done"]), "m", tools=[tool])
    assert await agent("go") == "done"
    [result] = [message.content for message in agent.messages if message.role == "tool"]
    return result


async def test_a_tool_may_take_its_arguments_as_keywords() -> None:
    class Lookup(Tool):
        async def _invoke(self, a: str) -> dict[str, str]:
            return {"found": a}

    class Louder(Lookup):
        def _invoke(self, **kwargs: str) -> str:  # type: ignore[override]  # it need not wait
            return kwargs["a"].upper()

    tool = Lookup("lookup", "Look it up.", SCHEMA)  # type: ignore[abstract]  # `_invoke` will do
    assert (tool.description, tool.json_schema) == ("Look it up.", SCHEMA)
    assert json.loads(await tool('{"a": "y"}')) == {"found": "y"}
    assert await ask(tool) == '{"found": "x"}'
    assert await ask(Louder("louder", "", SCHEMA)) == "X"  # type: ignore[abstract]  # `_invoke` will do
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Tool,), {})("empty")


async def test_a_tool_with_a_call_of_its_own_is_called_by_it() -> None:
    class Gate(Tool):
        """What the model wants goes somewhere else, as the text that it is."""

        def __call__(self, args: str) -> Any:  # type: ignore[override]  # as tools of users do
            return self._ask(args)

        @agent_task(task_type=TOOL_CALL)
        async def _ask(self, args: str) -> str:
            return f"asked for {args}"

        async def _invoke(self, **kwargs: Any) -> str:
            raise AssertionError("around the gate")

    class Refusing(FunctionTool):
        def __call__(self, arguments: str = "{}") -> Any:
            if "x" in arguments:
                raise PermissionError("not that one")
            return super().__call__(arguments)

    assert await ask(Gate("gate", "", SCHEMA)) == 'asked for {"a": "x"}'  # type: ignore[abstract]  # `_invoke` will do
    refusing = Refusing(echo)
    assert await refusing('{"a": "y"}') == '"y"'
    assert await ask(refusing) == '{"error": "not that one"}'


async def test_such_a_call_is_as_many_tool_calls_as_it_wants() -> None:
    seen: list[str] = []

    class Plain(Tool):
        async def __call__(self, args: str) -> str:  # type: ignore[override]  # users do
            return "plain"

        async def _invoke(self) -> None: ...

    class Twice(FunctionTool):
        def __call__(self, arguments: str = "{}") -> Any:
            return super().__call__(arguments)

    async with open_runtime() as runtime:
        runtime.hooks.register_type_hook(TOOL_CALL, "task_end", lambda e: seen.append(str(e.name)))
        assert await ask(Plain("plain")) == "plain"  # type: ignore[abstract]  # `_invoke` will do
        assert await ask(Twice(echo, name="twice")) == '"x"'
    assert seen == ["twice"]


def test_messages_are_made_of_what_was_saved() -> None:
    saved = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = ToolCall("c1", FunctionCall("f", "{}"))
    message = ChatMessage(role="assistant", tool_calls=[saved])
    assert message.tool_calls == [asked]
    assert ChatMessage(**message_to_json(message)) == message
    assert ChatMessage.from_tool_calls([saved]).tool_calls == [asked]  # type: ignore[list-item]  # as above
    assert ChatCompletion("1", "m", tool_calls=[saved]).tool_calls == [asked]
    message.tool_calls = [saved]  # type: ignore[list-item]  # as above
    assert message.tool_calls == [asked]
    with pytest.raises(ValueError, match="arguments: missing"):
        ToolCall("c1", {"name": "f"})
    with pytest.raises(ValueError, match="id: missing"):
        ChatMessage("assistant", tool_calls=[{"function": saved["function"]}])


def test_keywords_that_are_no_fields_are_passed_over() -> None:
    theirs: dict[str, Any] = {"refusal": None, "index": 0}
    assert ChatMessage(role="user", content="a", **theirs) == USER("a")
    with pytest.raises(TypeError, match="role"):
        ChatMessage(**theirs)
    with pytest.raises(TypeError):
        ChatMessage("user", *["x"] * 9)  # type: ignore[arg-type]  # one more than there are fields


@pytest.mark.parametrize(
    ("before", "count", "kept"),
    [
        ([USER("a"), ASSISTANT("b")], 2, 0),
        ([USER("a"), ASSISTANT("b"), USER("pending")], 2, 0),
        ([USER("a"), *step("1", "2")], 1, 3),
        # Where the cut would be another one now, those stay that were not summarised.
        ([USER("a"), ASSISTANT("b"), USER("c"), ASSISTANT("d")], 1, 3),
        ([USER("a"), step("1")[0]], 2, 0),
    ],
)
def test_a_log_that_tells_only_how_many_were_summarised_is_restored(
    tmp_path: Path, before: list[ChatMessage], count: int, kept: int
) -> None:
    store = LocalConversationLogStore(tmp_path)
    meta = {"type": "session_meta", "session_id": "s", "system_prompt": "Be brief.", "config": {}}
    compaction = {"type": "compaction", "compaction_number": 1, "messages_compacted": count}
    entries: list[dict[str, Any]] = [
        meta,
        *({"type": "message", "message": message_to_json(one, True)} for one in before),
        {**compaction, "summary": "S!"},
        {"type": "message", "message": {"role": "assistant", "content": "later"}},
    ]
    for entry in entries:
        store.append("s", {"ts": "2026-04-10T00:00:00+00:00", **entry})
    memory = CompactionMemory.restore_from_log("s", log_base_path=tmp_path)
    first, *rest = memory.messages
    content = first.content or ""
    assert "<context_summary>\nS!\n</context_summary>" in content
    assert content.endswith("pending") == (before[-1].content == "pending")
    assert rest == [*before[len(before) - kept :], ASSISTANT("later")]
    assert memory.get_session_state().compaction_count == 1
    assert memory.get_memory_trace()["total_compactions"] == 1
