"""Collections of tools by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from motus.messages import ToolDefinition
from motus.runtime.future import AgentFuture
from motus.tools.base import Tool
from motus.tools.results import encode_text

__all__ = ["DictTools", "Tools"]


class Tools(Mapping[str, Tool]):
    """Tools by the names that models call them."""

    def definitions(self) -> list[ToolDefinition]:
        """All of them, as a model is told, in order, and by the names that `run` takes."""
        return [attrs.evolve(tool.definition(), name=name) for name, tool in self.items()]

    def run(self, name: str, arguments: str) -> AgentFuture[str]:
        """Call a tool as a model does, see `Tool.run`; a name that is none is an error for it."""
        return self._find(name).call_from(sys._getframe(1), arguments, encode_text)  # noqa: SLF001  # as in AgentTaskDefinition

    def start(self, name: str, arguments: str) -> AgentFuture[str]:
        """The same, but the future fails where the call does: see `Tool.start`."""
        return self._find(name).start(sys._getframe(1), arguments)  # noqa: SLF001  # as above

    def _find(self, name: str) -> Tool:
        return self.get(name) or _UnknownTool(name, list(self))


class DictTools(Tools):
    """The tools of an agent.

    Raises `ValueError` if two of them have the same name. `owned_sessions` are connections that
    the tools need, for whoever owns the collection to close.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool] | Iterable[Tool] = (),
        *,
        owned_sessions: Iterable[Any] = (),
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self.owned_sessions = list(owned_sessions)
        if isinstance(tools, Mapping):
            tools = [tool.renamed(name) for name, tool in tools.items()]
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"Duplicate tool name: {tool.name}")
            self._tools[tool.name] = tool

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __repr__(self) -> str:
        return f"DictTools({', '.join(self._tools)})"


class _UnknownTool(Tool):
    """Stands for a name that a model has made up: calls fail and say what there is."""

    logs_failures = False

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__("unknown_tool")
        self._asked = name
        self._known = known

    async def invoke(self, arguments: dict[str, Any]) -> Any:
        raise LookupError(self._about())

    def validate(self, arguments: str) -> dict[str, Any]:
        # Whatever else is wrong with the call.
        return {}

    def _about(self) -> str:
        if not self._known:
            return f"there is no tool {self._asked!r:.200}: there are none at all"
        close = difflib.get_close_matches(self._asked, self._known, 1)
        hint = f": did you mean {close[0]!r}?" if close else "."
        return f"there is no tool {self._asked!r:.200}{hint} The tools are {', '.join(self._known)}"
