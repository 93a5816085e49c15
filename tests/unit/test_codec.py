"""Bytes to objects: what is taken is taken faithfully, in both encodings alike; the rest is refused before it costs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Error
from server.wire.codec import CODECS, JSON, MAX_DEPTH, MAX_NODES, MSGPACK, Codec, id_of
from server.wire.poll_items import ITEMS
from server.wire.pushes import MessagePush
from server.wire.sse import EVENT_STREAM

both = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.text() | numbers
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


def raw(codec: Codec, value: Any) -> bytes:
    """`value` encoded by somebody else's encoder."""
    return json.dumps(value).encode() if codec is JSON else bytes(msgpack.packb(value))


def refusal(codec: Codec, data: bytes) -> str:
    with pytest.raises(Error) as caught:
        codec.decode(data)
    assert caught.value.code == "bad_request"
    return caught.value.reason


def nested(depth: int, inner: Any = 1) -> Any:
    for level in range(depth):
        inner = [inner] if level % 2 else {"k": inner}
    return inner


@both
@given(value=values)
def test_every_faithful_value_makes_the_round_trip(codec: Codec, value: Any) -> None:
    """Any value of 64-bit integers, finite numbers, text, lists and objects comes back as it was, types and order."""
    assert repr(codec.decode(codec.encode(value))) == repr(value)
    assert repr(codec.decode(raw(codec, value))) == repr(value)


