"""What memories keep, what they show the model, and when they summarise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.memory import (
    BaseMemory,
    BasicMemory,
    CompactionMemory,
    CompactionMemoryConfig,
    CompactionSessionState,
    LocalConversationLogStore,
    SessionState,
)
from motus.memory.boundary import is_continuation
from motus.memory.summary import fair_limit
from motus.memory.tokens import estimate_text_tokens, estimate_tokens, truncate
from motus.messages import ChatMessage
from motus.models.base import BaseChatClient
from motus.models.errors import ModelContextOverflowError, ModelServerError
from motus.runtime import open_runtime
from motus.testing import ScriptedClient
from tests.agent.models import HangingClient
from tests.memory.conversations import ASSISTANT, USER, step

pytestmark = pytest.mark.anyio


def summarising(client: BaseChatClient, threshold: int = 100, **options: Any) -> CompactionMemory:
    config = CompactionMemoryConfig(token_threshold=threshold)
    return CompactionMemory(config=config, client=client, model_name="m", **options)


async def fill(memory: BaseMemory, messages: list[ChatMessage]) -> None:
    for message in messages:
        await memory.add_message(message)


async def test_a_basic_memory_keeps_everything() -> None:
    memory = BasicMemory()
    conversation = [USER("a"), *step("1", "2"), ASSISTANT("b")]
    await fill(memory, conversation)
    assert memory.messages == conversation
    assert repr(memory) == "<BasicMemory of 5 messages>"
    memory.messages.clear()
    assert memory.get_context() == conversation
    memory.set_system_prompt("Be brief.")
    assert memory.get_context() == [ChatMessage.system_message("Be brief."), *conversation]
    assert await memory.compact() is None
    trace = memory.get_memory_trace()
    assert trace["total_events"] == 5
    assert trace["total_compactions"] == 0
    assert trace["events"][1]["tool_calls"][0] == {"id": "1", "name": "tool", "arguments": "{}"}
    assert trace["events"][2]["tool_call_id"] == "1"
    assert memory.build_tools() == []
    assert memory.reset() == {"messages": 5}
    assert memory.messages == []
    assert memory.get_memory_trace()["events"] == []


async def test_a_fork_is_independent() -> None:
    memory = BasicMemory()
    await fill(memory, [USER("a")])
    fork = memory.fork()
    await fork.add_message(ASSISTANT("b"))
    fork.messages[0].content = "changed"
    assert [message.content for message in memory.messages] == ["a"]
    assert [message.content for message in fork.messages] == ["changed", "b"]
    assert memory.get_memory_trace()["total_events"] == 1


async def test_long_results_of_tools_are_cut_visibly() -> None:
    memory = BasicMemory(max_tool_result_tokens=100, tool_result_truncation_suffix="[cut]")
    image = ChatMessage.tool_message("x" * 1_000, "1", "tool", base64_image="aW1n")
    await fill(memory, [USER("y" * 1_000), image])
    kept = memory.messages[1]
    assert kept.content is not None
    assert kept.content.endswith("x[cut]")
    assert estimate_text_tokens(kept.content) == 100
    assert (kept.tool_call_id, kept.name, kept.base64_image) == ("1", "tool", "aW1n")
    assert memory.messages[0].content == "y" * 1_000
    unlimited = BasicMemory(max_tool_result_tokens=0)
    await fill(unlimited, [image])
    assert unlimited.messages == [image]


@given(st.text(max_size=200), st.integers(1, 40), st.text(max_size=20))
def test_a_cut_text_is_never_too_long(text: str, most: int, suffix: str) -> None:
    cut = truncate(text, most, suffix)
    assert estimate_text_tokens(cut) <= most
    assert cut == text or text.startswith(cut.removesuffix(suffix))


def test_the_estimate_counts_all_that_is_sent() -> None:
    plain = estimate_tokens(USER("word " * 100))
    assert plain == pytest.approx(125, abs=10)
    assert estimate_tokens(USER("字" * 100)) > 70
    assert estimate_tokens(USER("word " * 100, "aW1n")) > plain + 500
    assert estimate_tokens(step("1")[0]) > estimate_tokens(ASSISTANT(""))


async def test_the_beginning_is_summarised_from_the_threshold_on() -> None:
    client = ScriptedClient(["They said hello."], usage={"prompt_tokens": 50})
    seen: list[dict[str, Any]] = []
    memory = summarising(client, on_compact=seen.append)
    memory.set_system_prompt("Be brief.")
    await fill(memory, [USER("hello " * 30), ASSISTANT("hi")])
    assert client.requests == []
    await memory.add_message(USER("and now? " * 30))
    (only,) = memory.messages
    assert "They said hello." in str(only.content)
    assert str(only.content).endswith("and now? " * 30)
    (request,) = client.requests
    assert request.model == "m"
    assert request.tools == []
    assert [message.role for message in request.messages] == ["system", "user"]
    asked = str(request.messages[1].content)
    assert "Be brief." in asked
    assert "[user]\nhello hello" in asked
    assert "[assistant]\nhi" in asked
    assert "and now?" not in asked
    assert seen == [
        {
            "messages_compacted": 3,
            "messages_replayed": 0,
            "summary_tokens": 4,
            "compaction_number": 1,
            "summary": "They said hello.",
        }
    ]
    trace = memory.get_memory_trace()
    assert trace["total_compactions"] == 1
    assert trace["total_events"] == 4


async def test_a_step_is_replayed_and_never_cut() -> None:
    memory = summarising(ScriptedClient(["S1"]), threshold=150)
    await fill(memory, [USER("q " * 300)])
    # Alone it is already too long; but there is nothing to summarise.
    assert len(memory.messages) == 1
    await fill(memory, step("1", "2"))
    kept = memory.messages
    assert is_continuation(kept[0])
    assert kept[1:] == step("1", "2")


async def test_the_threshold_follows_from_the_models_window() -> None:
    memory = CompactionMemory()
    assert memory.token_threshold() == 96_000
    memory.set_model(client=ScriptedClient([]), model_name="gpt-4.1")
    assert memory.token_threshold() > 500_000
    memory.set_model(client=ScriptedClient([]), model_name="nobody-knows-it")
    assert memory.token_threshold() > 500_000
    config = CompactionMemoryConfig(safety_ratio=0.5)
    assert CompactionMemory(config=config).token_threshold() == 64_000
    with pytest.raises(ValueError, match="safety_ratio"):
        CompactionMemoryConfig(safety_ratio=0)
    with pytest.raises(ValueError, match="token_threshold"):
        CompactionMemoryConfig(token_threshold=0)


async def test_without_a_model_there_must_be_a_function() -> None:
    memory = CompactionMemory()
    await fill(memory, [USER("a"), ASSISTANT("b")])
    with pytest.raises(ValueError, match="client"):
        await memory.compact()
    assert len(memory.messages) == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_may_write_the_summary(is_async: bool) -> None:
    asked: list[Any] = []

    def shorten(messages: list[ChatMessage], system_prompt: str) -> str:
        asked.append((len(messages), system_prompt))
        return "short"

    async def shorten_later(messages: list[ChatMessage], system_prompt: str) -> str:
        await anyio.sleep(1)
        return shorten(messages, system_prompt)

    memory = CompactionMemory(compact_fn=shorten_later if is_async else shorten)
    memory.set_system_prompt("P")
    assert await memory.compact() is None
    await fill(memory, [USER("a"), ASSISTANT("b")])
    assert await memory.compact() == "short"
    assert asked == [(2, "P")]
    assert len(memory.messages) == 1
    assert memory.reset() == {"messages": 1}
    assert memory.get_memory_trace()["total_compactions"] == 0


async def test_another_model_may_write_the_summary() -> None:
    client = ScriptedClient(["S"])
    config = CompactionMemoryConfig(compact_model_name="small")
    memory = CompactionMemory(config=config)
    memory.set_model(client=client, model_name="big")
    await fill(memory, [USER("a"), ASSISTANT("b")])
    await memory.compact()
    assert client.requests[0].model == "small"
    # What the memory itself was given stays when an agent takes it.
    own, agents = ScriptedClient(["S"]), ScriptedClient([])
    memory = CompactionMemory(client=own, model_name="mine")
    memory.set_model(client=agents, model_name="big")
    await fill(memory, [USER("a"), ASSISTANT("b")])
    await memory.compact()
    assert own.requests[0].model == "mine"


@pytest.mark.parametrize("reply", [ModelServerError("down"), ""])
async def test_a_summary_that_fails_changes_nothing(
    reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory = summarising(ScriptedClient([reply, reply, "S"]))
    await fill(memory, [USER("hello " * 30), ASSISTANT("hi"), USER("and now? " * 30)])
    assert len(memory.messages) == 3
    assert memory.get_memory_trace()["total_compactions"] == 0
    assert "could not be compacted" in caplog.text
    # Whoever asks for it is told.
    with pytest.raises(ModelServerError, match=r"down|wrote no summary"):
        await memory.compact()
    # The next addition tries again.
    await memory.add_message(USER("well?"))
    assert len(memory.messages) == 1


async def test_an_error_of_ones_own_function_is_not_swallowed() -> None:
    def broken(messages: list[ChatMessage], system_prompt: str) -> str:
        raise LookupError("no such thing")

    config = CompactionMemoryConfig(token_threshold=10)
    memory = CompactionMemory(config=config, compact_fn=broken)
    await memory.add_message(USER("a"))
    with pytest.raises(LookupError):
        await memory.add_message(USER("hello " * 30))
    nothing = CompactionMemory(compact_fn=lambda messages, prompt: None)  # type: ignore[arg-type, return-value]  # what is tested
    await fill(nothing, [USER("a"), ASSISTANT("b")])
    with pytest.raises(TypeError, match="compact_fn must return a text, not NoneType"):
        await nothing.compact()


def test_a_config_is_no_dict() -> None:
    with pytest.raises(TypeError, match=r"CompactionMemoryConfig\(.*, not {'token_threshold': 5}"):
        CompactionMemory(config={"token_threshold": 5})  # type: ignore[arg-type]  # what is tested


async def test_what_is_too_long_even_for_a_summary_is_cut() -> None:
    def script(messages: list[ChatMessage]) -> Any:
        tokens = sum(map(estimate_tokens, messages))
        sizes.append(tokens)
        return ModelContextOverflowError("too long") if tokens > 2_000 else "S"

    sizes: list[int] = []
    client = ScriptedClient(script)
    memory = summarising(client, 100_000)
    await fill(memory, [USER("a" * 40_000), ASSISTANT("the middle"), USER("z" * 4), *step("1")])
    await memory.add_message(ASSISTANT("x" * 4_000))
    assert await memory.compact() == "S"
    # About a half less each time; the short ones are whole.
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    asked = str(client.requests[-1].messages[1].content)
    assert "the middle" in asked
    assert "result of 1" in asked
    assert asked.count("too long]") == 2
    # It is not tried for ever.
    client = ScriptedClient(lambda messages: ModelContextOverflowError("too long"))
    memory = summarising(client, 100_000)
    await fill(memory, [USER("a" * 40_000), ASSISTANT("b")])
    with pytest.raises(ModelContextOverflowError):
        await memory.compact()
    assert len(client.requests) == 4
    assert len(memory.messages) == 2


async def test_material_goes_by_the_window_of_the_model_that_summarises() -> None:
    # 8,192 tokens for one that would get 100,000.
    client = ScriptedClient(["S"])
    memory = CompactionMemory(
        config=CompactionMemoryConfig(token_threshold=200_000, compact_model_name="gpt-4"),
        client=client,
        model_name="gpt-4.1",
    )
    await fill(memory, [USER("a" * 400_000), ASSISTANT("b")])
    await memory.compact()
    assert sum(map(estimate_tokens, client.requests[0].messages)) < 8_192


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(0, 1_000))
def test_a_limit_is_fair(sizes: list[int], total: int) -> None:
    limit = fair_limit(sizes, total)
    assert sum(min(size, limit) for size in sizes) <= max(total, len(sizes))
    if sum(sizes) > total:
        # One more for each would be too much.
        assert sum(min(size, limit + 1) for size in sizes) > total
    else:
        assert limit >= max(sizes)


async def test_a_summary_that_is_too_long_is_cut() -> None:
    seen: list[dict[str, Any]] = []

    async def note(stats: dict[str, Any]) -> None:
        await anyio.sleep(1)
        seen.append(stats)

    memory = summarising(ScriptedClient(["word " * 1_000]), 200, on_compact=note)
    await fill(memory, [USER("hello " * 150), ASSISTANT("hi"), USER("and now?")])
    assert estimate_text_tokens(seen[0]["summary"]) == seen[0]["summary_tokens"] <= 100
    assert seen[0]["summary"].endswith("too long]")
    assert str(memory.messages[0].content).count(seen[0]["summary"]) == 1


async def test_a_summary_that_is_cancelled_is_not_written_any_further() -> None:
    client = HangingClient()
    memory = summarising(client)
    await fill(memory, [USER("a"), ASSISTANT("b")])
    async with open_runtime() as runtime:
        with anyio.move_on_after(1) as scope:
            await memory.compact()
        assert scope.cancelled_caught
        await anyio.wait_all_tasks_blocked()
        assert (client.asked, client.stopped) == (1, 1)
        assert not runtime.scheduler.running
    assert memory.messages == [USER("a"), ASSISTANT("b")]


async def test_what_comes_while_the_summary_is_written_stays() -> None:
    async def slowly(messages: list[ChatMessage], system_prompt: str) -> str:
        await anyio.sleep(10)
        return "S"

    memory = CompactionMemory(compact_fn=slowly)
    await fill(memory, [USER("a"), ASSISTANT("b")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(memory.compact)
        await anyio.sleep(1)
        await memory.add_message(USER("c"))
    assert [message.content for message in memory.messages][1:] == ["c"]
    await memory.add_message(ASSISTANT("d"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(memory.compact)
        await anyio.sleep(1)
        memory.reset()
    assert memory.messages == []
    # Not even if it begins as the one before did.
    await fill(memory, [USER("a"), ASSISTANT("b"), USER("c")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(memory.compact)
        await anyio.sleep(1)
        memory.reset()
        await memory.add_message(USER("a"))
    assert memory.messages == [USER("a")]


async def test_what_a_stopped_run_leaves_is_added_without_a_summary() -> None:
    memory = summarising(ScriptedClient([]))
    await memory.add_message(USER("hello " * 90))
    await memory.add_last_messages(step("1"))
    assert len(memory.messages) == 3


class Diary(BaseMemory):
    """A memory of somebody's own: the last two messages, and the day of the week."""

    async def compact(self, **kwargs: Any) -> str | None:
        del self._messages[:-2]
        return "cut"

    async def _auto_compact(self) -> None:
        await self.compact()

    def construct_system_prompt(self) -> ChatMessage:
        return ChatMessage.system_message(f"{self._system_prompt} It is Monday.")

    def reset(self) -> dict[str, int]:
        self.clear_messages()
        return {"messages": 0, "days": 1}


