"""Tools that ask a human first, and questions to one."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, ValidationError

from motus.guardrails import ToolInputGuardrailTripped
from motus.runtime import TaskCancelledError, cancel, open_runtime
from motus.testing import answer_interrupts
from motus.tools import AgentTool, FunctionTool, Tool, normalize_tools, tool
from motus.tools.builtins.ask_user import (
    AskUserQuestionSchema,
    Option,
    Question,
    ask_user_question,
)

pytestmark = pytest.mark.anyio

deleted: list[Any] = []


class File(BaseModel):
    path: str


@tool(requires_approval=True)
async def delete_file(file: File, force: bool = False) -> str:
    """Delete a file."""
    deleted.append(file.path)
    return f"deleted {file.path}"


@pytest.fixture(autouse=True)
def nothing_deleted() -> None:
    deleted.clear()


CALL = '{"file": {"path": "a.txt"}}'


async def test_an_approved_call_runs() -> None:
    called = FunctionTool(delete_file)
    assert called.requires_approval
    with answer_interrupts([{"approved": True, "comment": "fine"}]) as asked:
        assert await called.run(CALL) == "deleted a.txt"
    assert asked.payloads == [
        {
            "type": "tool_approval",
            "tool_name": "delete_file",
            "tool_args": {"file": {"path": "a.txt"}},
        }
    ]


@pytest.mark.parametrize(
    "answer", [{"approved": False}, {}, None, True, "yes", [], {"approved": "yes"}, {"approved": 1}]
)
async def test_nothing_but_true_approves(answer: Any) -> None:
    with answer_interrupts([answer]):
        result = await FunctionTool(delete_file).run(CALL)
    assert json.loads(result) == {"error": "User rejected delete_file"}
    assert deleted == []


async def test_outside_of_a_session_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    assert "interrupt() called outside" in await FunctionTool(delete_file).run(CALL)
    assert deleted == []
    # Nor will it ever, which the model alone would know.
    assert "tool 'delete_file' failed" in caplog.text
    assert "interrupt() called outside" in caplog.text


async def test_only_what_would_run_is_asked_about() -> None:
    def guard(file: File) -> dict[str, Any]:
        if file.path.startswith("/"):
            raise ToolInputGuardrailTripped("relative paths only")
        return {"file": File(path="trash/" + file.path)}

    called = FunctionTool(delete_file, input_guardrails=[guard])
    with answer_interrupts([{"approved": True}]) as asked:
        assert "file.path: missing" in await called.run('{"file": {}}')
        assert "relative paths only" in await called.run('{"file": {"path": "/etc"}}')
        assert asked.payloads == []
        assert await called.run(CALL) == "deleted trash/a.txt"
    assert asked.payloads[0]["tool_args"] == {"file": {"path": "trash/a.txt"}}


async def test_what_is_too_large_to_be_shown_does_not_run() -> None:
    with answer_interrupts([]):
        result = await FunctionTool(delete_file).run(json.dumps({"file": {"path": "x" * 20_000}}))
    assert "Interrupt message too large" in result
    assert deleted == []


async def test_what_the_model_may_not_see_is_not_shown_either() -> None:
    async def send(text: str, _token: object = None) -> str:
        return f"{text} {_token is marker}"

    marker = object()
    called = FunctionTool(
        send, input_guardrails=[lambda: {"_token": marker}], requires_approval=True
    )
    with answer_interrupts([{"approved": True}]) as asked:
        assert await called.run('{"text": "hi"}') == "hi True"
    assert asked.payloads[0]["tool_args"] == {"text": "hi"}

    # What the model has set itself is shown, whatever it is called.
    class Remote(Tool):
        async def invoke(self, arguments: dict[str, Any]) -> Any:
            return arguments

    with answer_interrupts([{"approved": True}]) as asked:
        await Remote("remote", requires_approval=True).run('{"_force": true}')
    assert asked.payloads[0]["tool_args"] == {"_force": True}


class Agent:
    """As little as a tool needs of one."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.max_steps: int | None = None
        self.asked: list[str] = []

    def fork(self) -> Agent:
        return self

    async def __call__(self, prompt: str, /) -> str:
        self.asked.append(prompt)
        return prompt.upper()


async def test_of_an_agent_too_what_is_shown_is_what_it_gets() -> None:
    agent = Agent("writer")
    called = tool(
        AgentTool(agent, input_guardrails=[lambda prompt: prompt + "!"]), requires_approval=True
    )
    with answer_interrupts([{"approved": True}, {"approved": False}]) as asked:
        assert await called.run('{"request": "go"}') == "GO!"
        # Guardrails that are given later take the prompt as well.
        tool(called, input_guardrails=[lambda text: {"request": f"<{text}>"}])
        assert "User rejected writer" in await called.run('{"request": "stop"}')
    assert [one["tool_args"] for one in asked.payloads] == [
        {"request": "go!"},
        {"request": "<stop>"},
    ]
    assert agent.asked == ["go!"]


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("Head of R&D", "Head_of_R_D"),
        ("3rd reviewer", "_3rd_reviewer"),
        ("\u7814\u7a76", "__"),
        ("x" * 100, "x" * 64),
        (None, "Agent"),
    ],
)
def test_an_agent_of_any_name_is_a_tool(name: str | None, known_as: str) -> None:
    assert AgentTool(Agent(name)).name == known_as


