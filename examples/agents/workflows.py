"""A workflow that calls an agent, and an agent that calls a workflow."""

from __future__ import annotations

import anyio

from examples.agents.model import real_model
from motus import agent_task
from motus.agent import ReActAgent
from motus.models import BaseChatClient

REVIEWS = {"lamp": ["Bright!", "Broke after a day."], "chair": ["Solid.", "Comfortable."]}


@agent_task(retries=2)
async def load_reviews(product: str) -> list[str]:
    """The reviews of a product."""
    return REVIEWS[product]


@agent_task
def share_of_praise(moods: list[str]) -> float:
    """Which part of the reviews is positive."""
    return sum("positive" in mood.lower() for mood in moods) / len(moods)


async def main(client: BaseChatClient, model: str) -> None:
    critic = ReActAgent(client, model, system_prompt="Reply with 'positive' or 'negative' only.")

    @agent_task
    async def rate(product: str) -> float:
        """How well a product is liked: from 0 to 1."""
        reviews = await load_reviews(product)
        # Each review is judged by a fork, all at once, and what follows waits for all of them.
        return await share_of_praise([critic.fork()(review) for review in reviews])

    # The workflow calls the agent ...
    print({product: await rate(product) for product in REVIEWS})
    # ... and an agent calls the workflow: any task is a tool.
    buyer = ReActAgent(client, model, tools=[rate], system_prompt="Rate before you recommend.")
    print(await buyer("Which one should I buy, the lamp or the chair?"))


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
