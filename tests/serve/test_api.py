"""The sessions API over real HTTP, with real workers: shapes, codes, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
import trio

from motus.serve import AgentServer
from tests.serve import agents
from tests.serve.support import Api, alive, reported_async, served, until_async

pytestmark = [pytest.mark.trio, pytest.mark.realtime]

NINE_KEYS = {
    "role", "content", "reasoning", "reasoning_details", "tool_calls", "tool_call_id", "name",
    "base64_image", "user_params",
}  # fmt: skip


async def test_a_session_from_its_creation_to_its_deletion() -> None:
    async with served(agents.echo, max_workers=3) as api:
        health = await api.http.get("/health")
        assert health.status_code == 200
        assert health.json() == {
            "status": "ok", "max_workers": 3, "running_workers": 0, "total_sessions": 0,
            "queued_turns": 0, "interrupted_sessions": 0,
            "workers_mode": health.json()["workers_mode"],
        }  # fmt: skip

        created = await api.http.post("/sessions")
        assert created.status_code == 201
        session = created.json()["session_id"]
        assert uuid.UUID(session).version == 4
        assert created.headers["location"] == f"/sessions/{session}"
        fresh = {"session_id": session, "status": "idle", "response": None, "error": None}
        assert created.json() == {**fresh, "interrupts": None}

        accepted = await api.post(session, "hello")
        assert accepted.status_code == 202
        assert accepted.headers["location"] == f"/sessions/{session}"
        assert accepted.json() == {"session_id": session, "status": "running"}

        outcome = await api.wait(session)
        assert set(outcome) == {"session_id", "status", "response", "error", "interrupts"}
        assert outcome["status"] == "idle"
        assert outcome["error"] is None
        assert outcome["interrupts"] is None
        assert set(outcome["response"]) == NINE_KEYS
        assert outcome["response"]["role"] == "assistant"
        assert outcome["response"]["content"] == "hello"

        assert await api.messages(session) == [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hello"},
        ]
        listed = await api.http.get("/sessions")
        assert listed.json() == [{"session_id": session, "total_messages": 2, "status": "idle"}]

        deleted = await api.http.delete(f"/sessions/{session}")
        assert deleted.status_code == 204
        assert deleted.content == b""
        for method, path in [
            ("GET", ""), ("DELETE", ""), ("GET", "/messages"), ("GET", "?wait=true"),
        ]:  # fmt: skip
            gone = await api.http.request(method, f"/sessions/{session}{path}")
            assert gone.status_code == 404
            assert gone.json() == {"detail": "Session not found"}
        assert (await api.post(session, "hello")).status_code == 404


async def test_a_turn_begins_with_the_state_that_there_is() -> None:
    state = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "extra": 1}]
    async with served(agents.counter) as api:
        session = await api.create(state=state)
        assert [m["content"] for m in await api.messages(session)] == ["a", "b"]
        for number in ("2", "3"):
            outcome = await api.turn(session, "next")
            assert outcome["response"]["content"] == number


async def test_a_message_while_a_turn_runs_is_a_conflict(tmp_path: Path) -> None:
    async with served(agents.wait_for_file) as api:
        session = await api.create()
        assert (await api.post(session, str(tmp_path))).status_code == 202
        refused = await api.post(session, "again")
        assert refused.status_code == 409
        assert refused.json() == {"detail": "Session is running"}
        assert (await api.wait(session, timeout=0))["status"] == "running"
        assert (await api.wait(session, timeout=0.05))["status"] == "running"
        (tmp_path / "go").touch()
        assert (await api.wait(session))["status"] == "idle"


async def test_a_client_that_goes_away_ends_its_own_wait_only(tmp_path: Path) -> None:
    async with served(agents.wait_for_file) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        with trio.move_on_after(0.2):
            await api.wait(session)
        (tmp_path / "go").touch()
        assert (await api.wait(session))["status"] == "idle"


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with served(agents.echo) as api:
        session = await api.create()
        body = json.dumps({"content": "x" * (17 * 1024 * 1024)}).encode()
        headers = {"content-type": "application/json"}
        path = f"/sessions/{session}/messages"
        response = await api.http.post(path, content=body, headers=headers)
        assert response.status_code == 413
        assert set(response.json()) == {"detail"}
        # Large, but allowed: decoded off the loop, and through the worker and back.
        outcome = await api.turn(session, "x" * 5_000_000)
        assert len(outcome["response"]["content"]) == 5_000_000


async def test_turns_beyond_the_workers_wait_for_a_slot(tmp_path: Path) -> None:
    async with served(agents.wait_for_file, max_workers=1) as api:
        directories = [tmp_path / name for name in "abc"]
        sessions = [await api.create() for _ in directories]
        for session, directory in zip(sessions, directories, strict=True):
            directory.mkdir()
            await api.post(session, str(directory))
        await until_async((directories[0] / "worker").exists, "the first turn")
        assert (await api.http.get("/health")).json()["running_workers"] == 1
        assert not (directories[1] / "worker").exists()
        # A turn that waits for a slot can be deleted, and does not take one.
        assert (await api.http.delete(f"/sessions/{sessions[1]}")).status_code == 204
        (directories[0] / "go").touch()
        (directories[2] / "go").touch()
        assert (await api.wait(sessions[2]))["status"] == "idle"
        assert not (directories[1] / "worker").exists()


async def test_the_application_runs_in_the_frameworks_own_client() -> None:
    async with served(agents.echo) as api:
        assert api.server.app.name == "motus.serve"
    async with api.server.app.test_app() as app:
        client = app.test_client()
        created = await client.post("/sessions")
        session = (await created.get_json())["session_id"]
        await client.post(f"/sessions/{session}/messages", json={"content": "hi"})
        answer = await client.get(f"/sessions/{session}?wait=true")
        assert (await answer.get_json())["response"]["content"] == "hi"


async def test_an_idle_connection_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motus.serve.server.HTTP_GRACE_SECONDS", 60.0)
    with trio.fail_after(20):
        async with AgentServer(agents.echo).serving() as serving:
            stream = await trio.open_tcp_stream(serving.host, serving.port)
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    async with stream:
        while await stream.receive_some():
            continue


async def test_concurrent_sessions_do_not_mix() -> None:
    async with served(agents.counter, max_workers=2) as api:

        async def converse(api: Api) -> None:
            session = await api.create()
            for number in ("1", "2"):
                assert (await api.turn(session, "next"))["response"]["content"] == number

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(converse, api)


async def resume_all(api: Api, session: str, seen: dict[str, Any]) -> dict[str, Any]:
    """Answer what is asked, and what is asked after that; the session when the turn is over."""
    while seen["status"] == "interrupted":
        for pending in reversed(seen["interrupts"]):
            word = pending["payload"]["word"]
            body = {"interrupt_id": pending["interrupt_id"], "value": word * 2}
            response = await api.http.post(f"/sessions/{session}/resume", json=body)
            assert response.status_code == 200, response.text
        seen = await api.wait(session)
    return seen


async def test_humans_in_the_loop_of_real_workers() -> None:
    async with served(agents.ask_words, max_workers=1) as api:
        sessions = [await api.create() for _ in range(3)]
        views = [await api.turn(session, f"a{session[0]} b c") for session in sessions]
        # None of them holds the only slot.
        assert [view["status"] for view in views] == ["interrupted"] * 3
        health = (await api.http.get("/health")).json()
        assert (health["running_workers"], health["interrupted_sessions"]) == (0, 3)
        assert await api.answer("") == "[]"
        for session, view in zip(sessions, views, strict=True):
            outcome = await resume_all(api, session, view)
            told = json.loads(outcome["response"]["content"])
            assert told == [f"a{session[0]}" * 2, "bb", "cc"]


@pytest.mark.parametrize("interrupted", [True, False], ids=["interrupted", "running"])
async def test_cancelling_ends_the_processes_of_the_turn(interrupted: bool, tmp_path: Path) -> None:
    agent = agents.ask_words if interrupted else agents.hang
    async with served(agent) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        pids = []
        if interrupted:
            assert (await api.wait(session))["status"] == "interrupted"
        else:
            pids = [await reported_async(tmp_path, name) for name in ("worker", "grandchild")]
        with trio.fail_after(5):
            response = await api.http.post(f"/sessions/{session}/cancel")
        assert response.json() == {"session_id": session, "status": "idle", "cancelled": True}
        assert not [pid for pid in pids if alive(pid)]
        assert await api.messages(session) == []
        assert (await api.http.get("/health")).json()["running_workers"] == 0


async def test_cancelling_goes_on_without_its_client(tmp_path: Path) -> None:
    async with served(agents.hang) as api:
        session = await api.create()
        await api.post(session, str(tmp_path))
        worker = await reported_async(tmp_path, "worker")
        with trio.move_on_after(0.001):
            await api.http.post(f"/sessions/{session}/cancel")
        response = await api.http.post(f"/sessions/{session}/cancel")
        assert response.json()["status"] == "idle"
        assert not alive(worker)


async def test_a_stopped_worker_and_a_large_value_harm_nobody_else() -> None:
    async with served(agents.ask_words, max_workers=2) as api:
        session = await api.create()
        [one, *_] = (await api.turn(session, "a"))["interrupts"]
        os.kill(one["payload"]["pid"], signal.SIGSTOP)
        body = {"interrupt_id": one["interrupt_id"], "value": "x" * 10_000_000}
        response = await api.http.post(f"/sessions/{session}/resume", json=body)
        assert response.json()["status"] == "running"
        # Far more than fits between the processes, so the server is in the middle of sending it.
        with trio.fail_after(10):
            assert await api.answer("") == "[]"
            cancelled = await api.http.post(f"/sessions/{session}/cancel")
        assert cancelled.json()["cancelled"]
        assert not alive(one["payload"]["pid"])


async def test_a_session_made_again_under_its_id_knows_nothing_of_the_first() -> None:
    async with served(agents.ask_words, allow_custom_ids=True) as api:
        session = str(uuid.uuid4())
        for _ in range(3):
            assert (await api.http.put(f"/sessions/{session}")).status_code == 201
            [one] = (await api.turn(session, "a"))["interrupts"]
            body = {"interrupt_id": one["interrupt_id"], "value": 1}
            deleted = await api.http.delete(f"/sessions/{session}")
            assert deleted.status_code == 204
            assert (await api.http.put(f"/sessions/{session}")).status_code == 201
            refused = await api.http.post(f"/sessions/{session}/resume", json=body)
            assert refused.status_code == 409
            fresh = await api.wait(session)
            assert (fresh["status"], fresh["response"], fresh["error"]) == ("idle", None, None)
            assert not alive(one["payload"]["pid"])
            await api.http.delete(f"/sessions/{session}")
