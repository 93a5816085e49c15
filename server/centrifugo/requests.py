"""Commands as they stand on the wire, in JSON or Protobuf, and what they ask for in our words.

Field names are the public protocol's. Fields that are not here are not looked at.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct, field

from server.centrifugo.names import Names
from server.core.cursors import MAX_OFFSET, Position, parse_cursor
from server.core.errors import Error, bad_request
from server.sessions.grants import Grant
from server.wire import commands
from server.wire.codec import JSON
from server.wire.commands import MAX_KEY, MAX_LABEL, Command

ERROR_UNRECOVERED: Final = 2
"""The bit of a subscription's `flag` that asks for an error where recovery is impossible."""

MAX_COMMANDS: Final = 2048
"""In one frame."""

Id = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]


class SubscribeRequest(Struct):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    join_leave: bool = False
    flag: int = 0


class ConnectRequest(Struct):
    token: str = ""
    subs: dict[str, SubscribeRequest] = field(default_factory=dict)
    name: str = ""
    version: str = ""


class ChannelRequest(Struct):
    channel: str = ""


class PublishRequest(Struct):
    channel: str = ""
    data: Raw = field(default_factory=Raw)
    type: int = 0


class StreamPosition(Struct):
    offset: Offset = 0
    epoch: str = ""


class HistoryRequest(Struct):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class TokenRequest(Struct):
    channel: str = ""
    token: str = ""
    type: int = 0


class RpcRequest(Struct):
    method: str = ""
    data: Raw = field(default_factory=Raw)


class Empty(Struct):
    pass


class WireCommand(Struct):
    """One of its fields says what is wanted, the first that is there. None at all, and no id: the answer to a ping."""

    id: Id = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: Empty | None = None
    send: Empty | None = None
    rpc: RpcRequest | None = None
    refresh: TokenRequest | None = None
    sub_refresh: TokenRequest | None = None


# --- in our words -----------------------------------------------------------------------------------------------------


class Served(NamedTuple):
    """What a back end says of a subscription."""

    grant: Grant
    data: Any
    """For the client; UNSET: nothing."""


class Subscribe(commands.Subscribe):
    kind: ClassVar[str] = "subscribe"
    token: str = ""
    recover: bool = False
    """Whether the client was subscribed before. `after` is where it was, if that can be one of our positions."""
    offset: int | None = None
    """Instead of `after`, where it was in the present history, whichever that is."""
    join_leave: bool = False
    error_unrecovered: bool = False
    served: Served | None = None
    """Not None: a back end has asked for it."""

    def position(self) -> Position | None:
        return super().position() if self.offset is None else Position("", self.offset)


class Connect(commands.Connect):
    kind: ClassVar[str] = "connect"
    subs: dict[str, SubscribeRequest] = field(default_factory=dict)
    """As they stand on the wire, see `subscribing`: somebody has to look first how many there are."""


class Malformed(Command):
    """No command, behind some that wait."""

    reason: str


class Unsubscribe(commands.Unsubscribe):
    kind: ClassVar[str] = "unsubscribe"


class Publish(commands.Publish):
    kind: ClassVar[str] = "publish"


class Presence(commands.Presence):
    kind: ClassVar[str] = "presence"


class PresenceStats(commands.Presence):
    kind: ClassVar[str] = "presence_stats"


class History(commands.History):
    """`limit` may be 0 here: only where the channel is; and -1: as many as there may be in an answer."""

    kind: ClassVar[str] = "history"
    since: tuple[int, str] | None = None
    """(offset, epoch)"""
    reverse: bool = False


class Refresh(commands.Refresh):
    kind: ClassVar[str] = "refresh"


class Ping(commands.Ping):
    kind: ClassVar[str] = "ping"


class SubRefresh(Command):
    kind: ClassVar[str] = "sub_refresh"
    channel: str
    token: str


class Rpc(commands.Call):
    kind: ClassVar[str] = "rpc"


class Send(Command):
    kind: ClassVar[str] = "send"


