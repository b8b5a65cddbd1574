"""Answers that are objects: a pydantic model, or a class of attrs or dataclasses."""

from __future__ import annotations

from typing import Literal

import anyio
import attrs
from pydantic import BaseModel, Field

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.models import BaseChatClient


class Ticket(BaseModel):
    """What a message to the support desk is about."""

    product: str
    urgency: Literal["low", "normal", "high"]
    questions: list[str] = Field(description="each in one sentence")


@attrs.frozen
class Reply:
    """A draft of an answer."""

    greeting: str
    text: str


MESSAGE = "Since the update my scanner eats every second page!! How do I go back? - Ann"


async def main(client: BaseChatClient, model: str) -> None:
    triage = ReActAgent(client, model, response_format=Ticket)
    ticket = await triage(f"Classify this message:\n{MESSAGE}")
    print(f"{ticket.urgency}: {ticket.product}, {len(ticket.questions)} question(s)")
    writer = ReActAgent(client, model, response_format=Reply)
    draft = await writer(f"Answer this message:\n{MESSAGE}\nIt is about: {ticket!r}")
    print(f"{draft.greeting}\n{draft.text}")


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
