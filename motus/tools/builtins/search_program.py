"""Looking for files, and in files: a program of its own, run as `python -I search_program.py`.

It reads one JSON object and writes one: `{"result": text, "omitted": characters}` or
`{"error": text}`. A process, because a regular expression can take for ever, holds the
interpreter's lock meanwhile, and cannot be interrupted but by killing who runs it. What it looks
for arrives as data: there are no options to slip in. Where it looks arrives as an open file or
directory, and everything below is opened from there without following links, so nothing that is
swapped meanwhile leads out. Of the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import cache
from itertools import islice
from typing import Any

__all__ = ["expand_braces", "glob", "grep", "leads_to", "main", "matches"]

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_LINE = 500
MAX_FOUND = 1000
MAX_ALTERNATIVES = 1000
# Of directories in each other. Paths, of which the system takes 4096 bytes, are rarely as deep.
MAX_DEPTH = 200
# Of the whole process: a pattern must not use up the machine's.
MAX_MEMORY = 2 * 1024**3
SKIPPED = {".git", ".hg", ".svn", "__pycache__", "node_modules"}
# What looks like files there is devices, and the memory of processes.
KERNEL = {"/dev", "/proc", "/sys"}

TYPES = {
    "c": "c h", "cpp": "cpp cc cxx hpp hh hxx h", "cs": "cs", "css": "css scss", "go": "go",
    "html": "html htm", "java": "java", "js": "js jsx mjs cjs", "json": "json", "kotlin": "kt kts",
    "lua": "lua", "md": "md markdown", "php": "php", "py": "py pyi", "ruby": "rb", "rust": "rs",
    "sh": "sh bash zsh", "sql": "sql", "swift": "swift", "toml": "toml", "ts": "ts tsx mts cts",
    "txt": "txt", "xml": "xml", "yaml": "yaml yml",
}  # fmt: skip

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def expand_braces(pattern: str) -> list[str]:
    """`*.{ts,tsx}` as `*.ts` and `*.tsx`. Raises `ValueError` for more than a thousand."""
    todo, done = [pattern], []
    while todo:
        one = todo.pop()
        found = re.search(r"\{([^{}]*)\}", one)
        if not found:
            done.append(one)
            continue
        if found[1].count(",") + len(todo) + len(done) >= MAX_ALTERNATIVES:
            raise ValueError(f"the pattern has more than {MAX_ALTERNATIVES} alternatives")
        before, after = one[: found.start()], one[found.end() :]
        todo += [before + middle + after for middle in reversed(found[1].split(","))]
    return done


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path fits a pattern, in which `**` stands for any directories."""
    return _fit(path.split("/"), pattern.split("/"))[0]


def leads_to(folder: str, pattern: str) -> bool:
    """Whether there can be paths below this directory that fit the pattern."""
    return _fit(folder.split("/"), pattern.split("/"))[1]


def _fit(names: list[str], patterns: list[str]) -> tuple[bool, bool]:
    """Whether the names fit the patterns, and whether they could with more names after them."""
    # For each beginning of the path, whether the patterns so far fit it.
    fits = [True] + [False] * len(names)
    leads = False
    for pattern in patterns:
        if pattern == "**":
            # Any number of names more.
            for index in range(len(names)):
                fits[index + 1] = fits[index + 1] or fits[index]
            leads = leads or fits[-1]
        else:
            leads = leads or fits[-1]
            fit = _name_matcher(pattern)
            fits = [False] + [
                fits[index] and fit(name) is not None for index, name in enumerate(names)
            ]
    return fits[-1], leads


@cache
def _name_matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match


def _files(
    folder: int, inside: str, enters: Callable[[str], bool] = lambda _: True, depth: int = 0
) -> Iterator[tuple[int, str, str]]:
    """Of everything below an open directory that is none: where it is, open as well, its name
    there, and its path, which begins with `inside`. In order; links are not followed, nor are
    directories that `enters` does not want.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    folders = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            yield folder, entry.name, inside + entry.name
    for name in folders if depth < MAX_DEPTH else ():
        if name in SKIPPED or inside + name in KERNEL or not enters(inside + name):
            continue
        try:
            below = os.open(name, FOLDER_FLAGS, dir_fd=folder)
            try:
                yield from _files(below, f"{inside}{name}/", enters, depth + 1)
            finally:
                os.close(below)
        except OSError:
            # Gone, or not for us to read: the others are.
            continue


def glob(request: dict[str, Any]) -> str:
    """The files below `start` that fit `pattern`."""
    pattern, start = request["pattern"], _start(request)
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError("the pattern must be relative to the path, without '..'")
    if not stat.S_ISDIR(os.fstat(request["descriptor"]).st_mode):
        raise ValueError("the path is a file: give the directory to look in")
    patterns = expand_braces(pattern)

    def enters(folder: str) -> bool:
        return any(leads_to(folder.removeprefix(start), one) for one in patterns)

    lines: list[str] = []
    more = 0
    for _, _, path in _files(request["descriptor"], start, enters):
        if not any(matches(path.removeprefix(start), one) for one in patterns):
            continue
        if len(lines) < MAX_FOUND:
            lines.append(_shown(request, path))
        else:
            more += 1
    if more:
        lines.append(f"[{more} more files: use a narrower pattern]")
    return "\n".join(lines) or "No files found"


def grep(request: dict[str, Any]) -> str:
    """The lines, files or numbers of lines that a regular expression finds."""
    flags = (re.IGNORECASE if request["ignore_case"] else 0) | re.MULTILINE
    if request["multiline"]:
        flags |= re.DOTALL
    try:
        expression = re.compile(request["pattern"], flags)
    except (re.error, OverflowError) as error:
        raise ValueError(f"{request['pattern']!r} is no regular expression: {error}") from None
    offset, limit = request["offset"], request["head_limit"]
    # One more than is shown tells whether there are more, without looking for all of them.
    found = list(islice(_grep_lines(request, expression), offset, offset + limit + 1))
    if len(found) > limit:
        found[limit:] = [f"[there is more: continue with offset={offset + limit}]"]
    return "\n".join(found) or "No matches found"


def _grep_lines(request: dict[str, Any], expression: re.Pattern[str]) -> Iterator[str]:
    mode = request["output_mode"]
    for path, text in _texts(request):
        # As `read_file` counts them: what ends the last line begins no other.
        lines = text.removesuffix("\n").split("\n") if text else []
        hits = _hits(text, lines, expression, request["multiline"])
        shown = _shown(request, path)
        if mode == "content":
            yield from _content(request, shown, lines, hits)
        elif mode == "count":
            if count := sum(1 for _ in hits):
                yield f"{shown}:{count}"
        elif next(hits, None) is not None:
            yield shown


def _texts(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is to be looked into, by path: the file that is asked for, or those in a directory."""
    descriptor = request["descriptor"]
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        yield request["start"], _text(os.dup(descriptor))
        return
    start = _start(request)
    for folder, name, path in _candidates(request, start):
        try:
            # Not opened before it is known to be a file: opening some devices does something.
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                yield path, _text(os.open(name, FILE_FLAGS, dir_fd=folder))
        except (OSError, ValueError):
            # Not for us to read, or no text: among many files, that is no error.
            continue


