"""The worker: one process, one turn.

It is forked from the template when that has imported the agent, and runs `serve_turn`; or it is a
program of its own, `python -m motus.serve.workers.child <settings>`, that imports the agent
itself, with the server's lifeline as descriptor 3. Either way it takes one turn off its channel,
answers with Result or Failure, and exits without waiting for what the agent has left behind.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from os import _exit
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread

from motus.errors import ProtocolError
from motus.messages import ChatMessage
from motus.serve.agents import AgentLoadError, LoadedAgent, choose_backend, load_agent
from motus.serve.interrupt import interrupts_through
from motus.serve.wire import (
    TO_WORKER,
    Failure,
    FrameDecoder,
    FromWorker,
    Interrupt,
    Ready,
    Result,
    Resume,
    ToWorker,
    Turn,
    decode_state,
    encode_frame,
    encode_state,
)
from motus.serve.workers.interrupts import PendingInterrupts
from motus.serve.workers.process import (
    end_with_group,
    follow_server,
    limit_resources,
    take_channel,
)
from motus.serve.workers.settings import WorkerSettings

__all__ = ["import_agent", "main", "serve_turn", "warm_up"]

LIFELINE = 3
# Parameters of a message that are for the worker; the agent finds them in its environment.
SANDBOX_VARIABLES = {"sandbox_url": "SANDBOX_URL", "sandbox_token": "SANDBOX_TOKEN"}
# Packages, and the name of this module, that stand between the worker and the agent's code.
_MACHINERY = {"__main__", "anyio", "asyncio", "importlib", "motus", "outcome", "trio"}


class _Channel:
    """The worker's end of the conversation: the loop reads, any thread may write."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._decoder = FrameDecoder(TO_WORKER)
        self._writing = threading.Lock()

    async def receive(self) -> ToWorker | None:
        """The next message; None when the server has closed its end.

        A server that makes no sense would not understand an answer either: that is the end.
        """
        try:
            while (message := self._decoder.next_message()) is None:
                try:
                    data = self._socket.recv(self._decoder.wanted, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    await anyio.wait_readable(self._socket)
                    continue
                if not data:
                    return None
                self._decoder.feed(data)
        except (OSError, ProtocolError):
            end_with_group()
        return message

    def send(self, message: FromWorker) -> None:
        """Write a whole frame. Raises `ProtocolError`, before writing, for what has no frame.

        It blocks when the server does not read, which it always does.
        """
        frame = encode_frame(message)
        with self._writing:
            try:
                self._socket.sendall(frame)
            except OSError:
                end_with_group()


def _describe(error: BaseException, backend: str) -> str:
    """`Type: message`, for the client."""
    # A task group wraps also what failed alone; the client wants to know what that was.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  # the agent's own __str__, which must not hide the error
        text = "<no message>"
    hint = _backend_hint(error, text) if backend == "trio" else ""
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__) + hint


def _backend_hint(error: BaseException, text: str) -> str:
    """What to do about an agent that calls asyncio where trio runs."""
    if type(error) in (RuntimeError, TypeError) and (
        "no running event loop" in text
        or "no current event loop" in text
        or "unrecognized yield message" in text
    ):
        return (
            " (the agent runs on trio and called asyncio: start the server with --backend asyncio)"
        )
    return ""


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


async def _serve(channel: _Channel, agent: LoadedAgent) -> NoReturn:
    turn = await channel.receive()
    if not isinstance(turn, Turn):
        end_with_group()  # a spare that is not needed
    pending = PendingInterrupts(turn.turn_id, partial(_send_interrupt, channel))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_take_values, channel, pending)
        with interrupts_through(pending):
            outcome = await _outcome(turn, agent)
        _answer(channel, outcome)
        # From here, not after the loop: that would wait for the agent's threads and tasks.
        _finish()
    raise AssertionError("the process has ended")


def _send_interrupt(channel: _Channel, interrupt: Interrupt) -> None:
    channel.send(interrupt)


async def _take_values(channel: _Channel, pending: PendingInterrupts) -> None:
    while isinstance(message := await channel.receive(), Resume):
        pending.deliver(message.interrupt_id, message.value)
    # The server has ended the turn. Who waits for a human is told, and may clean up for a moment.
    if not pending:
        end_with_group()
    pending.close()


