"""The worker: `python -m motus.serve.workers.child <import-path> [<search-path>]`.

Descriptor 0 is a stream socket to the server. The worker says Hello, imports the agent, says
Ready, takes one turn, answers with Result or Failure, and exits. It exits, and takes its process
group along, as soon as the server's end of the socket is closed.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from os import _exit
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from motus.errors import ProtocolError
from motus.messages import ChatMessage
from motus.serve.agents import AgentLoadError, load_agent
from motus.serve.wire import (
    TO_WORKER,
    Failure,
    FrameDecoder,
    FromWorker,
    Hello,
    Ready,
    Result,
    Resume,
    Turn,
    decode_state,
    encode_frame,
    encode_state,
)

__all__ = ["main", "take_channel"]

# Far above the descriptors that programs number by hand.
FIRST_PRIVATE_DESCRIPTOR = 200
MAX_ERROR_CHARACTERS = 10_000
# Packages, and the name of this module, that stand between the worker and the agent's code.
_MACHINERY = {"__main__", "anyio", "importlib", "motus", "outcome", "trio"}


def take_channel() -> int:
    """Move the protocol out of the way of the agent's code, and return its new descriptor.

    Descriptor 0 becomes the null device, so that `input()` raises EOFError, and descriptor 1
    becomes descriptor 2, so that what is printed, by Python or by programs that the agent
    starts, cannot end up between frames. Programs do not inherit the new descriptor.
    """
    try:
        channel = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_DESCRIPTOR)
    except OSError:
        # Fewer descriptors than that are allowed here.
        channel = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    # A pipe would be buffered until the end, and lost when the worker is killed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nothing replaced them yet
    return channel


class _Channel:
    """The worker's end of the conversation; a thread reads, anyone may write.

    The thread is there from before the agent is imported, so that a lost server is noticed also
    while the agent blocks the main thread.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turns: queue.SimpleQueue[Turn] = queue.SimpleQueue()
        self._writing = threading.Lock()
        threading.Thread(target=self._read, name="motus-worker-channel", daemon=True).start()

    def turn(self) -> Turn:
        """Wait for the turn."""
        return self._turns.get()

    def send(self, message: FromWorker) -> None:
        """Write a whole frame. Raises `ProtocolError`, before writing, for what has no frame."""
        rest = memoryview(encode_frame(message))
        with self._writing:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except OSError:
                    _end_with_the_server()

    def _read(self) -> None:
        decoder = FrameDecoder(TO_WORKER)
        while True:
            try:
                data = os.read(self._descriptor, decoder.wanted)
                decoder.feed(data)
                while (message := decoder.next_message()) is not None:
                    self._dispatch(message)
            except (OSError, ProtocolError):
                # The agent's code closed the descriptor, or the server makes no sense: either way
                # nobody would hear an answer.
                _end_with_the_server()
            if not data:
                _end_with_the_server()

    def _dispatch(self, message: Turn | Resume) -> None:
        if isinstance(message, Turn):
            self._turns.put(message)


def _end_with_the_server() -> NoReturn:
    """Nobody listens any more: end this process and whatever the agent started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    # Only where the worker was started by hand, in the group of someone else.
    _exit(1)


def _describe(error: BaseException) -> str:
    """`Type: message`, for the client."""
    # A task group wraps also what failed alone; the client wants to know what that was.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # the agent's own __str__: its failure must not hide the error
        text = "<no message>"
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _printable(text[:MAX_ERROR_CHARACTERS])


def _printable(text: str) -> str:
    # Lone surrogates, as in undecodable file names, have no UTF-8 form.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _what_came(result: object) -> str:
    if not isinstance(result, tuple):
        return type(result).__name__
    if len(result) != 2:
        return f"a tuple of {len(result)}"
    response, state = result
    if not isinstance(response, ChatMessage):
        return f"a response of type {type(response).__name__}"
    if not isinstance(state, list):
        return f"a state of type {type(state).__name__}"
    index, other = next((i, m) for i, m in enumerate(state) if not isinstance(m, ChatMessage))
    return f"a state with {type(other).__name__} at index {index}"


def _is_turn_result(result: object) -> bool:
    return (
        isinstance(result, tuple)
        and len(result) == 2
        and isinstance(result[0], ChatMessage)
        and isinstance(result[1], list)
        and all(isinstance(message, ChatMessage) for message in result[1])
    )


async def _call(
    agent: Callable[..., Any], message: ChatMessage, state: list[ChatMessage]
) -> object:
    if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(
        getattr(agent, "__call__", None)  # noqa: B004  # not whether it can be called, but how
    ):
        return await agent(message, state)
    # Boxed: trio takes a coroutine that comes back from a thread for a forgotten await.
    (result,) = await anyio.to_thread.run_sync(lambda: (agent(message, state),))
    # A function may hand back something to wait for: an agent's future, a coroutine.
    return await result if inspect.isawaitable(result) else result


def _serve(agent: Callable[..., Any], turn: Turn) -> Result | Failure:
    """The turn's outcome; whatever the agent's code raises is one, SystemExit included."""
    try:
        result: Any = anyio.run(
            _call, agent, turn.message, decode_state(turn.state), backend="trio"
        )
    except BaseException as error:  # noqa: BLE001  # the worker's only job is to report it
        return Failure(turn.turn_id, _describe(error), _printable(_user_traceback(error)))
    if not _is_turn_result(result):
        came = _what_came(result)
        return Failure(turn.turn_id, f"Agent must return a (response, state) tuple, got {came}", "")
    response, state = result
    try:
        return Result(turn.turn_id, response, len(state), encode_state(state))
    except ProtocolError as error:
        return Failure(turn.turn_id, f"The agent's state is {error}", "")


def _user_traceback(error: BaseException) -> str:
    """The traceback from the agent's first frame on."""
    frames = error.__traceback__
    while frames is not None and _is_machinery(frames.tb_frame.f_globals):
        frames = frames.tb_next
    return "".join(traceback.format_exception(error.with_traceback(frames)))


def _is_machinery(module: dict[str, Any]) -> bool:
    return str(module.get("__name__")).partition(".")[0] in _MACHINERY


def _answer(channel: _Channel, outcome: Result | Failure) -> None:
    try:
        channel.send(outcome)
    except ProtocolError as error:
        channel.send(Failure(outcome.turn_id, f"The agent's answer is {error}", ""))


def _finish() -> NoReturn:
    """Exit now: threads that the agent left behind must not delay the end of the turn."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # closed, or nobody reads it
    _exit(0)


def main() -> NoReturn:
    """Serve one turn on descriptor 0 and exit."""
    descriptor = take_channel()
    channel = _Channel(descriptor)
    channel.send(Hello(os.getpid()))
    import_path, *search_path = sys.argv[1:]
    for directory in (*search_path, os.getcwd()):  # noqa: PTH109  # sys.path holds strings
        if directory not in sys.path:
            sys.path.insert(0, directory)
    try:
        agent = load_agent(import_path)
    except AgentLoadError as error:
        cause = error.__cause__
        details = "" if isinstance(cause, AttributeError | None) else _user_traceback(cause)
        _answer(channel, Failure(None, _printable(str(error)), _printable(details)))
        _finish()
    channel.send(Ready())
    turn = channel.turn()
    os.environ["MOTUS_SESSION_ID"] = turn.session_id
    _answer(channel, _serve(agent, turn))
    _finish()


if __name__ == "__main__":
    main()
