"""How an agent is found, from an import path and from an object."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from motus.runtime import agent_task
from motus.serve import AgentServer, ServableAgent
from motus.serve.agents import AgentLoadError, load_agent, locate_agent, parse_import_path
from tests.serve import agents
from tests.serve.support import ROOT


@pytest.mark.parametrize(
    "path", ["x", "", ":", "a:", ":b", "a.b", "a:b:c", "a..b:c", "a-b:c", "a:1"]
)
def test_what_is_no_import_path(path: str) -> None:
    with pytest.raises(
        AgentLoadError, match=f"^Invalid import path '{path}': expected module:name"
    ):
        parse_import_path(path)
    with pytest.raises(ValueError, match="Invalid import path"):
        AgentServer(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("tests.serve.agents:ecko", "has no attribute 'ecko': did you mean 'echo'?"),
        (
            "tests.serve.agents:counter.run_trn",
            "'counter.run_trn': did you mean 'run_turn'?",
        ),
        ("tests.serve.agents:qqqq", "Module 'tests.serve.agents' has no attribute 'qqqq'"),
        ("nowhere:agent", "No module named 'nowhere' in the current directory or on PYTHONPATH"),
        ("tests.nowhere:agent", "No module named 'tests.nowhere'"),
        (
            "nowhere.py:agent",
            "Could not import module 'nowhere.py': leave out '.py': nowhere:agent",
        ),
        ("tests.serve.support.py:x", "leave out '.py': tests.serve.support:x"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_may_be_meant(path: str, said: str) -> None:
    with pytest.raises(AgentLoadError, match=f"{re.escape(said)}$"):
        load_agent(path)


def test_objects_are_found_where_a_worker_can_import_them() -> None:
    for agent, name in [
        (agents.echo, "echo"), (agents.Counter, "Counter"), (agents.counter, "counter"),
    ]:  # fmt: skip
        target = locate_agent(agent)
        assert target.import_path == f"tests.serve.agents:{name}"
        assert target.search_path == str(ROOT)
    assert locate_agent("myapp:agent").search_path is None
    assert repr(AgentServer(agents.echo)) == "<AgentServer of tests.serve.agents:echo>"


def test_what_no_other_process_could_import_is_refused() -> None:
    def local() -> None:
        """Not at module level."""

    expected = "Agent function must be a module-level function, got "
    for agent in (
        local,
        lambda message, state: None,
        agents.Counter(),
        agents.counter.run_turn,
        5.5,
        # Found in some module, but nothing that could be served.
        None,
        0,
    ):
        with pytest.raises(ValueError, match=expected):
            AgentServer(agent)


def test_a_script_can_serve_its_own_function(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "from motus.serve.agents import locate_agent\n"
        "def agent(message, state): ...\n"
        "print(locate_agent(agent).import_path, locate_agent(agent).search_path)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == ["app:agent", str(tmp_path.resolve())], done.stderr


def test_what_was_typed_or_is_built_in_has_no_file() -> None:
    program = (
        "from motus.serve.agents import locate_agent\n"
        "print(locate_agent(max).import_path)\n"
        "def agent(message, state): ...\n"
        "locate_agent(agent)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "builtins:max\n"
    assert done.stderr.endswith("module-level function, got one of an interactive session\n")


def test_an_agent_is_any_object_with_run_turn() -> None:
    assert isinstance(agents.counter, ServableAgent)
    assert not isinstance(agents.echo, ServableAgent)
    assert load_agent("tests.serve.agents:echo") is agents.echo
    assert load_agent("tests.serve.agents:counter") == agents.counter.run_turn
    assert callable(load_agent("tests.serve.agents:Counter"))
    with pytest.raises(AgentLoadError, match="is not a ServableAgent, OpenAI Agent, or callable"):
        load_agent("tests.serve.agents:NotAnAgent")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty module that can be imported."""
    module = ModuleType("made_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class _TakesOne:
    def run_turn(self, message: object) -> object: ...


@pytest.mark.parametrize(
    "agent",
    [lambda: None, lambda m: None, lambda m, s, *, model: None, lambda m, s, x: None, _TakesOne()],
    ids=["factory", "no state", "a keyword more", "one more", "a method without state"],
)
def test_what_cannot_take_a_message_and_a_state_is_refused(made: Any, agent: object) -> None:
    made.agent = agent
    with pytest.raises(
        AgentLoadError,
        match=r"^'made_here:agent' takes no message and state \(.+\); is it a factory\?",
    ):
        load_agent("made_here:agent")


@pytest.mark.parametrize(
    "agent",
    [lambda *a, **k: None, lambda m, s, x=1: None, max, agent_task(agents.echo)],
    ids=["anything", "a default", "no signature", "a task"],
)
def test_what_can_take_a_message_and_a_state_is_an_agent(made: Any, agent: object) -> None:
    made.agent = agent
    assert load_agent("made_here:agent") is agent


def test_a_keyword_that_is_none_is_named_with_the_nearest_one() -> None:
    expected = r"^AgentServer\(\) got an unexpected keyword argument '{}'{}$"
    for wrong, hint in (("workers", r"\. Did you mean 'max_workers'\?"), ("xyzzy", "")):
        options: dict[str, Any] = {wrong: 4}
        with pytest.raises(TypeError, match=expected.format(wrong, hint)):
            AgentServer(agents.echo, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"ttl": -1},
        {"timeout": float("nan")},
        {"shutdown_timeout": float("inf")},
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        AgentServer(agents.echo, **options)  # type: ignore[arg-type]  # the point
