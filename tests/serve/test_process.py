"""The server as a program: how it starts, how it stops, and what it leaves when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serve.support import ROOT, ServerProcess, alive, reported, until

pytestmark = pytest.mark.realtime


def start(agent: str, *options: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motus.serve", "start", agent, "--port", "0", *options],
        cwd=cwd, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_turns_finish_and_answers_polls(
    number: signal.Signals, tmp_path: Path
) -> None:
    with ServerProcess("wait_for_file", tmp_path / "log") as server:
        session = server.create()
        server.post(session, str(tmp_path))
        worker = reported(tmp_path, "worker")
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port or 0), timeout=20) as poller:
            request = f"GET /sessions/{session}?wait=true HTTP/1.1\r\nHost: localhost\r\n"
            poller.sendall(f"{request}Connection: close\r\n\r\n".encode())
            # What came before has been read when this is answered.
            server.http.get("/health")
            server.signal(number)
            until(lambda: number.name in server.log, "the signal")
            until(lambda: not _accepts(server.url), "the end of accepting")
            assert alive(worker)
            (tmp_path / "go").touch()
            answer = b"".join(iter(lambda: poller.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["status"] == "idle"
        assert server.process.wait(timeout=20) == 0
        assert not alive(worker)


def _accepts(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def test_a_killed_server_leaves_no_worker(tmp_path: Path) -> None:
    with ServerProcess("hang", tmp_path / "log", "--workers", "3") as server:
        pids = []
        for name in "abc":
            (tmp_path / name).mkdir()
            server.post(server.create(), str(tmp_path / name))
            pids += [reported(tmp_path / name, kind) for kind in ("worker", "grandchild")]
        assert all(map(alive, pids))
        server.signal(signal.SIGKILL)
        server.process.wait()
        # The bound is two seconds; the rest is for a busy machine.
        until(lambda: not any(map(alive, pids)), "the end of the workers", 5.0)


def test_the_log_is_one_line_for_each_record_and_names_the_session(tmp_path: Path) -> None:
    with ServerProcess("noisy", tmp_path / "log") as server:
        session = server.create()
        server.post(session, "x")
        server.wait(session)
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        lines = server.log.splitlines()
        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) motus\.serve"
        assert all(re.match(stamp, line) for line in lines), lines
        assert any(f"[{session} " in line and line.endswith("] from print") for line in lines)
        assert any(r"\x00\xff\x1b[31mnot text" in line for line in lines)


def test_a_traceback_follows_a_line_with_the_whole_ids(tmp_path: Path) -> None:
    with ServerProcess("fail", tmp_path / "log") as server:
        session = server.create()
        server.post(session, "raise")
        server.wait(session)
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        whole, *traceback = [line for line in server.log.splitlines() if " turn " not in line][:4]
    assert re.search(rf"\[{session} \S+\] agent failed: ValueError: boom$", whole), whole
    for line in traceback:
        assert re.search(rf"motus\.serve\.agent \[{session[:8]} \S{{8}}\] ", line), line


@pytest.mark.parametrize(
    ("agent", "error"),
    [
        ("a b:c", "Error: Invalid import path 'a b:c': expected module:name, such as"),
        ("no_such_module:a", "Error: Could not import module 'no_such_module': No module named"),
        (
            "agents.py:echo",
            "Error: Could not import module 'agents.py': leave out '.py': agents:echo",
        ),
        (
            "tests.serve.agents:protocol_descriptor",
            "Error: 'tests.serve.agents:protocol_descriptor' takes no message and state",
        ),
    ],
)
def test_an_agent_that_is_not_there_is_named_at_the_start(agent: str, error: str) -> None:
    done = start(agent)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(error)
    assert done.stdout == ""


def test_an_agent_whose_module_fails_is_explained(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("print('importing')\nraise RuntimeError('no key')\n")
    done = start("broken:agent", cwd=tmp_path)
    assert done.returncode == 1
    assert "Error: Could not import module 'broken': RuntimeError: no key" in done.stderr
    assert 'broken.py", line 2' in done.stderr


def test_a_signal_while_the_agent_is_imported_ends_the_server(tmp_path: Path) -> None:
    module = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"
    (tmp_path / "slow.py").write_text(module)
    with subprocess.Popen(
        [sys.executable, "-m", "motus.serve", "start", "slow:agent", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        until(
            lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "import"
        )
        worker = int((tmp_path / "pid").read_text())
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert not alive(worker)
        assert process.stdout is not None
        assert process.stdout.read() == b""


def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = start("tests.serve.agents:echo", "--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Could not listen on 127.0.0.1:{port}: Address already in use\n"
        "Choose another one with --host and --port.\n"
    )


TELLS = """
import ctypes, os, signal
from motus.serve import AgentServer, server
def tell(line):
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
server._announce = tell
AgentServer("tests.serve.agents:where").run("127.0.0.1", 0)
"""


def test_what_the_server_has_in_memory_is_for_no_other_process() -> None:
    """Agents run as the same user, who could read the token out of its environment otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", TELLS], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    # PR_GET_DUMPABLE
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_a_worker_loads_no_web_stack() -> None:
    program = """
import sys
import motus.serve.workers.child
heavy = {"quart", "quart_trio", "hypercorn", "httpx", "click", "pydantic", "openai", "anthropic"}
assert not heavy & {name.split(".")[0] for name in sys.modules}
assert len(sys.modules) < 350, len(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
