"""Messages and their JSON form."""

from __future__ import annotations

from typing import Any

import pytest

from motus.messages import (
    message_from_json,
    message_to_json,
    messages_from_json,
    messages_to_json,
)
from motus.models import ChatCompletion, ChatMessage, FunctionCall, ToolCall, ToolDefinition

CALL = ToolCall("c1", FunctionCall("add", '{"a": 1}'))
NINE = [
    "role", "content", "reasoning", "reasoning_details", "tool_calls", "tool_call_id", "name",
    "base64_image", "user_params",
]  # fmt: skip


@pytest.mark.parametrize("role", ["robot", "", None, "User", ["user"]])
def test_a_role_is_one_of_four(role: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid role .*: expected one of system, user, assist"):
        ChatMessage(role)
    message = ChatMessage("user")
    with pytest.raises(ValueError, match="Invalid role"):
        message.role = role
    assert message.role == "user"


def test_factories() -> None:
    assert ChatMessage.system_message("s") == ChatMessage("system", "s")
    assert ChatMessage.user_message("u", "img") == ChatMessage("user", "u", base64_image="img")
    assert ChatMessage.assistant_message() == ChatMessage("assistant")
    thinking = ChatMessage.assistant_message("a", [CALL], None, "why", [{"x": 1}])
    assert thinking == ChatMessage("assistant", "a", "why", [{"x": 1}], [CALL])
    tool = ChatMessage.tool_message("42", "c1", "add", base64_image="img")
    assert (tool.role, tool.tool_call_id, tool.name, tool.base64_image) == (
        "tool", "c1", "add", "img"
    )  # fmt: skip
    calling = ChatMessage.from_tool_calls((CALL,))
    assert (calling.role, calling.content, calling.tool_calls) == ("assistant", "", [CALL])


def test_a_completion_becomes_a_message() -> None:
    completion = ChatCompletion("1", "model", "hi", reasoning="why", tool_calls=[CALL])
    assert (completion.finish_reason, completion.usage, completion.parsed) == ("stop", {}, None)
    message = ChatMessage("assistant", "hi", "why", tool_calls=[CALL])
    assert completion.to_message() == message == ChatMessage.from_completion(completion)


def test_defaults_are_not_shared() -> None:
    ToolDefinition("a").parameters["x"] = 1
    assert ToolDefinition("b") == ToolDefinition("b", "", {}, None)


def test_plus_makes_a_list() -> None:
    a, b, c = (ChatMessage.user_message(text) for text in "abc")
    assert a + b == [a, b]
    assert a + [b, c] == [a, b, c]  # noqa: RUF005  # the point
    assert [a, b] + c == [a, b, c]  # noqa: RUF005  # the point
    assert a + b + c == [a, b, c]
    for other in (None, 5, "text", (b,)):
        with pytest.raises(TypeError):
            a + other
        with pytest.raises(TypeError):
            other + a


def test_the_representation_shows_no_pictures() -> None:
    text = repr(ChatMessage.user_message("look", "iVBORw0KGgo" * 1000))
    assert "iVBOR" not in text
    assert "<11000 characters>" in text
    assert "base64_image=None" in repr(ChatMessage("user"))


def test_the_representation_shows_no_signatures() -> None:
    details = [{"type": "thinking", "thinking": "Hm.", "signature": "EqQB" * 1000}]
    completion = ChatCompletion("1", "m", reasoning_details=details)
    for shown in (repr(completion), repr(completion.to_message())):
        assert "'thinking': 'Hm.'" in shown
        assert len(shown) < 500


def test_json_has_nine_keys_or_those_that_are_set() -> None:
    message = ChatMessage.from_tool_calls([CALL])
    call = {
        "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}, "type": "function"
    }  # fmt: skip
    assert list(message_to_json(message)) == NINE
    assert message_to_json(message, omit_none=True) == {
        "role": "assistant", "content": "", "tool_calls": [call]
    }  # fmt: skip
    kept = ChatMessage("user", user_params={"keep": None})
    assert message_to_json(kept, True) == {"role": "user", "user_params": {"keep": None}}
    state = [message, kept]
    assert messages_from_json(messages_to_json(state)) == state
    assert messages_from_json(messages_to_json(state, omit_none=True)) == state


def test_unknown_keys_are_ignored() -> None:
    value = {"role": "user", "content": "x", "created": 5, "tool_calls": None}
    assert message_from_json(value) == ChatMessage.user_message("x")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "expected an object, got null"),
        (5, "expected an object, got a number"),
        ([], "expected an object, got a list"),
        ({}, "role: missing"),
        ({"role": None}, "role: expected one of system, user, assistant, tool, got None"),
        ({"role": {}}, "role: expected one of"),
        ({"role": "user", "content": 5}, "content: expected a string, got a number"),
        ({"role": "user", "content": True}, "content: expected a string, got true or false"),
        ({"role": "user", "tool_calls": "ab"}, "tool_calls: expected a list, got a string"),
        ({"role": "user", "tool_calls": [3]}, "tool_calls[0]: expected an object, got a number"),
        ({"role": "user", "tool_calls": [{"id": "x"}]}, "tool_calls[0].function: missing"),
        ({"role": "user", "user_params": [1]}, "user_params: expected an object, got a list"),
        ({"role": "x", "name": 1}, "name: expected a string, got a number"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_the_field(value: object, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        message_from_json(value)
    assert problem in str(caught.value)


def test_a_wrong_item_of_a_list_is_named_by_its_index() -> None:
    with pytest.raises(ValueError, match=r"^\[1\]\.role: expected one of"):
        messages_from_json([{"role": "user"}, {"role": "x"}])
    with pytest.raises(ValueError, match=r"^expected a list, got an object$"):
        messages_from_json({})
