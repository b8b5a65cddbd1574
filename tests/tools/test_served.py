"""Tools that ask a human, in a served session over plain HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from motus.models import ChatMessage
from motus.tools import DictTools, LocalShell, builtin_tools, normalize_tools, tool
from motus.tools.builtins.ask_user import ask_user_question
from tests.serve.support import Api, ServerProcess, alive, reported_async, served, until_async
from tests.serve.terminals import motus_here

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@tool(requires_approval=True)
async def delete_file(path: str) -> str:
    """Delete a file."""
    return f"deleted {path}"


def collection() -> DictTools:
    return normalize_tools([delete_file, ask_user_question])


async def agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """Makes the calls that the message holds, all at once, and answers with their results."""
    calls = json.loads(message.content or "")
    tools = collection()
    futures = [tools.run(name, json.dumps(arguments)) for name, arguments in calls]
    reply = ChatMessage.assistant_message(json.dumps([await one for one in futures]))
    return reply, [*state, message, reply]


async def results(api: Api, session: str, answers: dict[str, Any]) -> list[str]:
    """Of the turn, whose interrupts are answered by type or by path."""
    outcome = await api.wait(session)
    while outcome["status"] == "interrupted":
        for one in outcome["interrupts"]:
            key = one["payload"].get("tool_args", {}).get("path", one["type"])
            body = {"interrupt_id": one["interrupt_id"], "value": answers[key]}
            response = await api.http.post(f"/sessions/{session}/resume", json=body)
            assert response.status_code == 200, response.text
        outcome = await api.wait(session)
    assert outcome["error"] is None
    found: list[str] = json.loads(outcome["response"]["content"])
    return found


QUESTION = {
    "question": "Which one?",
    "header": "File",
    "options": [{"label": one, "description": one} for one in ("a", "b")],
}


async def test_approvals_and_questions_in_one_turn() -> None:
    calls = [
        ["delete_file", {"path": "a"}],
        ["delete_file", {"path": "b"}],
        ["ask_user_question", {"questions": [QUESTION]}],
        ["delete_file", {}],
    ]
    answers = {
        "a": {"approved": True},
        "b": {"approved": False},
        "user_input": {"answers": {"Which one?": "b"}},
    }
    async with served(agent) as api:
        session = await api.create()
        await api.post(session, json.dumps(calls))
        one, two, three, four = await results(api, session, answers)
    assert one == "deleted a"
    assert json.loads(two) == {"error": "User rejected delete_file"}
    assert json.loads(three) == {"Which one?": "b"}
    assert "path: missing" in json.loads(four)["error"]


def test_approvals_and_questions_at_the_command_line(tmp_path: Path) -> None:
    calls = [
        ["delete_file", {"path": "\u001b[2Ka\u202e\u200b"}],
        ["delete_file", {"path": "b"}],
        ["ask_user_question", {"questions": [QUESTION]}],
    ]
    with ServerProcess("tests.tools.test_served:one_by_one", tmp_path / "log") as server:
        done = motus_here("chat", server.url, json.dumps(calls), text="y\nyess\n3\nmy own\n")
    assert done.returncode == 0, done.stderr
    deleted, refused, answers = json.loads(done.stdout)
    assert deleted == "deleted \x1b[2Ka\u202e\u200b"
    assert json.loads(refused) == {"error": "User rejected delete_file"}
    assert json.loads(answers) == {"Which one?": "my own"}
    # What was approved could be seen.
    assert 'path: "\\u001b[2Ka\\u202e\\u200b"\nApprove? [y/N]: y\n' in done.stderr


async def one_by_one(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """The same calls in order, so that a script can answer."""
    tools = collection()
    results = [
        await tools.run(name, json.dumps(arguments))
        for name, arguments in json.loads(message.content or "")
    ]
    reply = ChatMessage.assistant_message(json.dumps(results))
    return reply, [*state, message, reply]


async def test_a_session_that_is_deleted_leaves_no_command(tmp_path: Path) -> None:
    """Nor what the command has started, in whatever group, and not even daemons."""
    async with served(shell_agent) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        pids = [await reported_async(tmp_path, name) for name in ("one", "two", "three")]
        assert all(alive(pid) for pid in pids)
        assert (await api.http.delete(f"/sessions/{session}")).status_code == 204
        await until_async(lambda: not any(alive(pid) for pid in pids), "all have ended")


async def shell_agent(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """Runs a command that never ends, in the directory that the message names."""
    sleep = "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 100"
    one, two, three = (f"bash -c '{sleep.format(name)}'" for name in ("one", "two", "three"))
    tools = normalize_tools(builtin_tools(LocalShell(cwd=message.content)))
    command = f"{one} & timeout 100 {two} & (setsid {three} &); wait"
    reply = ChatMessage.assistant_message(await tools.run("bash", json.dumps({"command": command})))
    return reply, [*state, message, reply]
