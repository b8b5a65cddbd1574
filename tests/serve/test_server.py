"""Starting, serving and stopping: `AgentServer` as a program and inside other programs (G8)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from click.testing import CliRunner

from motus.serve import AgentServer
from motus.serve.cli import serve
from motus.serve.config import MoreSettings
from motus.serve.server import AddressError, Serving, UnsupportedSystemError, _without_echoes
from tests.serve import agents, edge_agents
from tests.serve.support import (
    PATIENCE,
    Api,
    ServerProcess,
    alive,
    reported,
    reported_async,
    served,
    until,
    until_async,
)

GRACE = 0.5
POLLS = 5
TOKEN = "t0ken-of-the-server"
AGENT = "tests.serve.edge_agents:anything"


# The application.


def test_elsewhere_than_on_linux_a_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(UnsupportedSystemError, match="The server needs Linux"):
        AgentServer("tests.serve.agents:echo")
    result = CliRunner().invoke(serve, ["start", "tests.serve.agents:echo"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: The server needs Linux")


@pytest.mark.trio
@pytest.mark.realtime
async def test_the_application_is_guarded_also_without_our_server() -> None:
    app = AgentServer(agents.echo, auth_token=TOKEN).app
    async with app.test_app() as running:
        client = running.test_client()
        refused = await client.get("/sessions")
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert "Bearer" in (await refused.get_json())["detail"]
        assert (await client.get("/health")).status_code == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/sessions", headers=bearer)).status_code == 200
        assert (await client.get("/docs")).status_code == 401
        text = {**bearer, "Content-Type": "text/plain"}
        assert (await client.post("/sessions", headers=text, data=b"{}")).status_code == 415


@pytest.mark.trio
@pytest.mark.realtime
async def test_every_answer_has_security_headers() -> None:
    app = AgentServer(agents.echo).app
    async with app.test_app() as running:
        client = running.test_client()
        for path in ("/health", "/sessions", "/nowhere", "/docs", "/openapi.json"):
            headers = (await client.get(path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert not any(name.lower().startswith("access-control") for name in dict(headers))
        refused = await client.get("/sessions", headers={"Origin": "http://evil.example"})
        assert refused.status_code == 403
        assert refused.headers["X-Content-Type-Options"] == "nosniff"
        asked = await client.options("/sessions", headers={"Origin": "http://evil.example"})
        assert asked.status_code == 403


def test_on_asyncio_the_application_says_what_it_needs() -> None:
    app: Any = AgentServer(agents.echo).app
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    http = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(app({"type": "lifespan"}, receive, send))
    asyncio.run(app(http, receive, send))
    asyncio.run(app({"type": "websocket"}, receive, send))
    failed, start, body, closed = said
    assert failed["type"] == "lifespan.startup.failed"
    assert "runs on trio" in failed["message"]
    assert start["status"] == 500
    assert "asyncio" in json.loads(body["body"])["detail"]
    assert closed["type"] == "websocket.close"


def test_on_asyncio_serving_says_what_it_needs() -> None:
    async def serve() -> None:
        async with AgentServer(agents.echo).serving():
            raise AssertionError("it serves")

    with pytest.raises(RuntimeError, match=r"runs on trio, and this program on asyncio: .*run\(\)"):
        asyncio.run(serve())


@pytest.mark.trio
async def test_websockets_are_refused_whoever_the_host_is() -> None:
    app: Any = AgentServer(agents.echo).app
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await app({"type": "websocket"}, None, send)
    assert [message["type"] for message in said] == ["websocket.close"]


# Inside a trio program.


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_cancelled_block_leaves_nothing_behind(tmp_path: Path) -> None:
    pids: list[int] = []
    url = ""
    with trio.move_on_after(60) as scope:
        async with served(agents.hang) as api:
            url = str(api.http.base_url)
            await api.post(await api.create(), str(tmp_path))
            pids = [await reported_async(tmp_path, name) for name in ("worker", "grandchild")]
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert pids
    assert not any(map(alive, pids))
    assert not _listens(int(url.rpartition(":")[2].strip("/")))


@pytest.mark.trio
@pytest.mark.realtime
async def test_an_error_in_the_block_stops_turns_at_once_and_comes_out(tmp_path: Path) -> None:
    began = 0.0
    with pytest.raises(ExceptionGroup) as caught:
        async with served(agents.hang) as api:
            await api.post(await api.create(), str(tmp_path))
            pids = [await reported_async(tmp_path, name) for name in ("worker", "grandchild")]
            began = trio.current_time()
            raise KeyError("mine")
    assert trio.current_time() - began < 5
    assert caught.group_contains(KeyError, match="mine")
    assert not any(map(alive, pids))


@pytest.mark.trio
@pytest.mark.realtime
async def test_leaving_the_block_lets_turns_finish_and_answers_who_waits(tmp_path: Path) -> None:
    outcomes: list[str] = []

    async def poll(api: Api, session: str) -> None:
        outcomes.append((await api.wait(session))["status"])

    async with trio.open_nursery() as nursery:
        server = AgentServer(agents.wait_for_file)
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as http,
            server.serving() as serving,
        ):
            http.base_url = httpx.URL(serving.url)
            api = Api(server, http)
            session = await api.create()
            await api.post(session, str(tmp_path))
            await reported_async(tmp_path, "worker")
            nursery.start_soon(poll, api, session)

            async def finish() -> None:
                # Once no more connections are taken: the block is being left.
                await until_async(lambda: not _listens(serving.port), "the end of accepting")
                (tmp_path / "go").touch()

            nursery.start_soon(finish)
    assert outcomes == ["idle"]


@pytest.mark.trio
@pytest.mark.realtime
async def test_an_address_that_is_taken_is_an_error_before_the_agent_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(1000)")
    with socket.create_server(("127.0.0.1", 0)) as other, trio.fail_after(PATIENCE):
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=r"Address already in use$"):
            async with AgentServer("slow_to_import:agent").serving(port=port):
                pass


@pytest.mark.trio
@pytest.mark.realtime
async def test_an_address_that_is_none_is_an_error_that_names_it() -> None:
    for host, port in (("127.0.0.1", 70_000), ("a..b", 0), ("nowhere.invalid", 0)):
        with pytest.raises(AddressError, match=f"^Could not listen on {host}:{port}: "):
            async with AgentServer(agents.echo).serving(host, port):
                raise AssertionError("it serves")


@pytest.mark.trio
@pytest.mark.realtime
async def test_two_servers_live_in_one_program() -> None:
    async with served(agents.echo) as one, served(agents.echo) as two:
        assert await one.answer("1") == "1"
        assert await two.answer("2") == "2"


@pytest.mark.trio
@pytest.mark.realtime
async def test_a_server_reached_from_elsewhere_wants_a_token() -> None:
    address = _address_of_this_machine()
    for options, refused in (({}, 401), ({"auth": "none"}, 200), ({"auth_token": TOKEN}, 401)):
        server = AgentServer(agents.echo, **options)  # type: ignore[arg-type]  # of one type each
        async with (
            server.serving("0.0.0.0") as serving,
            httpx.AsyncClient(base_url=f"http://{address}:{serving.port}", trust_env=False) as http,
        ):
            assert (await http.get("/sessions")).status_code == refused
            assert (await http.get("/health")).status_code == 200
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            expected = 401 if options == {} else 200
            assert (await http.get("/sessions", headers=bearer)).status_code == expected


def _address_of_this_machine() -> str:
    """One that is not a loopback address; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def _listens(port: int) -> bool:
    """Whether this process has a socket that listens there."""
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == "0A" and int(line[1].partition(":")[2], 16) == port for line in lines)