async def test_a_memory_of_ones_own() -> None:
    memory = Diary(system_prompt="Be kind.")
    await fill(memory, [USER("a"), ASSISTANT("b"), USER("c")])
    assert [m.content for m in memory.get_context()] == ["Be kind. It is Monday.", "b", "c"]
    assert memory.fork().reset() == {"messages": 0, "days": 1}
    assert len(memory.messages) == 2


# ---------------------------------------------------------------------- states


async def test_a_state_is_json_and_comes_back() -> None:
    memory = CompactionMemory(
        config=CompactionMemoryConfig(session_id="s1", log_base_path="/nowhere/at/all"),
        compact_fn=lambda messages, prompt: "S",
        conversation_log_store=None,
    )
    state = memory.get_session_state()
    assert state == CompactionSessionState([], "", "s1", "/nowhere/at/all", 0)
    state.messages = [USER("a", "aW1n"), *step("1")]
    data = json.loads(json.dumps(state.to_dict()))
    assert data["type"] == "CompactionSessionState"
    assert SessionState.from_dict(data) == state
    assert CompactionSessionState.from_dict({**data, "later": 1}) == state
    plain = SessionState([USER("a")], "P")
    assert SessionState.from_dict(plain.to_dict()) == plain
    with pytest.raises(ValueError, match="not a kind of SessionState"):
        SessionState.from_dict({"type": "os", "messages": []})
    with pytest.raises(ValueError, match="not a kind of CompactionSessionState"):
        CompactionSessionState.from_dict(plain.to_dict())
    with pytest.raises(ValueError, match="role"):
        SessionState.from_dict({"messages": [{"role": "nobody"}]})


