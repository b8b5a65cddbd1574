"""An agent with two tools, and two questions: the second one builds on the first."""

from __future__ import annotations

import anyio

from examples.agents.model import real_model
from motus.agent import ReActAgent
from motus.models import BaseChatClient
from motus.tools import tool

FORECASTS = {"rome": (31, "sunny"), "oslo": (14, "rain"), "lima": (19, "fog")}


@tool
async def get_weather(city: str) -> dict[str, object]:
    """The weather in a city today, in degrees Celsius."""
    if city.lower() not in FORECASTS:
        raise LookupError(f"no forecast for {city}: try {', '.join(FORECASTS)}")
    degrees, sky = FORECASTS[city.lower()]
    return {"city": city, "degrees": degrees, "sky": sky}


@tool
def fahrenheit(celsius: float) -> float:
    """Convert degrees Celsius to Fahrenheit."""
    return celsius * 9 / 5 + 32


async def main(client: BaseChatClient, model: str) -> None:
    weather_agent = ReActAgent(
        client, model, system_prompt="Answer briefly.", tools=[get_weather, fahrenheit]
    )
    # Both cities are looked up at the same time.
    print(await weather_agent("Where is it warmer today, in Rome or in Oslo?"))
    print(await weather_agent("And in Fahrenheit?"))
    print(weather_agent.usage, weather_agent.cost)


if __name__ == "__main__":
    anyio.run(main, *real_model(), backend="trio")
