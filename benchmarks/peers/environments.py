"""An environment for each peer, made when it is first needed and kept for the next time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.children import ChildError
from benchmarks.peers import Peer

__all__ = ["environment", "find_python"]


def find_python(wanted: str | None) -> str:
    """A Python of this version, `"3.12"`; by default the one that runs this. ChildError if none.

    On the path, or among pyenv's versions.
    """
    if wanted is None or wanted == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    name = f"python{wanted}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        # A pyenv shim exists for every version, whether it can be started here or not.
        if folder and Path(folder).name != "shims" and Path(folder, name).exists():
            return str(Path(folder, name))
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for program in sorted(root.glob(f"versions/{wanted}.*/bin/{name}")):
        return str(program)
    raise ChildError(f"needs Python {wanted}, which is not on this machine")


def environment(name: str, peer: Peer, cache: Path) -> str:
    """The Python of the peer's environment. ChildError, in one line, if it cannot be installed."""
    folder = cache / (peer.environment or name)
    program = folder / "bin" / "python"
    # Written last, so that what was interrupted is made again.
    done = folder / "installed.txt"
    wanted = "\n".join(peer.requirements)
    if done.exists() and done.read_text() == wanted:
        return str(program)
    base = find_python(peer.python)
    shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    # It is nobody's source, wherever the cache is put.
    (cache / ".gitignore").write_text("*\n")
    _run([base, "-m", "venv", str(folder)])
    _run([str(program), "-m", "pip", "install", "-q", *peer.requirements])
    done.write_text(wanted)
    return str(program)


def _run(command: list[str]) -> None:
    # pip's own configuration is the user's, so the environment is passed on whole; but a module
    # path set for us must not shadow what is installed for others.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = (
            errors[-1] if errors else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        )
        raise ChildError(f"cannot be installed: {said[:200]}")
