"""Logs of conversations: one line for each entry, and a torn last one harms nothing."""

from __future__ import annotations

import resource
import signal
import stat
import tempfile
import threading
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
        # A line is whole if only its end is missing.
        complete = sum(cut >= end for end, byte in enumerate(whole) if byte == ord("\n"))
        read = [message_from_json(one["message"]) for one in store.read_entries("s")]
        assert read == said[:complete]
        # Whoever goes on writing does so on a line of its own, and loses nothing.
        store.append("s", entry(said[0]))
        read = [message_from_json(one["message"]) for one in store.read_entries("s")]
        assert read == [*said[:complete], said[0]]
        assert file.read_bytes().startswith(whole[:cut])


def test_what_cannot_be_written_whole_is_an_error(tmp_path: Path) -> None:
    store = LocalConversationLogStore(tmp_path)
    store.append("s", {"type": "a"})
    size = (tmp_path / "s.jsonl").stat().st_size
    # What a full disk does: some of it is written, and nobody is told but by the number.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="only 5 of 14 bytes"):
            store.append("s", {"type": "b"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    store.append("s", {"type": "c"})
    assert [one["type"] for one in store.read_entries("s")] == ["a", "c"]


@pytest.mark.realtime
def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        store = LocalConversationLogStore(tmp_path)
        for number in range(50):
            store.append("s", {"writer": writer, "number": number, "text": "x" * 20_000})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = LocalConversationLogStore(tmp_path).read_entries("s")
    for writer in range(4):
        mine = [one["number"] for one in read if one["writer"] == writer]
        assert mine == list(range(50))


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
