"""Where a conversation is read from and written to: a terminal, or pipes.

Answers go to stdout, everything else to stderr. What is no terminal gets plain text; neither gets
a control character that somebody else has sent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

import click

from motus.serve.cli.ctrl_c import CtrlC
from motus.serve.cli.text import visible

if TYPE_CHECKING:
    from motus.serve.cli.rendering import Screen

__all__ = ["Terminal"]

PROMPT = "> "


class Terminal:
    """The standard streams of this process. Reading and pausing raise `KeyboardInterrupt`."""

    def __init__(self, ctrl_c: CtrlC) -> None:
        self._ctrl_c = ctrl_c
        self._reads = _is_terminal(sys.stdin)
        self._answers = _screen(stderr=False)
        self._notes = _screen(stderr=True)
        # Lines can be edited where both ends are the terminal; otherwise the prompt of `input`
        # would get among the answers.
        self._edits = self._reads and self._answers is not None
        self._readline = _readline() if self._edits else None

    @property
    def interactive(self) -> bool:
        """Whether there is a person who can be asked."""
        return self._reads and self._notes is not None

    def answer(self, text: str) -> None:
        """Print what the agent says, as Markdown if it is read here."""
        if self._answers is None:
            click.echo(visible(text))
        else:
            self._answers.markdown(text)

    def data(self, text: str) -> None:
        """Print a line that a program will read."""
        click.echo(text)

    def note(self, text: str, style: str = "") -> None:
        """Print a line that is no answer."""
        if self._notes is None:
            click.echo(visible(text), err=True)
        else:
            self._notes.line(text, style)

    def working(self, text: str) -> AbstractContextManager[None]:
        """Show that the agent works, while the block runs."""
        return nullcontext() if self._notes is None else self._notes.working(text)

    def pause(self, seconds: float) -> None:
        with self._ctrl_c.waiting():
            time.sleep(seconds)

    def ask(self, invitation: str) -> str:
        """A line of input. Raises `EOFError` at the end of the input."""
        try:
            if self._edits:
                with self._ctrl_c.waiting():
                    return input(invitation)
            click.echo(invitation, nl=False, err=True)
            line = self._read()
        except (EOFError, KeyboardInterrupt):
            # The cursor is still behind the invitation.
            click.echo(err=True)
            raise
        if not self._reads:
            # The log of a script shows what was answered, as a terminal would.
            click.echo(visible(line), err=True)
        return line

    def messages(self) -> Iterator[str]:
        """The lines of the input that are not empty, until its end; Ctrl+C at the prompt is one."""
        while True:
            try:
                line = self._prompt() if self._reads else self._read()
            except EOFError:
                return
            if line.strip():
                yield line

    def _prompt(self) -> str:
        try:
            line = self.ask(PROMPT)
        except KeyboardInterrupt as error:
            raise EOFError from error
        if self._readline is not None:
            self._readline.add_history(line)
        return line

    def _read(self) -> str:
        with self._ctrl_c.waiting():
            # There is none if whoever started this process has closed it.
            line = "" if sys.stdin is None else sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _screen(*, stderr: bool) -> Screen | None:
    if not _is_terminal(sys.stderr if stderr else sys.stdout):
        return None
    # What renders for terminals takes longer to import than all the rest of this package.
    from motus.serve.cli.rendering import Screen

    return Screen(stderr=stderr)


def _readline() -> ModuleType | None:
    try:
        # Importing it is what gives `input` its editing; some builds of Python are without it.
        import readline
    except ImportError:
        return None
    # Answers to questions are not messages to be sent again.
    readline.set_auto_history(False)
    return readline