def understand(wire: WireCommand, names: Names) -> Command:
    """Error for what cannot be carried out whoever asks; `MalformedCommand` for what is no command."""
    number = wire.id or None
    if wire.send is not None:
        return Send(id=number)
    if number is None:
        if wire == WireCommand():
            return Ping()
        raise MalformedCommand("id: required")
    if wire.connect is not None:
        return _connect(number, wire.connect)
    if wire.subscribe is not None:
        return _subscribe(number, wire.subscribe, names)
    if wire.unsubscribe is not None:
        return Unsubscribe(id=number, channel=names.ours(wire.unsubscribe.channel))
    if wire.publish is not None:
        return _publish(number, wire.publish, names)
    if wire.presence is not None:
        return Presence(id=number, channel=names.ours(wire.presence.channel))
    if wire.presence_stats is not None:
        return PresenceStats(id=number, channel=names.ours(wire.presence_stats.channel))
    if wire.history is not None:
        return _history(number, wire.history, names)
    if wire.ping is not None:
        return Ping(id=number)
    if wire.rpc is not None:
        return _rpc(number, wire.rpc)
    if wire.refresh is not None:
        return Refresh(id=number, token=wire.refresh.token)
    if wire.sub_refresh is not None:
        if wire.sub_refresh.type:
            raise Error("not_found", "sub_refresh: there are no tracked keys here")
        return SubRefresh(id=number, channel=names.ours(wire.sub_refresh.channel), token=wire.sub_refresh.token)
    raise MalformedCommand("there is no known command in it")


class MalformedCommand(Exception):
    """The connection has nothing to say to it but goodbye."""


def _connect(number: int, request: ConnectRequest) -> Connect:
    name, version = request.name[:MAX_LABEL], request.version[:MAX_LABEL]
    return Connect(id=number, token=request.token or None, subs=request.subs, name=name, version=version)


def subscribing(name: str, wanted: SubscribeRequest, names: Names) -> Subscribe:
    """What `connect` asks for under `name`; Error as `understand`."""
    wanted.channel = name
    wanted.flag = 0
    return _subscribe(None, wanted, names)


def _subscribe(number: int | None, request: SubscribeRequest, names: Names) -> Subscribe:
    command = Subscribe(
        id=number,
        channel=names.ours(request.channel),
        token=request.token,
        recover=request.recover,
        join_leave=request.join_leave,
        error_unrecovered=bool(request.flag & ERROR_UNRECOVERED),
    )
    if request.recover and not request.epoch:
        command.offset = request.offset
    elif request.recover:
        cursor = f"{request.epoch}:{request.offset}"
        try:
            parse_cursor(cursor)
        except Error:  # such as the epoch `_`, by which a client says that it knows none
            pass
        else:
            command.after = cursor
    return command


def _publish(number: int, request: PublishRequest, names: Names) -> Publish:
    if request.type:
        raise Error("not_found", "publish: there are no maps here")
    data = bytes(request.data)
    if not data:
        raise bad_request("data: required")
    return Publish(id=number, channel=names.ours(request.channel), data=JSON.decode(data))


def _rpc(number: int, request: RpcRequest) -> Rpc:
    if not 0 < len(request.method) <= MAX_KEY:
        raise bad_request(f"method: 1 to {MAX_KEY} characters")
    data = bytes(request.data)
    return Rpc(id=number, method=request.method, data=JSON.decode(data) if data else None)


def _history(number: int, request: HistoryRequest, names: Names) -> History:
    since = request.since
    return History(
        id=number,
        channel=names.ours(request.channel),
        limit=request.limit,
        reverse=request.reverse,
        since=None if since is None else (since.offset, since.epoch),
    )


_decode_connect: Final = msgspec.json.Decoder(ConnectRequest).decode
_decode: Final = msgspec.json.Decoder(WireCommand).decode


def json_commands(payload: bytes) -> list[WireCommand]:
    """One a line. ValueError (msgspec's are) or RecursionError for what is none."""
    lines = payload.split(b"\n")
    if len(lines) > MAX_COMMANDS:
        raise ValueError("too many commands at once")
    return [_decode(line) for line in lines if line.strip()]


def connecting(payload: bytes) -> Connect:
    """What somebody who only listens has to say, in JSON: nothing, or what else would be under `connect`. ValueError or
    RecursionError for what is none."""
    wanted = _decode_connect(payload) if payload.strip() not in (b"", b"null") else ConnectRequest()
    return _connect(1, wanted)


class Emulated(Struct):
    """Commands for a session, wherever it is."""

    session: str
    node: str
    data: str = ""