async def test_a_memory_is_restored_from_its_state(tmp_path: Path) -> None:
    basic = BasicMemory(system_prompt="P")
    await fill(basic, [USER("a"), *step("1")])
    data = json.loads(json.dumps(basic.get_session_state().to_dict()))
    again = BasicMemory.restore(SessionState.from_dict(data), max_tool_result_tokens=7)
    assert again.get_context() == basic.get_context()
    memory = logged(tmp_path)
    memory.set_system_prompt("P")
    await fill(memory, [USER("a"), ASSISTANT("b")])
    await memory.compact()
    await memory.add_message(USER("c"))
    state = SessionState.from_dict(memory.get_session_state().to_dict())
    with pytest.raises(TypeError, match="expected a CompactionSessionState, not SessionState"):
        CompactionMemory.restore(basic.get_session_state())
    # What is logged afterwards is not in the state.
    await memory.add_message(ASSISTANT("too late"))
    restored = CompactionMemory.restore(state, compact_fn=lambda m, p: "S")
    assert restored.get_context() == memory.get_context()[:-1]
    assert restored.session_id == "s1"
    await fill(restored, [ASSISTANT("d"), USER("e")])
    await restored.compact()
    assert restored.get_memory_trace()["events"][-1]["compaction_number"] == 2
    replayed = CompactionMemory.restore_from_log("s1", log_base_path=tmp_path)
    assert replayed.get_context() == restored.get_context()
    # So is a session that another memory begins anew.
    other = logged(tmp_path)
    other.set_system_prompt("Q")
    await other.add_message(USER("f"))
    replayed = CompactionMemory.restore_from_log("s1", log_base_path=tmp_path)
    assert replayed.get_context() == [ChatMessage.system_message("Q"), USER("f")]


