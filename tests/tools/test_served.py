"""Tools that ask a human, in a served session over plain HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from motus.models import ChatMessage
from motus.tools import DictTools, normalize_tools, tool
from motus.tools.builtins.ask_user import ask_user_question
from tests.serve.support import Api, served

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


async def test_approvals_and_questions_in_one_turn() -> None:
    question = {
        "question": "Which one?",
        "header": "File",
        "options": [{"label": one, "description": one} for one in ("a", "b")],
    }
    calls = [
        ["delete_file", {"path": "a"}],
        ["delete_file", {"path": "b"}],
        ["ask_user_question", {"questions": [question]}],
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
