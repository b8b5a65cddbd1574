"""Where tools run commands and keep files."""

from __future__ import annotations

import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio.to_thread
import attrs

from motus.tools.decorators import tools
from motus.tools.directory import Directory
from motus.tools.processes import Finished, one_process, run_command

__all__ = ["ExecResult", "LocalShell", "Sandbox"]

# Of each stream of a command, in bytes.
_MAX_OUTPUT: Final = 8 * 1024 * 1024

# What programs need to find their way about, and nothing that opens doors: no keys, no tokens. The
# last one is how a server finds what the worker of a turn has left behind when that is killed.
_ALLOWED: Final = re.compile(
    r"""
    PATH | HOME | USER | LOGNAME | SHELL | LANG | LANGUAGE | LC_\w+ | TZ | TERM | HOSTNAME
    | TMPDIR | TEMP | TMP | XDG_\w+ | LD_LIBRARY_PATH | VIRTUAL_ENV | CONDA_\w+
    | PYTHON(PATH | HOME | UTF8 | IOENCODING | DONTWRITEBYTECODE | UNBUFFERED) | JAVA_HOME
    | GOPATH | GOROOT | CARGO_HOME | RUSTUP_HOME | NVM_DIR | SSL_CERT_(FILE | DIR) | COLUMNS | LINES
    | MOTUS_WORKER_ID
    """,
    re.VERBOSE,
)


@attrs.frozen
class ExecResult:
    """How a command ended: `exit_code` is negative for a signal, None if its time was up."""

    exit_code: int | None
    stdout: str
    stderr: str = ""


@tools(allowlist=["python", "sh"])
class Sandbox(ABC):
    """Somewhere to run commands. As tools, it is `python` and `sh`.

    A command that fails is a result, not an error. Cancelling a call ends its command.
    """

    @abstractmethod
    async def exec(
        self,
        *cmd: str,
        input: str | bytes | None = None,  # noqa: A002  # the documented name
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a program with these arguments; `env` comes on top of what programs see there."""

    @abstractmethod
    async def put(self, source: str | os.PathLike[str], path: str) -> None:
        """Copy a file from here to there."""

    @abstractmethod
    async def get(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copy a file from there to here."""

    @abstractmethod
    def endpoint(self, port: int) -> str:
        """The URL at which a server that listens on this port there is reached from here."""

    async def python(self, code: str) -> ExecResult:
        """Run a Python program; its output is what it prints."""
        return await self.exec("python3", "-", input=code)

    async def sh(self, command: str) -> ExecResult:
        """Run a shell command."""
        # Without `--`, a command that begins with a dash would be options of the shell.
        return await self.exec("sh", "-c", "--", command)

    def close(self) -> None:  # noqa: B027  # there may be nothing to give back
        """Give back what it holds; it cannot be used any more."""

    async def aclose(self) -> None:
        """The same, from async code."""
        await anyio.to_thread.run_sync(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class LocalShell(Sandbox):
    """Commands and files of this machine, in a directory. It is no sandbox.

    With `cwd`, the file tools see that directory and nothing else; without, every file, relative
    paths beginning where the program runs. Commands begin in the same place but may go anywhere
    and do all that this process may: let them run only where that is harmless, or have each
    approved. They see few environment variables, none with keys, and those in `env`.

    Raises `OSError` if `cwd` is no directory.
    """

    def __init__(
        self, *, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.files = Directory(cwd)
        self._env = dict(env or {})

    def __repr__(self) -> str:
        return f"<LocalShell in {self.files.home}>"

    async def exec(
        self,
        *cmd: str,
        input: str | bytes | None = None,  # noqa: A002  # the documented name
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecResult:
        done = await self.run(*cmd, input=input, cwd=cwd, env=env)
        return ExecResult(
            done.exit_code,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    async def run(
        self,
        *cmd: str,
        input: str | bytes | None = None,  # noqa: A002  # as above
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # of the command, not of the call
        max_output: int = _MAX_OUTPUT,
        merged: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> Finished:
        """Like `exec`, with a limit of time in seconds and one of output in bytes."""
        data = input.encode() if isinstance(input, str) else input or b""
        return await run_command(
            cmd,
            cwd=self.files.home if cwd is None else str(Path(self.files.home, cwd)),
            env={**_environment(), **self._env, **(env or {})},
            input=data,
            timeout=timeout,
            max_output=max_output,
            merged=merged,
            pass_fds=pass_fds,
        )

    async def python(self, code: str) -> ExecResult:
        async with one_process():
            return await self.exec(sys.executable, "-", input=code)

    async def sh(self, command: str) -> ExecResult:
        async with one_process():
            return await super().sh(command)

    async def put(self, source: str | os.PathLike[str], path: str) -> None:
        data = await anyio.to_thread.run_sync(Path(source).read_bytes)
        await anyio.to_thread.run_sync(self.files.write, path, data)

    async def get(self, path: str, target: str | os.PathLike[str]) -> None:
        data = await anyio.to_thread.run_sync(self.files.read, path)
        await anyio.to_thread.run_sync(partial(Path(target).write_bytes, data))

    def endpoint(self, port: int) -> str:
        return f"http://127.0.0.1:{port}"

    @property
    def shell(self) -> str:
        """The shell for commands: bash where there is one."""
        return shutil.which("bash") or "/bin/sh"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _ALLOWED.fullmatch(name)}
