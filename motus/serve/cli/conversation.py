"""A conversation with an agent: sending, waiting, answering what it asks, and giving up."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Any

import attrs

from motus.serve.cli.common import message_body
from motus.serve.cli.dialogue import SkippedError, answer_to
from motus.serve.cli.prompts import APPROVAL_TYPE, read_prompt
from motus.serve.cli.terminal import Terminal
from motus.serve.cli.text import json_text, without_nulls
from motus.serve.client import Client, ConnectionLostError, ServerRefusedError

__all__ = ["Conversation", "Outcome"]

# What a server, or a proxy in front of it, says when asking again may help.
TRY_AGAIN = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# How often a session is looked at that waits for an answer from somebody else.
LOOK_SECONDS = 1.0


class Outcome(enum.Enum):
    """How a turn ended for the person who took it."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # It waits for an answer that nobody gives here.
    WAITING = "waiting"


class _UnansweredError(Exception):
    """The input ended, or there is nobody to ask."""


@attrs.define
class Conversation:
    """Talks to one session. Raises `ConnectionLostError`, `ServerRefusedError`.

    `reconnect` is for how many seconds a server that went away during a turn is waited for, and
    `kept` whether the session will be there afterwards.
    """

    client: Client
    terminal: Terminal
    session_id: str
    extra: dict[str, Any] | None = None
    reconnect: float = 30.0
    as_json: bool = False
    kept: bool = True
    _skipped: set[str] = attrs.field(factory=set, init=False)

    def begin(self) -> None:
        """Make a session and talk to that one from now on."""
        self.session_id = str(self.client.create()["session_id"])

    def introduce(self) -> None:
        self.terminal.note(f"Session: {self.session_id} (use --session to resume)")

    def remove(self) -> None:
        """Delete the session, if it is still there."""
        try:
            self.client.delete(self.session_id)
        except ServerRefusedError as error:
            if error.status != 404:
                raise

    def turn(self, message: str) -> Outcome:
        """Send a message and see its turn through.

        Ctrl+C cancels the turn; a second one meanwhile raises `KeyboardInterrupt`.
        """
        body = message_body(message, self.extra)
        sent = False
        try:
            self._send(body)
            sent = True
            return self._follow()
        except KeyboardInterrupt:
            return self._cancel(began=sent)

    def catch_up(self) -> Outcome:
        """See a turn through that is under way. Ctrl+C as in `turn`."""
        try:
            return self._follow()
        except KeyboardInterrupt:
            return self._cancel(began=True)

    def _send(self, body: dict[str, Any]) -> None:
        try:
            self.client.send(self.session_id, body)
        except ConnectionLostError as error:
            if error.delivered is False:
                raise
            # If it has arrived, the session is at work now. If it is not, nobody can say.
            status = self._patiently(lambda: self.client.get(self.session_id))["status"]
            if status not in ("running", "interrupted"):
                self.terminal.note("It is not known whether the message has arrived", "yellow")
                raise

    def _follow(self) -> Outcome:
        while True:
            view = self._patiently(lambda: self.client.wait(self.session_id))
            if view["status"] == "interrupted":
                try:
                    self._answer(view)
                except _UnansweredError:
                    return self._leave_waiting(view)
            elif view["status"] != "running":
                return self._show(view)

    def _patiently(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the server answers, also if it is away in between."""
        lost_at: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                with self.terminal.working("working ..."):
                    answer = ask()
            except (ConnectionLostError, ServerRefusedError) as error:
                if isinstance(error, ServerRefusedError) and error.status not in TRY_AGAIN:
                    raise
                now = time.monotonic()
                if lost_at is None:
                    lost_at = now
                    text = f"{error}; trying again for {self.reconnect:g} s"
                    self.terminal.note(text, "yellow")
                if now - lost_at >= self.reconnect:
                    raise
                self.terminal.pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if lost_at is not None:
                    self.terminal.note("The server is back", "green")
                return answer

    def _answer(self, view: dict[str, Any]) -> None:
        """Ask what the agent asks, one thing after the other."""
        prompts = [read_prompt(entry) for entry in view.get("interrupts") or ()]
        unasked = [prompt for prompt in prompts if prompt.interrupt_id not in self._skipped]
        for prompt in unasked:
            try:
                self._resume(prompt.interrupt_id, answer_to(prompt, self.terminal))
            except EOFError as error:
                raise _UnansweredError from error
            except SkippedError:
                self._skipped.add(prompt.interrupt_id)
        if unasked:
            return
        if not self.terminal.interactive:
            raise _UnansweredError
        with self.terminal.working("waiting for an answer from elsewhere ..."):
            self.terminal.pause(LOOK_SECONDS)

    def _resume(self, interrupt_id: str, value: Any) -> None:
        try:
            self.client.resume(self.session_id, interrupt_id, value)
        except ServerRefusedError as error:
            # Somebody else was faster, or the turn is over: the next look at the session tells.
            if error.status not in (404, 409):
                raise
            self.terminal.note(f"The answer was not taken: {error}", "yellow")
        except ConnectionLostError as error:
            # Likewise, as soon as the server is back.
            self.terminal.note(str(error), "yellow")

    def _cancel(self, *, began: bool) -> Outcome:
        self.terminal.note("Cancelling the turn (Ctrl+C again leaves)", "yellow")
        cancelled = self.client.cancel(self.session_id).get("cancelled", True)
        # The turn was over already, or it had not begun.
        if began and not cancelled:
            return self._show(self.client.get(self.session_id))
        self.terminal.note("Cancelled", "yellow")
        return Outcome.CANCELLED

    def _leave_waiting(self, view: dict[str, Any]) -> Outcome:
        if self.as_json:
            self.terminal.data(json_text(without_nulls(view)))
        command = f"motus serve resume {self.client.url} {self.session_id}"
        for entry in view.get("interrupts") or ():
            approval = entry.get("type") == APPROVAL_TYPE
            how = f"{entry.get('interrupt_id')} {'--approve|--reject' if approval else 'VALUE'}"
            later = f"; later: {command} {how}" if self.kept else ""
            self.terminal.note(f"Left unanswered{later}", "yellow")
        return Outcome.WAITING

    def _show(self, view: dict[str, Any]) -> Outcome:
        error, response = view.get("error"), view.get("response")
        if self.as_json:
            self.terminal.data(json_text(without_nulls(view)))
        elif error is not None:
            self.terminal.note(f"Error: {error}", "red")
        elif response is not None:
            self.terminal.answer(str(response.get("content") or ""))
        else:
            self.terminal.note("The turn was cancelled", "yellow")
        if error is not None:
            return Outcome.FAILED
        return Outcome.CANCELLED if response is None else Outcome.ANSWERED