async def _outcome(turn: Turn, agent: LoadedAgent) -> Result | Failure:
    """What the agent makes of the turn; whatever it raises is a failure, SystemExit included."""
    try:
        message = _set_variables(turn)
        result: Any = await _call(agent.call, message, decode_state(turn.state))
        # Looking at the result may run the agent's code as well.
        if not _is_turn_result(result):
            said = f"Agent must return a (response, state) tuple, got {_what_came(result)}"
            return Failure.of(turn.turn_id, said)
        response, state = result
        return _result(turn, response, state)
    except BaseException as error:  # noqa: BLE001  # the worker's only job is to report it
        said = _describe(error, agent.backend)
        return Failure.of(turn.turn_id, said, _user_traceback(error))


def _result(turn: Turn, response: ChatMessage, state: list[ChatMessage]) -> Result | Failure:
    try:
        return Result(turn.turn_id, response, len(state), encode_state(state))
    except ProtocolError as error:
        return Failure.of(turn.turn_id, f"The agent's state is {error}")


def _set_variables(turn: Turn) -> ChatMessage:
    """Tell the agent's environment of the session; the message without what was moved there."""
    os.environ["MOTUS_SESSION_ID"] = turn.session_id
    parameters = turn.message.user_params or {}
    for parameter, variable in SANDBOX_VARIABLES.items():
        value = parameters.get(parameter)
        # What no variable can hold stays where it is.
        if isinstance(value, str) and "\0" not in value:
            os.environ[variable] = value
            del parameters[parameter]
    return turn.message


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
        channel.send(Failure.of(outcome.turn_id, f"The agent's answer is {error}"))


def _finish() -> NoReturn:
    """Exit now: threads that the agent left behind must not delay the end of the turn."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed, replaced, or nobody reads it
    _exit(0)


def serve_turn(descriptor: int, agent: LoadedAgent) -> NoReturn:
    """Serve one turn that comes over the channel, and exit.

    The loop runs before the turn is there, so that a spare has that behind it.
    """
    try:
        anyio.run(_serve, _Channel(descriptor), agent, backend=agent.backend)
    # Only what breaks the event loop itself comes here; its traceback is printed.
    except BaseException:  # noqa: BLE001  # as said above
        traceback.print_exc()
    _exit(1)


def import_agent(settings: WorkerSettings) -> LoadedAgent | Failure:
    """The agent and the event loop that it wants, or why there is none."""
    for directory in (settings.search_path, os.getcwd()):  # noqa: PTH109  # sys.path holds strings
        if directory is not None and directory not in sys.path:
            sys.path.insert(0, directory)
    try:
        call = load_agent(settings.import_path)
        wished = settings.backend, os.environ.get("MOTUS_BACKEND")
        return LoadedAgent(call, choose_backend(call, *wished))
    except AgentLoadError as error:
        cause = error.__cause__
        details = "" if isinstance(cause, AttributeError | None) else _user_traceback(cause)
        if details.count("\n") == 1:
            details = ""  # no frame of the agent's: the message has said it
        return Failure.of(None, str(error), details)


def warm_up(backend: str) -> None:
    """Do once, before processes are forked, what each of them would do on first use."""
    message = ChatMessage.user_message("x")
    decoder = FrameDecoder(TO_WORKER)
    decoder.feed(encode_frame(Turn("s", "t", message, encode_state([message]))))
    decoder.feed(encode_frame(Resume("t", "i", None)))
    while (found := decoder.next_message()) is not None:
        if isinstance(found, Turn):
            encode_frame(Result("t", message, 1, encode_state(decode_state(found.state))))
    encode_frame(Failure("t", "", ""))
    encode_frame(Interrupt("t", "i", {}))
    anyio.run(anyio.lowlevel.checkpoint, backend=backend)


def main() -> NoReturn:
    """Serve one turn on descriptor 0 and exit."""
    # The template is there if the server goes away before this.
    follow_server(LIFELINE)
    os.close(LIFELINE)
    channel = take_channel()
    settings = WorkerSettings.from_argument(sys.argv[1])
    limit_resources(settings)
    agent = import_agent(settings)
    with socket.socket(fileno=os.dup(channel)) as first:
        first.sendall(encode_frame(agent if isinstance(agent, Failure) else Ready()))
    if isinstance(agent, Failure):
        _finish()
    serve_turn(channel, agent)


if __name__ == "__main__":
    main()
