"""What agents cost beside their models, with generous bounds; the figures are the benchmark's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.agents import BACKENDS, crowd, steps
from tests.serve.support import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.realtime]


async def test_a_step_costs_a_few_tasks() -> None:
    figures = await steps(2, agents=10)
    ratios = [a / b for a, b in zip(figures["step"], figures["awaited"], strict=True)]
    # The better round: in so few of them, whatever else the machine does weighs much.
    assert min(ratios) < 20


async def test_many_agents_run_at_once() -> None:
    seconds, kib = await crowd(100)
    assert seconds < 10
    assert kib < 1_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_benchmark_prints_its_figures(backend: str) -> None:
    command = [sys.executable, "-m", "benchmarks.agents", "--backend", backend]
    done = subprocess.run(
        [*command, "--rounds", "1", "--agents", "5"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    row = json.loads(done.stdout)
    assert row[0] == backend
    assert len(row) == 6
