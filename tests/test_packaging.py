"""What the project says of itself in several places is the same everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import motus

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_lowest_versions_that_are_tested_are_those_that_are_admitted() -> None:
    bounds = dict(requirement.split(">=") for requirement in PROJECT["dependencies"])
    lowest = pins("constraints-lowest.txt")
    assert {name: version.split(".") for name, version in bounds.items()} == {
        name: lowest[name].split(".")[: len(bounds[name].split("."))] for name in bounds
    }


def test_every_dependency_is_locked() -> None:
    locked = pins("constraints.txt")
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [requirement for group in groups for requirement in group]
    assert not [
        name for name in (re.split(r"[>=<\[]", one)[0] for one in wanted) if name not in locked
    ]


def test_the_lock_names_no_place_to_fetch_from() -> None:
    for name in ("constraints.txt", "constraints-lowest.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert not re.search(r"^-", text, re.MULTILINE)


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", motus.__version__)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(motus.__file__).parent / "py.typed").exists()


def test_the_command_is_there_in_both_forms() -> None:
    for command in (["-m", "motus"], ["-m", "motus.serve"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert "serve" in done.stdout
