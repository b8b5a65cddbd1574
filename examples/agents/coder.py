"""A coding agent that works in one directory, and asks before it writes or runs anything.

Serve it and talk to it; it works in `CODER_DIRECTORY`, or where the server was started:

    python -m motus.serve start examples.agents.coder:agent --env CODER_DIRECTORY --port 8000
    python -m motus.serve chat http://127.0.0.1:8000
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from examples.agents.model import find_model
from motus.agent import ReActAgent
from motus.testing import ScriptedClient
from motus.tools import tool, tools

LIMIT = 20_000


@tools(method_aliases={"run_tests": "test"})
class Workspace:
    """The files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def _path(self, name: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise PermissionError(f"{name} is outside of the workspace")
        return path

    def list_files(self) -> list[str]:
        """The names of all Python files."""
        return sorted(str(path.relative_to(self._root)) for path in self._root.rglob("*.py"))

    def read_file(self, name: str) -> str:
        """The text of a file."""
        return self._path(name).read_text()[:LIMIT]

    @tool(requires_approval=True)
    def write_file(self, name: str, text: str) -> str:
        """Write a file; the user is asked first."""
        self._path(name).write_text(text)
        return f"{name} is written"

    @tool(requires_approval=True)
    def run_tests(self) -> str:
        """Run the tests; the user is asked first."""
        command = [sys.executable, "-m", "unittest", "discover", "-v"]
        done = subprocess.run(  # noqa: S603 - our own program, in a directory of the user's choice
            command, cwd=self._root, capture_output=True, text=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr)[-LIMIT:]


client, model = find_model() or (
    ScriptedClient(lambda messages: "No key of a provider is set: I cannot write programs."),
    "scripted",
)
agent = ReActAgent(
    client,
    model,
    name="coder",
    system_prompt="You change Python programs. Read before you write; run the tests afterwards.",
    tools=Workspace(Path(os.environ.get("CODER_DIRECTORY", "."))),
    max_steps=40,
    timeout=600,
)

if __name__ == "__main__":
    raise SystemExit("Serve it: python -m motus.serve start examples.agents.coder:agent")
