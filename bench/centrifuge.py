"""What clients of Centrifugo's protocol say, in JSON and in Protobuf."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from bench.dialects import Acknowledging

# Identifiers of acknowledged publishes begin here: smaller ones are other commands'.
NUMBERED = 10

PUSH = 0x22
"""What a push begins with, in Protobuf."""


class CentrifugeJson(Acknowledging):
    """One message a frame, as our door sends them."""

    path = "/connection/websocket"

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def channel(self, number: int) -> str:
        return f"{self.namespace}:{number}"

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        subscribing = (f'{{"id":2,"subscribe":{{"channel":"{self.channel(one)}"}}}}' for one in channels)
        return [('{"id":1,"connect":{}}', '"connect"'), *((text, '"subscribe"') for text in subscribing)]

    def publish(self, channel: int, data: str) -> str:
        return f'{{"id":3,"publish":{{"channel":"{self.channel(channel)}","data":"{data}"}}}}'

    def acknowledged_publish(self, number: int, channel: int, data: str, key: str = "") -> str:
        """There are no keys here."""
        return f'{{"id":{number + NUMBERED},"publish":{{"channel":"{self.channel(channel)}","data":"{data}"}}}}'

    def acknowledgement(self, text: str) -> tuple[int, int | None] | None:
        reply = json.loads(text)
        return (reply["id"] - NUMBERED, None) if "publish" in reply else None

    def recovering(self, channel: int, offset: int, epoch: str) -> list[tuple[str, str]]:
        """What a client says that comes back with its position."""
        position = f'"recover":true,"offset":{offset},"epoch":"{epoch}"'
        subscribe = f'{{"id":2,"subscribe":{{"channel":"{self.channel(channel)}",{position}}}}}'
        return [(self.opening(())[0]), (subscribe, '"subscribe"')]

    def delivered(self, text: str) -> str | None:
        push = json.loads(text).get("push", {})
        return str(push["pub"]["data"]) if "pub" in push else None

    def heartbeat(self, text: str) -> str | None:
        return "{}" if text == "{}" else None

    def acknowledges(self, text: str) -> bool:
        return text == '{"id":3,"publish":{}}'


class CentrifugeProtobuf(CentrifugeJson):
    """Bytes are text of Latin-1 here."""

    path = "/connection/websocket?format=protobuf"
    first = 0x82
    charset = "latin-1"

    def opening(self, channels: Sequence[int]) -> list[tuple[str, str]]:
        subscribing = (_command(2, 5, _text(1, self.channel(one))) for one in channels)
        return [(_command(1, 4, b""), "\x2a"), *((text, "\x32") for text in subscribing)]

    def publish(self, channel: int, data: str) -> str:
        return _command(3, 7, _text(1, self.channel(channel)) + _text(2, f'"{data}"'))

    def delivered(self, text: str) -> str | None:
        reply = dict(_fields(_undelimited(text.encode(self.charset))))
        publication = dict(_fields(reply.get(4, b""))).get(4)
        return None if publication is None else str(json.loads(dict(_fields(publication))[4]))

    def heartbeat(self, text: str) -> str | None:
        return "\x00" if text == "\x00" else None

    def acknowledges(self, text: str) -> bool:
        return text == "\x04\x08\x03\x42\x00"


class CentrifugoJson(CentrifugeJson):
    """As Centrifugo sends them: messages that wait for the same client share a frame, a line each."""

    batched = True

    def messages(self, text: str) -> Sequence[str]:
        return text.split("\n")

    def deliveries(self, payload: bytes) -> int:
        lines = payload.count(b"\n") + 1
        return lines if payload.count(b'","pub":{"data":"') == lines else 0


class CentrifugoProtobuf(CentrifugeProtobuf):
    """The same in Protobuf, where each message has its length in front."""

    batched = True

    def messages(self, text: str) -> Sequence[str]:
        payload, at, found = text.encode(self.charset), 0, []
        while at < len(payload):
            size, begin = _read(payload, at)
            found.append(text[at : begin + size])
            at = begin + size
        return found

    def deliveries(self, payload: bytes) -> int:
        at = count = 0
        while at < len(payload):
            size, begin = _read(payload, at)
            if payload[begin] != PUSH:
                return 0
            at = begin + size
            count += 1
        return count


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _command(identifier: int, kind: int, request: bytes) -> str:
    command = bytes((8, identifier)) + _field(kind, request)
    return (_varint(len(command)) + command).decode("latin-1")


def _read(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return number, at


def _undelimited(data: bytes) -> bytes:
    size, at = _read(data, 0)
    return data[at : at + size]


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Those that are bytes."""
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        value, at = _read(data, at)
        if key & 7 == 2:
            yield key >> 3, data[at : at + value]
            at += value
