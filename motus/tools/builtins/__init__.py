"""The tools of a coding agent: a shell, files, searches, a list of things to do, and skills."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import overload

from motus.tools.base import Tool
from motus.tools.builtins.files import FileTools
from motus.tools.builtins.shell import SearchTools, ShellTools
from motus.tools.builtins.skills import find_skills, skill_tool
from motus.tools.builtins.to_do import ToDoList
from motus.tools.function_tool import FunctionTool
from motus.tools.sandbox import LocalShell

__all__ = ["BuiltinTools", "builtin_tools"]


class BuiltinTools(Sequence[Tool]):
    """What `builtin_tools` returns: a sequence of tools, each of which is an attribute too.

    `load_skill` is None without a directory of skills. `to_do_list` is the list that `to_do` keeps.
    """

    def __init__(
        self, sandbox: LocalShell, skills_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.sandbox = sandbox
        self.to_do_list = ToDoList()
        files, search = FileTools(sandbox.files), SearchTools(sandbox)
        self.bash = FunctionTool(ShellTools(sandbox).bash)
        self.read_file = FunctionTool(files.read_file)
        self.write_file = FunctionTool(files.write_file)
        self.edit_file = FunctionTool(files.edit_file)
        self.glob_search = FunctionTool(search.glob_search)
        self.grep_search = FunctionTool(search.grep_search)
        self.to_do = FunctionTool(self.to_do_list.to_do)
        self.load_skill = None if skills_dir is None else skill_tool(find_skills(skills_dir))
        every: list[Tool | None] = [
            self.bash, self.read_file, self.write_file, self.edit_file, self.glob_search,
            self.grep_search, self.to_do, self.load_skill,
        ]  # fmt: skip
        self._tools = [tool for tool in every if tool is not None]

    @overload
    def __getitem__(self, index: int) -> Tool: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tool]: ...
    def __getitem__(self, index: int | slice) -> Tool | Sequence[Tool]:
        return self._tools[index]

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __repr__(self) -> str:
        return f"BuiltinTools({', '.join(tool.name for tool in self)})"


def builtin_tools(
    sandbox: LocalShell | None = None, skills_dir: str | os.PathLike[str] | None = None
) -> BuiltinTools:
    """The tools of a coding agent, which work in `sandbox`: by default a `LocalShell()`.

    Each call gives tools of their own. Give the shell a directory, `LocalShell(cwd=...)`, to keep
    the file tools inside of it. `skills_dir` adds `load_skill`.
    """
    return BuiltinTools(LocalShell() if sandbox is None else sandbox, skills_dir)
