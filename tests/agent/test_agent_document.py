"""docs/agents-reference.md: its table is complete, and names tests that there are."""

from __future__ import annotations

import inspect
import re

from motus.agent import AgentBase, ReActAgent
from motus.agent.base_agent import AgentBase as SameBase
from motus.memory import CompactionMemory
from tests.serve.support import ROOT

# What the documents of the original say that an agent has.
DOCUMENTED = {
    "add_assistant_message", "add_message", "add_tool_message", "add_user_message",
    "agent(prompt)", "clear_messages", "client", "compact_memory", "context_window_usage", "cost",
    "fork", "get_context", "get_execution_trace", "get_last_assistant_message", "max_steps",
    "memory", "messages", "model_name", "name", "reset", "response_format", "run_turn",
    "system_prompt", "tools", "tools_schema", "usage",
}  # fmt: skip


def rows() -> list[tuple[str, str]]:
    """Names and tests of the table."""
    text = (ROOT / "docs" / "agents-reference.md").read_text()
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [(row[0], row[-1].strip("` |")) for row in cells if not row[0].endswith("attribute")]


def named() -> set[str]:
    return {name for cell, _ in rows() for name in re.findall(r"`([^`]+)`", cell)}


def parameters(function: object) -> set[str]:
    assert callable(function)
    return set(inspect.signature(function).parameters) - {"self"}


def test_every_parameter_and_attribute_is_in_the_table() -> None:
    assert SameBase is AgentBase
    inside = {
        word for name in named() if "(" in name for word in re.findall(r"\w+", name.split("(")[1])
    }
    missing = (parameters(ReActAgent.__init__) | DOCUMENTED) - named()
    missing |= parameters(ReActAgent.as_tool) - inside
    missing |= parameters(CompactionMemory.__init__) - inside
    assert not missing


def test_every_attribute_is_there() -> None:
    for name in DOCUMENTED - {"agent(prompt)"}:
        assert hasattr(ReActAgent, name), name


def test_every_test_in_the_table_is_there() -> None:
    assert len(rows()) > 50
    for name, test in rows():
        file, _, function = test.partition("::")
        found = [
            path
            for directory in ("agent", "memory")
            if (path := ROOT / "tests" / directory / file).exists()
        ]
        assert found, f"{name}: no file {file}"
        assert re.search(rf"^(async )?def {function}\(", found[0].read_text(), re.MULTILINE), (
            f"{name}: {file} has no {function}"
        )
