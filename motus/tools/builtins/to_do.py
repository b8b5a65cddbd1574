"""A list of what is to be done, kept by the model itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

__all__ = ["ToDo", "ToDoList"]

_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class ToDo(BaseModel):
    """One thing to do."""

    content: str = Field(min_length=1, description="What is to be done")
    status: Literal["pending", "in_progress", "completed"] = "pending"


class ToDoList:
    """The list of one conversation."""

    def __init__(self) -> None:
        self.items: list[ToDo] = []

    async def to_do(self, todos: Annotated[list[ToDo], "The whole list, in order"]) -> str:
        """Write down the steps of a longer task, and keep track of them.

        Each call replaces the list. Have one step in progress at a time, and mark it as completed
        as soon as it is.
        """
        self.items = list(todos)
        lines = [f"{_MARKS[one.status]} {one.content}" for one in self.items]
        return "\n".join(lines) or "[the list is empty]"
