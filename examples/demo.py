"""The main job from end to end, offline: serve the code census and talk to it.

    python -m examples.demo

Starts the server on a free port, opens a session, sends two messages with the command-line client,
shows the server's health, and stops it. What the agent prints while it works appears as the
server's log. Exits with 0 if all of that worked.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MOTUS = [sys.executable, "-m", "motus.serve"]
# Generous: the machine may be slow, and a demo that hangs is worse than one that says so.
STOP_SECONDS = 30


@contextmanager
def server(agent: str) -> Iterator[str]:
    """Run a server around the block; its address."""
    command = [*MOTUS, "start", agent, "--host", "127.0.0.1", "--port", "0"]
    print("$ motus serve", *command[3:], flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own program
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        print(line, flush=True)
        if " on http://" not in line:
            raise SystemExit("the server did not start")
        yield line.rpartition(" ")[2]
        process.send_signal(signal.SIGTERM)
        if process.wait(STOP_SECONDS) != 0:
            raise SystemExit(f"the server ended with {process.returncode}")
        print("The server has stopped.", flush=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def motus(*arguments: str) -> str:
    """Run a command of the client and return what it prints."""
    print("\n$ motus serve", *(a if a and " " not in a else repr(a) for a in arguments), flush=True)
    done = subprocess.run([*MOTUS, *arguments], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  # our own program
    print(done.stdout.rstrip(), flush=True)
    if done.returncode != 0:
        raise SystemExit(f"motus serve {arguments[0]} ended with {done.returncode}")
    return done.stdout


def main() -> None:
    with server("examples.code_census:agent") as url:
        session = json.loads(motus("create", url))["session_id"]
        first = motus("chat", url, "stdlib", "--session", session)
        second = motus("chat", url, "compare email", "--session", session)
        missing = motus("chat", url, "no_such_package", "--session", session)
        motus("health", url)
    if "Census of stdlib" not in first or "stdlib and email" not in second:
        raise SystemExit("the answers are not what they should be")
    if "There is no package" not in missing:
        raise SystemExit("a wrong name was not explained")


if __name__ == "__main__":
    main()