def _candidates(request: dict[str, Any], start: str) -> Iterator[tuple[int, str, str]]:
    globs = expand_braces(request["glob"]) if request["glob"] else []
    endings: tuple[str, ...] = ()
    if request["type"]:
        if request["type"] not in TYPES:
            raise ValueError(f"unknown type {request['type']!r}: one of {', '.join(TYPES)}")
        endings = tuple(f".{ending}" for ending in TYPES[request["type"]].split())
    for folder, name, path in _files(request["descriptor"], start):
        if endings and not name.endswith(endings):
            continue
        # A pattern without directories is one for names, wherever they are.
        inside = path.removeprefix(start)
        if globs and not any(matches(inside if "/" in one else name, one) for one in globs):
            continue
        yield folder, name, path


def _text(descriptor: int) -> str:
    """What is in an open file, which is closed. Raises `ValueError` if it cannot be searched."""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("the path is no regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    if b"\0" in data[:8192]:
        raise ValueError("the file is not a text file")
    # Patterns are written for lines that end in line feeds, as all of them are shown.
    return data.decode(errors="replace").replace("\r\n", "\n")


def _hits(
    text: str, lines: list[str], expression: re.Pattern[str], multiline: bool
) -> Iterator[int]:
    """The indices of the lines that match, or that a match over several of them touches."""
    if not multiline:
        yield from (index for index, line in enumerate(lines) if expression.search(line))
        return
    line, seen, last = 0, 0, -1
    for match in expression.finditer(text):
        begin, end = match.span()
        line += text.count("\n", seen, begin)
        seen = begin
        # The line feed at the very end of a match does not touch the line after it.
        below = min(line + text.count("\n", begin, max(begin, end - 1)), len(lines) - 1)
        yield from range(max(line, last + 1), below + 1)
        last = max(last, below)


def _content(
    request: dict[str, Any], shown: str, lines: list[str], hits: Iterator[int]
) -> Iterator[str]:
    """The lines with those around them, groups of them apart; none before it is asked for."""
    before, after = request["before"], request["after"]

    def line(index: int, mark: str) -> str:
        number = f"{index + 1}{mark}" if request["line_numbers"] else ""
        text = lines[index]
        cut = text if len(text) <= MAX_LINE else text[:MAX_LINE] + " [cut]"
        return f"{shown}{mark}{number}{cut}"

    # The lines above `done` are dealt with; those above `wanted` come after a hit.
    done = wanted = 0
    for hit in hits:
        for index in range(done, min(wanted, hit)):
            yield line(index, "-")
        done = max(done, min(wanted, hit))
        begin = max(done, hit - before)
        if begin > done > 0 and (before or after):
            yield "--"
        for index in range(begin, hit):
            yield line(index, "-")
        yield line(hit, ":")
        done, wanted = hit + 1, hit + 1 + after
    for index in range(done, min(wanted, len(lines))):
        yield line(index, "-")


def _start(request: dict[str, Any]) -> str:
    """What the paths of files below begin with."""
    return str(request["start"]).rstrip("/") + "/"


def _shown(request: dict[str, Any], path: str) -> str:
    """A path as the other tools take it: from the home directory, if it is below it."""
    return path.removeprefix(request["home"].rstrip("/") + "/")


def main() -> None:
    """Answer the request that arrives on standard input."""
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY if allowed == resource.RLIM_INFINITY else min(MAX_MEMORY, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        result = {"glob": glob, "grep": grep}[request["kind"]](request)
        kept = result[: request["max_output"]]
        answer = {"result": kept, "omitted": len(result) - len(kept)}
    except MemoryError:
        answer = {"error": "the search needs too much memory: look in fewer files"}
    except (OSError, ValueError, RecursionError, re.error) as error:
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
