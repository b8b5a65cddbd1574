"""The examples of agents do what they say, with a scripted model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.agents import (
    branches,
    coder,
    guarded,
    long_conversation,
    structured,
    supervisor,
    weather,
    workflows,
)
from examples.agents.model import PROVIDERS, find_model, real_model
from motus.agent import ReActAgent
from motus.messages import ChatMessage
from motus.testing import ScriptedClient, answer_interrupts, call
from tests.agent.models import assert_valid
from tests.serve.support import ROOT, ServerProcess

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in PROVIDERS:
        monkeypatch.delenv(key, raising=False)


async def test_the_weather(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(
        [
            [call("get_weather", city="Rome"), call("get_weather", city="Atlantis")],
            "In Rome: 31.",
            [call("fahrenheit", celsius=31)],
            "87.8",
        ]
    )
    await weather.main(client, "gpt-4o")
    rome, atlantis = client.requests[1].messages[-2:]
    assert rome.content == '{"city": "Rome", "degrees": 31, "sky": "sunny"}'
    assert "no forecast for Atlantis" in str(atlantis.content)
    assert client.requests[3].messages[-1].content == "87.8"
    assert capsys.readouterr().out.startswith("In Rome: 31.\n87.8\n{")


async def test_structured_output(capsys: pytest.CaptureFixture[str]) -> None:
    ticket = structured.Ticket(product="scanner", urgency="high", questions=["How back?"])
    client = ScriptedClient([ticket, structured.Reply("Dear Ann,", "go back.")])
    await structured.main(client, "m")
    assert capsys.readouterr().out == "high: scanner, 1 question(s)\nDear Ann,\ngo back.\n"


async def test_guardrails(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(
        [call("refund", order="A-1", amount=500), "Not to 1234-5678-9012-3456, sorry."]
    )
    await guarded.main(client, "m")
    assert "[card]" in str(client.requests[0].messages[-1].content)
    assert "need a human" in str(client.requests[1].messages[-1].content)
    assert capsys.readouterr().out == (
        "Not to [card], sorry.\nThis assistant talks about orders only.\n"
    )


async def test_a_supervisor_with_specialists(capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: list[ChatMessage]) -> Any:
        system, last = str(messages[0].content), messages[-1]
        if system.startswith("You find out"):
            return f"A fact about {last.content}."
        if system.startswith("You edit"):
            return f"Version {(len(messages)) // 2}."
        done = [message.name for message in messages if message.role == "tool"]
        if not done:
            return [call("research", request="tides"), call("research", request="the moon")]
        if done.count("edit") < 2:
            return call("edit", request="write" if done.count("edit") == 0 else "shorten")
        return f"Here it is: {last.content}"

    await supervisor.main(ScriptedClient(script), "m")
    assert capsys.readouterr().out == "Here it is: Version 2.\n"


async def test_branches(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(lambda messages: f"reply to {len(messages)} messages")
    await branches.main(client, "m")
    four, decision = "reply to 4 messages", client.requests[-1].messages
    assert capsys.readouterr().out == f"for: {four}\nagainst: {four}\n{four}\n"
    assert len(decision) == 4


async def test_a_long_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: list[ChatMessage]) -> Any:
        last = str(messages[-1].content)
        if "<transcript>" in last:
            return "A lighthouse, and so on."
        if messages[-1].role == "tool":
            return f"found {last}"
        if "Look it up" in last:
            return call("search_conversation_log", query="called Aurora", max_results=1)
        return "It was called Aurora. " + "The sea was grey. " * 50

    await long_conversation.main(ScriptedClient(script), "m")
    out = capsys.readouterr().out
    assert out.count(" messages became ") >= 2
    assert '"count": 1' in out
    assert out.endswith("True\n")


@pytest.mark.realtime
async def test_a_coder_asks_before_it_acts(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_sums.py").write_text(
        "import unittest, sums\n\n\nclass T(unittest.TestCase):\n"
        "    def test(self):\n        self.assertEqual(sums.add(1, 2), 3)\n"
    )
    # Without -B the second run might take the first one's compiled file for the new one's.
    tests = call("bash", command=f"{sys.executable} -B -m unittest")
    fix = call("edit_file", path="sums.py", old_string="a - b", new_string="a + b")
    client = ScriptedClient(
        [
            call("glob_search", pattern="*.py"),
            [call("read_file", path="sums.py"), call("read_file", path="../secret")],
            *(tests, fix, fix, tests),
            "Fixed.",
        ]
    )
    agent = ReActAgent(client, "m", tools=coder.tools_in(tmp_path))
    answers = [{"approved": True}, {"approved": False}, {"approved": True}, {"approved": True}]
    with answer_interrupts(answers) as asked:
        assert await agent("Make the tests pass.") == "Fixed."
    assert [payload["tool_name"] for payload in asked.payloads] == [
        *("bash", "edit_file", "edit_file", "bash")
    ]
    results = [str(message.content) for message in agent.messages if message.role == "tool"]
    assert "sums.py" in results[0]
    assert "return a - b" in results[1]
    assert results[2].startswith('{"error": ')
    assert "FAILED" in results[3]
    assert results[4] == '{"error": "User rejected edit_file"}'
    assert results[6].rstrip().endswith("OK")
    assert (tmp_path / "sums.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert_valid(agent.messages)


@pytest.mark.realtime
async def test_workflows_and_agents(capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: list[ChatMessage]) -> Any:
        last = messages[-1]
        if str(messages[0].content).startswith("Reply with"):
            return "negative" if "Broke" in str(last.content) else "Positive"
        if last.role == "user":
            return [call("rate", product="lamp"), call("rate", product="chair")]
        return " and ".join(str(message.content) for message in messages[-2:])

    await workflows.main(ScriptedClient(script), "m")
    assert capsys.readouterr().out == "{'lamp': 0.5, 'chair': 1.0}\n0.5 and 1.0\n"


def test_the_provider_whose_key_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model() is None
    with pytest.raises(SystemExit, match="Set one of ANTHROPIC_API_KEY"):
        real_model()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    client, name = real_model()
    assert (type(client), name) == PROVIDERS["OPENAI_API_KEY"]
    monkeypatch.setenv("EXAMPLE_MODEL", "another")
    assert real_model()[1] == "another"


@pytest.mark.realtime
def test_the_assistant_is_served_without_a_key(tmp_path: Path) -> None:
    with ServerProcess("examples.assistant:agent", tmp_path / "log") as server:
        session = str(server.http.post("/sessions", json={}).json()["session_id"])

        def say(text: str) -> dict[str, Any]:
            server.http.post(f"/sessions/{session}/messages", json={"content": text})
            return wait()

        def wait() -> dict[str, Any]:
            query = {"wait": "true", "timeout": "30"}
            answer: dict[str, Any] = server.http.get(f"/sessions/{session}", params=query).json()
            return answer

        said = say("Remember the milk")["response"]["content"]
        assert "I am a script" in said
        assert "Try 'What time is it?'" in said
        assert "The tool time_now says" in say("What time is it?")["response"]["content"]
        said = say("What do you remember?")["response"]["content"]
        assert said == "You said: Remember the milk; What time is it?"
        asked = say("Forget it all")
        (interrupt,) = asked["interrupts"]
        assert interrupt["payload"]["tool_args"] == {"what": "all of it"}
        server.http.post(
            f"/sessions/{session}/resume",
            json={"interrupt_id": interrupt["interrupt_id"], "value": {"approved": True}},
        )
        assert wait()["response"]["content"] == "The tool forget says: all of it is forgotten"


def test_an_example_says_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.agents.weather"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Set one of ANTHROPIC_API_KEY")


@pytest.mark.parametrize("module", ["examples.agents.coder", "examples.assistant"])
def test_an_agent_to_be_served_says_so(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"Serve it: python -m motus.serve start {module}:agent\n"
