"""What goes through Redis: messages and announcements in MessagePack, signed if there is a key to sign with.

Whatever does not come from one of our nodes is Foreign."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from server.brokers.base import Announcement
from server.core.cursors import MAX_OFFSET, Tally
from server.core.errors import Error
from server.wire.amendments import Amendment, Op, amended_message, amendment
from server.wire.codec import check
from server.wire.messages import Images, Message, mentioning

_VERSION: Final = 1
_DIGEST: Final = 32


class Foreign(Exception):
    """A payload that is not ours. It says why in our own words, never in those of what was sent."""


class _Publication(msgspec.Struct, array_like=True):
    """The messages of one channel on their way; `first` is 0 for ephemeral ones."""

    version: int
    node: str
    epoch: str
    first: int
    messages: list[tuple[str, str | None, int, Any, str | None, str | None]]
    """(key, user, time, data, tag, skip)"""
    images: list[Images | None] | None = None
    """Of the changes of documents."""
    tally: tuple[int, int] | None = None
    """Of the last one, where messages have been amended."""
    amendments: dict[int, tuple[int, Op]] | None = None
    """Which of the messages are amendments, by their places here: (the message's offset, what is done)."""
    appends: dict[int, tuple[int | None, bool]] | None = None
    """Of those that append: (the number of the last part, whether it is the last of all)."""
    mentions: dict[int, list[str]] | None = None
    """Whom those of the messages mention that mention anybody, by their places here."""


_encode: Final = msgspec.msgpack.Encoder(enc_hook=int).encode
_decode_publication: Final = msgspec.msgpack.Decoder(_Publication).decode
_decode_announcement: Final = msgspec.msgpack.Decoder(Announcement).decode


class Envelope:
    """A signature is of the topic as well, so that nothing can be sent again under another one."""

    def __init__(self, key: str | None) -> None:
        self._secret = key.encode() if key else None

    def seal(self, topic: str, body: bytes) -> bytes:
        return body if self._secret is None else self._sign(self._secret, topic, body) + body

    def open(self, topic: str, payload: Any) -> bytes:
        if not isinstance(payload, bytes):
            raise Foreign("not bytes")
        if self._secret is None:
            return payload
        digest, body = payload[:_DIGEST], payload[_DIGEST:]
        if not hmac.compare_digest(digest, self._sign(self._secret, topic, body)):
            raise Foreign("the signature is wrong")
        return body

    @staticmethod
    def _sign(secret: bytes, topic: str, body: bytes) -> bytes:
        return hmac.digest(secret, topic.encode() + b"\0" + body, hashlib.sha256)


def encode_messages(node: str, messages: list[Message]) -> bytes:
    head = messages[0]
    fields = [(m.key, m.user, m.time, m.data, m.tag, m.skip) for m in messages]
    images = [m.images for m in messages] if head.images is not None else None
    publication = _Publication(_VERSION, node, head.epoch, head.offset, fields, images)
    if messages[-1].tally.amendments:
        publication.tally = messages[-1].tally
        amendments = {place: m for place, m in enumerate(messages) if isinstance(m, Amendment)}
        publication.amendments = {place: (m.of, m.op) for place, m in amendments.items()}
        publication.appends = {place: (m.part, m.done) for place, m in amendments.items() if m.op == "append"}
    mentions = {place: m.mentions for place, m in enumerate(messages) if m.mentions}
    if mentions:
        publication.mentions = mentions  # type: ignore[assignment]  # any sequence is encoded as a list
    return _encode(publication)


def decode_messages(channel: str, body: bytes) -> tuple[str, list[Message]]:
    """(the node they come from, the messages)"""
    with _foreign():
        publication = _decode_publication(body)
    version, first, epoch = publication.version, publication.first, publication.epoch
    if version != _VERSION or not publication.messages:
        raise Foreign("an unknown version or an empty publication")
    if not 0 <= first <= MAX_OFFSET - len(publication.messages) + 1:
        raise Foreign("not an offset")
    with _foreign():
        for _, _, _, data, _, _ in publication.messages:
            check(data)
        for image in (image for pair in publication.images or () for image in pair or ()):
            check(image)
    images = publication.images or [None] * len(publication.messages)
    if len(images) != len(publication.messages):
        raise Foreign("not as many images as messages")
    decoded = [
        Message(channel, epoch, first + index if first else 0, *fields, images=images[index])
        for index, fields in enumerate(publication.messages)
    ]
    for place, mentions in (publication.mentions or {}).items():
        if not 0 <= place < len(decoded):
            raise Foreign("mentions of no message")
        decoded[place] = mentioning(decoded[place], mentions)
    if publication.tally is None:
        return publication.node, decoded
    return publication.node, _counted(decoded, Tally(*publication.tally), publication)


def _counted(messages: list[Message], last: Tally, publication: _Publication) -> list[Message]:
    """`last`: the tally of the last of them. (Nobody asks for those of the others.)"""
    counted: list[Message] = []
    amendments, appends = publication.amendments or {}, publication.appends or {}
    for place, message in enumerate(messages):
        if place in amendments:
            made = amendment(message, *amendments[place], last)
            made.part, made.done = appends.get(place, (None, False))
            counted.append(made)
        else:
            counted.append(amended_message(message, last))
    return counted


def encode_announcement(announcement: Announcement) -> bytes:
    return _encode(announcement)


def decode_announcement(body: bytes) -> Announcement:
    """What goes on to clients holds what JSON can hold, and nothing else."""
    with _foreign():
        announcement = _decode_announcement(body)
        for _, _, _, info in announcement.attendance.rows if announcement.attendance else ():
            if info is not None:
                check(info)
        for *_, info, channel_info in announcement.attendance.clients if announcement.attendance else ():
            check([info, channel_info])
        check(announcement.stats)
    return announcement


@contextmanager
def _foreign() -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, ValueError, RecursionError, Error) as error:
        raise Foreign(type(error).__name__) from None
