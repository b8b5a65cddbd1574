"""Repairing conversations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from motus.agent.conversation import closing_messages, open_calls, with_calls_closed
from motus.messages import ChatMessage
from tests.agent.models import assert_valid
from tests.memory.conversations import ASSISTANT, USER, anything, conversations, step


@given(st.one_of(conversations(), anything))
def test_whatever_it_was_it_is_valid_afterwards(messages: list[ChatMessage]) -> None:
    ids = [call.id for message in messages for call in message.tool_calls or ()]
    if len(set(ids)) < len(ids):
        # The same id twice, which nobody can repair; but nothing breaks.
        with_calls_closed(messages)
        return
    closed = with_calls_closed(messages)
    assert_valid(closed)
    assert [m for m in closed if m.role != "tool"] == [m for m in messages if m.role != "tool"]
    assert with_calls_closed(closed) == closed


@given(conversations())
def test_a_valid_one_stays_as_it_is(messages: list[ChatMessage]) -> None:
    complete = [*messages, *closing_messages(messages)]
    assert with_calls_closed(complete) == complete


def test_open_calls_are_closed_with_what_is_known() -> None:
    messages = [USER("x"), *step("a", "b", "c", results=("b",))]
    assert [call.id for call in open_calls(messages)] == ["a", "c"]
    first, second = closing_messages(messages, {"a": "done", "zz": "?"}, "stopped")
    assert (first.content, first.tool_call_id, first.name) == ("done", "a", "tool")
    assert second.content == '{"error": "stopped"}'
    assert closing_messages([]) == []


def test_late_results_are_moved_and_strays_left_out() -> None:
    late = ChatMessage.tool_message("late", "a", "tool")
    stray = ChatMessage.tool_message("stray", "z", "tool")
    messages = [stray, *step("a", "b", results=("b",)), USER("x"), late, late, ASSISTANT("y")]
    closed = with_calls_closed(messages)
    assert [m.content for m in closed] == ["", "result of b", "late", "x", "y"]
