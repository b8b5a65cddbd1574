"""Text on a terminal: Markdown, notes, and a line that shows that something is going on.

Only `chat` on a terminal imports this module, since it loads rich.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from motus.serve.cli.text import visible

__all__ = ["Screen"]


class Screen:
    """One of the standard streams, which is a terminal."""

    def __init__(self, *, stderr: bool) -> None:
        file = sys.stderr if stderr else sys.stdout
        self._console = Console(file=file, highlight=False, theme=_THEME)

    def markdown(self, text: str) -> None:
        self._console.print(_Markdown(text))

    def line(self, text: str, style: str) -> None:
        # Not a plain string, in which rich would find markup and emoji.
        self._console.print(Text(visible(text), style), soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A line that moves while the block runs, and is gone afterwards."""
        if self._console.is_dumb_terminal:
            self.line(text, "")
            yield
            return
        columns = (SpinnerColumn(), TextColumn(text), TimeElapsedColumn())
        with Progress(
            *columns,
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as progress:
            # Not hidden: Ctrl+C makes terminals drop what they have not shown yet, and that may be
            # what would make the cursor visible again.
            self._console.show_cursor()
            progress.add_task("")
            yield


class _Heading(Heading):
    """Begins where the text begins, not in the middle of the line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Parsed(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
    }


class _Markdown:
    """Markdown that hides nothing: line breaks, where links lead, what looks like HTML."""

    def __init__(self, text: str) -> None:
        self._parsed = _Parsed(visible(text), code_theme="ansi_dark", hyperlinks=False)
        for token in self._parsed.parsed:
            if token.type == "html_block":
                token.type, token.tag = "fence", "code"
            for child in token.children or ():
                child.type = _SHOWN_AS.get(child.type, child.type)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(console.render(self._parsed, options)):
            # Lines are padded to the width of the terminal, which is a nuisance to who copies them.
            while line and not line[-1].text.rstrip():
                line.pop()
            if line:
                last = line.pop()
                line.append(Segment(last.text.rstrip(), last.style, last.control))
            for segment in line:
                # Once more, since Markdown itself makes characters, out of "&#13;" for one.
                yield Segment(visible(segment.text), segment.style, segment.control)
            yield Segment.line()


_SHOWN_AS = {"softbreak": "hardbreak", "html_inline": "text"}
# The default is on black, whatever the terminal is.
_THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