# ---------------------------------------------------------------------- logs


def logged(path: Path, **options: Any) -> CompactionMemory:
    config = CompactionMemoryConfig(session_id="s1", log_base_path=path)
    return CompactionMemory(
        config=config, compact_fn=lambda messages, prompt: f"{len(messages)} said", **options
    )


async def test_a_logged_session_is_restored(tmp_path: Path) -> None:
    memory = logged(tmp_path / "logs")
    memory.set_system_prompt("P")
    conversation = [USER("a", "aW1n"), *step("1", "2"), ASSISTANT("b")]
    await fill(memory, conversation)
    await memory.compact()
    await fill(memory, [USER("c"), *step("3")])
    await memory.compact()
    await memory.add_message(ASSISTANT("d"))
    store = LocalConversationLogStore(tmp_path / "logs")
    entries = store.read_entries("s1")
    assert [entry["type"] for entry in entries[:2]] == ["session_meta", "message"]
    assert entries[0]["system_prompt"] == "P"
    assert [entry["type"] for entry in entries].count("compaction") == 2
    assert entries[1]["message"]["content"] == "a"
    restored = CompactionMemory.restore_from_log("s1", log_base_path=tmp_path / "logs")
    assert restored.messages == memory.messages
    assert restored.get_context()[0].content == "P"
    assert restored.session_id == "s1"
    assert restored.get_memory_trace()["total_compactions"] == 2
    assert restored.get_memory_trace()["total_events"] == 11
    assert json.loads(restored.read_compaction_summary(1))["summary"] == "5 said"
    # It goes on in the same log.
    await restored.add_message(USER("e"))
    again = CompactionMemory.restore_from_log(
        "s1", conversation_log_store=store, system_prompt="Q", compact_fn=lambda m, p: "again"
    )
    assert again.messages == restored.messages
    assert again.get_context()[0].content == "Q"
    assert await again.compact() == "again"
    assert store.list_sessions() == ["s1"]
    assert [entry["type"] for entry in store.read_entries("s1")].count("session_meta") == 1


