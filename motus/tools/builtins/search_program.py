"""Looking for files, and in files: a program of its own, run as `python -I search_program.py`.

It reads one JSON object and writes one: `{"result": text}` or `{"error": text}`. A process, because
a regular expression can take for ever, holds the interpreter's lock meanwhile, and cannot be
interrupted but by killing who runs it. What it looks for arrives as data: there are no options to
slip in. Of the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from fnmatch import translate
from itertools import islice
from pathlib import Path
from typing import Any

__all__ = ["expand_braces", "glob", "grep", "main", "matches"]

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_LINE = 500
MAX_FOUND = 1000
SKIPPED = {".git", ".hg", ".svn", "__pycache__", "node_modules"}

TYPES = {
    "c": "c h", "cpp": "cpp cc cxx hpp hh hxx h", "cs": "cs", "css": "css scss", "go": "go",
    "html": "html htm", "java": "java", "js": "js jsx mjs cjs", "json": "json", "kotlin": "kt kts",
    "lua": "lua", "md": "md markdown", "php": "php", "py": "py pyi", "ruby": "rb", "rust": "rs",
    "sh": "sh bash zsh", "sql": "sql", "swift": "swift", "toml": "toml", "ts": "ts tsx mts cts",
    "txt": "txt", "xml": "xml", "yaml": "yaml yml",
}  # fmt: skip


def expand_braces(pattern: str) -> list[str]:
    """`*.{ts,tsx}` as `*.ts` and `*.tsx`."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [whole for one in found[1].split(",") for whole in expand_braces(before + one + after)]


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path fits a pattern, in which `**` stands for any directories."""
    return _fit(path.split("/"), pattern.split("/"))


def _fit(names: list[str], patterns: list[str]) -> bool:
    # For each beginning of the path, whether the patterns so far fit it.
    fits = [True] + [False] * len(names)
    for pattern in patterns:
        if pattern == "**":
            # Any number of names more.
            for index in range(len(names)):
                fits[index + 1] = fits[index + 1] or fits[index]
        else:
            fit = re.compile(translate(pattern)).match
            fits = [False] + [
                fits[index] and fit(name) is not None for index, name in enumerate(names)
            ]
    return fits[-1]


def _files(start: str) -> Iterator[str]:
    """The plain files below a directory, relative to it, in order; links are not followed."""
    for folder, folders, names in os.walk(start):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        inside = os.path.relpath(folder, start)
        for name in sorted(names):
            yield name if inside == "." else f"{inside}/{name}"


def _whole(start: str, path: str) -> str:
    return start if path == "." else f"{start.rstrip('/')}/{path}"


def _shown(home: str, start: str, path: str) -> str:
    """A path as the other tools take it: from the home directory, if it is below it."""
    return _whole(start, path).removeprefix(home.rstrip("/") + "/")


def glob(request: dict[str, Any]) -> str:
    """The files below `start` that fit `pattern`."""
    pattern = request["pattern"]
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError("the pattern must be relative to the path, without '..'")
    patterns = expand_braces(pattern)
    found = [
        path for path in _files(request["start"]) if any(matches(path, one) for one in patterns)
    ]
    lines = [_shown(request["home"], request["start"], path) for path in found[:MAX_FOUND]]
    if len(found) > MAX_FOUND:
        lines.append(f"[{len(found) - MAX_FOUND} more files: use a narrower pattern]")
    return "\n".join(lines) or "No files found"


def grep(request: dict[str, Any]) -> str:
    """The lines, files or numbers of lines that a regular expression finds."""
    flags = (re.IGNORECASE if request["ignore_case"] else 0) | re.MULTILINE
    if request["multiline"]:
        flags |= re.DOTALL
    try:
        expression = re.compile(request["pattern"], flags)
    except re.error as error:
        raise ValueError(f"{request['pattern']!r} is no regular expression: {error}") from None
    offset, limit = request["offset"], request["head_limit"]
    # One more than is shown tells whether there are more, without looking for all of them.
    found = list(islice(_grep_lines(request, expression), offset, offset + limit + 1))
    if len(found) > limit:
        found[limit:] = [f"[there is more: continue with offset={offset + limit}]"]
    return "\n".join(found) or "No matches found"


def _grep_lines(request: dict[str, Any], expression: re.Pattern[str]) -> Iterator[str]:
    start, mode = request["start"], request["output_mode"]
    for path in _candidates(request):
        text = _text(_whole(start, path))
        if text is None:
            continue
        lines = text.split("\n")
        hits = _hits(text, lines, expression, request["multiline"])
        if not hits:
            continue
        shown = _shown(request["home"], start, path)
        if mode == "files_with_matches":
            yield shown
        elif mode == "count":
            yield f"{shown}:{len(hits)}"
        else:
            yield from _content(request, shown, lines, hits)


def _candidates(request: dict[str, Any]) -> Iterator[str]:
    if not Path(request["start"]).is_dir():
        yield "."
        return
    globs = expand_braces(request["glob"]) if request["glob"] else []
    endings: tuple[str, ...] = ()
    if request["type"]:
        if request["type"] not in TYPES:
            raise ValueError(f"unknown type {request['type']!r}: one of {', '.join(TYPES)}")
        endings = tuple(f".{ending}" for ending in TYPES[request["type"]].split())
    for path in _files(request["start"]):
        if endings and not path.endswith(endings):
            continue
        # A pattern without directories is one for names, wherever they are.
        if globs and not any(
            matches(path if "/" in one else path.rpartition("/")[2], one) for one in globs
        ):
            continue
        yield path


def _text(path: str) -> str | None:
    """What is in a file; None for what is no text, too large, or not to be read."""
    try:
        # Not opened before it is known to be a file: opening some devices does something.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
    if len(data) > MAX_FILE_BYTES or b"\0" in data[:8192]:
        return None
    return data.decode(errors="replace")


def _hits(text: str, lines: list[str], expression: re.Pattern[str], multiline: bool) -> list[int]:
    """The indices of the lines that match, or that a match over several of them touches."""
    if not multiline:
        return [index for index, line in enumerate(lines) if expression.search(line)]
    hits: dict[int, None] = {}
    line, seen = 0, 0
    for match in expression.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        for index in range(line, line + text.count("\n", match.start(), match.end()) + 1):
            hits[index] = None
    return list(hits)


def _content(
    request: dict[str, Any], shown: str, lines: list[str], hits: list[int]
) -> Iterator[str]:
    wanted = set(hits)
    around = sorted(
        {
            index
            for hit in hits
            for index in range(hit - request["before"], hit + request["after"] + 1)
            if 0 <= index < len(lines)
        }
    )
    last = None
    for index in around:
        if last is not None and index != last + 1 and (request["before"] or request["after"]):
            yield "--"
        last = index
        mark = ":" if index in wanted else "-"
        number = f"{index + 1}{mark}" if request["line_numbers"] else ""
        line = lines[index].rstrip("\r")
        cut = line if len(line) <= MAX_LINE else line[:MAX_LINE] + " [cut]"
        yield f"{shown}{mark}{number}{cut}"


def main() -> None:
    """Answer the request that arrives on standard input."""
    request = json.load(sys.stdin)
    try:
        answer = {"result": {"glob": glob, "grep": grep}[request["kind"]](request)}
    except (OSError, ValueError, RecursionError) as error:
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