# As a program.


@pytest.mark.realtime
def test_a_stop_is_bounded_whoever_holds_on(tmp_path: Path) -> None:
    """G8: hung and interrupted turns, polls, a client that does not read, halves of requests."""
    options = ["--shutdown-timeout", str(GRACE), "--workers", "3", "--max-interrupted", "5"]
    options += ["--max-pollers", str(POLLS)]
    with ServerProcess(AGENT, tmp_path / "log", *options) as server:
        asking, hung, big = (server.create() for _ in range(3))
        server.post(big, "big 5000000")
        server.wait(big)
        server.post(asking, "ask")
        server.wait(asking)
        server.post(hung, f"hang {tmp_path / 'pid'}")
        worker = reported(tmp_path, "pid")
        polls = [_Poll(server.url, hung) for _ in range(POLLS)]
        one_more = {"wait": "true", "timeout": "0.01"}
        until(
            lambda: server.http.get(f"/sessions/{hung}", params=one_more).status_code == 429,
            "all of them waiting",
        )
        host, _, port = server.url.removeprefix("http://").partition(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(4)]
        try:
            request = "GET /sessions/{}/messages HTTP/1.1\r\nHost: localhost\r\n\r\n"
            clients[0].sendall(request.format(big).encode())
            assert clients[0].recv(12) == b"HTTP/1.1 200"
            clients[1].sendall(b"GET /sess")
            clients[2].sendall(
                b"POST /sessions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
            )
            server.http.get("/health")
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            assert server.process.wait(timeout=20) == 0
            took = time.monotonic() - began
        finally:
            for client in clients:
                client.close()
        # The bound is the grace and a second; the rest is for a busy machine.
        assert GRACE <= took < GRACE + 4
        assert not alive(worker)
        for poll in polls:
            poll.join()
            assert poll.outcome == {"status": "error", "error": "Server is shutting down"}


