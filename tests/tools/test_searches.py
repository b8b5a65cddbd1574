"""Searches for files and in files: what they find, what they never touch, and what they cost.

They run in a process of their own, so one backend tells as much as two.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from motus.tools import DictTools, LocalShell, builtin_tools, normalize_tools
from motus.tools.builtins import search_program
from motus.tools.builtins.search_program import expand_braces, leads_to, matches
from tests.tools.support import call, fails, project

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project(tmp_path)


@pytest.fixture
def tools(root: Path) -> DictTools:
    return normalize_tools(builtin_tools(LocalShell(cwd=root)))


def everything(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


async def test_files_by_name(tools: DictTools, root: Path) -> None:
    assert await call(tools, "glob_search", pattern="**/*.py") == "a.py\nsrc/deep/c.py"
    assert await call(tools, "glob_search", pattern="*.py") == "a.py"
    assert await call(tools, "glob_search", pattern="*.py", path="src/deep") == "src/deep/c.py"
    assert await call(tools, "glob_search", pattern="**/*.{py,ts}", path=str(root / "src")) == (
        "src/b.ts\nsrc/deep/c.py"
    )
    assert await call(tools, "glob_search", pattern="*.rs") == "No files found"


async def test_lines_by_what_is_in_them(tools: DictTools) -> None:
    assert await call(tools, "grep_search", pattern="needle") == (
        "-delete:1:needle\na.py:4:def needle():\nsrc/b.ts:2:needle needle"
    )
    assert await call(tools, "grep_search", pattern="needle", **{"-n": False}, type="py") == (
        "a.py:def needle():"
    )
    assert await call(tools, "grep_search", pattern="NEEDLE", **{"-i": True}, glob="*.ts") == (
        "src/b.ts:1:Needle\nsrc/b.ts:2:needle needle"
    )
    assert await call(tools, "grep_search", pattern="needle", output_mode="files_with_matches") == (
        "-delete\na.py\nsrc/b.ts"
    )
    assert await call(tools, "grep_search", pattern="e", output_mode="count", path="src") == (
        "src/b.ts:2"
    )
    assert await call(tools, "grep_search", pattern=r"\bpass\b", path="a.py", **{"-B": 1}) == (
        "a.py-4-def needle():\na.py:5:    pass"
    )
    assert await call(tools, "grep_search", pattern="import|pass", path="a.py", **{"-C": 1}) == (
        "a.py:1:import os\na.py-2-\n--\na.py-4-def needle():\na.py:5:    pass"
    )
    assert await call(tools, "grep_search", pattern=r"os.*needle", multiline=True) == (
        "a.py:1:import os\na.py:2:\na.py:3:\na.py:4:def needle():"
    )
    assert await call(tools, "grep_search", pattern="nothing like it") == "No matches found"


async def test_a_long_result_is_shown_in_parts(tools: DictTools, root: Path) -> None:
    (root / "many").write_text("".join(f"line {n}\n" for n in range(2000)))
    text = await call(tools, "grep_search", pattern="line", path="many", head_limit=2, offset=10)
    assert text == "many:11:line 10\nmany:12:line 11\n[there is more: continue with offset=12]"
    text = await call(tools, "grep_search", pattern="line", path="many")
    assert text.count("\n") == 1000
    (root / "wide").write_text("y" * 100_000)
    assert len(await call(tools, "grep_search", pattern="y", path="wide")) < 600


async def test_paths_and_patterns_are_never_options(tools: DictTools, root: Path) -> None:
    before = everything(root)
    # A file of that name, which the original took for `find -delete`.
    assert "is a file" in await fails(tools, "glob_search", pattern="*", path="-delete")
    for option in ("--help", "-rf", "-exec", "--include=*", "-f/etc/passwd"):
        assert "No such file" in await fails(tools, "glob_search", pattern="*", path=option)
        assert "No such file" in await fails(tools, "grep_search", pattern="x", path=option)
        assert await call(tools, "glob_search", pattern=option) == "No files found"
        assert await call(tools, "grep_search", pattern=option) == "No matches found"
        assert await call(tools, "grep_search", pattern="x", glob=option) == "No matches found"
    assert await call(tools, "grep_search", pattern="; touch x; $(touch y) `touch z`")
    assert everything(root) == before


async def test_searches_stay_below_the_root(tools: DictTools, root: Path) -> None:
    (root / "link").symlink_to(root.parent)
    (root / "file").symlink_to(root.parent / "secret.txt")
    os.mkfifo(root / "pipe")
    for name in ("glob_search", "grep_search"):
        for path in ("..", "/", "/etc", "link", "file", "src/../.."):
            await fails(tools, name, pattern="secret", path=path)
    assert "secret" not in await call(tools, "glob_search", pattern="**/*")
    assert await call(tools, "grep_search", pattern="secret") == "No matches found"
    for pattern in ("../*", "/etc/*", "src/../../*"):
        assert "must be relative" in await fails(tools, "glob_search", pattern=pattern)


async def test_what_the_kernel_shows_is_never_searched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of this process are in a file of its own there."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    for shell in (LocalShell(), LocalShell(cwd="/")):
        tools = normalize_tools(builtin_tools(shell))
        for path in ("/proc", "/proc/self/environ", "/sys", "/dev/null", "/dev"):
            for name in ("glob_search", "grep_search"):
                assert "is not a regular file" in await fails(
                    tools, name, pattern="canary", path=path
                )
    listed = await call(tools, "glob_search", pattern="*/*", path="/")
    assert "etc/passwd" in listed
    assert "proc/" not in listed
    assert "dev/" not in listed


async def test_a_directory_that_becomes_a_link_while_it_is_searched(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and starting, somebody puts a link in its place."""
    real = LocalShell.run

    async def swap_and_run(self: LocalShell, *command: str, **options: Any) -> Any:
        (root / "src").rename(root / "old")
        (root / "src").symlink_to(root.parent)
        return await real(self, *command, **options)

    monkeypatch.setattr(LocalShell, "run", swap_and_run)
    found = await call(tools, "grep_search", pattern="needle", path="src/deep/..")
    assert "is outside of" in found
    found = await call(tools, "grep_search", pattern="needle", path="src")
    assert found == "src/b.ts:2:needle needle"


