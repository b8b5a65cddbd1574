"""Frames: what is sent arrives, and whatever else arrives raises ProtocolError only."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motus.errors import ProtocolError
from motus.messages import ChatMessage, FunctionCall, ToolCall
from motus.runtime import agent_task, resolve, shutdown
from motus.serve.schemas import RequestError, parse_resume
from motus.serve.strict_json import MAX_VALUES, decode_json, encode_json
from motus.serve.wire import (
    FROM_TEMPLATE,
    FROM_WORKER,
    MAX_FRAME_BYTES,
    TO_TEMPLATE,
    TO_WORKER,
    Changed,
    Exited,
    Failure,
    Fork,
    Forked,
    FrameDecoder,
    Interrupt,
    NotForked,
    Prepared,
    Ready,
    Result,
    Resume,
    Turn,
    decode_state,
    encode_frame,
    encode_state,
)

FRAMES = 100_000 if os.environ.get("MOTUS_TEST_SIZE") == "soak" else 2_000

ALL: dict[str, type[Any]] = {**TO_WORKER, **FROM_WORKER, **TO_TEMPLATE, **FROM_TEMPLATE}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
objects = st.dictionaries(texts, values, max_size=3)
calls = st.builds(ToolCall, texts, st.builds(FunctionCall, texts, texts), texts)
messages = st.builds(
    ChatMessage,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | texts,
    reasoning=st.none() | texts,
    reasoning_details=values,
    tool_calls=st.none() | st.lists(calls, max_size=2),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
    base64_image=st.none() | texts,
    user_params=st.none() | objects,
)
states = st.lists(messages, max_size=3).map(encode_state) | st.binary(max_size=30)
frames = st.one_of(
    st.builds(Turn, texts, texts, messages, states),
    st.builds(Resume, texts, texts, values),
    st.builds(Ready),
    st.builds(Fork, texts),
    st.builds(Prepared, st.sampled_from(["fork", "exec"])),
    st.builds(Forked, texts, st.integers(2, 2**31)),
    st.builds(NotForked, texts, st.integers(1, 200)),
    st.builds(Exited, texts, st.integers(-64, 255)),
    st.builds(Changed),
    st.builds(Interrupt, texts, texts, objects),
    st.builds(Result, texts, messages, st.integers(0, 10**6), states),
    st.builds(Failure, st.none() | texts, texts, texts),
)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def decode_all(data: bytes, kinds: dict[str, type[Any]] = ALL, **options: Any) -> list[Any]:
    decoder = FrameDecoder(kinds, **options)
    decoder.feed(data)
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


@given(st.lists(frames, max_size=4))
def test_what_is_sent_arrives(sent: list[Any]) -> None:
    assert decode_all(b"".join(map(encode_frame, sent))) == sent


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_portions_do_not_matter(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = FrameDecoder(ALL)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        while (message := decoder.next_message()) is not None:
            found.append(message)
    assert found == sent


@given(frames, frames)
def test_nothing_comes_of_a_truncated_frame(first: Any, second: Any) -> None:
    stream = encode_frame(first)
    for end in range(1, len(stream)):
        assert decode_all(stream[:end]) == []
    # The whole message before a truncated one is not lost.
    decoder = FrameDecoder(ALL)
    decoder.feed(stream + encode_frame(second)[:-1])
    assert decoder.next_message() == first
    assert decoder.next_message() is None


@settings(max_examples=FRAMES)
@given(st.binary(max_size=200))
def test_random_bytes_raise_protocol_error_only(data: bytes) -> None:
    for stream in (data, framed(data), framed(b'{"type":"result"}\n' + data)):
        try:
            decode_all(stream)
        except ProtocolError:
            continue


@given(values)
def test_random_json_raises_protocol_error_only(value: Any) -> None:
    body = encode_json(value)
    try:
        decode_all(framed(body))
    except ProtocolError:
        return
    assert value in ({"type": "ready"}, {"type": "changed"})


@given(frames, st.data())
def test_a_changed_field_raises_protocol_error_or_is_another_message(
    message: Any, data: st.DataObject
) -> None:
    header, newline, state = encode_frame(message)[4:].partition(b"\n")
    fields = json.loads(header)
    name = data.draw(st.sampled_from(sorted(fields)))
    action = data.draw(st.sampled_from(["drop", "replace", "add"]))
    if action == "drop":
        del fields[name]
    elif action == "replace":
        fields[name] = data.draw(values)
    else:
        fields[data.draw(texts.filter(lambda text: text not in fields))] = 1
    try:
        [found] = decode_all(framed(encode_json(fields) + newline + state))
    except ProtocolError:
        return
    assert action != "add", "an extra field went through"
    # What went through is a message that says exactly what came.
    assert encode_frame(found)[4:].partition(b"\n")[0] == encode_json(
        json.loads(encode_frame(message)[4:].partition(b"\n")[0]) | fields
    )


TURN = {"type": "turn", "session_id": "s", "turn_id": "t", "message": {"role": "user"}}
MALFORMED: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff", "not UTF-8"),
    (b"[]", "not an object"),
    (b"null", "not an object"),
    (b"{}", "unknown message type"),
    (b'{"type":"Turn"}', "unknown message type"),
    (b'{"type":[]}', "unknown message type"),
    (b'{"type":{}}', "unknown message type"),
    (b'{"type":"forked","worker_id":"w"}', "pid: missing"),
    (b'{"type":"forked","worker_id":"w","pid":"2"}', "expected an integer, got a string"),
    (b'{"type":"forked","worker_id":"w","pid":true}', "expected an integer"),
    (b'{"type":"forked","worker_id":"w","pid":2.0}', "expected an integer"),
    (b'{"type":"forked","worker_id":"w","pid":0}', "pid"),
    (b'{"type":"forked","worker_id":"w","pid":-1}', "pid"),
    (b'{"type":"forked","worker_id":"w","pid":2,"more":1}', "more: unknown field"),
    (b'{"type":"forked","worker_id":"w","pid":2}\n[]', "with a state"),
    (b'{"type":"prepared","mode":"auto"}', "mode"),
    (b'{"type":"not_forked","worker_id":"w","error_number":0}', "error_number"),
    (b'{"type":"forked","worker_id":"w","pid":NaN}', "NaN is not JSON"),
    (b'{"type":"forked","worker_id":"w","pid":Infinity}', "Infinity is not JSON"),
    (b'{"type":"resume","turn_id":"t","interrupt_id":"i","value":1e999}', "out of range"),
    (b'{"type":"resume","turn_id":"t","interrupt_id":"i","value":"\\ud800"}', "lone surrogate"),
    (b'{"type":"resume","turn_id":"t","interrupt_id":"i","value":"\xed\xa0\x80"}', "not UTF-8"),
    (b'{"type":"interrupt","turn_id":"t","interrupt_id":"i","payload":[]}', "expected an object"),
    (b'{"type":"forked","worker_id":"w","pid":' + b"9" * 5000 + b"}", "not JSON"),
    (json.dumps(TURN).encode(), "without a state"),
    (json.dumps({**TURN, "state": "[]"}).encode() + b"\n[]", "without a state"),
    (json.dumps({**TURN, "message": {"role": "x"}}).encode() + b"\n[]", "expected one of"),
    (json.dumps({**TURN, "message": 5}).encode() + b"\n[]", "message: expected an object"),
    (b"[" * 100_000, "nested deeper"),
    (b'{"a":' * 80 + b"1" + b"}" * 80, "nested deeper"),
]


@pytest.mark.parametrize(("body", "reason"), MALFORMED, ids=lambda value: str(value)[:40])
def test_malformed_frames_say_why(body: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_all(framed(body))


def test_a_frame_beyond_the_limit_is_refused_before_its_body_comes() -> None:
    decoder = FrameDecoder(FROM_WORKER)
    decoder.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match=f"a frame of {MAX_FRAME_BYTES + 1} bytes"):
        decoder.next_message()
    exact = encode_frame(Fork("w"))
    assert decode_all(exact, max_frame_bytes=len(exact) - 4) == [Fork("w")]
    with pytest.raises(ProtocolError):
        decode_all(exact, max_frame_bytes=len(exact) - 5)
    with pytest.raises(ProtocolError):
        encode_frame(Fork("w"), max_frame_bytes=len(exact) - 5)


def test_a_broken_decoder_stays_broken_and_keeps_nothing() -> None:
    decoder = FrameDecoder(FROM_WORKER)
    decoder.feed(encode_frame(Ready()) + framed(b"x"))
    assert decoder.next_message() == Ready()
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not JSON"):
            decoder.next_message()
        decoder.feed(encode_frame(Ready()))


def test_reads_are_large_for_long_frames_but_bounded() -> None:
    decoder = FrameDecoder(FROM_WORKER)
    assert decoder.wanted == 1 << 16
    decoder.feed((100_000).to_bytes(4, "big"))
    assert decoder.wanted == 100_000
    decoder = FrameDecoder(FROM_WORKER)
    decoder.feed(MAX_FRAME_BYTES.to_bytes(4, "big"))
    assert decoder.wanted == 1 << 20


def test_each_side_accepts_the_messages_of_the_other_only() -> None:
    turn = encode_frame(Turn("s", "t", ChatMessage.user_message("x")))
    with pytest.raises(ProtocolError, match="unknown message type 'turn'"):
        decode_all(turn, FROM_WORKER)
    with pytest.raises(ProtocolError, match="unknown message type 'ready'"):
        decode_all(encode_frame(Ready()), TO_WORKER)
    with pytest.raises(ProtocolError, match="unknown message type 'exited'"):
        decode_all(encode_frame(Exited("w", 0)), FROM_WORKER)
    with pytest.raises(ProtocolError, match="unknown message type 'result'"):
        decode_all(
            encode_frame(Result("t", ChatMessage.user_message("x"), 0)),
            FROM_TEMPLATE,
        )


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800", object(), {1, 2}, b"bytes"], ids=repr
)
def test_what_json_cannot_say_is_not_sent(value: object) -> None:
    with pytest.raises(ProtocolError, match="not expressible in JSON"):
        encode_frame(Resume("t", "i", value))


def test_nesting_without_end_is_not_sent() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ProtocolError):
        encode_json(value)


@given(st.lists(messages, max_size=4))
def test_states_come_back(state: list[ChatMessage]) -> None:
    encoded = encode_state(state)
    assert decode_state(encoded) == state
    assert b"\n" not in encoded
    assert all(None not in item.values() for item in json.loads(encoded))


async def _later() -> str:
    return "x"


def test_a_forgotten_await_is_named() -> None:
    later = agent_task(_later)
    coroutine, future = _later(), later()
    for value, kind in ((coroutine, "coroutine"), (future, "AgentFuture")):
        with pytest.raises(
            ProtocolError, match=f"Object of type {kind} is not JSON serializable: await it first$"
        ):
            encode_frame(Result("t", ChatMessage("assistant", value), 0, b"[]"))  # type: ignore[arg-type]  # the point
    coroutine.close()
    resolve(future)
    shutdown()


@pytest.mark.parametrize("state", [b"", b"{}", b"[1]", b'[{"role":"x"}]', b"[NaN]"])
def test_a_malformed_state_is_a_protocol_error(state: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_state(state)


def test_depth_is_counted_exactly_and_not_for_brackets_in_strings() -> None:
    assert decode_json(b"[" * 64 + b"]" * 64)
    with pytest.raises(ProtocolError, match="nested deeper than 64"):
        decode_json(b"[" * 65 + b"]" * 65)
    assert decode_json(encode_json("[" * 1000)) == "[" * 1000
    assert decode_json(b"[" + b",".join([b"[]"] * 1000) + b"]") == [[]] * 1000


def test_the_parts_of_a_value_are_bounded_where_the_server_decodes_for_others() -> None:
    assert decode_json(b'[1,"a,b",{}]', max_values=5) == [1, "a,b", {}]
    with pytest.raises(ProtocolError, match="of too many parts"):
        decode_json(b'[1,"a,b",{}]', max_values=4)
    values = b"[" + b"0," * MAX_VALUES + b"0]"
    ask = b'{"type":"interrupt","turn_id":"t","interrupt_id":"i","payload":{"x":' + values + b"}}"
    with pytest.raises(ProtocolError, match="of too many parts"):
        decode_all(framed(ask), FROM_WORKER)
    with pytest.raises(RequestError, match="400: Request body is of too many parts"):
        parse_resume(b'{"interrupt_id":"i","value":' + values + b"}", "application/json")
    # What a client may say must reach the worker, whatever is added on the way.
    turn = Turn("s", "t", ChatMessage("user", user_params={"x": [0] * MAX_VALUES}))
    assert decode_all(encode_frame(turn), TO_WORKER) == [turn]


def test_escaped_pairs_of_surrogates_are_characters() -> None:
    assert decode_json(b'"\\ud83d\\ude00"') == "\U0001f600"
