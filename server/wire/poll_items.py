"""Answers of long polls that are put together out of messages which are encoded already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.wire.codec import JSON, MSGPACK, Codec
from server.wire.pushes import Push


class ItemCodec(Codec):
    """A push as one item of an answer's list of messages; `base` is the encoding."""

    __slots__ = ("base",)

    def __init__(self, base: Codec) -> None:
        super().__init__(f"items of {base.name}", base.media_type, base.opcode, base.encode, base.decode)
        self.base = base

    def frame(self, push: Push) -> bytes:
        return self.encode(push) + (b"," if self.base is JSON else b"")

    def answer(self, items: bytes, count: int, rest: Mapping[str, Any]) -> bytes:
        """{"messages": [the items], **rest}, from items that are encoded already. `rest`: 1 to 14 fields."""
        encoded = self.encode(rest)
        if self.base is JSON:
            return b'{"messages":[' + items[:-1] + b"]," + encoded[1:]
        # A map's header holds its size, an array's its length (fixmap, fixarray, array 16 of the specification).
        array = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        return bytes((0x80 | (len(rest) + 1),)) + self.encode("messages") + array + items + encoded[1:]


ITEMS: Final = {base: ItemCodec(base) for base in (JSON, MSGPACK)}
