"""Commands and searches: what they see, when they end, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from motus.runtime import cancel, open_runtime
from motus.tools import DictTools, ExecResult, LocalShell, builtin_tools, normalize_tools, processes
from motus.tools.builtins import shell as shell_module
from tests.tools.support import call, fails, project

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project(tmp_path)


@pytest.fixture
def tools(root: Path) -> DictTools:
    return normalize_tools(builtin_tools(LocalShell(cwd=root)))


def alive(file: Path) -> bool:
    """Whether the process that has written its id there still runs."""
    try:
        state = Path(f"/proc/{int(file.read_text())}/stat").read_text().rpartition(")")[2]
    except (OSError, ValueError):
        return False  # it has not written it yet, or is gone
    # One that has been killed may wait for its parent to ask.
    return state.split()[0] != "Z"


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
    loop = "echo $BASHPID > pid; while :; do echo x >> ticks; sleep 0.02; done"
    wait = "until [ -s ticks ]; do sleep 0.01; done; echo begun"
    begin = time.monotonic()
    if leader_ends:
        # It ends at once, though what it has left behind holds its output open.
        command = f"({loop}) & {wait}"
        assert await call(tools, "bash", command=command, timeout=60_000) == "begun\n"
    else:
        # With job control the loop has a process group of its own.
        command = f"set -m; ({loop}) & {wait}; sleep 100"
        error = await fails(tools, "bash", command=command, timeout=1000)
        # The shell may have had time to say that its child was killed.
        assert error.startswith(
            "the command was killed after 1000 ms, with all that it had started. "
            "Until then it had written: begun\n"
        )
    assert time.monotonic() - begin < 10
    await until(lambda: not alive(root / "pid"))
    size = (root / "ticks").stat().st_size
    await anyio.sleep(0.1)
    assert (root / "ticks").stat().st_size == size > 0


async def test_a_daemon_holds_nothing_up(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_DRAIN", 0.05)
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


@pytest.mark.parametrize(
    "away",
    [
        # A process group of its own, as `timeout` makes one.
        "timeout 100 {sleeper}",
        "set -m; {sleeper} & wait",
        # A session of its own, with its parent above it.
        "setsid -w {sleeper}",
        "setsid bash -c 'setsid bash -c \"{sleeper}\"; :'",
    ],
)
async def test_who_has_left_the_group_is_killed_too(
    tools: DictTools, root: Path, away: str
) -> None:
    (root / "sleeper").write_text("#!/bin/sh\ntrap '' TERM HUP INT\necho $$ > pid\nsleep 100\n")
    (root / "sleeper").chmod(0o755)
    command = away.format(sleeper="./sleeper") + "; :"
    async with open_runtime():
        future = tools.run("bash", json.dumps({"command": command}))
        await until(lambda: alive(root / "pid"))
        cancel(future)
    assert not alive(root / "pid")


@pytest.mark.parametrize("checkpoints", range(6))
async def test_cancelled_while_it_starts_it_is_ended(
    tools: DictTools, root: Path, checkpoints: int
) -> None:
    before = children()
    async with open_runtime():
        future = tools.run("bash", json.dumps({"command": "sleep 100 & sleep 100"}))
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        cancel(future)
    assert children() == before


async def test_cancelled_before_it_starts_it_never_does(root: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await LocalShell(cwd=root).sh("touch begun")
    assert scope.cancelled_caught
    assert not (root / "begun").exists()


def children() -> set[str]:
    """Of this process, and what has lost its parent in the same directory is none of them."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


async def test_a_command_that_reads_or_writes_for_ever(tools: DictTools, root: Path) -> None:
    assert await call(tools, "bash", command="read x; echo [$?]") == "[1]\n"
    error = await fails(tools, "bash", command="yes & yes >&2 & yes", timeout=400)
    assert error.startswith("the command was killed after 400 ms")
    assert "more characters]" in error
    assert len(error) < 31_000
    # Closed, and still there.
    error = await fails(tools, "bash", command="exec <&- >&- 2>&-; sleep 100", timeout=50)
    assert error.endswith("it had written: nothing")


async def test_a_command_that_cannot_be_started_is_an_error(tools: DictTools) -> None:
    assert "null byte" in await fails(tools, "bash", command="echo \0")
    assert "too long" in await fails(tools, "bash", command=": " + "x" * 200_000)


async def test_not_more_than_so_many_at_once(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_PROCESSES", 3)
    running = most = 0
    real = LocalShell.run

    async def counted(self: LocalShell, *command: str, **options: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await real(self, *command, **options)
        finally:
            running -= 1

    monkeypatch.setattr(LocalShell, "run", counted)
    async with open_runtime():
        futures = [tools.run("bash", '{"command": "echo x"}') for _ in range(8)]
        waiting = [tools.run("grep_search", '{"pattern": "needle"}') for _ in range(4)]
        others = normalize_tools(LocalShell(cwd=root))
        waiting += [others.run("sh", '{"command": "echo needle"}') for _ in range(4)]
        waiting += [others.run("python", '{"code": "print(\'needle\')"}') for _ in range(4)]
        cancel(waiting.pop())
        assert [await one for one in futures] == ["x\n"] * 8
        assert all(["needle" in await one for one in waiting])
    assert most == 3


@pytest.mark.parametrize("limit", [0, -1, 600_001, "long"])
async def test_the_time_is_limited(tools: DictTools, limit: Any) -> None:
    assert "timeout" in await fails(tools, "bash", command="true", timeout=limit)


# -------------------------------------------------------------------- searches are commands too


async def test_an_expression_that_takes_for_ever_is_given_up(
    tools: DictTools, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "SEARCH_TIMEOUT", 0.2)
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
    assert error.startswith("the search took more than 0.2 s: use a simpler pattern")
    # The loop went on meanwhile.
    assert beats >= 5


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
