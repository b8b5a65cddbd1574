"""Exchanges in a file: written once, then answered from."""

from __future__ import annotations

import difflib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from motus.testing.errors import ReplayMissError

__all__ = ["Cassette"]

# Of the difference to the nearest recorded request, in the error.
MAX_LINES = 40


class Cassette:
    """Pairs of a request and a reply, both JSON objects, one pair in each line of a file.

    Without `record` the file is read, and each of its pairs answers one equal request, in the order
    in which they were asked. With it the file is begun anew, and `add` appends to it.
    """

    def __init__(self, path: str | os.PathLike[str], *, record: bool) -> None:
        self.path = Path(path)
        self._left: list[tuple[Any, Any]] = []
        self._all: list[Any] = []
        self._numbers = itertools.count()
        if record:
            self.path.write_text("", encoding="utf-8")
            return
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise ReplayMissError(f"there is no recording {self.path}: make one first") from None
        pairs = sorted(map(json.loads, lines), key=lambda pair: int(pair["number"]))
        self._left = [(pair["request"], pair["reply"]) for pair in pairs]
        self._all = [request for request, _ in self._left]

    @property
    def left(self) -> int:
        """How many recorded replies have not been asked for."""
        return len(self._left)

    def next_number(self) -> int:
        """The place of a request among all; replies come in another order than they are asked."""
        return next(self._numbers)

    def add(self, number: int, request: dict[str, Any], reply: dict[str, Any]) -> None:
        """Append a pair."""
        pair = {"number": number, "request": request, "reply": reply}
        line = json.dumps(pair, ensure_ascii=False, sort_keys=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def find(self, request: dict[str, Any]) -> Any:
        """The reply to this request. `ReplayMissError` says how it differs from those there are."""
        request = json.loads(json.dumps(request))
        for index, (recorded, reply) in enumerate(self._left):
            if recorded == request:
                del self._left[index]
                return reply
        raise ReplayMissError(self._miss(request))

    def _miss(self, request: Any) -> str:
        if request in self._all:
            return f"{self.path}: this request was recorded less often than it is made now"
        if not self._all:
            return f"{self.path}: nothing was recorded"
        asked = _lines(request)
        candidates = [_lines(recorded) for recorded in self._all]
        nearest = max(
            candidates, key=lambda lines: difflib.SequenceMatcher(None, lines, asked).ratio()
        )
        difference = list(difflib.unified_diff(nearest, asked, "recorded", "asked now", n=1))
        text = "\n".join(line.rstrip("\n") for line in difference[:MAX_LINES])
        return f"{self.path}: this request was not recorded. The nearest one differs:\n{text}"


def _lines(value: Any) -> list[str]:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