class _Poll(threading.Thread):
    """Waits for the end of a turn, as soon as there is room for it."""

    def __init__(self, url: str, session: str) -> None:
        super().__init__()
        self._url = f"{url}/sessions/{session}"
        self.outcome: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=60, trust_env=False) as http:
            while (answer := http.get(self._url, params={"wait": "true"})).status_code == 429:
                pass
        self.outcome = {key: answer.json()[key] for key in ("status", "error")}


@pytest.mark.realtime
def test_interrupted_turns_hold_up_nothing(tmp_path: Path) -> None:
    with ServerProcess(AGENT, tmp_path / "log") as server:
        session = server.create()
        server.post(session, "ask")
        assert server.wait(session)["status"] == "interrupted"
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0


@pytest.mark.realtime
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_turns_or_webhooks(
    tmp_path: Path, first: signal.Signals
) -> None:
    with ServerProcess(
        AGENT, tmp_path / "log", "--webhook-allow", "127.0.0.1", "--workers", "2"
    ) as server:
        session = server.create()
        body = {"content": "x", "webhook": {"url": "http://127.0.0.1:9/s3cret"}}
        server.http.post(f"/sessions/{session}/messages", json=body)
        until(lambda: "attempt 1 failed" in server.log, "the first attempt")
        server.post(server.create(), f"hang {tmp_path / 'pid'}")
        worker = reported(tmp_path, "pid")
        server.signal(first)
        until(lambda: first.name in server.log, "the first signal")
        assert "another signal ends them" in server.log
        assert alive(worker)
        # Another one: the same again counts only after a moment.
        second = signal.SIGTERM if first is signal.SIGINT else signal.SIGINT
        server.signal(second)
        assert server.process.wait(timeout=20) == 0
        assert not alive(worker)
        assert "1 webhooks were not delivered" in server.log
        assert "s3cret" not in server.log


@pytest.mark.trio
async def test_a_signal_that_is_sent_twice_at_once_is_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def signals() -> AsyncIterator[int]:
        for pause, number in [(0, 15), (0.1, 15), (0.05, 2), (0.1, 2), (0.15, 2), (0.15, 2)]:
            await trio.sleep(pause)
            yield number

    began = trio.current_time()
    kept = [
        (round(trio.current_time() - began, 2), number)
        async for number in _without_echoes(signals())
    ]
    assert kept == [(0, 15), (0.15, 2), (0.4, 2)]


@pytest.mark.realtime
def test_who_serves_all_addresses_without_a_token_is_told_who_is_served(tmp_path: Path) -> None:
    with ServerProcess(AGENT, tmp_path / "log", "--host", "0.0.0.0") as server:
        assert server.url.startswith("http://0.0.0.0:")
        here = server.url.replace("0.0.0.0", "127.0.0.1")
        said = f"serving this machine only, at {here}: set MOTUS_AUTH_TOKEN"
        until(lambda: said in server.log, "the address")
        assert httpx.get(f"{here}/sessions", trust_env=False).status_code == 200


