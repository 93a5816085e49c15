"""A batch: what one request to a consumer's back end holds, and where its cursor is behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from server.core.cursors import Position
from server.core.names import HAPPENINGS
from server.wire.codec import JSON
from server.wire.messages import Message
from server.wire.rest import Gap

BATCH_BYTES: Final = 1 << 20
"""Of messages in a request; but the first one in any case."""

EPOCH_GAP: Final[Gap] = {"from": None, "to": None, "reason": "epoch"}
"""Another history altogether: what the consumer had not been told of the old one is lost."""


class Batch(NamedTuple):
    id: str
    """The same one whenever the same messages are sent, also by another node: the back end can tell."""
    body: bytes
    """{"consumer", "channel", "messages": [as in history], "gap"?}, or {"consumer", "events": […], "gap"?}, as JSON."""
    messages: int
    position: Position
    """Of the cursor, once this is delivered."""


def compose(
    consumer: str, channel: str, messages: Sequence[Message], gap: Gap | None, position: Position, most: int
) -> Batch:
    """As many of the messages as fit, at most `most`. `position`: behind the gap, where there is no message."""
    events = channel.startswith(HAPPENINGS)
    parts: list[bytes] = []
    size = 0
    for message in messages[:most]:
        part = JSON.encode(message.data if events else message.push())
        size += len(part)
        if parts and size > BATCH_BYTES:
            break
        parts.append(part)
    head = JSON.encode({"consumer": consumer} if events else {"consumer": consumer, "channel": channel})[:-1]
    tail = b"]}" if gap is None else b'],"gap":' + JSON.encode(gap) + b"}"
    body = head + (b',"events":[' if events else b',"messages":[') + b",".join(parts) + tail
    first = messages[0].position if parts else position
    last = messages[len(parts) - 1].position if parts else position
    named = f"{consumer} {channel} {first} {last} {len(parts)}"
    identifier = hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
    return Batch(f"msg_{identifier}", body, len(parts), last)
