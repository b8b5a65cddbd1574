"""Asking a person what an agent asks, until the answer means something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from motus.serve.cli.prompts import (
    Approval,
    Custom,
    InvalidAnswerError,
    Prompt,
    Question,
    Questions,
    parse_approval,
    parse_choice,
    parse_json,
)
from motus.serve.cli.terminal import Terminal

__all__ = ["SkippedError", "answer_to"]

T = TypeVar("T")


class SkippedError(Exception):
    """This is left for somebody else to answer."""


def answer_to(prompt: Prompt, terminal: Terminal) -> Any:
    """The value to resume with. Raises `EOFError` at the end of the input, `SkippedError`."""
    match prompt:
        case Approval():
            for line in prompt.lines():
                terminal.note(line)
            approved = parse_approval(terminal.ask("Approve? [y/N]: "))
            if not approved:
                terminal.note("Rejected", "yellow")
            return {"approved": approved}
        case Questions():
            return {"answers": {one.text: _ask(one, terminal) for one in prompt.questions}}
        case Custom():
            for line in prompt.lines():
                terminal.note(line, "yellow")
            if not terminal.interactive:
                raise SkippedError
            return _until_valid(terminal, "Answer with JSON (or nothing, to skip): ", _json)


def _ask(question: Question, terminal: Terminal) -> str | list[str]:
    for line in question.lines():
        terminal.note(line)
    if not question.options:
        return terminal.ask(question.invitation)
    choice = _until_valid(terminal, question.invitation, lambda line: parse_choice(question, line))
    own = terminal.ask("Your answer: ") if choice.other else ""
    return choice.answer(question, own)


def _json(line: str) -> Any:
    if not line.strip():
        raise SkippedError
    return parse_json(line)


def _until_valid(terminal: Terminal, invitation: str, parse: Callable[[str], T]) -> T:
    while True:
        line = terminal.ask(invitation)
        try:
            return parse(line)
        except InvalidAnswerError as error:
            terminal.note(str(error), "yellow")
