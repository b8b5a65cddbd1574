"""Logs of conversations: one line for each entry, and a torn last one harms nothing."""

from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motus.memory import ConversationLogStore, LocalConversationLogStore
from motus.messages import ChatMessage, FunctionCall, ToolCall, message_from_json, message_to_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
messages = st.builds(
    ChatMessage,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | st.text(),
    reasoning=st.none() | st.text(),
    reasoning_details=json_values,
    tool_calls=st.none()
    | st.lists(st.builds(ToolCall, st.text(), st.builds(FunctionCall, st.text(), st.text()))),
    tool_call_id=st.none() | st.text(),
    name=st.none() | st.text(),
    base64_image=st.none() | st.text(),
    user_params=st.none() | st.dictionaries(st.text(max_size=4), json_values),
)


def entry(message: ChatMessage) -> dict[str, Any]:
    return {"type": "message", "message": message_to_json(message, omit_none=True)}


@settings(max_examples=40)
@given(st.lists(messages, max_size=5), st.data())
def test_every_message_comes_back_wherever_the_log_is_torn(
    said: list[ChatMessage], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = LocalConversationLogStore(directory)
        for message in said:
            store.append("s", entry(message))
        read = [message_from_json(one["message"]) for one in store.read_entries("s")]
        assert read == said
        if not said:
            return
        file = Path(directory, "s.jsonl")
        whole = file.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        file.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        assert [one["message"] for one in store.read_entries("s")] == [
            one["message"] for one in map(json.loads, whole.splitlines()[:complete])
        ]
        # Whoever goes on writing does so on a line of its own.
        store.append("s", entry(said[0]))
        read = [message_from_json(one["message"]) for one in store.read_entries("s")]
        assert read == [*said[:complete], said[0]]
        assert len(file.read_bytes().splitlines()) == complete + 1


def test_a_torn_line_may_be_long(tmp_path: Path) -> None:
    store = LocalConversationLogStore(tmp_path)
    store.append("s", {"type": "a"})
    with (tmp_path / "s.jsonl").open("ab") as file:
        file.write(b'{"type": "' + b"x" * 200_000)
    store.append("s", {"type": "b"})
    assert [one["type"] for one in store.read_entries("s")] == ["a", "b"]


def test_lines_that_are_no_entries_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s.jsonl").write_text('{"type": "a"}\nnonsense\n[1]\n{"type": "b"}\n')
    store = LocalConversationLogStore(tmp_path)
    assert [one["type"] for one in store.read_entries("s")] == ["a", "b"]
    assert "2 lines of the log of session s" in caplog.text


def test_logs_are_private(tmp_path: Path) -> None:
    store = LocalConversationLogStore(tmp_path / "new" / "logs")
    assert store.list_sessions() == []
    assert not store.exists("s")
    assert store.read_entries("s") == []
    store.append("s", {"type": "a"})
    assert store.exists("s")
    assert stat.S_IMODE((store.path / "s.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "a\n", "x" * 201])
def test_session_ids_are_names_of_files(tmp_path: Path, name: str) -> None:
    store = LocalConversationLogStore(tmp_path)
    with pytest.raises(ValueError, match="session id"):
        store.append(name, {})
    with pytest.raises(ValueError, match="session id"):
        store.read_entries(name)


def test_what_is_no_json_is_refused_before_it_is_written(tmp_path: Path) -> None:
    store = LocalConversationLogStore(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.append("s", {"x": float("nan")})
    assert not store.exists("s")


class InMemory(ConversationLogStore):
    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def append(self, session_id: str, entry: dict[str, Any]) -> None:
        self.entries.append(entry)

    def read_entries(self, session_id: str) -> list[dict[str, Any]]:
        return self.entries

    def list_sessions(self) -> list[str]:
        return []


def test_a_store_of_ones_own_can_be_searched() -> None:
    store = InMemory()
    store.append("s", {"type": "compaction", "message": {"content": "needle"}})
    store.append("s", {"type": "message", "message": "needle"})
    for text in ("hay", "A NEEDLE", "needles"):
        store.append("s", {**entry(ChatMessage.user_message(text)), "ts": text})
    found = store.search_messages("s", "needle")
    assert [one["ts"] for one in found] == ["A NEEDLE", "needles"]
    assert len(store.search_messages("s", "needle", 1)) == 1
    assert store.exists("s")
