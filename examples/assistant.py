"""An assistant to be served, with a tool that needs an approval.

    python -m motus.serve start examples.assistant:agent --port 8000
    python -m motus.serve chat http://127.0.0.1:8000

It uses a real model when the key of a provider is set (ANTHROPIC_API_KEY, OPENAI_API_KEY,
GEMINI_API_KEY or OPENROUTER_API_KEY), and otherwise a scripted one that says so: try "What time is
it?", "Remember the milk", "What do you remember?" and "Forget it all".
"""

from __future__ import annotations

from datetime import UTC, datetime

from examples.agents.model import PROVIDERS, find_model
from motus.agent import ReActAgent
from motus.models import ChatMessage
from motus.testing import ScriptedClient, call
from motus.testing.scripted import Reply
from motus.tools import tool


@tool
async def time_now() -> str:
    """The date and the time, in UTC."""
    return datetime.now(UTC).strftime("%A, %d %B %Y, %H:%M")


@tool(requires_approval=True)
async def forget(what: str) -> str:
    """Forget something for good; the user is asked first."""
    return f"{what} is forgotten"


def script(messages: list[ChatMessage]) -> Reply:
    """What the assistant says where there is no model."""
    last = messages[-1]
    text = (last.content or "").lower()
    said = [m.content or "" for m in messages if m.role == "user"]
    if last.role == "tool":
        return f"The tool {last.name} says: {last.content}"
    if "time" in text:
        return call("time_now")
    if "forget" in text:
        return call("forget", what="all of it")
    if "remember?" in text:
        return "You said: " + "; ".join(said[:-1])
    return (
        f"I am a script, because no key of a provider is set ({', '.join(PROVIDERS)}). "
        f"You have said {len(said)} thing(s). Try 'What time is it?', 'What do you remember?' or "
        "'Forget it all'."
    )


client, model = find_model() or (ScriptedClient(script), "scripted")
agent = ReActAgent(
    client,
    model,
    name="assistant",
    system_prompt="You are a helpful assistant. Answer briefly.",
    tools=[time_now, forget],
    timeout=300,
)

if __name__ == "__main__":
    raise SystemExit("Serve it: python -m motus.serve start examples.assistant:agent")
