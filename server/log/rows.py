"""A message as MongoDB has it: the document of each row, and the message of each document.

messages  {_id: {c: channel, o: offset}, e: epoch, u: user, k: key, t: time, d: data}      (or j: data as JSON text)
          changes of documents have an x as well: {k: token, t: cluster time, i: images as JSON text}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from server.core.cursors import MAX_OFFSET
from server.wire.codec import JSON
from server.wire.messages import Change, Images, Message

Row = dict[str, Any]

_PLAIN_DEPTH: Final = 100
TEXT_FROM: Final = 32 << 10
"""Bytes of a change from which on it is stored as text: drivers take ten times as long for so many small values, and
let nothing else run meanwhile."""


def id_of(channel: str, offset: int) -> Row:
    return {"c": channel, "o": offset}


def between(channel: str, after: int = 0, upto: int = MAX_OFFSET) -> Row:
    """A filter for `after` < offset ≤ `upto`."""
    return {"_id": {"$gt": id_of(channel, after), "$lte": id_of(channel, upto)}}


# --- into MongoDB -----------------------------------------------------------------------------------------------------


def row(
    channel: str, epoch: str, offset: int, user: str | None, key: str, time: int, data: Any, *, as_text: bool = False
) -> Row:
    stored = _text(data) if as_text or not _is_plain(data) else {"d": data}
    return {"_id": {"c": channel, "o": offset}, "e": epoch, "u": user, "k": key, "t": time} | stored


def change_row(message: Message, change: Change) -> Row:
    """The row of a document's change."""
    document = row(
        message.channel, message.epoch, message.offset, None, change.key, change.time, change.data,
        as_text=change.size > TEXT_FROM,
    )  # fmt: skip
    document["x"] = {"k": change.token, "t": change.at}
    if change.images != (None, None):
        # As text: they are as deep as the document itself, and nobody queries them.
        document["x"]["i"] = JSON.encode(change.images).decode()
    return document


def _text(data: Any) -> Row:
    return {"j": JSON.encode(data).decode()}


def _is_plain(data: Any) -> bool:
    """Whether BSON holds it as it is: no key that MongoDB or a driver could take for an operator, a path or a
    reference ({"$ref", "$id"} reads back as another type), no NUL in a key, and not as deep as MongoDB allows at most:
    a message is deeper than the document in it."""
    level = [data]
    for _ in range(_PLAIN_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                for key in item:
                    if key[:1] == "$" or "." in key or "\0" in key:
                        return False
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
        if not below:
            return True
        level = below
    return False


# --- out of MongoDB ---------------------------------------------------------------------------------------------------


def data_of(document: Row) -> Any:
    return msgspec.json.decode(document["j"]) if "j" in document else document.get("d")


def same(one: Any, other: Any) -> bool:
    """Whether two messages have the same data, however their objects are ordered."""

    def canonical(data: Any) -> bytes:
        return msgspec.json.encode(data, enc_hook=int, order="sorted")

    return canonical(one) == canonical(other)


def contiguous(documents: Iterable[Row], after: int, epoch: str) -> list[Message]:
    """The messages from `after` + 1 on, up to the first hole (to be read again: it can only be a matter of time). They
    are of the channel's present epoch, whatever it had when they came: after a reset all cursors are new."""
    messages: list[Message] = []
    expected = after + 1
    for document in documents:
        place = document["_id"]
        offset = place["o"]
        if offset < expected:
            continue
        if offset != expected:
            break
        data = document["d"] if "d" in document else data_of(document)
        message = Message(place["c"], epoch, offset, document["k"], document["u"], int(document["t"]), data)
        if "x" in document:
            message.images = _images(document)
        messages.append(message)
        expected += 1
    return messages


def _images(document: Row) -> Images | None:
    text = document["x"].get("i")
    return msgspec.json.decode(text, type=Images) if text is not None else None
