"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples import code_census
from motus.models import ChatMessage
from tests.serve.support import ServerProcess

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


async def ask(text: str, state: list[ChatMessage]) -> tuple[str, list[ChatMessage]]:
    reply, state = await code_census.agent(ChatMessage.user_message(text), state)
    return reply.content or "", state


async def test_the_census_counts_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("class A:\n    def f(self):\n        return 1\n")
    (package / "inner" / "one.py").write_text("async def g():\n    x = 1\n    return x\n")
    (package / "inner" / "broken.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    answer, state = await ask("made_up_package", [])
    assert "3 files, 6 lines, 2 functions, 1 classes" in answer
    assert "- inner: 3 lines in 2 files, 1 functions, 0 classes" in answer
    assert "- g, 3 lines (one.py:1)" in answer
    assert "Could not be parsed (1)" in answer
    assert "- broken.py: invalid syntax" in answer
    assert len(state) == 2


async def test_the_second_message_refers_to_the_first() -> None:
    nothing, _ = await ask("compare json", [])
    assert "Nothing was counted yet" in nothing
    _, state = await ask("json", [])
    answer, state = await ask("compare email", state)
    assert answer.startswith("# json and email")
    assert len(state) == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_package", "There is no package 'no_such_package'"),
        ("not a name", "There is no package 'not a name'"),
        ("../etc", "There is no package '../etc'"),
        ("sys", "'sys' is a part of the interpreter"),
    ],
)
async def test_a_wrong_name_is_explained(name: str, text: str) -> None:
    answer, state = await ask(name, [])
    assert text in answer
    assert len(state) == 2


@pytest.mark.slow
def test_the_demo() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = int(done.stdout.partition("# Census of stdlib")[2].split()[0])
    assert files > 500
    assert "Status: ok" in done.stdout
    assert "read 200 of" in done.stderr


def test_the_embedded_server() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.embedded"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *answers, last = done.stdout.splitlines()
    assert first.startswith("Serving on http://127.0.0.1:")
    assert sorted(answers) == ["# Census of email", "# Census of json"]
    assert last == "The server is gone."


def test_the_client_in_plain_http(tmp_path: Path) -> None:
    answers = ['{"answers": {"Where should it go?": ["asia", "europe"]}}']
    answers += ['{"approved": true}', '{"approved": true}', "12"]
    with ServerProcess("examples.human_in_the_loop:agent", tmp_path / "log") as server:
        done = subprocess.run(
            [sys.executable, "-m", "examples.http_client", server.url, "1.3"],
            cwd=ROOT, input="\n".join(answers), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert server.http.get("/sessions").json() == []
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "> **1.3** goes to asia, europe at 12 o'clock."
