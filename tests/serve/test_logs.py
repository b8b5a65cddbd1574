"""The log: one line for each record, and nobody who waits for it to be written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from motus.serve.logs import JsonFormatter, LineWriter, LogFormatter, logging_to
from tests.serve.support import ROOT, until

NASTY = "a\r\nb\x1b[31m\x00\x07\x9b\u2028\u2029\ud800é"


def record(text: str, *arguments: object, **ids: str) -> logging.LogRecord:
    made = logging.LogRecord("motus.serve", logging.INFO, "", 0, text, arguments, None)
    for name, value in ids.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_lines(descriptor: int) -> list[str]:
    return os.read(descriptor, 1 << 20).decode().splitlines()


@pytest.mark.parametrize("formatter", [LogFormatter(), JsonFormatter()])
def test_a_record_is_one_line_whatever_is_in_it(formatter: logging.Formatter) -> None:
    made = record("%s", NASTY, session_id=NASTY, turn_id="t")
    nothing: dict[str, int] = {}
    try:
        nothing[NASTY]
    except KeyError:
        made.exc_info = sys.exc_info()
    line = formatter.format(made)
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert "KeyError" in line


def test_text_has_the_time_the_level_the_ids() -> None:
    made = record("turn over", session_id="s", turn_id="t")
    made.created, made.msecs = 1_700_000_000.25, 250.0
    expected = "2023-11-14T22:13:20.250Z INFO motus.serve [s t] turn over"
    assert LogFormatter().format(made) == expected
    assert LogFormatter().format(record("x")).endswith("INFO motus.serve x")


def test_a_line_that_continues_another_has_the_beginnings_of_the_ids() -> None:
    ids = {"session_id": "0123456789abcdef", "turn_id": "fedcba9876543210"}
    made = record("  File", **ids)
    made.continues = True
    assert LogFormatter().format(made).endswith("INFO motus.serve [01234567 fedcba98]   File")
    parsed = json.loads(JsonFormatter().format(made))
    assert {key: parsed[key] for key in ids} == ids
    assert "continues" not in parsed


def test_json_has_a_key_for_each() -> None:
    made = record("turn %s", "over", session_id="s", turn_id="t")
    made.created, made.msecs = 1_700_000_000.25, 250.0
    assert json.loads(JsonFormatter().format(made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "motus.serve",
        "message": "turn over",
        "session_id": "s",
        "turn_id": "t",
    }
    assert json.loads(JsonFormatter().format(record("%s", NASTY)))["message"] == NASTY


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_records_arrive_in_order_and_all_of_them(pipe: tuple[int, int], log_format: str) -> None:
    reader, writer = pipe
    with logging_to(writer, "info", log_format):
        for number in range(100):
            logging.getLogger("motus.serve").info("number %d %s", number, NASTY)
        logging.getLogger("anything").warning("else")
        logging.getLogger("anything").debug("not this")
    lines = read_lines(reader)
    assert len(lines) == 101
    assert all(f"number {number} " in lines[number] for number in range(100))
    if log_format == "json":
        assert json.loads(lines[-1])["message"] == "else"


def test_what_was_configured_before_is_back_afterwards(pipe: tuple[int, int]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with pytest.raises(KeyError), logging_to(pipe[1], "debug"):
        assert root.handlers[:] != before[0]
        raise KeyError
    assert (root.handlers[:], root.level) == before


def test_libraries_that_log_urls_are_quiet(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with logging_to(writer, "debug"):
        for name in ("httpx", "httpcore.http11", "httpx2", "httpcore2.http2"):
            logging.getLogger(name).info("http://hooks.example/s3cret")
        logging.getLogger("motus.serve").debug("seen")
    assert len(read_lines(reader)) == 1


def test_quiet_libraries_are_not_louder_than_the_rest(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with logging_to(writer, "error"):
        logging.getLogger("httpx").warning("not this")
        logging.getLogger("httpx").error("this")
    assert len(read_lines(reader)) == 1


def test_nobody_waits_for_a_reader_that_has_stopped(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, lambda dropped: f"{dropped} dropped", limit=100_000)
    line = "x" * 99
    began = time.monotonic()
    for _ in range(10_000):
        writer.write(line)
    # Writing a megabyte into a pipe that nobody reads would take for ever.
    assert time.monotonic() - began < 5
    written = dropped = 0
    left = b""
    while written + dropped < 10_000:
        *lines, left = (left + os.read(reader, 1 << 16)).split(b"\n")
        for text in lines:
            if text.endswith(b" dropped"):
                dropped += int(text.split()[0])
            else:
                assert text == line.encode()
                written += 1
    writer.close(5)
    assert (written + dropped, left) == (10_000, b"")
    assert dropped > 0


def test_closing_waits_for_a_reader_only_so_long(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, str)
    writer.write("x" * 1_000_000)  # and the end of the line
    began = time.monotonic()
    writer.close(0.1)
    assert time.monotonic() - began < 5
    # The test ends as it began: with nobody stuck.
    received = 0
    while received <= 1_000_000:
        received += len(os.read(reader, 1 << 16))


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, descriptor = os.pipe()
    os.close(reader)
    with logging_to(descriptor):
        logging.getLogger("motus.serve").info("x")
    os.close(descriptor)


def test_a_record_that_cannot_be_formatted_harms_nobody_else(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(pipe[1]):
        logging.getLogger("motus.serve").info("%d", "not a number")
        logging.getLogger("motus.serve").info("fine")
    assert [line.rpartition(" ")[2] for line in read_lines(pipe[0])] == ["fine"]
    assert "TypeError" in capsys.readouterr().err


def test_many_threads_may_log(pipe: tuple[int, int]) -> None:
    def log(name: str) -> None:
        for number in range(50):
            logging.getLogger("motus.serve").info("%s %d", name, number)

    with logging_to(pipe[1]):
        threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = read_lines(pipe[0])
    assert len(lines) == 200
    for name in "abcd":
        numbers = [int(line.split()[-1]) for line in lines if f" {name} " in line]
        assert numbers == list(range(50))


@pytest.mark.realtime
def test_a_server_whose_log_nobody_reads_still_serves_and_stops() -> None:
    reader, descriptor = os.pipe()
    program = (
        "from motus.serve import AgentServer\n"
        "import logging, sys, threading\n"
        "import contextlib, motus.serve.logs, motus.serve.server\n"
        "motus.serve.server.unreadable_by_others = contextlib.nullcontext\n"
        "motus.serve.logs.FLUSH_SECONDS = 0.1\n"
        "def flood():\n"
        "    sys.stdin.readline()\n"
        "    for _ in range(3000): logging.getLogger('motus.serve').warning('x' * 2000)\n"
        "    print('flooded', flush=True)\n"
        "threading.Thread(target=flood).start()\n"
        "AgentServer('tests.serve.agents:echo').run('127.0.0.1', 0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=descriptor,
    ) as process:  # fmt: skip
        os.close(descriptor)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"Serving ")
            process.stdin.write(b"now\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"flooded\n"
            until(lambda: _blocked_writers(process.pid) > 0, "a writer that is stuck")
            process.terminate()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            os.close(reader)


def _blocked_writers(pid: int) -> int:
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += (task / "wchan").read_text() in {"pipe_write", "anon_pipe_write"}
        except OSError:
            continue
    return found