def test_others_are_not_told_who_is_served(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "motus.serve")
    no_auth, token = MoreSettings(auth="none"), MoreSettings(auth_token=TOKEN)

    def serve(host: str, options: MoreSettings) -> None:
        server = AgentServer(agents.echo, **options)
        server._say_who_is_served(Serving(host, 80))  # noqa: SLF001  # opens no address to others

    for host, options in (("::", no_auth), ("::", token), ("127.0.0.1", MoreSettings())):
        serve(host, options)
    assert caplog.messages == []
    serve("::", MoreSettings())
    assert "at http://[::1]:80:" in caplog.text


@pytest.mark.realtime
def test_planted_secrets_are_found_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canaries: each secret goes where it belongs, and is seen nowhere else."""
    secrets = {
        "MOTUS_AUTH_TOKEN": "canary-auth",
        "MOTUS_WEBHOOK_SECRET": "canary-signature",
        "OPENAI_API_KEY": "canary-provider",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    options = ("--log-level", "debug", "--log-format", "json")
    with ServerProcess(AGENT, tmp_path / "log", *options) as server:
        bearer = {"Authorization": "Bearer canary-auth"}
        seen: list[str] = []

        def ask(method: str, path: str, **more: Any) -> httpx.Response:
            response = server.http.request(method, path, headers=bearer, **more)
            seen.append(str(response.headers) + response.text)
            return response

        seen.append(server.http.get("/sessions").text)
        wrong = {"Authorization": "Bearer canary-guess"}
        seen.append(server.http.get("/sessions", headers=wrong).text)
        session = ask("POST", "/sessions").json()["session_id"]
        path = f"/sessions/{session}"
        hook = {
            "url": "http://127.0.0.1:9/canary-path?key=canary-query",
            "token": "canary-webhook",
        }
        bodies: list[dict[str, Any]] = [
            {"content": "fail canary-content", "webhook": hook},
            {"content": "x", "webhook": hook, "user_params": {"key": "canary-params"}},
        ]
        for body in bodies:
            assert ask("POST", f"{path}/messages", json=body).status_code == 202
            ask("GET", path, params={"wait": "true"})
        broken = '{"content": "canary-broken"'
        kind = {**bearer, "Content-Type": "application/json"}
        seen.append(server.http.post(f"{path}/messages", headers=kind, content=broken).text)
        ask("POST", f"{path}/messages", json={"content": ["canary-type"]})
        ask("GET", "/openapi.json")
        ask("GET", "/health")
        until(lambda: server.log.count("webhook to http://127.0.0.1") >= 2, "the webhooks")
        arguments = _arguments_below(server.process.pid)
        shown = ask("POST", f"{path}/messages", json={"content": "environment"})
        assert shown.status_code == 202
        environment = ask("GET", path, params={"wait": "true"}).json()["response"]["content"]
        answers = "\n".join(seen[:-1])
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        for place in (server.log, answers, arguments):
            assert "canary" not in place.replace("fail canary-content", "")
    # The agent's own credentials are for the agent; the server's are not.
    assert "canary-provider" in environment
    assert "canary-auth" not in environment
    assert "canary-signature" not in environment


def _arguments_below(pid: int) -> str:
    """The arguments of the process and of all below it."""
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    own = Path(f"/proc/{pid}/cmdline").read_text()
    return "\n".join([own, *(_arguments_below(int(child)) for child in children)])


@pytest.mark.parametrize("level", ["critical", "trace", "WARNING"])
def test_levels_have_the_names_that_programs_know(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        seen.append(logging.getLogger().level)

    seen: list[int] = []
    monkeypatch.setattr(trio, "run", run)
    AgentServer(edge_agents.anything).run(log_level=level)
    expected = {"critical": logging.CRITICAL, "trace": logging.DEBUG, "WARNING": logging.WARNING}
    assert seen == [expected[level]]


def test_a_wrong_way_to_log_is_refused_before_anything_starts() -> None:
    server = AgentServer(edge_agents.anything)
    with pytest.raises(ValueError, match="log_level must be one of debug"):
        server.run(log_level="loud")
    with pytest.raises(ValueError, match="log_format must be text or json"):
        server.run(log_format="xml")