async def test_an_unknown_session_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no session 'nobody'"):
        CompactionMemory.restore_from_log("nobody", log_base_path=tmp_path)


async def test_messages_that_were_cleared_are_not_restored(tmp_path: Path) -> None:
    memory = logged(tmp_path)
    await fill(memory, [USER("a"), ASSISTANT("b")])
    memory.clear_messages()
    await fill(memory, [USER("c"), ASSISTANT("d"), USER("e")])
    await memory.compact()
    await memory.add_message(ASSISTANT("f"))
    restored = CompactionMemory.restore_from_log("s1", log_base_path=tmp_path)
    assert restored.messages == memory.messages
    assert len(restored.messages) == 2


async def test_what_cannot_be_logged_is_not_remembered(tmp_path: Path) -> None:
    class Full(LocalConversationLogStore):
        is_full = False

        def append(self, session_id: str, entry: dict[str, Any]) -> None:
            if self.is_full:
                raise OSError("no space left")
            super().append(session_id, entry)

    store = Full(tmp_path)
    memory = CompactionMemory(conversation_log_store=store, compact_fn=lambda m, p: "S")
    await memory.add_message(USER("a"))
    store.is_full = True
    with pytest.raises(OSError, match="no space"):
        await memory.add_message(ASSISTANT("b"))
    assert memory.messages == [USER("a")]
    store.is_full = False
    await memory.add_message(ASSISTANT("b"))
    store.is_full = True
    with pytest.raises(OSError, match="no space"):
        await memory.compact()
    assert memory.messages == [USER("a"), ASSISTANT("b")]
    assert memory.get_memory_trace()["total_events"] == 2
    store.is_full = False
    await fill(memory, [ASSISTANT("c"), USER("d")])
    await memory.compact()
    restored = CompactionMemory.restore_from_log(memory.session_id, conversation_log_store=store)
    assert restored.messages == memory.messages


