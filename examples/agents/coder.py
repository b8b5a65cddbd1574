"""A coding agent that works in one directory, and asks before it changes or runs anything.

Serve it and talk to it; it works in `CODER_DIRECTORY`, or where the server was started:

    python -m motus.serve start examples.agents.coder:agent --env CODER_DIRECTORY --port 8000
    python -m motus.serve chat http://127.0.0.1:8000
"""

from __future__ import annotations

import os

from examples.agents.model import find_model
from motus.agent import ReActAgent
from motus.testing import ScriptedClient
from motus.tools import BuiltinTools, LocalShell, builtin_tools, tool


def tools_in(directory: str | os.PathLike[str]) -> BuiltinTools:
    """Files, searches and commands in a directory; the user is asked before anything changes."""
    coding = builtin_tools(LocalShell(cwd=directory))
    for changes in (coding.write_file, coding.edit_file, coding.bash):
        tool(changes, requires_approval=True)
    return coding


client, model = find_model() or (
    ScriptedClient(lambda messages: "No key of a provider is set: I cannot write programs."),
    "scripted",
)
agent = ReActAgent(
    client,
    model,
    name="coder",
    system_prompt="You change Python programs. Read before you write; run the tests afterwards.",
    tools=tools_in(os.environ.get("CODER_DIRECTORY", ".")),
    max_steps=40,
    timeout=600,
)

if __name__ == "__main__":
    raise SystemExit("Serve it: python -m motus.serve start examples.agents.coder:agent")
