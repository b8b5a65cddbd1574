"""What an interrupt asks, what an answer means, and that nothing of it can move the cursor."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motus.serve.cli.prompts import (
    Approval,
    Choice,
    Custom,
    InvalidAnswerError,
    Option,
    Question,
    Questions,
    parse_approval,
    parse_choice,
    parse_json,
    read_prompt,
)
from motus.serve.cli.rendering import Screen
from motus.serve.cli.text import json_text, visible

UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\x00\x08\x7f\r\u202etxt.exe\ud800"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def interrupt(kind: str, **payload: Any) -> dict[str, Any]:
    return {"interrupt_id": "i1", "type": kind, "payload": {"type": kind, **payload}}


def lines(entry: dict[str, Any]) -> list[str]:
    prompt = read_prompt(entry)
    assert isinstance(prompt, Approval | Custom)
    return list(prompt.lines())


COLOUR = Question("Which?", "Colour", (Option("Red"), Option("Dark, blue"), Option("7")), False)
COLOURS = Question("Which?", "Colour", COLOUR.options, True)


def test_an_approval_shows_every_argument_in_full() -> None:
    args = {"path": "a b", "mode": 420, "text": "one\ntwo" * 200, "deep": {"x": [None, True]}}
    shown = lines(interrupt("tool_approval", tool_name="write_file", tool_args=args))
    assert shown[:4] == [
        "The agent wants to run write_file with", '  path: "a b"', "  mode: 420", "  text:"
    ]  # fmt: skip
    assert shown[4:-1] == [f"    | {line}" for line in args["text"].split("\n")]  # type: ignore[attr-defined]  # a str
    assert shown[-1] == '  deep: {"x": [null, true]}'


def test_an_approval_shows_what_takes_no_room() -> None:
    """Two paths that look the same would be approved alike."""
    args = {
        "path": "/tmp/a\u200b",
        "to\u00ad": "x\n\u2060y\U000e0041",
        "plain": "\u05d0 \u00e9 \U0001f600",
    }
    assert lines(interrupt("tool_approval", tool_name="move", tool_args=args))[1:] == [
        '  path: "/tmp/a\\u200b"', "  to\\xad:", "    | x", "    | \\u2060y\\U000e0041",
        '  plain: "\u05d0 \u00e9 \U0001f600"',
    ]  # fmt: skip


def test_an_approval_shows_what_else_its_payload_says() -> None:
    shown = lines(interrupt("tool_approval", tool_name="pay", tool_args={}, reason="rent"))
    assert shown == ["The agent wants to run pay", '  reason: "rent"']


def test_arguments_that_are_no_object_are_shown_too() -> None:
    shown = lines(interrupt("tool_approval", tool_name="pay", tool_args=[1, 2]))
    assert shown == ["The agent wants to run pay with", "  args: [1, 2]"]


@pytest.mark.parametrize("line", ["y", "Y", " yes ", "YES"])
def test_yes(line: str) -> None:
    assert parse_approval(line)


@pytest.mark.parametrize("line", ["", "n", "no", "yes please", "j", "1", "true", "\u0443"])
def test_everything_else_is_a_no(line: str) -> None:
    assert not parse_approval(line)


def test_questions_are_numbered_and_end_with_other() -> None:
    option = {"label": "Red", "description": "like\nblood", "markdown": "a\nb"}
    question = {"question": "Which?", "header": "Colour", "options": [option, {"label": "Blue"}]}
    prompt = read_prompt(interrupt("user_input", questions=[question]))
    assert isinstance(prompt, Questions)
    [read] = prompt.questions
    assert list(read.lines()) == [
        "[Colour] Which?", "  1. Red - like\\nblood", "     | a", "     | b", "  2. Blue",
        "  3. Other (your own answer)",
    ]  # fmt: skip
    assert read.invitation == "Choose one [1-3]: "


@pytest.mark.parametrize(
    ("line", "choice"),
    [
        ("1", Choice(("Red",))),
        (" 2 ", Choice(("Dark, blue",))),
        ("red", Choice(("Red",))),
        ("dark, BLUE", Choice(("Dark, blue",))),
        ("4", Choice((), other=True)),
        ("other", Choice((), other=True)),
        ("3", Choice(("7",))),
        ("7", Choice(("7",))),
    ],
)
def test_one_is_chosen_by_number_or_label(line: str, choice: Choice) -> None:
    assert parse_choice(COLOUR, line) == choice


@pytest.mark.parametrize(
    ("line", "choice"),
    [
        ("1", Choice(("Red",))),
        ("2,1", Choice(("Red", "Dark, blue"))),
        ("1, 1,", Choice(("Red",))),
        ("red, 4", Choice(("Red",), other=True)),
        ("Dark, blue", Choice(("Dark, blue",))),
    ],
)
def test_several_are_chosen_in_the_order_of_the_options(line: str, choice: Choice) -> None:
    assert parse_choice(COLOURS, line) == choice


@pytest.mark.parametrize("line", ["", "0", "5", "-1", "1 2", "1,2", "²", "green", "1.0", "٣"])
def test_what_chooses_nothing_is_explained(line: str) -> None:
    with pytest.raises(InvalidAnswerError, match="answer with a number from 1 to 4"):
        parse_choice(COLOUR, line)
    if line != "1,2":
        with pytest.raises(InvalidAnswerError, match="numbers from 1 to 4, with commas"):
            parse_choice(COLOURS, line)


def test_the_answer_is_a_label_or_a_list_of_them() -> None:
    assert Choice(("Red",)).answer(COLOUR) == "Red"
    assert Choice((), other=True).answer(COLOUR, "green") == "green"
    assert Choice(("Red",), other=True).answer(COLOURS, "green") == ["Red", "green"]


@pytest.mark.parametrize(
    "entry",
    [
        {"interrupt_id": "i1", "type": "deploy", "payload": {"x": 1}},
        {"interrupt_id": "i1", "type": "tool_approval", "payload": {"tool_args": {}}},
        {"interrupt_id": "i1", "type": "tool_approval", "payload": None},
        {"interrupt_id": "i1", "type": "user_input", "payload": {"questions": []}},
        {"interrupt_id": "i1", "type": "user_input", "payload": {"questions": ["which?"]}},
        {"interrupt_id": "i1", "type": "user_input", "payload": {"questions": [
            {"question": "q", "options": [{"description": "without a label"}]}]}},
        {"interrupt_id": "i1", "type": "user_input", "payload": {"questions": [
            {"question": "q", "options": "abc"}]}},
    ],
)  # fmt: skip
def test_what_has_another_form_is_a_custom_interrupt(entry: dict[str, Any]) -> None:
    prompt = read_prompt(entry)
    assert isinstance(prompt, Custom)
    assert prompt.payload == entry["payload"]
    first = next(prompt.lines())
    assert first == f"[warn] unknown interrupt type: {entry['type']} (i1)"


def test_a_question_without_options_is_answered_freely() -> None:
    prompt = read_prompt(interrupt("user_input", questions=[{"question": "Who?"}]))
    assert isinstance(prompt, Questions)
    [question] = prompt.questions
    assert list(question.lines()) == ["Who?"]
    assert question.invitation == "Your answer: "


def test_json_answers() -> None:
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}
    deep = "[" * 65 + "]" * 65
    # As a server reads it: what that would refuse is better said here.
    for line in (
        "yes",
        "{",
        "NaN",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        "\ud800",
        deep,
        "[" * 100_000,
    ):
        with pytest.raises(InvalidAnswerError, match='written "like this"'):
            parse_json(line)


@given(anything)
def test_any_interrupt_can_be_read_and_shown(payload: Any) -> None:
    for kind in ("tool_approval", "user_input", "other"):
        prompt = read_prompt({"interrupt_id": "i", "type": kind, "payload": payload})
        shown = [q.lines() for q in prompt.questions] if isinstance(prompt, Questions) else [
            prompt.lines()
        ]  # fmt: skip
        assert not any(UNFIT.search(line) or "\n" in line for part in shown for line in part)


def test_control_characters_are_written_out() -> None:
    assert visible("a\x1b[31mb\r\nc\td\u202e") == "a\\x1b[31mb\nc\td\\u202e"
    assert not UNFIT.search(visible(ESCAPES))


@given(anything)
def test_json_for_the_terminal_says_the_same(value: Any) -> None:
    assert json.loads(json_text([value, ESCAPES])) == [value, ESCAPES]
    assert not UNFIT.search(json_text([value, ESCAPES], indent=2))


def rendered(text: str, monkeypatch: pytest.MonkeyPatch, columns: int = 40) -> str:
    written = io.StringIO()
    monkeypatch.setattr("sys.stdout", written)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    Screen(stderr=False).markdown(text)
    return written.getvalue()


def test_markdown_is_rendered_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Title\none\ntwo <b>three</b>\n\n<div>four</div>\n\n[five](http://six) :smile: [i]"
    shown = rendered(text, monkeypatch)
    assert "\x1b[1" in shown
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert [line.strip() for line in bare.splitlines() if line.strip()] == [
        "Title", "one", "two <b>three</b>", "<div>four</div>", "five (http://six) :smile: [i]"
    ]  # fmt: skip


@given(st.lists(st.sampled_from(
    ["# ", "- ", "1. ", "> ", "```\n", "`", "**", "_", "|a|b|\n|-|-|\n", "\n\n", "\n", "[x](y)",
     "<b>", "<div>\n", "&#13;", "&#12;", "&#27;", "&#8238;", ESCAPES, "日本", "e\u0301", "word "]
), max_size=30), st.integers(1, 60))  # fmt: skip
def test_no_markdown_reaches_the_terminal_itself(parts: list[str], columns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shown = rendered("".join(parts), patch, columns)
    assert not UNFIT.search(re.sub(r"\x1b\[[0-9;]*m", "", shown))
