"""The rules of the house, kept by reading the tree: docs/architecture.md says why each exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import motus

PACKAGE = Path(motus.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Decisions only: no event loop, thread, clock, logging set-up, environment or I/O.
PURE = {
    "motus.agent.conversation",
    "motus.agent.limits",
    "motus.agent.steps",
    "motus.errors",
    "motus.memory.boundary",
    "motus.memory.summary",
    "motus.memory.tokens",
    "motus.messages",
    "motus.models.anthropic_wire",
    "motus.models.base",
    "motus.models.errors",
    "motus.models.gemini_wire",
    "motus.models.openai_wire",
    "motus.models.options",
    "motus.models.wire",
    "motus.runtime.containers",
    "motus.runtime.cycles",
    "motus.runtime.graph",
    "motus.runtime.node",
    "motus.runtime.policy",
    "motus.serve.cli.prompts",
    "motus.serve.cli.text",
    "motus.serve.access",
    "motus.serve.events",
    "motus.serve.session",
    "motus.serve.strict_json",
    "motus.serve.webhook_rules",
    "motus.serve.wire",
    "motus.tools.schema",
}
IMPURE = {
    "anyio", "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "select", "selectors", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time",
    "trio", "_thread", "queue",
}  # fmt: skip

# A package may import those of its own level or below, never one above it.
LEVELS = (
    {"motus.errors", "motus.messages", "motus._version"},
    # The one part of the server that agents and their tools call.
    {"motus.runtime", "motus.serve.interrupt"},
    {"motus.guardrails", "motus.models", "motus.tools", "motus.memory"},
    {"motus.agent"},
    {"motus.testing"},
    {"motus.anthropic", "motus.google_adk", "motus.openai_agents"},
    {"motus.__main__"},
)
# The server sees agents through a protocol only, so it stands beside the levels, not on them.
SERVE_MAY_IMPORT = {
    "motus.errors",
    "motus.messages",
    "motus._version",
    "motus.runtime",
    "motus.serve",
}

CODE_RUNNING = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
MAX_LINES = 500


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every import of a module: what, at which line, and whether it happens when it is imported."""
    name = _name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if _type_checking(child):
                continue
            inside = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, at_import
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                for alias in child.names:
                    whole = f"{base}.{alias.name}"
                    yield whole if _is_module(whole) else base, child.lineno, at_import
            else:
                yield from walk(child, inside)

    return walk(_tree(path), True)


def _is_module(name: str) -> bool:
    if not name.startswith("motus."):
        return False
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _level(name: str) -> int | None:
    for level, packages in enumerate(LEVELS):
        if any(name == package or name.startswith(package + ".") for package in packages):
            return level
    return None


def test_pure_modules_exist() -> None:
    missing = PURE - {_name(path) for path in MODULES}
    assert not missing, f"listed as pure, but not there: {sorted(missing)}"


@pytest.mark.parametrize("path", [p for p in MODULES if _name(p) in PURE], ids=_name)
def test_pure_modules_import_no_effects(path: Path) -> None:
    effects = [
        f"line {line}: {what}"
        for what, line, _ in _imports(path)
        if what.split(".")[0] in IMPURE
        or (what.startswith("motus.") and what not in PURE and what != "motus.runtime.types")
    ]
    assert not effects, effects


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_down(path: Path) -> None:
    name = _name(path)
    wrong = []
    for what, line, _ in _imports(path):
        if not what.startswith("motus"):
            continue
        if name.startswith("motus.serve"):
            if not any(what == m or what.startswith(m + ".") for m in SERVE_MAY_IMPORT):
                wrong.append(f"line {line}: {what}")
            continue
        if name in {"motus", "motus.__main__"}:
            continue
        mine, theirs = _level(name), _level(what)
        assert mine is not None, f"{name} stands on no level: add it to LEVELS"
        if theirs is None or theirs > mine:
            wrong.append(f"line {line}: {what}")
    assert not wrong, wrong


