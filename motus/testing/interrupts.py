"""Answering `interrupt()` in a test, where there is no server and no human."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from motus.serve.interrupt import interrupts_through
from motus.testing.errors import UnforeseenError

__all__ = ["AskedInterrupts", "answer_interrupts"]


class AskedInterrupts:
    """The payloads that the agent has asked with, in order, and where its answers come from."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.payloads: list[dict[str, Any]] = []
        self._answer = answer

    async def ask(self, payload: dict[str, Any]) -> Any:
        self.payloads.append(payload)
        await checkpoint()
        answer = self._answer(payload)
        return await answer if inspect.isawaitable(answer) else answer


@contextmanager
def answer_interrupts(
    answers: Callable[[dict[str, Any]], Any] | Iterable[Any],
) -> Iterator[AskedInterrupts]:
    """Answer what code in the block asks with `interrupt()`.

    `answers` is a function of the payload, plain or async, or the answers in the order in which
    they are asked for. Yields what was asked::

        with answer_interrupts([{"approved": True}]) as asked:
            response, state = await agent(message, [])
        assert asked.payloads[0]["type"] == "tool_approval"

    Payloads are checked as in a server. What the function raises, such as `EOFError`, `interrupt()`
    raises too. Where there are more questions than answers it raises `UnforeseenError`, and so does
    the end of the block, whatever has become of that; also if answers of a list are left over.
    """
    in_order = None if callable(answers) else _InOrder(answers)
    asked = AskedInterrupts(in_order or answers)  # type: ignore[arg-type]  # one of them is callable
    with interrupts_through(asked):
        yield asked
    if in_order is not None:
        in_order.check()


class _InOrder:
    """Answers that are given once each."""

    def __init__(self, answers: Iterable[Any]) -> None:
        if isinstance(answers, str | Mapping):
            raise TypeError(f"the answers must be a list: pass [{answers!r:.80}]")
        # A generator may have no end.
        self._count = self._left = len(answers) if isinstance(answers, Sized) else 0
        self._answers = iter(answers)
        self._unanswered: UnforeseenError | None = None

    def __call__(self, payload: dict[str, Any]) -> Any:
        for value in self._answers:
            self._left -= 1
            return value
        self._unanswered = UnforeseenError(f"no answer is left for the interrupt {payload!r:.200}")
        raise self._unanswered

    def check(self) -> None:
        if self._unanswered is not None:
            # A tool that was called by hand has made a result of it.
            raise self._unanswered
        if self._left > 0:
            raise UnforeseenError(f"answers that were not asked for: {self._left} of {self._count}")
