"""The tools that read, write and edit files."""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import Annotated, Final

from pydantic import Field

from motus.tools.directory import Directory, check_size

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
        data = self._files.read(path)
        _check_text(data, path)
        # At line feeds alone, as the searches count: there are other characters that end lines.
        count = data.count(b"\n") + (data[-1:] not in {b"", b"\n"})
        if count == 0:
            return "[the file is empty]"
        if offset > count:
            raise ValueError(f"{path} has {count} lines: there is no line {offset}")
        # Only those that are shown are made: there may be millions, in many calls at once.
        shown = [_shown(line) for line in islice(BytesIO(data), offset - 1, offset - 1 + limit)]
        numbered = [f"{n:6d}\t{line[:MAX_LINE]}" for n, line in enumerate(shown, offset)]
        if any(len(line) > MAX_LINE for line in shown):
            numbered.append(f"[lines of more than {MAX_LINE} characters are cut]")
        last = offset - 1 + len(shown)
        if last < count:
            numbered.append(f"[{count - last} more lines: continue with offset={last + 1}]")
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
            text = _text(data, path)
            old, new = _for_lines_of(text, old_string, new_string)
            count = text.count(old)
            if count == 0:
                raise ValueError(f"old_string is not in {path}: read the file and copy it exactly")
            if count > 1 and not replace_all:
                raise ValueError(
                    f"old_string is {count} times in {path}: give more of the text around it, "
                    "or set replace_all"
                )
            # Before it is made: a long text in a hundred thousand places is more than fits.
            check_size(len(text) + count * (len(new) - len(old)))
            return text.replace(old, new).encode()

        self._files.edit(path, change)
        return f"Replaced {count} {'place' if count == 1 else 'places'} in {path}"


def _for_lines_of(text: str, old: str, new: str) -> tuple[str, str]:
    """Both as they are in a text whose lines may end in CR LF: the model is shown the lines
    without, and the text is to keep its kind of line.
    """
    if "\r" in old:
        return old, new
    long_old = old.replace("\n", "\r\n")
    long_new = new if "\r" in new else new.replace("\n", "\r\n")
    if old != long_old:
        is_long = old not in text and long_old in text
    else:
        is_long = 2 * text.count("\r\n") > text.count("\n")
    return (long_old, long_new) if is_long else (old, new)


def _shown(line: bytes) -> str:
    """A line without its end, and without most of what is too much of it."""
    # A character has at most four bytes.
    whole = line.removesuffix(b"\n").removesuffix(b"\r")
    return whole[: 4 * (MAX_LINE + 1)].decode(errors="replace")


def _check_text(data: bytes, path: str) -> None:
    if b"\0" in data[:8192]:
        raise ValueError(f"{path} is not a text file")


def _text(data: bytes, path: str) -> str:
    _check_text(data, path)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start})") from None