async def test_a_broken_entry_is_named(tmp_path: Path) -> None:
    store = LocalConversationLogStore(tmp_path)
    store.append("s", {"type": "session_meta"})
    store.append("s", {"type": "message", "message": {"role": "nobody"}})
    with pytest.raises(ValueError, match=r"entry 1 of the log of session 's'.*role"):
        CompactionMemory.restore_from_log("s", conversation_log_store=store)


async def test_forks_and_resets_begin_sessions_of_their_own(tmp_path: Path) -> None:
    memory = logged(tmp_path)
    await fill(memory, [USER("a"), ASSISTANT("b")])
    fork = memory.fork()
    await fork.add_message(USER("c"))
    assert fork.session_id != "s1"
    restored = CompactionMemory.restore_from_log(fork.session_id, log_base_path=tmp_path)
    assert restored.messages == fork.messages
    store = LocalConversationLogStore(tmp_path)
    assert store.read_entries(fork.session_id)[0]["parent_session_id"] == "s1"
    memory.reset()
    await memory.add_message(USER("d"))
    assert memory.session_id not in ("s1", fork.session_id)
    assert len(store.read_entries("s1")) == 3
    # A fork that is compacted before anything is added.
    other = fork.fork()
    await other.compact()
    again = CompactionMemory.restore_from_log(other.session_id, log_base_path=tmp_path)
    assert again.messages == other.messages


async def test_the_model_can_look_up_the_log(tmp_path: Path) -> None:
    memory = logged(tmp_path)
    assert CompactionMemory().build_tools() == []
    assert logged(tmp_path, enable_memory_tools=False).build_tools() == []
    search, read = memory.build_tools()
    assert json.loads(read())["error"]
    await fill(memory, [USER("the code is 4711"), ASSISTANT("noted")])
    await memory.compact()
    found = json.loads(search("CODE is"))
    assert found["count"] == 1
    assert found["results"][0]["content"] == "the code is 4711"
    assert json.loads(search("nothing of the kind"))["count"] == 0
    assert json.loads(read())["summary"] == "2 said"
    assert json.loads(read(1))["messages_compacted"] == 2
    assert "error" in json.loads(read(7))
