"""An agent without a model that asks before it acts: a release assistant.

Serve it and talk to it:

    python -m motus.serve start examples.human_in_the_loop:agent --port 8000
    python -m motus.serve chat http://127.0.0.1:8000

A message is a version ("1.2"). The agent asks where it should go, then for an approval for each
place, all at once, and then, in a form of its own, at what hour. Nothing is released, of course.
"""

from __future__ import annotations

from typing import Any

import anyio

from motus.models import ChatMessage
from motus.serve.interrupt import interrupt

PLACES = {"staging": "nobody will notice", "europe": "a third of all users", "asia": "the others"}


async def agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    version = message.content or "0.1"
    approved: list[str] = []

    async def release_to(place: str) -> None:
        if await approve("release", version=version, place=place):
            approved.append(place)

    places = await choose("Where should it go?", PLACES)
    async with anyio.create_task_group() as tasks:
        for place in places:
            tasks.start_soon(release_to, place)
    text = f"**{version}** goes nowhere."
    if approved:
        # Any dict will do: clients see its type, and may answer with any JSON value.
        hour = await interrupt({"type": "release_hour", "between": [9, 17]})
        text = f"**{version}** goes to {', '.join(sorted(approved))} at {hour} o'clock."
    reply = ChatMessage.assistant_message(text)
    return reply, [*state, message, reply]


async def choose(question: str, options: dict[str, str]) -> list[str]:
    """Let the user pick some of the options, or write something else."""
    asked = {
        "question": question,
        "header": "Release",
        "multiSelect": True,
        "options": [{"label": one, "description": options[one]} for one in options],
    }
    value = await interrupt({"type": "user_input", "questions": [asked]})
    answer: list[str] = value["answers"][question]
    return answer


async def approve(tool: str, **args: Any) -> bool:
    """Whether the user agrees that a tool is called with these arguments."""
    value = await interrupt({"type": "tool_approval", "tool_name": tool, "tool_args": args})
    # What is not clearly a yes is a no.
    return isinstance(value, dict) and value.get("approved") is True
