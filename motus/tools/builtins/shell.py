"""The tools that start processes: commands, and searches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from motus.tools.builtins import search_program
from motus.tools.processes import one_process
from motus.tools.sandbox import LocalShell

__all__ = ["MAX_OUTPUT", "SearchTools", "ShellTools"]

# Of what a model is shown, in characters.
MAX_OUTPUT: Final = 30_000
# Of a search, in seconds.
SEARCH_TIMEOUT: Final = 60.0


class ShellTools:
    """A shell, for a model."""

    def __init__(self, shell: LocalShell) -> None:
        self._shell = shell

    async def bash(
        self,
        command: Annotated[str, "The command, as for bash -c"],
        timeout: Annotated[  # noqa: ASYNC109  # of the command, not of the call
            int, Field(ge=1, le=600_000, description="How long it may take, in milliseconds")
        ] = 120_000,
    ) -> str:
        """Run a shell command and return what it writes, errors included.

        Each command has a shell of its own that begins in the working directory. What it leaves
        running in the background is ended with it. Output beyond 30000 characters is cut.
        """
        async with one_process():
            done = await self._shell.run(
                # Without `--`, a command that begins with a dash would be options of the shell.
                *(self._shell.shell, "-c", "--", command),
                timeout=timeout / 1000,
                # Characters have at most four bytes; what is not UTF-8 makes one of each.
                max_output=4 * MAX_OUTPUT,
                merged=True,
            )
        output = _cut(done.stdout.decode(errors="replace"), done.omitted)
        if done.exit_code is None:
            raise TimeoutError(
                f"the command was killed after {timeout} ms, with all that it had started. "
                f"Until then it had written: {output or 'nothing'}"
            )
        if done.exit_code:
            how = "exit code" if done.exit_code > 0 else "killed by signal"
            output = f"{output.rstrip()}\n[{how} {abs(done.exit_code)}]".lstrip()
        return output or "[no output]"


class SearchTools:
    """Looking for files and in files, for a model."""

    def __init__(self, shell: LocalShell) -> None:
        self._shell = shell

    async def glob_search(
        self,
        pattern: Annotated[str, "Such as **/*.py or src/*.{ts,tsx}; ** is any directories"],
        path: Annotated[str, "The directory to look in"] = ".",
    ) -> str:
        """Find files by name. Links are not followed."""
        return await self._search(kind="glob", pattern=pattern, path=path)

    async def grep_search(
        self,
        pattern: Annotated[str, "A regular expression, of Python's kind"],
        path: Annotated[str, "The file or directory to look in"] = ".",
        glob: Annotated[str | None, "Only files like this, such as *.py or src/**/*.ts"] = None,
        output_mode: Annotated[
            Literal["content", "files_with_matches", "count"],
            "The lines, the names of the files, or how many lines in each",
        ] = "content",
        after: Annotated[
            int, Field(alias="-A", ge=0, le=1000, description="How many lines after each")
        ] = 0,
        before: Annotated[
            int, Field(alias="-B", ge=0, le=1000, description="How many lines before each")
        ] = 0,
        around: Annotated[
            int, Field(alias="-C", ge=0, le=1000, description="How many on both sides")
        ] = 0,
        line_numbers: Annotated[bool, Field(alias="-n", description="Show line numbers")] = True,
        ignore_case: Annotated[bool, Field(alias="-i", description="Ignore case")] = False,
        type: Annotated[str | None, "Only files of this kind: py, js, ts, go, rust, ..."] = None,  # noqa: A002  # the documented name
        head_limit: Annotated[
            int, Field(ge=1, le=10_000, description="How many lines of the result")
        ] = 1000,
        offset: Annotated[int, Field(ge=0, description="How many of them to skip")] = 0,
        multiline: Annotated[bool, "Let a match span lines, and . match their ends"] = False,
    ) -> str:
        """Search the contents of files. Links are not followed, binary files are skipped."""
        return await self._search(
            kind="grep",
            pattern=pattern,
            path=path,
            glob=glob,
            output_mode=output_mode,
            after=max(after, around),
            before=max(before, around),
            line_numbers=line_numbers,
            ignore_case=ignore_case,
            type=type,
            head_limit=head_limit,
            offset=offset,
            multiline=multiline,
        )

    async def _search(self, *, path: str, **request: Any) -> str:
        files = self._shell.files
        async with one_process():
            with files.opened(path) as (descriptor, start):
                request |= {"descriptor": descriptor, "start": start, "home": files.home}
                done = await self._shell.run(
                    *(sys.executable, "-I", "-S", str(Path(search_program.__file__))),
                    input=json.dumps({**request, "max_output": MAX_OUTPUT}),
                    timeout=SEARCH_TIMEOUT,
                    pass_fds=[descriptor],
                )
        if done.exit_code is None:
            raise TimeoutError(
                f"the search took more than {SEARCH_TIMEOUT:g} s: use a simpler pattern, "
                "or look in fewer files"
            )
        if done.exit_code:
            how = "exit code" if done.exit_code > 0 else "killed by signal"
            raise RuntimeError(f"the search failed ({how} {abs(done.exit_code)})")
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise ValueError(answer["error"])
        return _cut(answer["result"], answer["omitted"])


def _cut(text: str, omitted: int = 0) -> str:
    left = len(text) - MAX_OUTPUT + omitted
    if left <= 0:
        return text
    return f"{text[:MAX_OUTPUT]}\n[cut: {left} more characters]"
