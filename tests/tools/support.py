"""What the tests of the tools share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motus.tools import DictTools, Tool

__all__ = ["call", "error_of", "fails", "project"]


async def error_of(called: Tool, arguments: str) -> str:
    """The error that a call results in."""
    return _error(await called.run(arguments))


async def call(tools: DictTools, name: str, **arguments: Any) -> str:
    return await tools.run(name, json.dumps(arguments))


async def fails(tools: DictTools, name: str, **arguments: Any) -> str:
    """The same for a call that must be an error: its message."""
    return _error(await call(tools, name, **arguments))


def project(directory: Path) -> Path:
    """A directory with a few files, and a secret beside it."""
    (directory / "secret.txt").write_text("secret needle\n")
    inside = directory / "root"
    (inside / "src" / "deep").mkdir(parents=True)
    (inside / ".git").mkdir()
    (inside / "a.py").write_text("import os\n\n\ndef needle():\n    pass\n")
    (inside / "src" / "b.ts").write_text("Needle\nneedle needle\n")
    (inside / "src" / "deep" / "c.py").write_text("x = 1\n")
    (inside / "src" / "binary").write_bytes(b"\0needle")
    (inside / ".git" / "d.py").write_text("needle")
    (inside / "-delete").write_text("needle")
    return inside


def _error(text: str) -> str:
    result = json.loads(text)
    assert set(result) == {"error"}
    message = result["error"]
    assert isinstance(message, str)
    return message