def test_links_that_appear_meanwhile_are_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def swap_and_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "src":
            (root / "src").rename(root / "old")
            (root / "src").symlink_to(root.parent)
        if path == "a.py":
            (root / "a.py").unlink()
            (root / "a.py").symlink_to(root.parent / "secret.txt")
        return real_open(path, flags, *args, **kwargs)

    descriptor = os.open(root, os.O_RDONLY)
    monkeypatch.setattr(os, "open", swap_and_open)
    request = {
        "descriptor": descriptor, "start": str(root), "home": str(root), "pattern": "needle",
        "ignore_case": False, "multiline": False, "offset": 0, "head_limit": 100, "glob": None,
        "type": None, "output_mode": "files_with_matches",
    }  # fmt: skip
    try:
        assert search_program.grep(request) == "-delete"
    finally:
        os.close(descriptor)


async def test_a_file_that_cannot_be_searched_is_an_error_where_it_is_asked_for(
    tools: DictTools, root: Path
) -> None:
    (root / "large").write_bytes(b"needle\n" * 2_500_000)
    os.mkfifo(root / "pipe")
    for path, reason in (
        ("large", "the file is larger than 16777216 bytes"),
        ("src/binary", "the file is not a text file"),
        ("pipe", "pipe is not a regular file"),
    ):
        assert await fails(tools, "grep_search", pattern="needle", path=path) == reason
    assert "large" not in await call(tools, "grep_search", pattern="needle")
    assert "give the directory" in await fails(tools, "glob_search", pattern="*", path="a.py")


async def test_lines_end_as_they_are_shown(tools: DictTools, root: Path) -> None:
    (root / "crlf").write_bytes(b"one\r\nneedle\r\n\r\nend")
    for pattern, found in (("needle$", "crlf:2:needle"), ("^$", "crlf:3:"), ("end$", "crlf:4:end")):
        assert await call(tools, "grep_search", pattern=pattern, path="crlf") == found
    text = await call(tools, "grep_search", pattern="needle\n", path="crlf", multiline=True)
    assert text == "crlf:2:needle"
    # What ends the last line begins no other.
    (root / "lf").write_text("x\n")
    (root / "nothing").write_text("")
    assert await call(tools, "grep_search", pattern="^$", path="lf") == "No matches found"
    assert await call(tools, "grep_search", pattern="$", path="nothing") == "No matches found"
    text = await call(tools, "grep_search", pattern="x\n", path="lf", multiline=True)
    assert text == "lf:1:x"


