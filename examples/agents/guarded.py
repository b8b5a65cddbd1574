"""Guardrails: around the prompt, the answer, and a tool."""

from __future__ import annotations

import re

import anyio

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.guardrails import InputGuardrailTripped, ToolInputGuardrailTripped
from motus.models import BaseChatClient
from motus.tools import tool

CARD = re.compile(r"\b\d{4}([ -]?\d{4}){3}\b")


def hide_cards(text: str) -> str:
    """Replaces: neither the model nor the reader gets the number of a card."""
    return CARD.sub("[card]", text)


async def only_orders(text: str) -> None:
    """Refuses: the caller gets the exception, the model is not asked."""
    if "order" not in text.lower():
        raise InputGuardrailTripped("This assistant talks about orders only.")


def small_refunds(amount: float) -> None:
    """Refuses one call: the model is told why, and may do something else."""
    if amount > 100:
        raise ToolInputGuardrailTripped("refunds of more than 100 need a human")


@tool(input_guardrails=[small_refunds])
async def refund(order: str, amount: float) -> str:
    """Refund a part of an order, in euros."""
    return f"refunded {amount} for {order}"


async def main(client: BaseChatClient, model: str) -> None:
    desk = ReActAgent(
        client,
        model,
        tools=[refund],
        input_guardrails=[only_orders, hide_cards],
        output_guardrails=[hide_cards],
    )
    print(await desk("Refund 500 of order A-1 to my card 1234 5678 9012 3456."))
    try:
        await desk("Tell me a joke.")
    except InputGuardrailTripped as refused:
        print(refused.message)


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
