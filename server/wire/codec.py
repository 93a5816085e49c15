"""Bytes from outside to plain objects, and back: JSON and MessagePack.

What comes in is bounded *before* objects are built (depth, nodes), and afterwards holds nothing that MongoDB, a driver
or another client could not hold as well: no duplicate keys, integers of 64 bits, finite numbers, text that is UTF-8,
no MessagePack `bin` or `ext`. Whatever breaks a rule is a `bad_request` that names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol

import msgpack
import msgspec

from server.core.errors import Error, bad_request
from server.wire.frames import BINARY, TEXT, head

MAX_DEPTH: Final = 32
MAX_NODES: Final = 10_000
_INT64: Final = range(-(2**63), 2**63)
_TEXT_ONLY: Final = {str}
_SHORT: Final = 1024
"""Bytes below which nearly all that is framed is: the heads of such frames are made once."""
_HEADS: Final = {opcode: tuple(head(opcode, length) for length in range(_SHORT)) for opcode in (TEXT, BINARY)}


class Pushed(Protocol):
    """A message, or what travels like one."""

    def push(self) -> Any: ...


class Codec:
    """One encoding: its subprotocol, the media type and the opcode it travels with, and both directions."""

    __slots__ = ("name", "media_type", "opcode", "encode", "decode", "_heads")

    def __init__(
        self,
        name: str,
        media_type: str,
        opcode: int,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> None:
        self.name = name
        self.media_type = media_type
        self.opcode = opcode
        self.encode = encode
        self.decode = decode
        self._heads = _HEADS[opcode]

    def frame(self, push: Any) -> bytes:
        """A reply or a push as it travels."""
        payload = self.encode(push)
        length = len(payload)
        return (self._heads[length] if length < _SHORT else head(self.opcode, length)) + payload

    def frames(self, pushes: Sequence[Any]) -> bytes:
        """Several of them."""
        return b"".join([self.frame(push) for push in pushes])

    def frame_message(self, message: Pushed) -> bytes:
        """A message as it travels: once per message, whoever gets it."""
        return self.frame(message.push())

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


# --- JSON -------------------------------------------------------------------------------------------------------------

# Possessive, and an unfinished string goes to the end: no input makes it look at a byte twice.
_JSON_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_QUOTE_SPACE: Final = re.compile(rb'"[ \n\r\t]').search
_ALL_BYTES: Final = bytes(range(256))
_NOT_BRACKETS: Final = _ALL_BYTES.translate(None, b"[]{}")
_json_decode: Final = msgspec.json.Decoder().decode


def _plain(value: Any) -> Any:
    """What msgspec does not know: subclasses of int and the like that come back from BSON."""
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded")


_JSON_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


class _JsonCodec(Codec):
    def frames(self, pushes: Sequence[Any]) -> bytes:
        parts: list[bytes] = []
        for push in pushes:
            payload = self.encode(push)
            length = len(payload)
            parts.append(self._heads[length] if length < _SHORT else head(TEXT, length))
            parts.append(payload)
        return b"".join(parts)


def bound_json(raw: bytes) -> None:
    """`bad_request` if there are more values in it, or they are deeper, than one message may have."""
    # Counting bytes is enough for nearly every message (0.3 µs); only what looks too large is looked at without its
    # strings, in which brackets and commas mean nothing.
    openings = raw.count(b"[") + raw.count(b"{")
    if openings <= MAX_DEPTH and (len(raw) < MAX_NODES or openings + raw.count(b",") < MAX_NODES):
        return
    bare = _JSON_STRING.sub(b"0", raw).translate(None, b" \t\r\n")
    brackets = bare.translate(None, _NOT_BRACKETS)
    depth = 0
    for bracket in brackets[: 2 * MAX_NODES]:  # more of them are too many values anyway
        if bracket in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise bad_request(f"a message may be nested {MAX_DEPTH} deep")
        else:
            depth -= 1
    filled = bare.count(b"[") + bare.count(b"{") - bare.count(b"[]") - bare.count(b"{}")
    if 1 + filled + bare.count(b",") > MAX_NODES:  # the first value of what is not empty, and one behind each comma
        raise bad_request(f"a message may have {MAX_NODES} values")


def _decode_json(raw: bytes) -> Any:
    bound_json(raw)
    try:
        value = _json_decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
        if "truncated" in reason and _SURROGATE.search(raw):  # so msgspec calls the half at the end of a short text
            reason = "truncated, or half a utf-16 surrogate pair"
        raise bad_request(f"not JSON: {reason}") from None
    # A duplicate key leaves fewer keys than there are colons outside strings. Where no quote is followed by white
    # space, those are the ones behind a quote; only what does not add up is looked at without its strings.
    keys = check(value, text_keys=True)
    if keys and (raw.count(b'":') != keys or _QUOTE_SPACE(raw)) and _JSON_STRING.sub(b"", raw).count(b":") != keys:
        raise bad_request("duplicate keys in one object")
    return value


def check(value: Any, *, text_keys: bool = False) -> int:
    """Refuse what is no JSON value, or cannot be kept faithfully; answer how many keys there are in all. `text_keys`:
    it is known that they are text."""
    keys = 0
    todo = [value]
    for item in todo:
        kind = type(item)
        if kind is str:  # nearly everything is
            continue
        if kind is dict:
            keys += len(item)
            if not text_keys and item and set(map(type, item)) != _TEXT_ONLY:
                raise bad_request("the keys of an object are text")
            todo += item.values()
        elif kind is list:
            todo += item
        elif kind is int:
            if item not in _INT64:
                raise bad_request("an integer may have 64 bits, with its sign")
        elif kind is float:
            if not math.isfinite(item):
                raise bad_request("a number must be finite")
        elif kind is not bool and item is not None:
            raise bad_request(f"{kind.__name__} values are not JSON values")
    return keys


# --- MessagePack ------------------------------------------------------------------------------------------------------

_NOT_CONTAINERS: Final = _ALL_BYTES.translate(None, bytes(range(0x80, 0xA0)) + b"\xdc\xdd\xde\xdf")
# Bytes behind the type byte, for the types of fixed length; -1, -2 and -4: a length of that many bytes follows.
_SKIP: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_SKIP.update({0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8})
_SKIP.update({0xC4: -1, 0xC5: -2, 0xC6: -4, 0xD9: -1, 0xDA: -2, 0xDB: -4})


def _bound_msgpack(raw: bytes) -> None:
    # Every value takes a byte at least, every level one of the container bytes: short and flat messages need no walk.
    if len(raw) <= MAX_NODES and len(raw.translate(None, _NOT_CONTAINERS)) <= MAX_DEPTH:
        return
    position, nodes, keys = 0, 0, 0
    left = [1]  # values still missing, per open container
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        if position >= len(raw):
            raise bad_request("not MessagePack: truncated")
        head = raw[position]
        position += 1
        nodes += 1
        if nodes > 2 * MAX_NODES:  # the keys of maps are among them
            raise bad_request(f"a message may have {MAX_NODES} values")
        if 0x80 <= head <= 0x8F:
            keys += head & 0x0F
            left.append((head & 0x0F) * 2)
        elif 0x90 <= head <= 0x9F:
            left.append(head & 0x0F)
        elif head in (0xDC, 0xDD, 0xDE, 0xDF):
            size = 2 if head in (0xDC, 0xDE) else 4
            count = int.from_bytes(raw[position : position + size], "big")
            position += size
            if count > MAX_NODES:
                raise bad_request(f"a message may have {MAX_NODES} values")
            if head >= 0xDE:
                keys += count
                count *= 2
            left.append(count)
        elif 0xA0 <= head <= 0xBF:
            position += head & 0x1F
        elif (0xC0 < head < 0xE0 and head in _SKIP) or head == 0xC0:
            skip = _SKIP[head]
            if skip >= 0:
                position += skip
            else:
                position += -skip + int.from_bytes(raw[position : position - skip], "big")
        elif 0x7F < head < 0xE0:
            raise bad_request("MessagePack extension types are not JSON values")
        if len(left) > MAX_DEPTH + 1:
            raise bad_request(f"a message may be nested {MAX_DEPTH} deep")
    if nodes - keys > MAX_NODES:
        raise bad_request(f"a message may have {MAX_NODES} values")


def _refuse_ext(code: int, data: bytes) -> Any:
    raise bad_request("MessagePack extension types are not JSON values")


def _object(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise bad_request("duplicate keys in one object")
    return result


def _decode_msgpack(raw: bytes) -> Any:
    _bound_msgpack(raw)
    try:
        value = msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_object,
            ext_hook=_refuse_ext,
            max_ext_len=0,
        )
    except Error:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise bad_request(f"not MessagePack: {str(error) or type(error).__name__}") from None
    check(value)
    return value


def _builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=_plain)


def _encode_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_builtins)
    return packed


JSON: Final = _JsonCodec("waterspout.json", "application/json", TEXT, _JSON_ENCODER.encode, _decode_json)
MSGPACK: Final = Codec("waterspout.msgpack", "application/msgpack", BINARY, _encode_msgpack, _decode_msgpack)
CODECS: Final = {codec.name: codec for codec in (JSON, MSGPACK)}


# --- the id of what is refused ----------------------------------------------------------------------------------------


class _Identified(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])] | None = None


_ID_READERS: Final = {
    TEXT: msgspec.json.Decoder(_Identified).decode, BINARY: msgspec.msgpack.Decoder(_Identified).decode
}  # fmt: skip


def id_of(opcode: int, raw: bytes) -> int | None:
    """The `id` of what may break any other rule, so that even its error can be told apart. Builds nothing else."""
    if opcode == TEXT:  # msgspec does not read past half an emoji, which is what clients send most that is wrong
        raw = _SURROGATE.sub(rb"\\u0020", raw)
    try:
        return _ID_READERS[opcode](raw).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
