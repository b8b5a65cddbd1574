"""The set of tools of a coding agent: which there are, the list of things to do, and skills."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from motus.tools import LocalShell, builtin_tools, normalize_tools, tool
from motus.tools.builtins.skills import find_skills

pytestmark = pytest.mark.anyio

SEVEN = ["bash", "read_file", "write_file", "edit_file", "glob_search", "grep_search", "to_do"]


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    def write(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "SKILL.md").write_text(text)

    write(
        "pdf", "---\nname: read-pdf\ndescription: >\n  Read\n  PDFs.\n---\n\n# How\n---\nGo on.\n"
    )
    write("plain", "Just do it.\n")
    write("dashes", "---\r\ndescription: 'quoted: yes'\r\n---\r\nText\r\n")
    (tmp_path / "no-skill").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def test_which_there_are(skills: Path) -> None:
    found = builtin_tools()
    assert len(found) == 7
    assert [one.name for one in found] == SEVEN
    assert [getattr(found, name).name for name in SEVEN] == SEVEN
    assert found.load_skill is None
    assert found[0] is found.bash
    assert list(found[1:3]) == [found.read_file, found.write_file]
    assert repr(found) == f"BuiltinTools({', '.join(SEVEN)})"
    more = builtin_tools(skills_dir=skills)
    assert more.load_skill is not None
    assert [one.name for one in more] == [*SEVEN, "load_skill"]
    assert list(normalize_tools([*found])) == list(normalize_tools(found)) == SEVEN


def test_every_tool_and_parameter_is_described(skills: Path) -> None:
    for one in builtin_tools(skills_dir=skills):
        assert len(one.description) > 20, one
        for name, schema in one.json_schema["properties"].items():
            assert "description" in schema or (one.name, name) == ("load_skill", "name"), (
                one,
                name,
            )


def test_the_documented_parameters() -> None:
    found = normalize_tools(builtin_tools())
    grep = found["grep_search"].json_schema
    assert set(grep["properties"]) == {
        "pattern", "path", "glob", "output_mode", "-A", "-B", "-C", "-n", "-i", "type",
        "head_limit", "offset", "multiline",
    }  # fmt: skip
    assert grep["required"] == ["pattern"]
    timeout = found["bash"].json_schema["properties"]["timeout"]
    assert (timeout["default"], timeout["maximum"]) == (120_000, 600_000)


@pytest.mark.realtime
async def test_each_set_works_in_its_own_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (builtin_tools(LocalShell(cwd=tmp_path / name)) for name in ("a", "b"))
    assert repr(one.sandbox) == f"<LocalShell in {(tmp_path / 'a').resolve()}>"
    await one.write_file.run('{"path": "x", "content": "1"}')
    assert (tmp_path / "a" / "x").read_text() == "1"
    assert "No such file" in await two.read_file.run('{"path": "x"}')
    await one.to_do.run('{"todos": [{"content": "x"}]}')
    assert (len(one.to_do_list.items), len(two.to_do_list.items)) == (1, 0)
    # They can be changed, as any tool can.
    tool(one.bash, requires_approval=True)
    assert (one.bash.requires_approval, two.bash.requires_approval) == (True, False)


async def test_a_list_of_things_to_do() -> None:
    found = builtin_tools()

    async def call(*todos: Any) -> str:
        return await found.to_do.run(json.dumps({"todos": todos}))

    assert (
        await call(
            {"content": "a", "status": "completed"},
            {"content": "b", "status": "in_progress"},
            {"content": "c"},
        )
        == "[x] a\n[>] b\n[ ] c"
    )
    assert [one.content for one in found.to_do_list.items] == ["a", "b", "c"]
    assert "todos.0.status" in await call({"content": "a", "status": "done"})
    assert "todos.0.content" in await call({"content": ""})
    # What is wrong changes nothing.
    assert len(found.to_do_list.items) == 3
    assert await call() == "[the list is empty]"


async def test_skills_are_described_and_loaded(skills: Path) -> None:
    load = builtin_tools(skills_dir=skills).load_skill
    assert load is not None
    assert load.description.splitlines()[1:] == [
        "- dashes: quoted: yes",
        "- read-pdf: Read PDFs.",
        "- plain: ",
    ]
    text = await load.run('{"name": "read-pdf"}')
    assert text == f"Base directory of this skill: {skills / 'pdf'}\n\n# How\n---\nGo on."
    assert (await load.run('{"name": "plain"}')).endswith("\n\nJust do it.")
    assert (await load.run('{"name": "dashes"}')).endswith("\n\nText")
    for name in ("pdf", "../pdf", "/etc/passwd", ""):
        assert json.loads(await load.run(json.dumps({"name": name}))) == {
            "error": f"Unknown skill '{name}'. Available: dashes, read-pdf, plain"
        }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("---\nname: [\n---\n", "does not begin with valid YAML"),
        (
            "---\nname: !!python/object/apply:os.system [ls]\n---\n",
            "does not begin with valid YAML",
        ),
        ("---\nname: read-pdf\n---\n", "Duplicate skill name: read-pdf"),
        ("x" * 1024 * 1024 + "x", "is larger than 1048576 bytes"),
        ("---\nname: [a, b]\n---\n", "name must be a text"),
        (
            "---\na: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]\n"
                for before, one in itertools.pairwise("abcdefghij")
            )
            + "description: *j\n---\n",
            "description must be a text",
        ),
        ("caf\udce9", r"wrong/SKILL\.md is not text in UTF-8 \(byte 3\)"),
    ],
    ids=range(7),
)
def test_skills_that_are_wrong_are_an_error_at_once(skills: Path, text: str, reason: str) -> None:
    (skills / "wrong").mkdir()
    (skills / "wrong" / "SKILL.md").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=reason):
        builtin_tools(skills_dir=skills)


def test_skills_without_a_head_of_names(skills: Path) -> None:
    (skills / "pdf" / "SKILL.md").write_text("---\n- a list\n---\ntext")
    [skill] = [one for one in find_skills(skills) if one.directory.name == "pdf"]
    assert (skill.name, skill.description, skill.instructions) == ("pdf", "", "text")
    with pytest.raises(OSError):
        builtin_tools(skills_dir=skills / "nowhere")
