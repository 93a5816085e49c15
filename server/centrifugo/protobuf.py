"""Commands, replies and pushes in Protobuf, each behind its length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from msgspec import Raw

from server.centrifugo import requests
from server.centrifugo.client_pb2 import Command, EmulationRequest, Reply
from server.centrifugo.replies import Shape
from server.centrifugo.requests import MAX_COMMANDS, WireCommand
from server.wire.codec import JSON
from server.wire.frames import BINARY

_PAYLOADS: Final = frozenset(("data", "conn_info", "chan_info"))
_LENGTH_BYTES: Final = 5
_KINDS: Final[Mapping[str, type[Any]]] = {
    "connect": requests.ConnectRequest,
    "subscribe": requests.SubscribeRequest,
    "unsubscribe": requests.ChannelRequest,
    "presence": requests.ChannelRequest,
    "presence_stats": requests.ChannelRequest,
    "history": requests.HistoryRequest,
    "ping": requests.Empty,
    "send": requests.Empty,
    "rpc": requests.RpcRequest,
    "refresh": requests.TokenRequest,
    "sub_refresh": requests.TokenRequest,
}


class Protobuf:
    name = "protobuf"
    media_type = "application/octet-stream"
    opcode = BINARY
    ping = b"\x00"
    line_end = b""

    def encode(self, shape: Shape) -> bytes:
        reply = Reply()
        push = shape.get("push")
        if push is not None and "pub" in push:  # the usual case
            message = reply.push
            message.channel = push["channel"]
            _publish(message.pub, push["pub"])
        else:
            _fill(reply, shape)
        return _delimited(reply.SerializeToString())

    def published(self, identifier: int) -> bytes:
        return _delimited(_ID + _varint(identifier) + _PUBLISHED)

    def commands(self, payload: bytes) -> list[WireCommand]:
        return [_wired(_parse(Command(), part)) for part in _parts(payload)]

    def first_id(self, payload: bytes) -> int | None:
        try:
            return next((_parse(Command(), part).id or None for part in _parts(payload)), None)
        except ValueError:
            return None


def emulated(body: bytes) -> tuple[str, str, bytes]:
    """(node, session, commands) of a request of the kind; ValueError for none."""
    request = _parse(EmulationRequest(), body)
    return request.node, request.session, request.data


def _parse(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ValueError("not what it should be") from None
    return message


def _parts(payload: bytes) -> Iterable[bytes]:
    """What stands behind each length; ValueError where that is more than there is, and for too many of them."""
    position, end = 0, len(payload)
    count = 0
    while position < end:
        count += 1
        if count > MAX_COMMANDS:
            raise ValueError("too many commands at once")
        byte = payload[position]
        position += 1
        length, shift = byte & 0x7F, 7
        while byte >= 0x80:
            if position >= end or shift >= 7 * _LENGTH_BYTES:
                raise ValueError("a length is cut short")
            byte = payload[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
        start, position = position, position + length
        if position > end:
            raise ValueError("a message is cut short")
        yield payload[start:position]


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message


_ID: Final[bytes] = Reply(id=1).SerializeToString()[:1]
"""What stands before the id of a reply."""
_PUBLISHED: Final[bytes] = Reply(publish={}).SerializeToString()
"""What stands behind it in the answer to a publish."""


# --- in ---------------------------------------------------------------------------------------------------------------


def _wired(command: Command) -> WireCommand:
    if command.HasField("publish"):  # the usual case
        request = command.publish
        publish = requests.PublishRequest(request.channel, Raw(request.data), request.type)
        return WireCommand(command.id, publish=publish)
    wired = WireCommand(command.id)
    kind = command.WhichOneof("request")
    if kind is not None:
        setattr(wired, kind, _request(_KINDS[kind], getattr(command, kind)))
    return wired


def _request(kind: type[Any], message: Any) -> Any:
    """Fields that `kind` does not have are not looked at. ValueError for numbers out of bounds."""
    fields: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "subs":
            if len(value) > MAX_COMMANDS:
                raise ValueError("too many subscriptions at once")
            fields["subs"] = {name: _request(requests.SubscribeRequest, of) for name, of in value.items()}
        elif field.name == "since":
            fields["since"] = _request(requests.StreamPosition, value)
        elif field.name in kind.__struct_fields__:
            if field.name == "offset" and value >= 1 << 63:
                raise ValueError("an offset is out of bounds")
            fields[field.name] = value
    return kind(**fields)


# --- out --------------------------------------------------------------------------------------------------------------


def _fill(message: Any, shape: Mapping[str, Any]) -> None:
    """Names and nesting are the same; what is JSON inside of JSON is bytes."""
    for name, value in shape.items():
        if name in _PAYLOADS:
            setattr(message, name, JSON.encode(value))
        elif isinstance(value, dict):
            field = getattr(message, name)
            if hasattr(field, "SetInParent"):
                field.SetInParent()
                if value:
                    _fill(field, value)
            else:  # a map, whose keys are the deployment's own names
                if name == "tags":
                    field.update(value)
                    continue
                for key, item in value.items():
                    _fill(field[key], item)
        elif isinstance(value, list):
            for item in value:
                _fill(getattr(message, name).add(), item)
        else:
            setattr(message, name, value)


def _publish(message: Any, publication: Shape) -> None:
    """As `_fill`, in a third of the time."""
    message.data = JSON.encode(publication["data"])
    info = publication.get("info")
    if info is not None:
        publisher = message.info
        if info["user"]:
            publisher.user = info["user"]
        publisher.client = info["client"]
    offset = publication.get("offset")
    if offset:
        message.offset = offset
    message.time = publication["time"]
    tags = publication.get("tags")
    if tags:
        message.tags.update(tags)
