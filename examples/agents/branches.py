"""Fork and compare: several answers from one point of a conversation, and a judge."""

from __future__ import annotations

import anyio

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.models import BaseChatClient


async def main(client: BaseChatClient, model: str) -> None:
    agent = ReActAgent(client, model, system_prompt="Be concrete. Three sentences at most.")
    await agent("We have a shop in one large program, and six developers.")
    stances = ["for", "against"]
    # The branches run at the same time; the agent itself hears nothing of them.
    futures = [agent.fork()(f"Argue {stance} splitting it up.") for stance in stances]
    arguments = [await future for future in futures]
    for stance, argument in zip(stances, arguments, strict=True):
        print(f"{stance}: {argument}")
    print(await agent("Two arguments were made:\n" + "\n".join(arguments) + "\nDecide."))


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