async def test_an_extractor_may_be_a_coroutine_function() -> None:
    async def extract(answer: str) -> dict[str, int]:
        return {"length": len(answer)}

    called = AgentTool(Agent("a"), output_extractor=extract)
    assert await called.run('{"request": "four"}') == '{"length": 4}'


async def test_what_cannot_be_shown_does_not_run() -> None:
    ran: list[object] = []

    async def f(x: Any) -> None:
        ran.append(x)

    called = FunctionTool(f, input_guardrails=[lambda: {"x": object()}], requires_approval=True)
    with answer_interrupts([]) as asked:
        assert "what is to be approved is a dict that cannot be written" in await called.run(
            '{"x": 1}'
        )
        assert "nested deeper than 64" in await FunctionTool(f, requires_approval=True).run(
            '{"x": ' + "[" * 100 + "]" * 100 + "}"
        )
    assert asked.payloads == []
    assert ran == []


async def test_several_approvals_wait_at_the_same_time() -> None:
    async def slowly(payload: dict[str, Any]) -> dict[str, bool]:
        await anyio.sleep(10)
        return {"approved": payload["tool_args"]["file"]["path"] != "1"}

    called = FunctionTool(delete_file)
    begin = anyio.current_time()
    with answer_interrupts(slowly):
        futures = [called.run(json.dumps({"file": {"path": str(n)}})) for n in range(3)]
        results = [await one for one in futures]
    assert anyio.current_time() - begin == pytest.approx(10)
    assert results == ["deleted 0", '{"error": "User rejected delete_file"}', "deleted 2"]


async def test_a_call_that_waits_for_approval_can_be_cancelled() -> None:
    with answer_interrupts(lambda _: anyio.sleep(1000)) as asked:
        async with open_runtime():
            future = FunctionTool(delete_file).run(CALL)
            await anyio.wait_all_tasks_blocked()
            assert len(asked.payloads) == 1
            cancel(future)
            with pytest.raises(TaskCancelledError):
                await future
    assert deleted == []


async def test_the_end_of_the_turn_is_an_error_of_the_call() -> None:
    def closed(payload: dict[str, Any]) -> Any:
        raise EOFError("Worker pipe closed")

    with answer_interrupts(closed):
        assert await FunctionTool(delete_file).run(CALL) == '{"error": "Worker pipe closed"}'
    assert deleted == []


# ---------------------------------------------------------------------- questions

QUESTION = {
    "question": "Which file?",
    "header": "File",
    "options": [
        {"label": "a.txt", "description": "The first"},
        {"label": "b.txt", "description": "The second", "markdown": "`b`"},
    ],
}


async def test_a_question_is_shown_and_its_answers_are_the_result() -> None:
    found = normalize_tools([ask_user_question])
    with answer_interrupts([{"answers": {"Which file?": "a.txt"}}]) as asked:
        result = await found.run("ask_user_question", json.dumps({"questions": [QUESTION]}))
    assert json.loads(result) == {"Which file?": "a.txt"}
    assert asked.payloads == [
        {"type": "user_input", "questions": [{**QUESTION, "multiSelect": False}]}
    ]


async def test_it_is_a_function_too() -> None:
    question = Question(
        question="Sure?",
        header="Sure",
        options=[Option(label=one, description=one) for one in ("yes", "no")],
        multiSelect=True,
    )
    with answer_interrupts([{"answers": {"Sure?": ["yes", "no"]}}]) as asked:
        assert await ask_user_question([question]) == {"Sure?": ["yes", "no"]}
    assert asked.payloads[0]["questions"][0]["multiSelect"] is True


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"questions": []}, "questions: List should have at least 1 item"),
        ({"questions": [QUESTION] * 5}, "questions: List should have at most 4 items"),
        ({"questions": [{**QUESTION, "options": QUESTION["options"][:1]}]}, "at least 2 items"),
        ({"questions": [{**QUESTION, "options": [*QUESTION["options"]] * 3}]}, "at most 4 items"),
        ({"questions": [{**QUESTION, "header": None}]}, "questions.0.header"),
        ({}, "questions: missing"),
    ],
    ids=range(6),
)
async def test_questions_are_checked(changes: dict[str, Any], reason: str) -> None:
    with answer_interrupts([]) as asked:
        result = await FunctionTool(ask_user_question).run(json.dumps(changes))
    assert reason in json.loads(result)["error"]
    assert asked.payloads == []


@pytest.mark.parametrize("reply", [None, "a.txt", {}, {"answers": "a.txt"}])
async def test_a_reply_without_answers_is_an_error(reply: Any) -> None:
    with answer_interrupts([reply]):
        result = await FunctionTool(ask_user_question).run(json.dumps({"questions": [QUESTION]}))
    assert json.loads(result) == {"error": 'the reply to the questions has no "answers"'}


def test_the_schema_is_the_documented_one() -> None:
    with pytest.raises(ValidationError):
        AskUserQuestionSchema(questions=[])
    schema = FunctionTool(ask_user_question).json_schema
    questions = schema["properties"]["questions"]
    assert (questions["minItems"], questions["maxItems"]) == (1, 4)
    question = questions["items"]
    assert question["required"] == ["question", "header", "options"]
    assert question["properties"]["multiSelect"]["default"] is False
    options = question["properties"]["options"]
    assert (options["minItems"], options["maxItems"]) == (2, 4)
    assert options["items"]["required"] == ["label", "description"]
    assert options["items"]["properties"]["markdown"]["type"] == "string"
