"""Commands and searches: what they see, when they end, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from motus.runtime import cancel, open_runtime
from motus.tools import DictTools, ExecResult, LocalShell, builtin_tools, normalize_tools
from motus.tools.builtins import shell as shell_module
from motus.tools.builtins.search_program import expand_braces, matches

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret needle\n")
    inside = tmp_path / "root"
    (inside / "src" / "deep").mkdir(parents=True)
    (inside / ".git").mkdir()
    (inside / "a.py").write_text("import os\n\n\ndef needle():\n    pass\n")
    (inside / "src" / "b.ts").write_text("Needle\nneedle needle\n")
    (inside / "src" / "deep" / "c.py").write_text("x = 1\n")
    (inside / "src" / "binary").write_bytes(b"\0needle")
    (inside / ".git" / "d.py").write_text("needle")
    (inside / "-delete").write_text("needle")
    return inside


@pytest.fixture
def tools(root: Path) -> DictTools:
    return normalize_tools(builtin_tools(LocalShell(cwd=root)))


async def call(tools: DictTools, name: str, **arguments: Any) -> str:
    return await tools.run(name, json.dumps(arguments))


async def fails(tools: DictTools, name: str, **arguments: Any) -> str:
    result = json.loads(await call(tools, name, **arguments))
    assert set(result) == {"error"}
    return str(result["error"])


def alive(file: Path) -> bool:
    """Whether the process that has written its id there still runs."""
    try:
        state = Path(f"/proc/{int(file.read_text())}/stat").read_text().rpartition(")")[2]
    except (OSError, ValueError):
        return False  # it has not written it yet, or is gone
    # One that has been killed may wait for its parent to ask.
    return state.split()[0] != "Z"


def everything(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # of other processes there are no events
            await anyio.sleep(0.01)


# ---------------------------------------------------------------------- commands


async def test_a_command_and_what_it_writes(tools: DictTools, root: Path) -> None:
    assert await call(tools, "bash", command="echo out; echo err >&2; pwd") == f"out\nerr\n{root}\n"
    assert await call(tools, "bash", command="exit 3") == "[exit code 3]"
    assert await call(tools, "bash", command="echo no; false") == "no\n[exit code 1]"
    assert await call(tools, "bash", command="kill -9 $$") == "[killed by signal 9]"
    assert await call(tools, "bash", command="true") == "[no output]"
    assert await call(tools, "bash", command="cat") == "[no output]"
    assert await call(tools, "bash", command="printf '\\xff'") == "\ufffd"
    # A new shell each time, always in the same place.
    assert await call(tools, "bash", command="cd /; X=1") == "[no output]"
    assert await call(tools, "bash", command='pwd; echo "<$X>"') == f"{root}\n<>\n"


async def test_a_command_cannot_be_an_option_of_the_shell(tools: DictTools) -> None:
    for command in ("-i", "--version", "-c 'echo x'"):
        assert "command not found" in await call(tools, "bash", command=command)


async def test_much_output_is_cut(tools: DictTools) -> None:
    text = await call(tools, "bash", command="head -c 5000000 /dev/zero | tr '\\0' x; echo end")
    assert text == "x" * 30_000 + "\n[cut: 4970004 more characters]"
    # As many bytes as these characters may have.
    text = await call(tools, "bash", command="yes 😀 | tr -d '\\n' | head -c 200000")
    assert text.startswith("😀" * 30_000 + "\n[cut: ")


async def test_keys_are_not_in_the_environment(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN",
        "MOTUS_AUTH_TOKEN", "DATABASE_URL", "HTTPS_PROXY", "PYTHON_KEYRING_PASSWORD", "path",
    }  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    text = await call(tools, "bash", command="env")
    assert "canary" not in text
    assert "LC_ALL=C.UTF-8" in text
    assert f"PATH={os.environ['PATH']}" in text
    # What is wanted there is named.
    allowed = normalize_tools(builtin_tools(LocalShell(cwd=root, env={"GITHUB_TOKEN": "given"})))
    assert await call(allowed, "bash", command="echo $GITHUB_TOKEN") == "given\n"


@pytest.mark.parametrize("leader_ends", [False, True])
async def test_a_command_is_over_when_its_time_is(
    tools: DictTools, root: Path, leader_ends: bool
) -> None:
    """And with it all that it has started: nothing writes to the file after that."""
    loop = "echo $BASHPID > pid; while :; do echo x >> ticks; sleep 0.05; done"
    wait = "until [ -s ticks ]; do sleep 0.01; done; echo begun"
    begin = time.monotonic()
    if leader_ends:
        # It ends at once, though what it has left behind holds its output open.
        command = f"({loop}) & {wait}"
        assert await call(tools, "bash", command=command, timeout=60_000) == "begun\n"
    else:
        command = f"({loop}) & {wait}; sleep 100"
        error = await fails(tools, "bash", command=command, timeout=1000)
        assert error == (
            "the command was killed after 1000 ms, with all that it had started. "
            "Until then it had written: begun\n"
        )
    assert time.monotonic() - begin < 10
    await until(lambda: not alive(root / "pid"))
    size = (root / "ticks").stat().st_size
    await anyio.sleep(0.2)
    assert (root / "ticks").stat().st_size == size > 0


async def test_who_leaves_the_group_holds_nothing_up(tools: DictTools, root: Path) -> None:
    begin = time.monotonic()
    away = "echo $$ > pid; exec sleep 100"
    command = f"setsid bash -c '{away}' & until [ -s pid ]; do sleep 0.01; done; echo begun"
    assert await call(tools, "bash", command=command) == "begun\n"
    assert time.monotonic() - begin < 10
    assert alive(root / "pid")
    os.kill(int((root / "pid").read_text()), 9)
    await until(lambda: not alive(root / "pid"))


async def test_cancelling_ends_the_command_and_all_that_it_has_started(
    tools: DictTools, root: Path
) -> None:
    async with open_runtime():
        command = "(echo $BASHPID > inner; sleep 100) & echo $$ > outer; wait"
        future = tools.run("bash", json.dumps({"command": command}))
        await until(lambda: all(alive(root / name) for name in ("inner", "outer")))
        cancel(future)
    assert not alive(root / "outer")
    await until(lambda: not alive(root / "inner"))


@pytest.mark.parametrize("limit", [0, -1, 600_001, "long"])
async def test_the_time_is_limited(tools: DictTools, limit: Any) -> None:
    assert "timeout" in await fails(tools, "bash", command="true", timeout=limit)


# ---------------------------------------------------------------------- searches


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
        "a.py:1:import os\na.py-2-\n--\na.py-4-def needle():\na.py:5:    pass\na.py-6-"
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
    assert await call(tools, "glob_search", pattern="*", path="-delete") == "No files found"
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


async def test_mistakes_in_a_search_are_explained(tools: DictTools) -> None:
    error = await fails(tools, "grep_search", pattern="(")
    assert error.startswith("'(' is no regular expression: missing )")
    error = await fails(tools, "grep_search", pattern="x", type="cobol")
    assert error.startswith("unknown type 'cobol': one of c, cpp")
    assert "output_mode" in await fails(tools, "grep_search", pattern="x", output_mode="all")
    assert "No such file" in await fails(tools, "grep_search", pattern="x", path="nowhere")


async def test_an_expression_that_takes_for_ever_is_given_up(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "SEARCH_TIMEOUT", 0.5)
    (root / "evil").write_text("a" * 40 + "b")
    beats = 0
    async with anyio.create_task_group() as tasks:

        async def beat() -> None:
            nonlocal beats
            while True:
                await anyio.sleep(0.01)
                beats += 1

        tasks.start_soon(beat)
        error = await fails(tools, "grep_search", pattern="(a+)+$", path="evil")
        tasks.cancel_scope.cancel()
    assert error.startswith("the search took more than 0.5 s: use a simpler pattern")
    # The loop went on meanwhile.
    assert beats >= 5


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


def test_a_pattern_of_many_stars_is_no_trap() -> None:
    assert not matches("/".join("a" * 40), "/".join(["**", "a"] * 20 + ["b"]))


# ---------------------------------------------------------------------- the shell itself


async def test_programs_are_run_with_their_arguments(root: Path) -> None:
    async with LocalShell(cwd=root) as shell:
        done = await shell.exec("printf", "%s|", "a b", "$HOME", "; ls")
        assert done == ExecResult(0, "a b|$HOME|; ls|")
        done = await shell.exec("sh", "-c", "cat; echo e >&2; exit 4", input="in", cwd="src")
        assert done == ExecResult(4, "in", "e\n")
        done = await shell.exec("sh", "-c", "echo $X; pwd", env={"X": "1"}, cwd="src")
        assert done.stdout == f"1\n{root}/src\n"
        assert (await shell.python("print(6 * 7)")).stdout == "42\n"
        assert (await shell.sh("echo $((6 * 7))")).stdout == "42\n"
        with pytest.raises(FileNotFoundError):
            await shell.exec("motus-no-such-program")
        assert shell.endpoint(80) == "http://127.0.0.1:80"


async def test_a_large_input_is_taken_or_left(root: Path) -> None:
    shell = LocalShell(cwd=root)
    data = b"x" * 1_000_000
    assert (await shell.exec("wc", "-c", input=data)).stdout.strip() == "1000000"
    assert (await shell.exec("true", input=data)).exit_code == 0


async def test_files_are_copied_in_and_out(root: Path, tmp_path: Path) -> None:
    shell = LocalShell(cwd=root)
    (tmp_path / "here").write_bytes(b"\0\xff")
    await shell.put(tmp_path / "here", "new/there")
    assert (root / "new" / "there").read_bytes() == b"\0\xff"
    await shell.get("new/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\0\xff"
    with pytest.raises(PermissionError, match="outside"):
        await shell.put(tmp_path / "here", "../there")


async def test_a_shell_is_two_tools(root: Path) -> None:
    found = normalize_tools(LocalShell(cwd=root))
    assert list(found) == ["python", "sh"]
    assert json.loads(await call(found, "sh", command="echo x; exit 2")) == {
        "exit_code": 2,
        "stdout": "x\n",
        "stderr": "",
    }
    assert json.loads(await call(found, "python", code="print(1)"))["stdout"] == "1\n"


def test_it_is_a_context_manager(root: Path) -> None:
    with LocalShell(cwd=root) as shell:
        assert shell.files.home == str(root)
