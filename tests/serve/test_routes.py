"""The routes over turns without processes: human in the loop, cancelling, limits, bodies."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from motus.serve.events import Status
from motus.serve.schemas import to_json, webhook_payload
from tests.serve.fakes import FakeWorker, House, house, settle

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def agent(worker: FakeWorker) -> str:
    """Echoes; `ask N` raises interrupts first, `hang` never ends, `fail` fails."""
    verb, _, number = worker.content.partition(" ")
    if verb == "ask":
        asked = [worker.ask(type="tool_approval", number=n) for n in range(int(number or "1"))]
        return json.dumps([await worker.value(one) for one in asked])
    if verb == "hang":
        await trio.sleep_forever()
    if verb == "fail":
        worker.fail("ValueError: boom")
        await trio.sleep_forever()
    return worker.content


async def send(house: House, path: str, content: str, **more: Any) -> tuple[int, Any]:
    answer = await house.ask("POST", f"{path}/messages", {"content": content, **more})
    await settle()
    return answer


async def create(house: House) -> str:
    status, session = await house.ask("POST", "/sessions")
    assert status == 201
    return f"/sessions/{session['session_id']}"


async def test_a_human_in_the_loop() -> None:
    async with house(agent) as h:
        path = await create(h)
        assert (await send(h, path, "ask 2"))[0] == 202
        began = trio.current_time()
        status, session = await h.ask("GET", f"{path}?wait=true")
        # At once, although somebody waits for it.
        assert (status, trio.current_time()) == (200, began)
        assert (session["status"], session["response"]) == ("interrupted", None)
        first, second = session["interrupts"]
        assert first == {
            "interrupt_id": first["interrupt_id"],
            "type": "tool_approval",
            "payload": {"type": "tool_approval", "number": 0},
        }
        assert await send(h, path, "again") == (409, {"detail": "Session is interrupted"})

        async def resume(one: Any, value: Any) -> tuple[int, Any]:
            body = {"interrupt_id": one["interrupt_id"], "value": value}
            answer = await h.ask("POST", f"{path}/resume", body)
            await settle()
            return answer

        body = {"session_id": session["session_id"]}
        assert await resume(second, {"approved": False}) == (200, {**body, "status": "interrupted"})
        unknown = {"detail": f"Unknown interrupt_id: {second['interrupt_id']}"}
        assert await resume(second, {"approved": True}) == (404, unknown)
        _, session = await h.ask("GET", path)
        assert session["interrupts"] == [first]
        assert await resume(first, None) == (200, {**body, "status": "running"})
        assert await resume(first, None) == (409, {"detail": "Session is idle, not interrupted"})
        _, session = await h.ask("GET", path)
        assert json.loads(session["response"]["content"]) == [None, {"approved": False}]
        nowhere = await h.ask("POST", "/sessions/x/resume", {"interrupt_id": "x", "value": 1})
        assert nowhere == (404, {"detail": "Session not found"})


async def test_a_resume_while_the_turn_runs_is_a_conflict() -> None:
    async with house(agent) as h:
        path = await create(h)
        await send(h, path, "hang")
        answer = await h.ask("POST", f"{path}/resume", {"interrupt_id": "x", "value": 1})
        assert answer == (409, {"detail": "Session is running, not interrupted"})


async def test_cancelling() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 2
        path = await create(h)
        session_id = path.rpartition("/")[2]
        quiet = {"session_id": session_id, "status": "idle", "cancelled": False}
        assert await h.ask("POST", f"{path}/cancel") == (200, quiet)
        assert (await send(h, path, "hello"))[0] == 202
        for content in ("hang", "ask 2"):
            await send(h, path, content)
            began = trio.current_time()
            assert await h.ask("POST", f"{path}/cancel") == (200, {**quiet, "cancelled": True})
            assert trio.current_time() - began == pytest.approx(2)
            _, session = await h.ask("GET", path)
            assert (session["status"], session["error"], session["interrupts"]) == (
                "idle", None, None
            )  # fmt: skip
            # The conversation is as it was before the turn.
            assert len((await h.ask("GET", f"{path}/messages"))[1]) == 2
        assert await h.ask("POST", "/sessions/x/cancel") == (404, {"detail": "Session not found"})


async def test_every_waiter_is_answered() -> None:
    async def work(worker: FakeWorker) -> str:
        await trio.sleep(5)
        return "done"

    async with house(work) as h:
        path = await create(h)
        await send(h, path, "x")
        seen: list[str] = []

        async def wait() -> None:
            _, session = await h.ask("GET", f"{path}?wait=true")
            seen.append(session["status"])

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(wait)
        assert seen == ["idle"] * 10
        assert trio.current_time() - began == pytest.approx(5)


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "y", "t", "True"])
async def test_the_words_for_waiting(word: str) -> None:
    async with house(agent) as h:
        path = await create(h)
        await send(h, path, "hello")
        assert (await h.ask("GET", f"{path}?wait={word}"))[1]["status"] == "idle"


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "n", "f", "False"])
async def test_the_words_for_not_waiting(word: str) -> None:
    async with house(agent) as h:
        path = await create(h)
        await send(h, path, "hang")
        assert (await h.ask("GET", f"{path}?wait={word}"))[1]["status"] == "running"


async def test_a_wait_for_a_session_that_is_deleted_says_so() -> None:
    async with house(agent) as h:
        path = await create(h)
        await send(h, path, "hang")
        answers: list[tuple[int, Any]] = []

        async def wait() -> None:
            answers.append(await h.ask("GET", f"{path}?wait=true"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            assert await h.ask("DELETE", path) == (204, None)
        assert answers == [(404, {"detail": "Session deleted"})]


async def test_custom_ids() -> None:
    session = str(uuid.uuid4())
    async with house(agent) as h:
        response = await h.http.put(f"/sessions/{session}")
        assert response.status_code == 405
        assert await response.get_json() == {"detail": "Custom session IDs are not enabled"}
        assert "DELETE" in response.headers["allow"]
        assert "PUT" not in response.headers["allow"]
    async with house(agent, allow_custom_ids=True) as h:
        status, created = await h.ask("PUT", f"/sessions/{session}", {"state": []})
        assert (status, created["session_id"]) == (201, session)
        again = await h.ask("PUT", f"/sessions/{session}")
        assert again == (409, {"detail": "Session already exists"})
        plain = session.replace("-", "")
        status, created = await h.ask("PUT", f"/sessions/{plain.upper()}")
        assert (status, created["session_id"]) == (201, plain)
        assert (await h.ask("DELETE", f"/sessions/{plain}"))[0] == 204
        assert (await h.ask("GET", f"/sessions/{session}"))[0] == 200
        for wrong in (
            "mine",
            "{" + session + "}",
            "a" * 1000,
            plain[1:],
            session[:-1],
            plain + "0",
        ):
            refused = await h.ask("PUT", f"/sessions/{wrong}")
            assert refused == (400, {"detail": "Session ID must be a valid UUID"})


async def test_a_session_has_one_name_whatever_the_case_of_its_letters() -> None:
    name = "0A1B2C3D-4E5F-4A6B-8C7D-9E0FABCDEF01"
    async with house(agent, allow_custom_ids=True) as h:
        status, created = await h.ask("PUT", f"/sessions/{name}")
        assert (status, created["session_id"]) == (201, name.lower())
        assert (await h.ask("PUT", f"/sessions/{name.lower()}"))[0] == 409
        assert len((await h.ask("GET", "/sessions"))[1]) == 1
        for same in (name, name.lower()):
            body = {"content": "hello"}
            status, accepted = await h.ask("POST", f"/sessions/{same}/messages", body)
            assert (status, accepted["session_id"]) == (202, name.lower())
            _, found = await h.ask("GET", f"/sessions/{same}?wait=true")
            assert (found["session_id"], found["status"]) == (name.lower(), "idle")
        assert (await h.ask("DELETE", f"/sessions/{name}"))[0] == 204
        assert (await h.ask("GET", f"/sessions/{name.lower()}"))[0] == 404


async def test_a_wrong_shape_names_the_field() -> None:
    async with house(agent) as h:
        body = {"state": [{"role": "user"}, {"role": "user", "content": ["x"]}]}
        status, answer = await h.ask("POST", "/sessions", body)
        [problem] = answer["detail"]
        assert (status, problem["loc"]) == (422, ["body", "state", 1, "content"])
        assert problem["msg"] == "expected a string, got a list"


async def test_unknown_paths_and_methods_answer_in_json() -> None:
    async with house(agent) as h:
        assert await h.ask("GET", "/nowhere") == (404, {"detail": "Not Found"})
        wrong = await h.http.patch("/sessions")
        assert wrong.status_code == 405
        assert await wrong.get_json() == {"detail": "Method Not Allowed"}
        assert "POST" in wrong.headers["allow"]


async def test_under_a_path_of_its_host_the_application_says_where_sessions_are() -> None:
    async with house(agent) as h:
        created = await h.http.post("/agents/sessions", root_path="/agents")
        session = (await created.get_json())["session_id"]
        path = f"/agents/sessions/{session}"
        assert created.headers["location"] == path
        sent = await h.http.post(f"{path}/messages", json={"content": "x"}, root_path="/agents")
        assert (sent.status_code, sent.headers["location"]) == (202, path)


async def test_two_who_cancel_and_one_who_deletes_are_all_answered() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 2
        path = await create(h)
        await send(h, path, "hang")
        answers: list[tuple[int, Any]] = []

        async def call(method: str, path: str) -> None:
            answers.append(await h.ask(method, path))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(call, "POST", f"{path}/cancel")
            await settle()
            nursery.start_soon(call, "DELETE", path)
        assert sorted(status for status, _ in answers) == [204, 404, 404]
        assert {"detail": "Session deleted"} in [body for _, body in answers]


async def test_who_waits_for_a_cancelled_turn_is_answered_when_it_is_gone() -> None:
    async with house(agent) as h:
        h.pool.kill_seconds = 2
        path = await create(h)
        await send(h, path, "hang")
        seen: list[str] = []

        async def wait() -> None:
            seen.append((await h.ask("GET", f"{path}?wait=true"))[1]["status"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            nursery.start_soon(h.ask, "POST", f"{path}/cancel")
            await settle()
            assert seen == []
        assert seen == ["idle"]


async def test_turns_beyond_the_queue_are_refused() -> None:
    async with house(agent, max_workers=1, max_queued=2) as h:
        paths = [await create(h) for _ in range(4)]
        for path in paths[:3]:
            # Not settled in between: those count that are about to take the free slot.
            assert (await h.ask("POST", f"{path}/messages", {"content": "hang"}))[0] == 202
        response = await h.http.post(f"{paths[3]}/messages", json={"content": "x"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert await response.get_json() == {"detail": "Too many turns are waiting for a worker"}
        assert (await h.ask("GET", paths[3]))[1]["status"] == "idle"
        # What is wrong with the request itself is said first.
        assert (await send(h, paths[0], "x"))[0] == 409
        assert (await h.ask("GET", "/health"))[1] == {
            "status": "ok", "max_workers": 1, "running_workers": 1, "total_sessions": 4,
            "queued_turns": 2, "interrupted_sessions": 0, "workers_mode": "fake",
        }  # fmt: skip
        await h.ask("POST", f"{paths[1]}/cancel")
        assert (await send(h, paths[3], "hang"))[0] == 202


async def test_values_are_not_refused_for_want_of_a_slot() -> None:
    async with house(agent, max_workers=1, max_queued=1) as h:
        asking = await create(h)
        await send(h, asking, "ask")
        for _ in range(2):
            await send(h, await create(h), "hang")
        [one] = (await h.ask("GET", asking))[1]["interrupts"]
        body = {"interrupt_id": one["interrupt_id"], "value": 1}
        assert (await h.ask("POST", f"{asking}/resume", body))[0] == 200
        await settle()
        assert (await h.ask("GET", "/health"))[1]["queued_turns"] == 2


async def test_pollers_beyond_the_bound_are_refused_at_once() -> None:
    async with house(agent, max_pollers=2) as h:
        path, other = await create(h), await create(h)
        await send(h, path, "hang")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(h.ask, "GET", f"{path}?wait=true&timeout=50")
            await settle()
            response = await h.http.get(f"{path}?wait=true")
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            # Who does not have to wait is not counted.
            assert (await h.ask("GET", path))[0] == 200
            assert (await h.ask("GET", f"{path}?wait=true&timeout=0"))[0] == 200
            assert (await h.ask("GET", f"{other}?wait=true"))[0] == 200
        assert (await h.ask("GET", f"{path}?wait=true&timeout=1"))[0] == 200


async def test_a_long_poll_is_clamped() -> None:
    async with house(agent) as h:
        path = await create(h)
        await send(h, path, "hang")
        for query, seconds in (
            ("wait=true", 300), ("wait=1&timeout=1e9", 300), ("wait=yes&timeout=2.5", 2.5),
            ("wait=TRUE&timeout=0", 0), ("timeout=7", 0), ("wait=off", 0),
        ):  # fmt: skip
            began = trio.current_time()
            status, session = await h.ask("GET", f"{path}?{query}")
            assert (status, session["status"]) == (200, "running")
            assert trio.current_time() - began == pytest.approx(seconds)


@pytest.mark.parametrize("query", [
    "wait=maybe", "wait=", "wait=2", "wait=true&timeout=soon", "timeout=nan", "timeout=-1",
    "timeout=Infinity", "timeout=1e999", "timeout=", "timeout=true", "timeout=1_0", "timeout=[1]",
    "timeout=%D9%A1", "timeout=%ED%A0%80",
])  # fmt: skip
async def test_wrong_parameters_are_named(query: str) -> None:
    async with house(agent) as h:
        status, body = await h.ask("GET", f"{await create(h)}?{query}")
        assert status == 422
        [problem] = body["detail"]
        assert problem["loc"][0] == "query"
        assert set(problem) == {"loc", "msg", "type"}


async def test_a_full_server_and_a_stopping_one_say_when_to_ask_again() -> None:
    async with house(agent, max_sessions=1) as h:
        path = await create(h)
        response = await h.http.post("/sessions")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert await response.get_json() == {"detail": "Maximum number of sessions reached"}
        await h.ask("DELETE", path)
        path = await create(h)
        await h.turns.drain(1)
        response = await h.http.post(f"{path}/messages", json={})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert await response.get_json() == {"detail": "Server is shutting down"}


async def test_a_state_beyond_the_limit() -> None:
    async with house(agent, max_state_size=1024) as h:
        state = [{"role": "user", "content": "x" * 1000}]
        assert (await h.ask("POST", "/sessions", {"state": state}))[0] == 413
        state = [{"role": "user", "content": "x" * 900}]
        status, session = await h.ask("POST", "/sessions", {"state": state})
        assert status == 201
        path = f"/sessions/{session['session_id']}"
        assert (await send(h, path, "y" * 200))[0] == 202
        _, session = await h.ask("GET", path)
        assert session["status"] == "error"
        assert session["error"].startswith("The conversation is too long: ")
        # The session goes on with what it had.
        assert (await h.ask("GET", f"{path}/messages"))[1] == state
        assert (await send(h, path, "y"))[0] == 202
        assert (await h.ask("GET", path))[1]["status"] == "idle"


async def test_sessions_expire_within_a_second() -> None:
    async with house(agent, ttl=10) as h:
        paths = {}
        for content in ("hello", "fail", "ask", "hang"):
            paths[content] = await create(h)
            await send(h, paths[content], content)
        untouched = await create(h)
        await trio.sleep(9.9)
        assert [(await h.ask("GET", path))[0] for path in paths.values()] == [200] * 4
        await trio.sleep(1)
        found = {content: (await h.ask("GET", path))[0] for content, path in paths.items()}
        assert found == {"hello": 404, "fail": 404, "ask": 200, "hang": 200}
        assert (await h.ask("GET", untouched))[0] == 404
        # From the end of the turn on, and not from its beginning.
        await h.ask("POST", f"{paths['hang']}/cancel")
        await trio.sleep(9.9)
        assert (await h.ask("GET", paths["hang"]))[0] == 200
        await trio.sleep(1)
        assert (await h.ask("GET", paths["hang"]))[0] == 404


async def test_every_field_of_a_message_reaches_the_agent() -> None:
    async with house(agent) as h:
        path = await create(h)
        call = {"id": "1", "function": {"name": "f", "arguments": "{}"}, "type": "function"}
        message = {
            "role": "assistant", "content": None, "reasoning": "r", "reasoning_details": [1],
            "tool_calls": [call], "tool_call_id": "2", "name": "n", "base64_image": "aGk=",
            "user_params": {"a": {"b": [None, 1.5]}},
        }  # fmt: skip
        body = {**message, "unknown": 1, "webhook": None}
        assert (await h.ask("POST", f"{path}/messages", body))[0] == 202
        await settle()
        turn = h.pool.workers[0].turn
        assert turn is not None
        stored = (await h.ask("GET", f"{path}/messages"))[1][0]
        assert stored == {key: value for key, value in message.items() if value is not None}
        assert (await h.ask("POST", f"{path}/messages", {}))[0] == 202
        await settle()
        assert (await h.ask("GET", f"{path}/messages"))[1][2] == {"role": "user"}


HOOK = {"url": "http://example.org/hook?x=1", "token": "secret", "include_messages": True}


async def test_a_webhook_is_called_when_a_turn_is_over() -> None:
    async with house(agent) as h:
        path = await create(h)
        session_id = path.rpartition("/")[2]
        await send(h, path, "hello", webhook=HOOK)
        [call] = h.calls.made
        assert (call.webhook.url, call.webhook.token) == (HOOK["url"], "secret")
        spoken = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
        assert json.loads(webhook_payload(call)) == {
            "session_id": session_id, "status": "idle", "response": spoken[1], "messages": spoken,
        }  # fmt: skip
        await send(h, path, "fail", webhook={"url": "https://[::1]:8000"})
        assert json.loads(webhook_payload(h.calls.made[1])) == {
            "session_id": session_id, "status": "error", "error": "ValueError: boom",
        }  # fmt: skip
        await send(h, path, "ask", webhook=HOOK)
        assert len(h.calls.made) == 2
        await h.ask("POST", f"{path}/cancel")
        assert [call.view.status for call in h.calls.made] == [
            Status.IDLE, Status.ERROR, Status.IDLE
        ]  # fmt: skip
        await send(h, path, "hello")
        await send(h, path, "hang", webhook=HOOK)
        await h.ask("DELETE", path)
        assert len(h.calls.made) == 3


@pytest.mark.parametrize(("webhook", "where"), [
    (5, []), ({}, ["url"]), ({"url": None}, ["url"]), ({"url": ""}, ["url"]),
    ({"url": "ftp://x/"}, ["url"]), ({"url": "http://"}, ["url"]), ({"url": "//x"}, ["url"]),
    ({"url": "http://user:secret@x/"}, ["url"]), ({"url": "http://x/\n"}, ["url"]),
    ({"url": "http://x/\r\nevil: 1"}, ["url"]), ({"url": "http://x:port/"}, ["url"]),
    ({"url": "http://ex ample/"}, ["url"]), ({"url": "http://\u00e9/"}, ["url"]),
    ({"url": "http://x/" + "y" * 3000}, ["url"]), ({"url": "http://x", "token": 1}, ["token"]),
    ({"url": "http://x", "token": "a\nb"}, ["token"]),
    ({"url": "http://x", "token": ""}, ["token"]),
    ({"url": "http://x", "include_messages": "yes"}, ["include_messages"]),
])  # fmt: skip
async def test_a_webhook_that_cannot_be_called_is_refused(webhook: Any, where: list[str]) -> None:
    async with house(agent) as h:
        path = await create(h)
        status, body = await send(h, path, "hello", webhook=webhook)
        assert status == 422
        [problem] = body["detail"]
        assert problem["loc"] == ["body", "webhook", *where]
        assert "secret" not in json.dumps(body)
        assert (await h.ask("GET", f"{path}/messages"))[1] == []


async def test_a_long_list_of_sessions_does_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    def encoded(body: object) -> bytes:
        events.append("encoded")
        return to_json(body)

    async def tick() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            events.append("tick")

    monkeypatch.setattr("motus.serve.app.SESSIONS_AT_A_TIME", 2)
    async with house(agent) as h:
        paths = [await create(h) for _ in range(5)]
        monkeypatch.setattr("motus.serve.app.to_json", encoded)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            _, sessions = await h.ask("GET", "/sessions")
            nursery.cancel_scope.cancel()
        assert [f"/sessions/{session['session_id']}" for session in sessions] == paths
        assert events.count("encoded") == 3
        # The others have had a turn from the first portion to the last.
        first, last = events.index("encoded"), len(events) - events[::-1].index("encoded")
        assert "tick" in events[first:last]

        for path in paths:
            assert (await h.ask("DELETE", path))[0] == 204
        assert await h.ask("GET", "/sessions") == (200, [])
