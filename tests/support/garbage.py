"""What a hostile or broken client may send: any bytes, and valid traffic that was damaged and cut anyhow; by seed."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import msgpack

CHANNELS = (
    *("chat:a", "chat:b", "live:a", "feed:a", "nowhere:1", "docs:notes"),
    *("$sys:nodes", "chat:", ":", "", "chat:ü", "a" * 300),
)
KINDS = (
    *("connect", "refresh", "subscribe", "unsubscribe", "publish", "history", "presence", "ping"),
    *("get", "find", "put", "patch", "delete"),
)
FIELDS = (
    *("id", "type", "token", "channel", "after", "last", "where", "snapshot", "conflate", "data", "key", "tag", "echo"),
    *("ephemeral", "before", "limit", "collection", "document_id", "sort", "page", "fields", "count", "document"),
    *("if_rev", "if_absent", "left"),
)
CURSORS = ("0", "~", "a:1", "k3f9x2ab:99999999999", "::", "-1", "0:0")
BOMBS = {
    "waterspout.json": (
        *(b"[" * 5000, b"[" * 40 + b"]" * 40, b"[" + b"0," * 12_000 + b"0]", b'{"a":' * 100),
        *(b"1e999", b"-" + b"9" * 400, b'{"a":1,"a":2}', b'"\\ud800"'),
        b'{"type":"publish","channel":"chat:a","data":' + b"[" * 31 + b"]" * 31 + b"}",
    ),
    "waterspout.msgpack": (
        *(b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
        *(b"\xc7\xff\x01" + bytes(255), b"\xdc\x27\x10" + b"\xc0" * 10_000, b"\xc4\x02ab"),
        *(b"\x82\xa1a\x01\xa1a\x02", b"\x81\xc0\xc0"),
    ),
}


class Garbage:
    """`input()` is the next one: the subprotocol, and the chunks in which the bytes are written."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def input(self) -> tuple[str, list[bytes]]:
        codec = self.random.choice(("waterspout.json", "waterspout.msgpack"))
        shape = self.random.random()
        if shape < 0.1:
            data = self.random.randbytes(self.random.choice((1, 2, 7, 40, 300, 5000)))
        else:
            data = b"".join(self.message(codec) for _ in range(self.random.choice((1, 1, 2, 5, 20, 80))))
            if shape < 0.5:
                data = self.damaged(data)
        return codec, self.cut(data)

    # --- traffic ------------------------------------------------------------------------------------------------------

    def message(self, codec: str) -> bytes:
        """A command, or a control frame, as frames."""
        choice = self.random.random()
        if choice < 0.1:
            opcode = self.random.choice((8, 9, 10, 9, 10))
            code = struct.pack("!H", self.random.choice((1000, 1001, 1005, 3000, 4000, 999, 0)))
            payload = code + b"bye" if opcode == 8 else self.random.randbytes(self.random.randrange(126))
            return self.frame(opcode, payload)
        payload = self.encoded(codec)
        if choice < 0.2:
            payload = self.damaged(payload)
        opcode = 1 if codec.endswith("json") else 2
        if choice < 0.23:
            opcode = 3 - opcode
        cuts = sorted(self.random.randrange(len(payload) + 1) for _ in range(self.random.choice((0, 0, 0, 1, 3))))
        parts = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        return b"".join(
            self.frame(0 if index else opcode, part, final=index == len(parts) - 1) for index, part in enumerate(parts)
        )

    def frame(self, opcode: int, payload: bytes, final: bool = True) -> bytes:
        size, first = len(payload), final << 7 | opcode
        mask = self.random.choice((bytes(4), self.random.randbytes(4)))
        if size < 126:
            head = bytes((first, 0x80 | size))
        elif size < 0x10000:
            head = struct.pack("!BBH", first, 0xFE, size)
        else:
            head = struct.pack("!BBQ", first, 0xFF, size)
        repeated = (mask * (size // 4 + 1))[:size]
        return (
            head
            + mask
            + (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
        )

    def encoded(self, codec: str) -> bytes:
        choice = self.random.random()
        if choice < 0.05:
            return self.bomb(codec)
        command = self.command() if choice < 0.95 else self.value(4)
        if codec.endswith("json"):
            return json.dumps(command, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        try:
            packed: bytes = msgpack.packb(command, unicode_errors="surrogatepass")
        except (ValueError, OverflowError):
            return b"\xc1"
        return packed

    def bomb(self, codec: str) -> bytes:
        """What is small, and large when it is taken apart."""
        return self.random.choice(BOMBS[codec])

    def command(self) -> dict[str, Any]:
        """Mostly a good one; what it holds need not be."""
        kind = self.random.choice(KINDS)
        good: dict[str, Any] = {"type": kind, "id": self.random.choice((1, 2, 3, 77, -5, 2**53))}
        if kind in ("subscribe", "unsubscribe", "publish", "history", "presence"):
            good["channel"] = self.random.choice(CHANNELS[:4] if self.random.random() < 0.8 else CHANNELS)
        if kind == "publish":
            good["data"] = self.value(3)
        if kind in ("get", "find", "put", "patch", "delete"):
            good["collection"] = self.random.choice(("notes", "notes", "none"))
            good["document_id"] = self.random.choice(("a", "b", "", "$x", "a" * 2000))
        if kind in ("put", "patch"):
            good["document"] = {self.random.choice(("a", "b", "_id", "$set", "a.b", "")): self.value(3)}
        for _ in range(self.random.choice((0, 0, 1, 2, 4))):
            name = self.random.choice(FIELDS)
            good[name] = self.random.choice(CURSORS) if self.random.random() < 0.3 else self.value(2)
        if self.random.random() < 0.1:
            good.pop(self.random.choice(list(good)))
        return good

    def value(self, depth: int) -> Any:
        choice = self.random.randrange(12 if depth else 9)
        if choice == 9:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        if choice >= 10:
            keys = ("a", "b", "$gt", "$in", "$and", "$where", "_id", "a.b", "ü", "")
            return {self.random.choice(keys): self.value(depth - 1) for _ in range(self.random.randrange(4))}
        plain = (
            *(None, True, False, "", "x" * self.random.choice((1, 100, 3000)), self.random.choice(CHANNELS)),
            self.random.choice((0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1)),
            self.random.choice((0.5, -0.0, 1e308, 5e-324)),
            self.random.choice(("\0", "\u2028", "é", "𝒳", "\ufeff", "0", "true")),
        )
        return plain[choice]

    # --- damage -------------------------------------------------------------------------------------------------------

    def damaged(self, data: bytes) -> bytes:
        """A few bits flipped, pieces cut out, doubled, moved or made up."""
        result = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 5))):
            if not result:
                break
            start = self.random.randrange(len(result))
            end = min(len(result), start + self.random.choice((1, 2, 8, 100)))
            damage = self.random.randrange(6)
            if damage == 0:
                result[start] ^= 1 << self.random.randrange(8)
            elif damage == 1:
                result[start] = self.random.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7E, 0xFE))
            elif damage == 2:
                del result[start:end]
            elif damage == 3:
                result[start:start] = result[start:end]
            elif damage == 4:
                result[start:end] = self.random.randbytes(end - start)
            else:
                del result[end:]
        return bytes(result)

    def cut(self, data: bytes) -> list[bytes]:
        """As the network may cut it."""
        count = self.random.choice((1, 1, 2, 5, 30))
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(count - 1))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