@both
@given(data=st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(codec: Codec, data: bytes) -> None:
    """Whatever the bytes, the answer is a value that both encodings carry, or `bad_request`."""
    try:
        value = codec.decode(data)
    except Error:
        refusal(codec, data)
        return
    for other in (JSON, MSGPACK):
        assert repr(other.decode(other.encode(value))) == repr(value)


@both
def test_depth(codec: Codec) -> None:
    """32 levels are taken, 33 are not."""
    assert codec.decode(raw(codec, nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    assert "nested 32 deep" in refusal(codec, raw(codec, nested(MAX_DEPTH + 1)))
    assert codec.decode(raw(codec, nested(MAX_DEPTH - 1, []))) == nested(MAX_DEPTH - 1, [])
    assert "nested 32 deep" in refusal(codec, raw(codec, nested(MAX_DEPTH, {})))


@both
def test_many_short_branches_are_not_depth(codec: Codec) -> None:
    """Depth is that of one branch, however many there are."""
    value = [nested(MAX_DEPTH - 1) for _ in range(100)]
    assert codec.decode(raw(codec, value)) == value


SHAPES = {
    "flat list": lambda nodes: [1] * (nodes - 1),
    "object": lambda nodes: {str(index): 1 for index in range(nodes - 1)},
    "two lists": lambda nodes: [[1] * (nodes // 2), [1] * (nodes - nodes // 2 - 3)],
    "lists of one": lambda nodes: [[1]] * ((nodes - 1) // 2) + [1] * ((nodes - 1) % 2),
    "empty lists": lambda nodes: [[]] * (nodes - 1),
    "empty objects": lambda nodes: [{}] * (nodes - 1),
    "long texts": lambda nodes: ["x" * 40] * (nodes - 1),
}


@both
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_nodes(codec: Codec, shape: Any) -> None:
    """10,000 values in one message are taken whatever their shape, and 10,001 are not, in either encoding."""
    fits = shape(MAX_NODES)
    assert codec.decode(raw(codec, fits)) == fits
    assert "10000 values" in refusal(codec, raw(codec, shape(MAX_NODES + 1)))


BOMBS = {
    "json depth": (JSON, b"[" * 10_000, "nested 32 deep"),
    "json objects": (JSON, b'{"a":' * 20_000, "nested 32 deep"),
    "json nodes": (JSON, b"[" + b"1," * MAX_NODES, "10000 values"),
    "msgpack depth": (MSGPACK, b"\x91" * 100_000, "nested 32 deep"),
    "msgpack nodes": (MSGPACK, b"\xdc\x27\x11" + b"\x01" * 10_000, "10000 values"),
    "msgpack many nodes": (MSGPACK, b"\xdd\x7f\xff\xff\xff" + b"\x01" * 10_000, "10000 values"),
}


@pytest.mark.parametrize(("codec", "data", "reason"), BOMBS.values(), ids=BOMBS)
def test_limits_come_before_objects(codec: Codec, data: bytes, reason: str) -> None:
    """A bomb is refused for its size even where it is broken further on: nobody has tried to build it."""
    assert reason in refusal(codec, data)


@both
def test_brackets_and_commas_in_strings_do_not_count(codec: Codec) -> None:
    """Text may look like any structure: it is one value."""
    for text in ("[{" * 1000, "," * 20_000, '"\\":' * 5000, "[" * 33 + "\\", '\\"' * 40 + "{" * 40, ":" * 99):
        value = {text: [text, text], "a:b": 1}
        assert codec.decode(raw(codec, value)) == value


@contextmanager
def cpu_guard(seconds: float) -> Iterator[None]:
    """No measurement, a rescue: what would compute for minutes is ended, and fails."""

    def too_long(*_: object) -> None:
        raise RuntimeError("still computing")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("body", [b'\\"', b'"', b"\\", b'"\\', b'""', b'"a\\"'])
def test_no_message_keeps_the_server_busy(body: bytes) -> None:
    """Broken strings with brackets before them are refused in a time that grows only with their length."""
    data = (b"[" * 33 + b'"' + body * 131072)[:131072]
    with cpu_guard(3):
        refusal(JSON, data)


REFUSED_JSON = {
    "nothing": b"",
    "truncated": b'{"a":[1,2',
    "trailing garbage": b"[1] x",
    "trailing comma": b"[1,]",
    "two values": b"1 2",
    "NaN": b"NaN",
    "Infinity": b"[-Infinity]",
    "beyond a double": b"1e400",
    "65 bits": b"9223372036854775808",
    "-65 bits": b"-9223372036854775809",
    "unsigned 64 bits": b"[18446744073709551615]",
    "600 digits": b"9" * 600,
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00"',
    "surrogates the wrong way round": b'"\\udc00\\ud800"',
    "surrogate in a key": b'{"\\ud800x":1}',
    "not UTF-8": b'"\xff"',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "control character": b'"\x00"',
    "byte order mark": b"\xef\xbb\xbf1",
    "single quotes": b"{'a':1}",
    "duplicate keys": b'{"a":1,"a":1}',
    "duplicate keys further in": b'[{"x":{"a":1,"b":2,"a":3}}]',
    "duplicate keys spelled differently": b'{"a":1,"\\u0061":2}',
    "duplicate keys and white space": b'{"a" :1,"b":2,"a"\n:2}',
    "duplicate keys beside quotes in text": b'{"a" :"\\":","b":1,"a":1}',
    "duplicate keys beside colons in text": b'{"a:":":","b":1,"b":1}',
}
REFUSED_MSGPACK = {
    "nothing": b"",
    "never used": b"\xc1",
    "truncated list": b"\x92\x01",
    "truncated text": b"\xa5abc",
    "truncated length": b"\xdb\x00",
    "trailing garbage": b"\x01\x01",
    "NaN": b"\xcb\x7f\xf8" + bytes(6),
    "infinity as float32": b"\x91\xca\x7f\x80\x00\x00",
    "unsigned 64 bits": b"\xcf" + b"\xff" * 8,
    "65 bits": b"\x91\xcf\x80" + bytes(7),
    "surrogate": b"\xa3\xed\xa0\x80",
    "not UTF-8": b"\xa1\xff",
    "bin": b"\xc4\x01x",
    "bin further in": b"\x81\xa1k\x91\xc5\x00\x01x",
    "bin as a key": b"\x81\xc4\x01x\x01",
    "integer as a key": b"\x81\x01\x01",
    "null as a key": b"\x81\xc0\x01",
    "list as a key": b"\x81\x90\x01",
    "duplicate keys": b"\x82\xa1a\x01\xa1a\x02",
    "duplicate keys spelled differently": b"\x82\xa1a\x01\xd9\x01a\x02",
    **{f"ext {head:#x}": bytes([head, 1]) + bytes(17) for head in range(0xD4, 0xD9)},
    "ext of no bytes": b"\xc7\x00\x01",
    "timestamp": b"\xd6\xff" + bytes(4),
    "ext in a long message": b"\x92\xda\x2e\xe0" + b"x" * 12_000 + b"\xd4\x01x",
    "text longer than the message": b"\xdb\xff\xff\xff\xff" + b"x" * 12_000,
}


@pytest.mark.parametrize("data", REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_json_that_could_not_be_kept_faithfully_is_refused(data: bytes) -> None:
    """JSON outside of the rules is `bad_request`."""
    assert refusal(JSON, data)


@pytest.mark.parametrize("data", REFUSED_MSGPACK.values(), ids=REFUSED_MSGPACK)
def test_msgpack_that_could_not_be_kept_faithfully_is_refused(data: bytes) -> None:
    """MessagePack outside of the rules, `bin` and `ext` included, is `bad_request`."""
    assert refusal(MSGPACK, data)


@both
def test_the_edges_of_what_is_taken(codec: Codec) -> None:
    """The largest integers, NUL, emoji and reserved-looking keys pass."""
    value = {"": -(2**63), "$where": 2**63 - 1, "a.b": "\x00", "__proto__": "😀", "n": 5e-324, "x": 1.7e308}
    assert repr(codec.decode(raw(codec, value))) == repr(value)


@pytest.mark.parametrize("codec", [JSON, MSGPACK, EVENT_STREAM, *ITEMS.values()], ids=repr)
@given(st.lists(values | st.integers(0, 70_000).map("\u2028\r".__mul__), max_size=5))
def test_several_are_framed_as_each_of_them_is(codec: Codec, data: list[Any]) -> None:
    pushes = [MessagePush("chat:a", n, f"e:{n}", "\n", None, 1, value) for n, value in enumerate(data)]
    assert codec.frames(pushes) == b"".join(codec.frame(push) for push in pushes)


def test_codecs_are_found_by_their_subprotocol() -> None:
    """The subprotocols' names are those of the contract."""
    assert CODECS == {"waterspout.json": JSON, "waterspout.msgpack": MSGPACK}


@both
def test_what_mongodb_reads_back_is_written_as_it_was(codec: Codec) -> None:
    """Its integers are a class of their own, which must not show."""
    push = MessagePush(channel="chat:a", offset=1, cursor="e:1", key="k", user=None, time=Int64(2**40), data=[Int64(7)])
    value = codec.decode(codec.encode({"messages": [push]}))
    assert value["messages"][0]["time"] == 2**40
    assert value["messages"][0]["data"] == [7]


@both
@pytest.mark.parametrize(
    ("value", "identifier"),
    [({"id": 7, "type": 1}, 7), ({"id": -(2**63)}, -(2**63)), ({"id": 2**63}, None), ({"id": "7"}, None),
     ({"id": True}, None), ({"id": None}, None), ({"data": {"id": 5}}, None), ({}, None), ([], None), (None, None)],
)  # fmt: skip
def test_even_what_is_no_command_may_have_an_id(codec: Codec, value: Any, identifier: int | None) -> None:
    """The id is an integer of 64 bits at top level, whatever else there is."""
    assert id_of(codec.opcode, raw(codec, value)) == identifier


@both
def test_what_cannot_be_taken_may_have_an_id(codec: Codec) -> None:
    """The error of what has to be refused can be told apart by its id, wherever that stands."""
    refused: list[Any] = [2**63, nested(MAX_DEPTH + 1), [0] * MAX_NODES]
    if codec is JSON:
        refused += ["\ud83d", {"\udc00": "\\ud83d"}]
    else:
        refused += [b"bin", msgpack.ExtType(1, b"x"), float("nan")]
    for data in refused:
        for command in ({"id": 3, "data": data}, {"data": data, "id": 3}):
            assert refusal(codec, raw(codec, command))
            assert id_of(codec.opcode, raw(codec, command)) == 3
    assert id_of(JSON.opcode, b'{"id":3,"a":1,"a":2}') == 3


@both
@pytest.mark.parametrize("data", [b"", b'{"id":3', b"\x82\xa2id\x03", b"[" * 200_000, b"\x91" * 200_000])
def test_what_cannot_be_read_has_no_id(codec: Codec, data: bytes) -> None:
    """What is broken, or nested without end, has none."""
    assert id_of(codec.opcode, data) is None


def test_half_an_emoji_is_called_what_it_is() -> None:
    """What clients send most that is wrong: a text cut in the middle of one."""
    for raw in (b'{"text":"cut \\ud83d"}', b'{"text":"cut \\ud83d, and going on"}', b'["\\udc00"]'):
        with pytest.raises(Error, match="surrogate pair"):
            JSON.decode(raw)
    with pytest.raises(Error, match=r"truncated$"):
        JSON.decode(b'{"text":')
