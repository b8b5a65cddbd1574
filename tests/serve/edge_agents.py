"""An agent that does what the tests of the edge need, and a server that measures its own loop."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from motus.messages import ChatMessage
from motus.serve import AgentServer
from motus.serve.http import collecting_rarely
from motus.serve.interrupt import interrupt
from tests.serve.agents import report as tell


async def anything(
    message: ChatMessage, state: list[ChatMessage]
) -> tuple[ChatMessage, list[ChatMessage]]:
    """Asks, hangs, fails, shows its environment, or answers as many letters as it is told."""
    word, _, rest = (message.content or "").partition(" ")
    text = word
    match word:
        case "ask":
            text = str(await interrupt({"type": "any"}))
        case "hang":
            tell(str(Path(rest).parent), Path(rest).name, os.getpid())
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)  # noqa: ASYNC251  # an agent that blocks its loop
        case "fail":
            raise ValueError("boom")
        case "environment":
            text = repr(dict(os.environ))
        case "big":
            text = "x" * int(rest)
    reply = ChatMessage.assistant_message(text)
    return reply, [*state, message, reply]


class Rounds(trio.abc.Instrument):
    """How long each round of the loop takes, in seconds of its own thread's work.

    The loop is late for everything by as much; on a busy machine the clock would show more.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            self.seconds.append(time.thread_time() - self._began)


async def serve(report: Path) -> None:
    """Serve as a program does until SIGTERM, then write down how long each round took."""
    rounds = Rounds()
    server = AgentServer(anything, max_workers=2, header_timeout=60, shutdown_timeout=1)
    with collecting_rarely(), trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with server.serving() as serving:
            trio.lowlevel.add_instrument(rounds)
            print("Serving", serving.url, flush=True)  # noqa: T201  # the test waits for it
            async for _ in signals:
                break
            trio.lowlevel.remove_instrument(rounds)
    report.write_text("\n".join(f"{seconds:.6f}" for seconds in rounds.seconds))  # noqa: ASYNC240  # at the end


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]))
