"""Skills: instructions in files, which a model loads when it needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from motus.tools.base import Tool
from motus.tools.function_tool import FunctionTool

__all__ = ["Skill", "find_skills", "skill_tool"]

_MAX_BYTES: Final = 1024 * 1024
_FRONT_MATTER: Final = re.compile(
    r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE
)


@attrs.frozen
class Skill:
    """A directory with a `SKILL.md`: what it is called, what it is for, and what it says."""

    name: str
    description: str
    directory: Path
    instructions: str


def find_skills(directory: str | os.PathLike[str]) -> list[Skill]:
    """The skills in the directories of a directory, by name.

    Raises `ValueError` where a `SKILL.md` is no text, or begins with YAML that is none, or two
    skills have the same name, and `OSError` if the directory is not there.
    """
    skills: dict[str, Skill] = {}
    for path in sorted(Path(directory).iterdir()):
        file = path / "SKILL.md"
        if not file.is_file():
            continue
        skill = _read(file)
        if skill.name in skills:
            raise ValueError(f"Duplicate skill name: {skill.name} ({file})")
        skills[skill.name] = skill
    return list(skills.values())


def skill_tool(skills: list[Skill]) -> Tool:
    """`load_skill`, which describes the skills that there are and returns what one says."""
    by_name = {skill.name: skill for skill in skills}

    async def load_skill(name: str) -> str:
        skill = by_name.get(name)
        if skill is None:
            available = ", ".join(by_name) or "none"
            raise ValueError(f"Unknown skill '{name}'. Available: {available}")
        return f"Base directory of this skill: {skill.directory}\n\n{skill.instructions}"

    listed = "\n".join(f"- {skill.name}: {skill.description}" for skill in skills)
    load_skill.__doc__ = (
        "Load the instructions of a skill before doing what it is for. The skills are:\n"
        + (listed or "(none)")
    )
    return FunctionTool(load_skill)


def _read(file: Path) -> Skill:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file} is larger than {_MAX_BYTES} bytes")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8 (byte {error.start})") from error
    found = _FRONT_MATTER.match(text)
    head: Any = None
    if found:
        try:
            head = yaml.safe_load(found[1])
        except yaml.YAMLError as error:
            raise ValueError(f"{file} does not begin with valid YAML: {error}") from error
    head = head if isinstance(head, Mapping) else {}
    return Skill(
        _text(head, "name", file) or file.parent.name,
        _text(head, "description", file),
        file.parent.resolve(),
        text[found.end() :].strip() if found else text.strip(),
    )


def _text(head: Mapping[str, Any], key: str, file: Path) -> str:
    value = head.get(key)
    # Parts of YAML may stand for each other: a few lines of it make a list of any length.
    if isinstance(value, list | Mapping):
        raise ValueError(f"{file}: {key} must be a text")  # noqa: TRY004  # it is the file that is wrong
    return "" if value is None else str(value).strip()
