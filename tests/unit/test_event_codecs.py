"""The encodings of event streams and of long polls' answers."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from server.wire.codec import JSON, MSGPACK
from server.wire.messages import Message
from server.wire.poll_items import ITEMS
from server.wire.pushes import DroppedPush, GapPush
from server.wire.sse import EVENT_STREAM


def message(offset: int, data: Any = None) -> Message:
    return Message("chat:a", "k3f9", offset, "key", "ann", 1, data)


def test_an_event() -> None:
    """Type, cursor and push; nothing in the data can end an event or begin a field."""
    framed = message(7, "a\n\nevent: x\r\n\u2028").frame(EVENT_STREAM)
    head, place, data, *rest = framed.decode().split("\n")
    assert (head, place, rest) == ("event: message", "id: k3f9:7", ["", ""])
    assert json.loads(data.removeprefix("data: "))["data"] == "a\n\nevent: x\r\n\u2028"


def test_events_that_are_no_messages() -> None:
    """A gap carries the cursor behind it; what is no place in the channel carries none."""
    assert EVENT_STREAM.frame(GapPush.trimmed("chat:a", "k3f9", 1, 5)).startswith(b"event: gap\nid: k3f9:5\ndata: {")
    assert EVENT_STREAM.frame(DroppedPush("chat:a", 5)).startswith(b"event: dropped\ndata: {")
    assert message(0).frame(EVENT_STREAM).startswith(b"event: message\ndata: {")


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 1000])
def test_an_answer_out_of_encoded_messages(count: int) -> None:
    """It is the same as if it had been encoded as a whole."""
    messages = [message(n, {"n": n}) for n in range(1, count + 1)]
    rest = {"cursor": "k3f9:9", "head": "k3f9:9", "more": False, "gap": None}
    for base, decode in ((JSON, json.loads), (MSGPACK, msgpack.unpackb)):
        codec = ITEMS[base]
        answer = codec.answer(b"".join(one.frame(codec) for one in messages), count, rest)
        assert decode(answer) == decode(base.encode({"messages": [one.push() for one in messages], **rest}))