async def test_a_search_is_no_way_to_use_up_the_machine(tools: DictTools, root: Path) -> None:
    (root / "many").write_bytes(b"\n" * 4_000_000)
    (root / "wide").write_text(("字" * 600 + "\n") * 4000)
    begin = time.monotonic()
    for name in ("glob_search", "grep_search"):
        more = {"pattern": "x", "glob": "{a,b}" * 40} if name == "grep_search" else {}
        error = await fails(tools, name, **{"pattern": "{a,b}" * 40, **more})
        assert error == "the pattern has more than 1000 alternatives"
    error = await fails(tools, "grep_search", pattern="x{99999999999}")
    assert error.startswith("'x{99999999999}' is no regular expression")
    error = await fails(tools, "grep_search", pattern="(" * 5000 + ")" * 5000)
    assert "Traceback" not in error
    around = {"-C": 1000, "head_limit": 10}
    text = await call(tools, "grep_search", pattern="^", path="many", **around)
    assert text.count("\n") == 10
    text = await call(tools, "grep_search", pattern="字", path="wide", head_limit=10_000)
    assert text.endswith("more characters]")
    assert len(text) < 31_000
    assert time.monotonic() - begin < 20


async def test_directories_in_each_other_without_end(tools: DictTools, root: Path) -> None:
    """Nothing goes wrong, and what is too far down is not found."""
    folder = root
    for depth in range(search_program.MAX_DEPTH + 2):
        (folder / f"{depth}.rs").touch()
        folder /= "d"
        folder.mkdir()
    most = search_program.MAX_DEPTH
    found = await call(tools, "glob_search", pattern=f"**/{{{most - 1},{most},{most + 1}}}.rs")
    assert found.split("\n") == ["d/" * depth + f"{depth}.rs" for depth in (most - 1, most)]


async def test_mistakes_in_a_search_are_explained(tools: DictTools) -> None:
    error = await fails(tools, "grep_search", pattern="(")
    assert error.startswith("'(' is no regular expression: missing )")
    error = await fails(tools, "grep_search", pattern="x", type="cobol")
    assert error.startswith("unknown type 'cobol': one of c, cpp")
    assert "output_mode" in await fails(tools, "grep_search", pattern="x", output_mode="all")
    assert "No such file" in await fails(tools, "grep_search", pattern="x", path="nowhere")


@pytest.mark.parametrize(
    ("path", "pattern", "fit"),
    [
        ("a.py", "*.py", True),
        ("b/a.py", "*.py", False),
        ("a.py", "**/*.py", True),
        ("b/c/a.py", "**/*.py", True),
        ("b/c/a.py", "b/**/a.py", True),
        ("b/a.py", "b/**/a.py", True),
        ("b/a.py", "b/**", True),
        ("c/a.py", "b/**", False),
        ("b/c/d/a.py", "**/c/**/a.*", True),
        ("a.py", "[ab].py", True),
        ("a.py", "?.py", True),
        ("ab.py", "?.py", False),
        (".hidden", "*", True),
    ],
)
def test_patterns_of_names(path: str, pattern: str, fit: bool) -> None:
    assert matches(path, pattern) is fit


def test_braces() -> None:
    assert expand_braces("*.{ts,tsx}") == ["*.ts", "*.tsx"]
    assert expand_braces("{a,b}/{c,d}") == ["a/c", "a/d", "b/c", "b/d"]
    assert expand_braces("plain") == ["plain"]
    assert expand_braces("un{closed") == ["un{closed"]


@pytest.mark.parametrize(
    ("folder", "pattern", "leads"),
    [
        ("a", "*.py", False),
        ("a", "**/*.py", True),
        ("a/b/c", "**/*.py", True),
        ("a", "a/*.py", True),
        ("b", "a/*.py", False),
        ("a/b", "a/*.py", False),
        ("a", "a/**", True),
        ("a/b", "a/**", True),
        ("b", "a/**", False),
        ("a", "*/b/**/c", True),
        ("a/b/x/y", "*/b/**/c", True),
        ("a/x", "*/b/**/c", False),
    ],
)
def test_only_directories_that_can_lead_there_are_searched(
    folder: str, pattern: str, leads: bool
) -> None:
    assert leads_to(folder, pattern) is leads


def test_a_pattern_of_many_stars_is_no_trap() -> None:
    assert not matches("/".join("a" * 40), "/".join(["**", "a"] * 20 + ["b"]))
