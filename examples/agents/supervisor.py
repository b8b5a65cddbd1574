"""A supervisor with two specialists: one that remembers within a run, and one that does not."""

from __future__ import annotations

import anyio

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.models import BaseChatClient


async def main(client: BaseChatClient, model: str) -> None:
    researcher = ReActAgent(
        client, model, system_prompt="You find out facts. Answer in one sentence."
    )
    editor = ReActAgent(
        client, model, system_prompt="You edit one text with your user. Reply with the text only."
    )
    supervisor = ReActAgent(
        client,
        model,
        system_prompt="Have questions researched, all at once, then have the text edited.",
        tools=[
            researcher.as_tool(
                name="research",
                description="Answers one question in one sentence. Ask several at once.",
                max_steps=5,
            ),
            editor.as_tool(
                name="edit",
                description="Writes a text, and changes it: it remembers the text.",
                stateful=True,
            ),
        ],
    )
    print(await supervisor("Write two sentences about tides and the moon."))


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
