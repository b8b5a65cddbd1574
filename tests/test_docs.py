"""The documents say what is true: their programs run, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def programs(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [
        link for link in links if "://" not in link and not (path.parent / link).resolve().exists()
    ]
    assert not missing


def sections(path: Path) -> set[str]:
    """What the headings of a document are called in links, as GitHub does it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_sections(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", path.read_text())
    missing = [
        f"{file}#{section}"
        for file, section in links
        if section not in sections(path.parent / file if file else path)
    ]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_programs_run(path: Path, tmp_path: Path) -> None:
    for number, program in enumerate(programs(path)):
        script = tmp_path / f"program_{number}.py"
        script.write_text(program)
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{name(path)}, program {number}: {done.stderr}"
        promised = re.findall(r"print\(.*\)  # (\S+?),? ?(?:after.*)?$", program, re.MULTILINE)
        assert done.stdout.split() == promised, program


def test_the_readme_has_programs() -> None:
    assert len(programs(ROOT / "README.md")) >= 3