def test_no_import_cycles() -> None:
    names = {_name(path) for path in MODULES}
    edges = {
        _name(path): {what for what, _, now in _imports(path) if now and what in names}
        for path in MODULES
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            cycle = " -> ".join([*above[above.index(name) :], name])
            pytest.fail(f"import cycle: {cycle}")
        if name not in done:
            # A package's own __init__ collects the names of its modules.
            for other in edges[name]:
                if not name.startswith(other + "."):
                    visit(other, (*above, name))
            done.add(name)

    for name in names:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_hidden_imports_say_why(path: Path) -> None:
    """An import inside a function carries a comment, on its line or the one above."""
    lines = path.read_text().splitlines()
    silent = [
        f"line {line}: {what}"
        for what, line, at_import in _imports(path)
        if not at_import and "#" not in lines[line - 1] and "#" not in lines[line - 2]
    ]
    assert not silent, silent


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_serialiser_that_runs_code(path: Path) -> None:
    found = [what for what, _, _ in _imports(path) if what.split(".")[0] in CODE_RUNNING]
    calls = [
        node.func.id
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"eval", "exec"}
    ]
    assert not found + calls


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_private_stays_private(path: Path) -> None:
    """Underscored attributes are read through `self` and `cls`, or by what the module defines."""
    tree = _tree(path)
    own = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.attr]
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in {"self", "cls"}
            else [node.name]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else [node.id]
            if isinstance(node, ast.Name)
            else []
        )
    }
    lines = path.read_text().splitlines()
    foreign = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in own
        and "noqa: SLF001" not in lines[node.lineno - 1]
    ]
    assert not foreign, foreign


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_are_one_room(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: two rooms share a door"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_public_modules_name_what_they_export(path: Path) -> None:
    if path.name.startswith("_") and path.name != "__init__.py":
        return
    tree = _tree(path)
    exported: list[str] = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            assert isinstance(node, ast.Assign)
            exported = ast.literal_eval(node.value)
    defines = any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        for node in tree.body
    )
    assert exported or not defines, "no __all__"


@pytest.mark.parametrize("module", ["motus", "motus.runtime", "motus.models"])
def test_importing_is_cheap(module: str) -> None:
    """No SDK and no web stack, and nothing started or configured."""
    program = f"""
import logging, sys, threading
import {module}
heavy = {{"openai", "anthropic", "google", "quart", "quart_trio", "hypercorn", "pydantic", "httpx",
         "click", "rich", "flask", "werkzeug", "dask", "hypothesis"}}
loaded = sorted(heavy & {{name.split(".")[0] for name in sys.modules}})
assert not loaded, loaded
assert threading.active_count() == 1, threading.enumerate()
assert not logging.getLogger().handlers
assert not logging.getLogger("motus").handlers
assert len(sys.modules) < 450, len(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_library_can_be_imported_where_there_is_no_linux() -> None:
    """What only Linux has is asked for when it is used."""
    program = """
import asyncio, fcntl, os, select, signal, socket, subprocess, tempfile
import anyio, trio  # which know where they are
for module, names in {
    fcntl: ["F_SETSIG", "F_SETOWN"],
    os: ["O_PATH", "O_TMPFILE", "WNOWAIT", "eventfd", "memfd_create", "pidfd_open", "pipe2",
         "sched_getaffinity", "waitid"],
    select: ["epoll"],
    signal: ["pidfd_send_signal"],
    socket: ["MSG_CMSG_CLOEXEC", "SO_PEERCRED"],
}.items():
    for name in names:
        delattr(module, name)
import motus.agent, motus.memory, motus.models, motus.runtime, motus.testing, motus.tools
import motus.serve.__main__
for package in (motus.agent, motus.memory, motus.models, motus.runtime, motus.testing, motus.tools):
    for name in package.__all__:
        getattr(package, name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_document_of_the_architecture_names_every_module() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    missing = [
        _name(path)
        for path in MODULES
        if path.name not in {"__init__.py", "_version.py"} and f"`{path.name}`" not in text
    ]
    assert not missing, f"docs/architecture.md does not mention {missing}"
