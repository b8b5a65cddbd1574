"""Conversations for the tests: as agents make them, and as nobody should."""

from __future__ import annotations

from hypothesis import strategies as st

from motus.messages import ChatMessage, FunctionCall, ToolCall

USER, ASSISTANT = ChatMessage.user_message, ChatMessage.assistant_message


def step(*ids: str, results: tuple[str, ...] | None = None) -> list[ChatMessage]:
    """An assistant's message with these calls, and the results of those in `results`."""
    calls = [ToolCall(one, FunctionCall("tool", "{}")) for one in ids]
    answered = ids if results is None else results
    return [
        ChatMessage.from_tool_calls(calls),
        *(ChatMessage.tool_message(f"result of {one}", one, "tool") for one in answered),
    ]


@st.composite
def conversations(draw: st.DrawFn) -> list[ChatMessage]:
    """What an agent's memory may hold between two additions."""
    messages: list[ChatMessage] = []
    names = iter(range(1_000))
    for _ in range(draw(st.integers(0, 6))):
        messages.append(USER(draw(st.text(max_size=5))))
        for _ in range(draw(st.integers(0, 3))):
            messages += step(*(f"c{next(names)}" for _ in range(draw(st.integers(1, 3)))))
        if draw(st.booleans()):
            messages.append(ASSISTANT(draw(st.text(max_size=5))))
    return messages[: draw(st.integers(0, len(messages)))]


# Anything at all: ids that come again, results without calls, calls without results.
anything = st.lists(
    st.one_of(
        st.builds(USER, st.text(max_size=3)),
        st.builds(ASSISTANT, st.text(max_size=3)),
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(
            lambda ids: step(*ids, results=())[0]
        ),
        st.sampled_from("abcd").map(lambda one: ChatMessage.tool_message("r", one, "tool")),
    ),
    max_size=12,
)
