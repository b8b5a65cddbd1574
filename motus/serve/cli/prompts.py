"""What an interrupted turn asks of a person, and what their answers mean.

A payload is whatever an agent has put together. What does not have the form of an approval or of
questions is a custom interrupt, which can be answered with JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from motus.errors import ProtocolError
from motus.serve.cli.text import json_text, unhidden, visible
from motus.serve.strict_json import decode_json

__all__ = [
    "APPROVAL_TYPE",
    "Approval",
    "Choice",
    "Custom",
    "InvalidAnswerError",
    "Option",
    "Prompt",
    "Question",
    "Questions",
    "parse_approval",
    "parse_choice",
    "parse_json",
    "read_prompt",
]


APPROVAL_TYPE = "tool_approval"


class InvalidAnswerError(ValueError):
    """The answer means nothing here; the message says what would."""


@attrs.frozen
class Approval:
    """A tool that runs only if somebody agrees."""

    interrupt_id: str
    tool_name: str
    tool_args: Any
    details: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """Everything that is agreed to, nothing shortened."""
        has_args = self.tool_args not in (None, {}, [])
        yield f"The agent wants to run {visible(self.tool_name)}{' with' if has_args else ''}"
        if has_args:
            args = self.tool_args if isinstance(self.tool_args, dict) else {"args": self.tool_args}
            yield from _fields(args)
        yield from _fields(self.details)


@attrs.frozen
class Option:
    label: str
    description: str = ""
    preview: str = ""


@attrs.frozen
class Question:
    text: str
    header: str
    options: tuple[Option, ...]
    multi_select: bool

    def lines(self) -> Iterator[str]:
        """The question and its options, numbered; the last number is for an answer of one's own."""
        header = f"[{_one_line(self.header)}] " if self.header else ""
        yield f"{header}{visible(self.text)}"
        for number, option in enumerate(self.options, 1):
            description = f" - {_one_line(option.description)}" if option.description else ""
            yield f"  {number}. {_one_line(option.label)}{description}"
            for line in visible(option.preview).splitlines():
                yield f"     | {line}"
        if self.options:
            yield f"  {len(self.options) + 1}. Other (your own answer)"

    @property
    def invitation(self) -> str:
        """What stands before the answer."""
        if not self.options:
            return "Your answer: "
        several = "one or more, with commas between them" if self.multi_select else "one"
        return f"Choose {several} [1-{len(self.options) + 1}]: "


@attrs.frozen
class Questions:
    interrupt_id: str
    questions: tuple[Question, ...]


@attrs.frozen
class Custom:
    interrupt_id: str
    type: str
    payload: Any

    def lines(self) -> Iterator[str]:
        kind, number = _one_line(self.type), _one_line(self.interrupt_id)
        yield f"[warn] unknown interrupt type: {kind} ({number})"
        for line in json_text(self.payload, indent=2).splitlines():
            yield f"  {line}"


Prompt = Approval | Questions | Custom


@attrs.frozen
class Choice:
    """What was chosen of a question's options, and whether an answer of one's own goes with it."""

    labels: tuple[str, ...]
    other: bool = False

    def answer(self, question: Question, own: str = "") -> str | list[str]:
        """The value for the agent: a label, or a list of them where several may be chosen."""
        chosen = [*self.labels, own] if self.other else list(self.labels)
        return chosen if question.multi_select else chosen[0]


def read_prompt(interrupt: Mapping[str, Any]) -> Prompt:
    """What an entry of a session's `interrupts` asks for."""
    interrupt_id, kind = str(interrupt.get("interrupt_id")), str(interrupt.get("type"))
    payload = interrupt.get("payload")
    if isinstance(payload, dict):
        if kind == APPROVAL_TYPE and isinstance(payload.get("tool_name"), str):
            details = {
                key: value
                for key, value in payload.items()
                if key not in {"type", "tool_name", "tool_args"}
            }
            return Approval(interrupt_id, payload["tool_name"], payload.get("tool_args"), details)
        if kind == "user_input" and isinstance(payload.get("questions"), list):
            questions = [_read_question(question) for question in payload["questions"]]
            whole = tuple(question for question in questions if question is not None)
            if whole and len(whole) == len(questions):
                return Questions(interrupt_id, whole)
    return Custom(interrupt_id, kind, payload)


def parse_approval(line: str) -> bool:
    """Whether the line says yes; everything else is a no."""
    return line.strip().lower() in {"y", "yes"}


def parse_choice(question: Question, line: str) -> Choice:
    """What a line of numbers or labels chooses. Raises `InvalidAnswerError`."""
    labels = [option.label for option in question.options]
    # A label may have commas in it, so the whole line is looked up first.
    words = [line.strip()]
    if question.multi_select and words[0].lower() not in [label.lower() for label in labels]:
        words = [word.strip() for word in line.split(",") if word.strip()]
    numbers = [_number(labels, word) for word in words]
    if not numbers or None in numbers:
        allowed = f"a number from 1 to {len(labels) + 1}"
        if question.multi_select:
            allowed = f"numbers from 1 to {len(labels) + 1}, with commas between them"
        raise InvalidAnswerError(f"Please answer with {allowed}")
    chosen = tuple(label for number, label in enumerate(labels) if number in numbers)
    return Choice(chosen, other=len(labels) in numbers)


def parse_json(line: str) -> Any:
    """The value that a line of JSON stands for. Raises `InvalidAnswerError`."""
    try:
        return decode_json(line.encode())
    except (ProtocolError, UnicodeEncodeError) as error:
        reason = str(error).removeprefix("not JSON: ")
        raise InvalidAnswerError(
            f'That is not JSON ({reason}); text is written "like this", with the quotes'
        ) from error


def _read_question(value: Any) -> Question | None:
    if not isinstance(value, dict) or not isinstance(value.get("question"), str):
        return None
    given = value.get("options") or []
    if not isinstance(given, list):
        return None
    options = []
    for option in given:
        if not isinstance(option, dict) or not isinstance(option.get("label"), str):
            return None
        description, preview = option.get("description"), option.get("markdown")
        options.append(Option(option["label"], str(description or ""), str(preview or "")))
    header = str(value.get("header") or "")
    return Question(value["question"], header, tuple(options), bool(value.get("multiSelect")))


def _number(labels: list[str], word: str) -> int | None:
    """Which option a word means, from 0; the one after the last is "Other"."""
    if word.isascii() and word.isdigit() and 1 <= int(word) <= len(labels) + 1:
        return int(word) - 1
    for number, label in enumerate([*labels, "other"]):
        if word.lower() == label.lower():
            return number
    return None


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, str) and "\n" in value:
            yield unhidden(f"  {_one_line(key)}:")
            for line in visible(value).split("\n"):
                yield unhidden(f"    | {line}")
        else:
            yield unhidden(f"  {_one_line(key)}: {json_text(value)}")


def _one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n")
