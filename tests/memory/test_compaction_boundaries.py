"""Where conversations are cut: never between a call and its results."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from motus.memory.boundary import (
    CompactionPlan,
    apply_plan,
    calls_of_results,
    is_continuation,
    plan_compaction,
)
from motus.messages import ChatMessage
from tests.memory.conversations import ASSISTANT, USER, anything, conversations, step


def pieces(messages: list[ChatMessage], plan: CompactionPlan) -> tuple[set[int], set[int]]:
    """The indices before and after the cut."""
    cut = plan.messages_compacted
    return set(range(cut)), set(range(cut, len(messages)))


@given(st.one_of(conversations(), anything))
def test_no_cut_separates_a_call_from_its_results(messages: list[ChatMessage]) -> None:
    plan = plan_compaction(messages)
    if plan is None:
        return
    assert plan.messages_compacted + plan.messages_replayed == len(messages)
    before, after = pieces(messages, plan)
    for result, call in calls_of_results(messages).items():
        assert (result in before) == (call in before), plan
    # What stays is a conversation of its own: nothing in it answers what is gone.
    compacted = apply_plan(messages, plan, "S")
    kept = calls_of_results(compacted)
    assert len(kept) == sum(1 for result in calls_of_results(messages) if result in after)


@given(conversations())
def test_a_step_is_never_left_open(messages: list[ChatMessage]) -> None:
    plan = plan_compaction(messages)
    calls = [call.id for message in messages for call in message.tool_calls or ()]
    answered = {message.tool_call_id for message in messages}
    if set(calls) - answered:
        assert plan is None
        return
    if plan is None:
        assert len(messages) <= 1 or messages[0].tool_calls
        return
    compacted = apply_plan(messages, plan, "S")
    assert compacted[0].role == "user"
    assert "<context_summary>\nS\n</context_summary>" in str(compacted[0].content)
    assert "continues a previous conversation" in str(compacted[0].content)
    assert len(compacted) == 1 + plan.messages_replayed
    assert compacted[1:] == messages[plan.messages_compacted :]


@given(conversations())
def test_compacting_comes_to_an_end(messages: list[ChatMessage]) -> None:
    for _ in range(3):
        plan = plan_compaction(messages)
        if plan is None:
            return
        messages = apply_plan(messages, plan, "S")
    raise AssertionError("a summary of a summary of a summary")


def test_a_pending_request_is_put_behind_the_summary() -> None:
    image = attrs.evolve(USER("and this?", "aW1n"), name="ann", user_params={"a": 1})
    messages = [USER("hello"), ASSISTANT("hi"), image]
    plan = plan_compaction(messages)
    assert plan == CompactionPlan(3, 0, has_request=True)
    assert plan.messages_summarized == 2
    (first,) = apply_plan(messages, plan, "S")
    assert str(first.content).endswith("and this?")
    assert (first.base64_image, first.name, first.user_params) == ("aW1n", "ann", {"a": 1})


def test_the_last_step_is_replayed() -> None:
    messages = [USER("hello"), *step("a"), *step("b", "c")]
    plan = plan_compaction(messages)
    assert plan == CompactionPlan(3, 3)
    assert apply_plan(messages, plan, "S")[1:] == messages[3:]


def test_an_assistant_at_rest_is_summarised_whole() -> None:
    messages = [USER("hello"), *step("a"), ASSISTANT("done")]
    plan = plan_compaction(messages)
    assert plan == CompactionPlan(4, 0)
    assert is_continuation(apply_plan(messages, plan, "S")[0])


def test_there_is_no_cut_in_an_open_step() -> None:
    opened = [USER("x"), ASSISTANT("y"), USER("z"), *step("a", "b", results=("a",))]
    assert plan_compaction(opened) is None
    assert plan_compaction([*opened[:4]]) is None
    assert plan_compaction([*opened, ChatMessage.tool_message("r", "b", "tool")]) is not None


def test_a_result_that_comes_late_takes_its_call_along() -> None:
    messages = [
        USER("x"),
        *step("a", results=()),
        USER("y"),
        ChatMessage.tool_message("r", "a", "t"),
    ]
    assert plan_compaction(messages) == CompactionPlan(1, 3)


def test_a_summary_alone_is_not_summarised_again() -> None:
    messages = [USER("x"), ASSISTANT("y")]
    plan = plan_compaction(messages)
    assert plan is not None
    compacted = apply_plan(messages, plan, "S")
    assert plan_compaction(compacted) is None
    assert plan_compaction([*compacted, USER("next")]) is None
    assert plan_compaction([*compacted, USER("next"), ASSISTANT("answer")]) is not None
    assert plan_compaction([]) is None
    assert plan_compaction([USER("alone")]) is None
