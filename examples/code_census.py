"""An agent without a model: counts what is in a Python package, as a graph of tasks.

Serve it and talk to it:

    python -m motus.serve start examples.code_census:agent --port 8000
    python -m motus.serve chat http://127.0.0.1:8000

A message is the name of a package ("json"), nothing or "stdlib" for the standard library, or
"compare email" for a comparison with what was counted last in the same session.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from motus import AgentFuture, agent_task
from motus.models import ChatMessage

STANDARD_LIBRARY = "stdlib"
LONGEST = 5

# Old code is full of escapes that today's parser warns of; that is not what is counted here.
warnings.filterwarnings("ignore", category=SyntaxWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
# Python 3.11 counts the depth of its parser for all threads together, and fails now and then with
# a SystemError when two of them parse.
one_parser = threading.Lock()


class Function(NamedTuple):
    name: str
    lines: int
    where: str


class Census(NamedTuple):
    """What is in a file, or in several."""

    name: str
    files: int
    lines: int
    functions: int
    classes: int
    longest: list[Function]
    broken: list[str]


class Progress:
    """Prints how far it has come; what a served agent prints is in the server's log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self._done += 1
            if self._done == self._total or self._done % 200 == 0:
                print(f"read {self._done} of {self._total} files", flush=True)


# ---------------------------------------------------------------------- the tasks


@agent_task
def find_files(package: str) -> dict[str, list[Path]]:
    """The Python files of a package, by what they belong to: its subpackages and modules."""
    root = locate(package)
    if root.is_file():
        return {package: [root]}
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if "site-packages" not in inside.parts:
            found.setdefault(inside.parts[0].removesuffix(".py"), []).append(path)
    return found


@agent_task
def read_file(path: Path, progress: Progress) -> Census:
    """What is in one file. It is not a coroutine, so it runs on a thread."""
    try:
        return count(path)
    finally:
        progress.one_more()


@agent_task
async def aggregate(name: str, parts: list[Census]) -> Census:
    """The sum of what is in the files of one part of a package."""
    return Census(
        name,
        sum(part.files for part in parts),
        sum(part.lines for part in parts),
        sum(part.functions for part in parts),
        sum(part.classes for part in parts),
        longest_of(parts),
        [text for part in parts for text in part.broken],
    )


@agent_task
async def rank(package: str, parts: list[Census]) -> tuple[Census, list[Census]]:
    """The whole package, and its parts from the largest to the smallest."""
    whole = await aggregate(package, parts)
    return whole, sorted(parts, key=lambda census: census.lines, reverse=True)


@agent_task
async def take_census(package: str) -> AgentFuture[tuple[Census, list[Census]]]:
    """Build the graph: find, read and parse, add up, rank. What is returned is waited for."""
    found = await find_files(package)
    progress = Progress(sum(map(len, found.values())))
    return rank(
        package,
        [
            aggregate(name, [read_file(path, progress) for path in paths])
            for name, paths in found.items()
        ],
    )


# ---------------------------------------------------------------------- what they do


class NoSuchPackageError(Exception):
    """The message names something that cannot be counted."""


def locate(package: str) -> Path:
    """The folder or the file of a package, which is not imported for it."""
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise NoSuchPackageError(
            f"There is no package '{package}' here. Send the name of an installed package, such "
            "as 'json', or 'stdlib' for the whole standard library."
        )
    for folder in spec.submodule_search_locations or ():
        return Path(folder)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise NoSuchPackageError(f"'{package}' is a part of the interpreter: it has no files.")
    return Path(spec.origin)


def count(path: Path) -> Census:
    try:
        source = path.read_bytes()
        with one_parser:
            tree = ast.parse(source, str(path))
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        return Census(path.name, 1, 0, 0, 0, [], [f"{path.name}: {reason}"])
    functions = list(functions_in(tree, path))
    classes = sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    counted = Census(path.name, 1, source.count(b"\n"), len(functions), classes, functions, [])
    return counted._replace(longest=longest_of([counted]))


def functions_in(tree: ast.AST, path: Path) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(node.name, lines, f"{path.name}:{node.lineno}")


def longest_of(parts: list[Census]) -> list[Function]:
    functions = [function for part in parts for function in part.longest]
    return sorted(functions, key=lambda function: function.lines, reverse=True)[:LONGEST]


# ---------------------------------------------------------------------- the conversation


async def agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    words = (message.content or "").split()
    compare = bool(words) and words[0].lower() == "compare"
    package = " ".join(words[1:] if compare else words) or STANDARD_LIBRARY
    before = last_census(state)
    if compare and before is None:
        reply = ChatMessage.assistant_message("Nothing was counted yet: name a package first.")
        return reply, [*state, message, reply]
    try:
        whole, parts = await take_census(package)
    except NoSuchPackageError as error:
        reply = ChatMessage.assistant_message(str(error))
    else:
        text = comparison(before, whole) if compare and before else report(whole, parts)
        reply = ChatMessage.assistant_message(text)
        # What the next message may refer to travels in the session's state.
        reply.user_params = {"census": list(whole[:5])}
    return reply, [*state, message, reply]


def last_census(state: list[ChatMessage]) -> Census | None:
    for message in reversed(state):
        if message.user_params and "census" in message.user_params:
            name, files, lines, functions, classes = message.user_params["census"]
            return Census(name, files, lines, functions, classes, [], [])
    return None


def report(whole: Census, parts: list[Census]) -> str:
    total = f"{whole.files} files, {whole.lines} lines, {whole.functions} functions"
    lines = [
        f"# Census of {whole.name}",
        "",
        f"{total}, {whole.classes} classes.",
        "",
        "## The largest parts",
        "",
        *(
            f"- {part.name}: {part.lines} lines in {part.files} files, "
            f"{part.functions} functions, {part.classes} classes"
            for part in parts[:8]
        ),
        "",
        "## The longest functions",
        "",
        *(f"- {one.name}, {one.lines} lines ({one.where})" for one in whole.longest),
    ]
    if whole.broken:
        shown = whole.broken[:5]
        lines += ["", f"## Could not be parsed ({len(whole.broken)})", ""]
        lines += [f"- {text}" for text in shown]
        if len(whole.broken) > len(shown):
            lines.append(f"- and {len(whole.broken) - len(shown)} more")
    return "\n".join(lines)


def comparison(one: Census, other: Census) -> str:
    rows = [f"# {one.name} and {other.name}", ""]
    for what in ("files", "lines", "functions", "classes"):
        first, second = getattr(one, what), getattr(other, what)
        ratio = f"{first / second:.1f} times as many" if second else "none to compare with"
        rows.append(f"- {what}: {first} and {second} ({ratio})")
    return "\n".join(rows)
