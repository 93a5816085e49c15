"""A message and its bytes: made once per encoding, whoever gets them."""

from __future__ import annotations

import json
from typing import Any

import msgpack

from server.wire.codec import JSON, MSGPACK, Codec
from server.wire.frames import BINARY, TEXT, frame
from server.wire.messages import Message

DURABLE = {"type": "message", "channel": "chat:a", "offset": 42, "cursor": "k3f9:42", "key": "k", "user": "ann",
           "time": 1764000000123, "data": {"text": "hi"}}  # fmt: skip


def message(**changes: Any) -> Message:
    fields = {"channel": "chat:a", "epoch": "k3f9", "offset": 42, "key": "k", "user": "ann", "time": 1764000000123}
    return Message(**{**fields, "data": {"text": "hi"}, **changes})


def payload(framed: bytes) -> bytes:
    return framed[2:] if framed[1] < 126 else framed[4:]


def test_a_durable_message_on_the_wire() -> None:
    """A durable message has the fields of the contract, and no others, in both encodings."""
    assert json.loads(payload(message().frame(JSON))) == DURABLE
    assert msgpack.unpackb(payload(message().frame(MSGPACK))) == DURABLE
    assert json.loads(payload(message(user=None).frame(JSON)))["user"] is None


def test_an_ephemeral_message_on_the_wire() -> None:
    """An ephemeral message has neither offset nor cursor nor key."""
    ephemeral = message(epoch="", offset=0, key="")
    expected = {key: DURABLE[key] for key in ("type", "channel", "user", "time", "data")}
    assert json.loads(payload(ephemeral.frame(JSON))) == expected
    assert msgpack.unpackb(payload(ephemeral.frame(MSGPACK))) == expected


def test_the_tag_of_an_ephemeral_message_arrives() -> None:
    """Whoever is shown the newest of each tag is told which one it is."""
    ephemeral = message(epoch="", offset=0, key="", tag="EUR")
    assert json.loads(payload(ephemeral.frame(JSON)))["tag"] == "EUR"


def test_what_is_ours_stays_here() -> None:
    """Whom a durable message is not sent to is nobody's business."""
    assert json.loads(payload(message(skip="s1").frame(JSON))) == DURABLE


def test_a_message_of_a_thread_as_well_says_so() -> None:
    """What was published in a thread and in its parent names the thread there."""
    copied = message(tag="$thread:1:chat:a")
    assert json.loads(payload(copied.frame(JSON))) == DURABLE | {"thread": "$thread:1:chat:a"}


def test_a_message_is_encoded_and_framed_once_per_encoding() -> None:
    """Everybody with one encoding shares the same bytes; another encoding has its own."""
    calls: list[Any] = []

    def counting(codec: Codec) -> Codec:
        def encode(value: Any) -> bytes:
            calls.append(codec.name)
            return codec.encode(value)

        return Codec(codec.name, codec.media_type, codec.opcode, encode, codec.decode)

    one, other = counting(JSON), counting(MSGPACK)
    sent = message()
    frames = [sent.frame(codec) for codec in (one, other, one, one, other)]
    assert calls == [JSON.name, MSGPACK.name]
    assert frames[0] is frames[2] is frames[3]
    assert frames[1] is frames[4]
    assert frames[0] == frame(TEXT, JSON.encode(sent.push()))
    assert frames[1] == frame(BINARY, MSGPACK.encode(sent.push()))


def test_a_position_is_the_cursor_behind_it() -> None:
    """Resuming from a message's cursor starts behind it."""
    assert str(message().position) == "k3f9:42"
