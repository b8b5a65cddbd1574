"""The tools that read, write and edit files."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from motus.tools.directory import Directory

__all__ = ["FileTools"]

MAX_LINES: Final = 2000
MAX_LINE: Final = 2000

Path = Annotated[str, "Path of the file, absolute or from the working directory"]


class FileTools:
    """Files in a directory, for a model. Failures are errors, and leave everything as it was."""

    def __init__(self, files: Directory) -> None:
        self._files = files

    def read_file(
        self,
        path: Path,
        offset: Annotated[int, Field(ge=1, description="The first line, from 1")] = 1,
        limit: Annotated[int, Field(ge=1, le=MAX_LINES, description="How many lines")] = MAX_LINES,
    ) -> str:
        """Read a text file. Each line comes with its number and a tab before it.

        At most 2000 lines are read at once, and the first 2000 characters of each.
        """
        text = _text(self._files.read(path), path, errors="replace")
        if not text:
            return "[the file is empty]"
        # At line feeds alone, as the searches count: there are other characters that end lines.
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        if offset > len(lines):
            raise ValueError(f"{path} has {len(lines)} lines: there is no line {offset}")
        shown = lines[offset - 1 : offset - 1 + limit]
        numbered = [f"{n:6d}\t{line[:MAX_LINE]}" for n, line in enumerate(shown, offset)]
        if any(len(line) > MAX_LINE for line in shown):
            numbered.append(f"[lines of more than {MAX_LINE} characters are cut]")
        last = offset - 1 + len(shown)
        if last < len(lines):
            numbered.append(f"[{len(lines) - last} more lines: continue with offset={last + 1}]")
        return "\n".join(numbered)

    def write_file(
        self, path: Path, content: Annotated[str, "What will be in the file, all of it"]
    ) -> str:
        """Write a file, in place of the one that is there; missing directories are made."""
        data = content.encode()
        self._files.write(path, data)
        return f"Wrote {len(data)} bytes to {path}"

    def edit_file(
        self,
        path: Path,
        old_string: Annotated[str, "The text to replace, exactly as it is in the file"],
        new_string: Annotated[str, "The text to put there"],
        replace_all: Annotated[bool, "Replace it wherever it is, not once"] = False,
    ) -> str:
        """Replace a text in a file. It must be there exactly once, unless all are to be replaced.

        Do not copy the line numbers of read_file into it.
        """
        if not old_string:
            raise ValueError("old_string is empty: write_file makes a new file")
        if old_string == new_string:
            raise ValueError("old_string and new_string are the same: nothing would change")
        count = 0

        def change(data: bytes) -> bytes:
            nonlocal count
            text, old, new = _text(data, path, errors="strict"), old_string, new_string
            if "\r\n" in text and "\r" not in old:
                # The model has been shown the lines without.
                old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
            count = text.count(old)
            if count == 0:
                raise ValueError(f"old_string is not in {path}: read the file and copy it exactly")
            if count > 1 and not replace_all:
                raise ValueError(
                    f"old_string is {count} times in {path}: give more of the text around it, "
                    "or set replace_all"
                )
            return text.replace(old, new).encode()

        self._files.edit(path, change)
        return f"Replaced {count} {'place' if count == 1 else 'places'} in {path}"


def _text(data: bytes, path: str, errors: str) -> str:
    if b"\0" in data[:8192]:
        raise ValueError(f"{path} is not a text file")
    try:
        return data.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start})") from None
