"""RFC 6455 frames without I/O: bytes in, messages out; and the other way round.

Server frames are unmasked (section 5.1), so one framed message is the same bytes for every receiver. A client's
frames are masked; everything a client may get wrong ends in a `Disconnect` with the code the RFC names (7.4.1).
Sans-I/O after the example of the `websockets` and `wsproto` libraries, so that it is tested without a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from server.core.errors import INVALID_UTF8, PROTOCOL_ERROR, TOO_BIG, Disconnect

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_MASKED: Final = 0x80
_WHOLE_TEXT: Final = _FIN | TEXT
_WHOLE: Final = (_WHOLE_TEXT, _FIN | BINARY)

PING_FRAME: Final = bytes((_FIN | PING, 0))


def head(opcode: int, length: int) -> bytes:
    """What stands before a payload of so many bytes, in one unfragmented, unmasked frame."""
    if length < 126:
        return bytes((_FIN | opcode, length))
    if length < 0x10000:
        return struct.pack("!BBH", _FIN | opcode, 126, length)
    return struct.pack("!BBQ", _FIN | opcode, 127, length)


def frame(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, unmasked frame."""
    return head(opcode, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes a control frame has room for, on a character's edge."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + text)


def unmask(mask: bytes, data: bytes) -> bytes:
    """XOR with the repeated mask, as one big-integer operation: 200 bytes take 0.5 µs, 64 KiB about 40."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def _close_code_is_valid(code: int) -> bool:
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class Parser:
    """Turns the bytes of one client into (opcode, payload): TEXT (valid UTF-8), BINARY, PING, PONG or CLOSE.

    Fragmented messages come out whole, with the last fragment; for each one before it there is a CONTINUATION without a
    payload, so that whoever counts frames sees all. Control frames come out in between. `feed` does nothing that is not
    asked for: it is read to its end before it is called again. It raises `Disconnect` for the first thing the RFC
    forbids, after which the parser must not be fed again; the messages before it have been yielded.
    """

    __slots__ = ("_waiting", "_have", "_need", "_fragments", "_message_opcode", "_message_size", "_limit", "_unmask")

    def __init__(self, limit: int, unmask: Callable[[bytes, bytes], bytes] = unmask) -> None:
        self._limit = limit
        """Bytes of one message, all fragments together."""
        self._unmask = unmask
        """(mask, payload) → the payload without it: whoever has a faster one brings it."""
        # What has come of an unfinished frame is joined once, when all of it is there: a client that sends byte by
        # byte costs no quadratic copying.
        self._waiting: list[bytes] = []
        self._have = 0
        self._need = 0
        self._fragments: list[bytes] | None = None
        self._message_opcode = 0
        self._message_size = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        if self._waiting:
            self._waiting.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._waiting)
            self._waiting = []
        unmask = self._unmask
        position = 0
        end = len(data)
        need = 2
        while end - position >= 2:
            first, second = data[position], data[position + 1]
            opcode = first & 0x0F
            whole = first in _WHOLE
            if not whole or second < _MASKED or self._fragments is not None:  # else all is well
                self._check_head(first, second, opcode)
            length = second & 0x7F
            body = position + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                if end - body < size:
                    need = 2 + size
                    break
                length = int.from_bytes(data[body : body + size], "big")
                body += size
                if length < 126 or (size == 8 and length < 0x10000):
                    raise Disconnect(PROTOCOL_ERROR, "length not in its shortest form")
                if length + (self._message_size if opcode == CONTINUATION else 0) > self._limit:
                    raise Disconnect(TOO_BIG, f"a message may have {self._limit} bytes")
            start = body + 4
            if end - start < length:
                need = start + length - position
                break
            need = 2
            position = start + length
            payload = unmask(data[body:start], data[start:position])
            if first == _WHOLE_TEXT:
                yield opcode, payload if payload.isascii() else _utf8(payload)
            elif whole:
                yield opcode, payload
            elif opcode >= CLOSE:
                if opcode == CLOSE:
                    self._check_close(payload)
                yield opcode, payload
            else:
                yield self._assemble(first & _FIN, opcode, payload)
        if position < end:
            self._waiting = [data[position:]]
            self._have = end - position
            self._need = need

    def _check_head(self, first: int, second: int, opcode: int) -> None:
        if first & 0x70:
            raise Disconnect(PROTOCOL_ERROR, "reserved bits set without an extension")
        if not second & _MASKED:
            raise Disconnect(PROTOCOL_ERROR, "client frames must be masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise Disconnect(PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if not first & _FIN or second & 0x7F > 125:
                raise Disconnect(PROTOCOL_ERROR, "control frames are whole and have 125 bytes at most")
        elif opcode > BINARY:
            raise Disconnect(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._fragments is not None):
            raise Disconnect(PROTOCOL_ERROR, "fragments out of order")

    def _assemble(self, final: int, opcode: int, payload: bytes) -> tuple[int, bytes]:
        if self._fragments is None:
            self._fragments = []
            self._message_opcode = opcode
            self._message_size = 0
        self._fragments.append(payload)
        # A fragment without payload still costs a list entry: counted, so that endless empty ones meet the limit too.
        self._message_size += len(payload) or 1
        if self._message_size > self._limit:
            raise Disconnect(TOO_BIG, f"a message may have {self._limit} bytes")
        if not final:
            return CONTINUATION, b""
        payload = b"".join(self._fragments)
        self._fragments = None
        self._message_size = 0
        return self._message_opcode, (_utf8(payload) if self._message_opcode == TEXT else payload)

    @staticmethod
    def _check_close(payload: bytes) -> None:
        if not payload:
            return
        if len(payload) == 1 or not _close_code_is_valid(int.from_bytes(payload[:2], "big")):
            raise Disconnect(PROTOCOL_ERROR, "invalid close code")
        _utf8(payload[2:])


def _utf8(payload: bytes) -> bytes:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise Disconnect(INVALID_UTF8, "text must be UTF-8") from None
    return payload
