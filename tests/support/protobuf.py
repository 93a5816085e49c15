"""Protobuf's wire format by hand: a message is a dict of field numbers, so that a test does not share our schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Fields = Mapping[int, Any]


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def encode(fields: Fields) -> bytes:
    """Values: integers, text, bytes, other messages as dicts, and lists of them."""
    encoded = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                encoded += varint(number << 3) + varint(item)
            else:
                data = encode(item) if isinstance(item, dict) else item.encode() if isinstance(item, str) else item
                encoded += varint(number << 3 | 2) + varint(len(data)) + data
    return encoded


def decode(data: bytes) -> dict[int, Any]:
    """Integers and bytes; the last of each field."""
    fields: dict[int, Any] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value: Any
        value, position = _varint(data, position)
        if key & 7 == 2:
            value, position = data[position : position + value], position + value
        fields[key >> 3] = value
    return fields


def delimited(*messages: Fields) -> bytes:
    encoded = [encode(message) for message in messages]
    return b"".join(varint(len(one)) + one for one in encoded)


def split(data: bytes) -> Iterator[bytes]:
    """What stands behind each length."""
    position = 0
    while position < len(data):
        size, position = _varint(data, position)
        yield data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
