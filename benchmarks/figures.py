"""Medians and ratios: what is quoted is the median of the ratios that single rounds gave.

Machines wander by a factor of two within minutes; two figures of the same round have met the same
machine, so only they are divided by each other.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Series", "find", "machine", "ratio", "short", "table", "to_json"]


@dataclass(frozen=True)
class Series:
    """One figure in every round: microseconds per node of `shape` at `nodes`, run in `where`."""

    shape: str
    bodies: str
    where: str
    nodes: int
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)


def find(series: Iterable[Series], shape: str, where: str, nodes: int) -> Series | None:
    """The series of this shape, place and size."""
    for one in series:
        if (one.shape, one.where, one.nodes) == (shape, where, nodes):
            return one
    return None


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios. ValueError unless both have the same rounds."""
    return median(a / b for a, b in zip(above, below, strict=True))


def short(value: float) -> str:
    """Three significant digits, or all of a larger whole number, with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    lines += [_row(row) for row in rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("motus-agents", "trio", "anyio")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from source"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def to_json(document: dict[str, Any]) -> str:
    """The document as text; a list of numbers stays on one line, with four decimals."""
    text = json.dumps(_rounded(document), indent=1)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


# A list that holds nothing but numbers, spread over lines.
_NUMBERS = re.compile(r"\[\s*([-+.\deE,\s]+?)\s*\]")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
