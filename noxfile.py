"""Everything that is done with a checkout of Motus: `nox -l` lists it.

Each session builds an environment of its own from `constraints.txt`, so the only things a machine
needs are Python and pip.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "demo"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
SUPPORTED = ("3.11", "3.12", "3.13")
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def _interpreters() -> list[str]:
    """The supported Pythons of this machine: on the path, or among pyenv's versions."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [THIS] if THIS in SUPPORTED else []
    for version in SUPPORTED:
        if version in found:
            continue
        program = f"python{version}"
        homes = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
        # A pyenv shim exists for every version, whether it can be started here or not.
        if any((home / program).exists() and home.name != "shims" for home in homes):
            found.append(version)
            continue
        for home in sorted(root.glob(f"versions/{version}.*/bin")):
            if (home / program).exists():
                os.environ["PATH"] = f"{home}{os.pathsep}{os.environ['PATH']}"
                found.append(version)
                break
    return sorted(found)


PYTHONS = _interpreters()


def _install(session: nox.Session, *extras: str, constraints: str = "constraints.txt") -> None:
    what = f".[{','.join(extras)}]" if extras else "."
    session.install("-q", "-c", constraints, "-e", what)


@nox.session(python=THIS)
def demo(session: nox.Session) -> None:
    """Serve the code census, ask it twice, show the answers: the main job, offline."""
    _install(session)
    session.run("python", "-m", "examples.demo", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on every supported interpreter that this machine has."""
    _install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The tests with the oldest versions that pyproject.toml admits."""
    _install(session, "test", constraints="constraints-lowest.txt")
    session.run("python", "-m", "pytest", "-q", *session.posargs)


@nox.session(python=THIS)
def lint(session: nox.Session) -> None:
    """Ruff: rules and layout."""
    session.install("-q", "-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=THIS)
def types(session: nox.Session) -> None:
    """mypy --strict over the library, its tests and the examples."""
    _install(session, "test")
    session.run("python", "-m", "mypy")


@nox.session(python=THIS)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities among the locked versions."""
    session.install("-q", "-c", "constraints.txt", "pip-audit")
    session.run("pip-audit", "--disable-pip", "--no-deps", "-r", "constraints.txt")


@nox.session(python=THIS)
def api(session: nox.Session) -> None:
    """schemathesis reads /openapi.json and asks a running server whatever follows from it."""
    _install(session, "test")
    session.install("-q", "-c", "constraints.txt", "schemathesis")
    session.run("python", "-m", "tests.serve.conformance", *session.posargs)


@nox.session(python=THIS)
def docs(session: nox.Session) -> None:
    """The documents say what is true: their examples run, their links lead somewhere."""
    _install(session, "test")
    session.run("python", "-m", "pytest", "-q", "tests/test_docs.py", *session.posargs)


@nox.session(python=THIS)
def bench(session: nox.Session) -> None:
    """Both benchmarks; `nox -s bench -- scheduler` runs one of them."""
    _install(session)
    which = session.posargs[:1] or ["scheduler", "serve"]
    for name in which:
        session.run("python", "-m", f"benchmarks.{name}", *session.posargs[1:])


@nox.session(python=THIS)
def soak(session: nox.Session) -> None:
    """The guarantees at soak size: the same tests with many more trials."""
    _install(session, "test")
    env = {"MOTUS_TEST_SIZE": "soak"}
    session.run("python", "-m", "pytest", "-q", "--timeout=0", *session.posargs, env=env)
