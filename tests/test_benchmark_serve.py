"""The benchmark of the server: what it reports, and that its clients speak HTTP."""

from __future__ import annotations

import json

import pytest
import trio

from benchmarks.figures import to_json
from benchmarks.serve_report import OURS, THEIRS, Figure, Results, judge, markdown
from benchmarks.servers import descendants
from benchmarks.turn_client import Small

MACHINE = {"processor": "a", "cores": 2, "system": "b"}


def sample() -> Results:
    results = Results(MACHINE, 2)
    for side, values in ((OURS, [100.0, 300.0]), (THEIRS, [10.0, 20.0])):
        for value in values:
            results.add(Figure("heavy, 16 workers, small, 1", "turns/s", side), value)
            results.add(Figure("heavy, 16 workers, small, 1", "p50 ms", side), 1000 / value)
    for value in (30.0, 60.0):
        results.add(Figure("cancel to reaped", "ms", OURS), value)
    return results


def test_ratios_are_of_rounds_and_better_is_more() -> None:
    results = sample()
    assert results.times("heavy, 16 workers, small, 1", "turns/s") == pytest.approx(12.5)
    assert results.times("heavy, 16 workers, small, 1", "p50 ms") == pytest.approx(12.5)
    assert results.times("cancel to reaped", "ms") is None


def test_only_what_was_measured_is_judged() -> None:
    assert judge(sample()) == [
        ("turns/s at 1, small client", "12.5x", ">= 10x", "met"),
        ("p50 ms at 1, small client", "12.5x", ">= 10x", "met"),
        ("cancel to reaped", "45.0 ms", "<= 50 ms", "met"),
    ]
    assert judge(Results(MACHINE, 1)) == []


def test_the_report_has_both_sides_and_their_ratio() -> None:
    results = sample()
    report = markdown(results, judge(results))
    assert "| heavy, 16 workers, small, 1 | 200 : 15.0 (12.5x) |" in report
    assert "| cancel to reaped | ms | 45.0 |" in report
    assert json.loads(to_json(results.document()))["figures"][0]["values"] == [100.0, 300.0]


@pytest.mark.trio
async def test_the_small_client_reads_answers_in_any_portions() -> None:
    answers = [
        b"HTTP/1.1 200 \r\nContent-Length: 7\r\n\r\n[1, 2] ",
        b"HTTP/1.1 204 \r\n\r\n",
        b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\nno",
    ]

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            for answer in answers:
                await stream.receive_some()
                for number in range(len(answer)):
                    await stream.send_all(answer[number : number + 1])

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        ask = Small(listener.socket.getsockname()[1])
        assert await ask("GET", "/") == [1, 2]
        assert await ask("DELETE", "/") is None
        with pytest.raises(RuntimeError, match="404 b'no'"):
            await ask("GET", "/")
        await ask.aclose()
        nursery.cancel_scope.cancel()


def test_the_family_of_a_process_that_is_gone_is_empty() -> None:
    assert descendants(2**22 + 1) == []
