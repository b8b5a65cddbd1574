"""Answering `interrupt()` in a test, where there is no server and no human."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from motus.serve.interrupt import interrupts_through

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

    Payloads are checked as in a server. Where there are more questions than answers, `interrupt()`
    raises `AssertionError`; what the function raises, such as `EOFError`, it raises too.
    """
    asked = AskedInterrupts(answers if callable(answers) else _in_order(answers))
    with interrupts_through(asked):
        yield asked


def _in_order(answers: Iterable[Any]) -> Callable[[dict[str, Any]], Any]:
    left = iter(answers)

    def answer(payload: dict[str, Any]) -> Any:
        for value in left:
            return value
        raise AssertionError(f"no answer is left for the interrupt {payload!r:.200}")

    return answer
