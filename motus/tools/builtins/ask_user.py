"""Asking whoever uses the session to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from motus.serve.interrupt import interrupt
from motus.tools.arguments import InputSchema
from motus.tools.decorators import tool

__all__ = ["AskUserQuestionSchema", "Option", "Question", "ask_user_question"]


class Option(InputSchema):
    """One of the choices."""

    label: str = Field(description="The choice in 1 to 5 words")
    description: str = Field(description="What it means, or what follows from it")
    markdown: str | None = Field(default=None, description="A preview to show with it")


class Question(InputSchema):
    """One question and its choices; the user may always answer in their own words as well."""

    question: str = Field(description="The whole question, with its question mark")
    header: str = Field(description="A label of at most 12 characters")
    options: list[Option] = Field(min_length=2, max_length=4)
    multiSelect: bool = Field(default=False, description="Let the user choose several")  # noqa: N815  # the documented name


class AskUserQuestionSchema(InputSchema):
    """The arguments of `ask_user_question`."""

    questions: list[Question] = Field(min_length=1, max_length=4)


@tool(schema=AskUserQuestionSchema)
async def ask_user_question(questions: list[Question]) -> dict[str, Any]:
    """Ask the user one to four questions when you cannot go on without knowing what they want.

    Returns the answers by question: the label of the choice, several with multiSelect, or what the
    user has written instead.
    """
    asked = AskUserQuestionSchema(questions=questions)
    answer = await interrupt({"type": "user_input", **asked.model_dump(exclude_none=True)})
    answers = answer.get("answers") if isinstance(answer, Mapping) else None
    if not isinstance(answers, dict):
        raise ValueError('the reply to the questions has no "answers"')  # noqa: TRY004  # a value from a client
    return answers
