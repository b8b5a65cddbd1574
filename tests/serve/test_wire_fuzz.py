"""A fuzz of the frame decoder that is led by coverage: what reaches new code is varied further.

Whatever comes, `ProtocolError` is all that may be raised, what is taken for a message is one, and
memory is bounded by the limit of a frame (G11).
"""

from __future__ import annotations

import os
import random
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

import pytest

from motus.errors import ProtocolError
from motus.messages import ChatMessage, FunctionCall, ToolCall
from motus.serve import strict_json, wire
from motus.serve.wire import FrameDecoder, decode_state, encode_frame

SOAK = os.environ.get("MOTUS_TEST_SIZE") == "soak"
INPUTS = 2_000_000 if SOAK else 20_000
# Of long ones only the beginning is varied further.
MAX_SEED_BYTES, MAX_INPUT_BYTES = 1_000, 12_000
MAX_FRAME_BYTES = 10_000
# What comes after an input without end, and the memory that it may cost.
FLOOD_BYTES, MAX_MEMORY_BYTES = 1 << 20, 1 << 18

Arcs: TypeAlias = frozenset[tuple[str, int, int]]

TRACED = {strict_json.__file__, wire.__file__}
MESSAGE = ChatMessage(
    "assistant",
    "text \U0001f600 \x00",
    tool_calls=[ToolCall("1", FunctionCall("f", '{"a": [1]}'))],
    user_params={"a": [1, -2.5e-3, {"b": None}], "c": True},
)
STATE = wire.encode_state([MESSAGE, ChatMessage.user_message("x")])
# What each side may hear, and examples of it.
DIRECTIONS: list[tuple[dict[str, type[Any]], list[Any]]] = [
    (wire.TO_WORKER, [
        wire.Turn("s", "t", MESSAGE, STATE), wire.Turn("s", "t", ChatMessage.user_message("x")),
        wire.Resume("t", "i", {"approved": True}), wire.Resume("t", "i", [1.5, None, "\u20ac"]),
    ]),
    (wire.FROM_WORKER, [
        wire.Ready(), wire.Interrupt("t", "i", {"type": "x", "deep": [[[{}]]]}),
        wire.Result("t", MESSAGE, 2, STATE), wire.Failure("t", "E: no", "Traceback\n  line"),
        wire.Failure(None, "", ""),
    ]),
    (wire.TO_TEMPLATE, [wire.Fork("w")]),
    (wire.FROM_TEMPLATE, [
        wire.Prepared("fork"), wire.Forked("w", 2, has_descriptor=False), wire.NotForked("w", 12),
        wire.Exited("w", -9), wire.Changed(), wire.Failure(None, "no agent", "Traceback"),
    ]),
]  # fmt: skip
VALUES = [
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1e-400", b"1.5", b"9" * 30,
    b"9" * 4400, b'""', b'"x"', b"{}", b"[]", b'{"x":[1]}', b'"\\ud800"', b'"\\ud83d\\ude00"',
    b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\x"', b"[" * 80 + b"]" * 80, b"[" * 9000,
    b'{"a":' * 80 + b"1" + b"}" * 80, b'"assistant"', b'{"role":"user"}',
]  # fmt: skip
PIECES = [
    *VALUES, *(f'"{tag}"'.encode() for kinds, _ in DIRECTIONS for tag in kinds),
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf",
    b'"type":', b'"state":', b'"x":1,', b"\x00\x00\x00\x00", b"\xff\xff\xff\xff",
]  # fmt: skip
VALUE = re.compile(rb'"[^"]*"|[-+.0-9eE]+|null|true|false|\[[^\[]*?\]|\{[^{]*?\}')


@contextmanager
def traced() -> Iterator[Callable[[], Arcs]]:
    """Record the arcs of code that are run in the block; the function takes what there is."""
    arcs: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename not in TRACED:
            return None
        name, last = code.co_qualname, frame.f_lineno

        def line(inner: FrameType, what: str, _: object) -> Any:
            nonlocal last
            # An exception on its way through a line is another way to leave it.
            here = -inner.f_lineno if what == "exception" else inner.f_lineno
            arcs.add((name, last, here))
            last = here
            return line

        return line

    def take() -> Arcs:
        found = frozenset(arcs)
        arcs.clear()
        return found

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield take
    finally:
        sys.settrace(before)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def decode(kinds: dict[str, type[Any]], stream: bytes, portion: int) -> list[Any]:
    """All that the decoder makes of a stream that comes in such portions."""
    decoder = FrameDecoder(kinds, max_frame_bytes=MAX_FRAME_BYTES)
    found = []
    for start in range(0, len(stream), portion):
        decoder.feed(stream[start : start + portion])
        try:
            while (message := decoder.next_message()) is not None:
                found.append(message)
        except ProtocolError:
            # It does not want more, and must not keep more.
            continue
    return found


def check(kinds: dict[str, type[Any]], stream: bytes, portion: int) -> None:
    for message in decode(kinds, stream, portion):
        assert type(message) in kinds.values()
        # It can be said again, and means the same then; only perhaps not as shortly.
        again = encode_frame(message)
        if len(again) <= MAX_FRAME_BYTES:
            assert decode(kinds, again, len(again)) == [message]
        try:
            decode_state(getattr(message, "state", wire.EMPTY_STATE))
        except ProtocolError:
            continue


def memory_for(kinds: dict[str, type[Any]], stream: bytes) -> int:
    """Bytes at most that the decoder has while the stream comes, and a flood after it."""
    flood = stream + bytes(FLOOD_BYTES)
    tracemalloc.start()
    try:
        decode(kinds, flood, 1 << 12)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def changed(chance: random.Random, seed: bytes, other: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.choice([1, 1, 1, 1, 2, 4])):
        place = chance.randint(0, len(data))
        end = min(len(data), place + chance.choice([0, 1, 1, 2, 4, 16, 64]))
        start = chance.randint(0, len(other))
        match chance.randrange(8):
            case 0 | 1 | 2 if values := list(VALUE.finditer(data)):
                place, end = chance.choice(values).span()
                data[place:end] = chance.choice(VALUES)
            case 3:
                data[place:end] = chance.choice(PIECES)
            case 4:
                data[place:end] = b""
            case 5:
                data[place:place] = data[place:end] * chance.choice([1, 2, 30])
            case 6 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case _:
                data[place:end] = other[start : start + chance.choice([1, 4, 16, 64])]
    return bytes(data[:MAX_INPUT_BYTES])


@pytest.mark.parametrize("direction", range(len(DIRECTIONS)), ids=[
    "to worker", "from worker", "to template", "from template",
])  # fmt: skip
def test_whatever_comes_is_a_message_or_a_protocol_error(direction: int) -> None:
    kinds, examples = DIRECTIONS[direction]
    chance = random.Random(direction)
    corpus = [encode_frame(example) for example in examples]
    known: set[tuple[str, int, int]] = set()
    with traced() as arcs:
        for stream in corpus:
            check(kinds, stream, len(stream))
        known |= arcs()
        first = len(known)
        for _ in range(INPUTS // len(DIRECTIONS)):
            # What is kept is mostly broken, and far from what is taken for a message.
            seed = chance.choice(corpus[: chance.choice([len(examples), len(corpus)])])
            other = chance.choice(corpus)
            if chance.random() < 0.8:
                # With a length that is right again, so that what is in the frame is looked at.
                stream = framed(changed(chance, seed[4:], other[4:]))
            else:
                stream = changed(chance, seed + other, seed)
            portion = max(len(stream) // chance.choice([1, 1, 2, 10]), 1)
            try:
                check(kinds, stream, portion)
            except BaseException as error:
                error.add_note(f"input {stream!r} in portions of {portion}")
                raise
            if not (found := arcs()) <= known:
                known |= found
                corpus.append(stream[:MAX_SEED_BYTES])
    assert len(known) > first
    for stream in corpus:
        for length in (stream[:4], (MAX_FRAME_BYTES + 1).to_bytes(4, "big"), b"\xff" * 4):
            assert memory_for(kinds, length + stream[4:]) < MAX_MEMORY_BYTES, stream
