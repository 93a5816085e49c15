"""What back ends ask for over Centrifugo's server API. Field names are the public API's; others are not looked at."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, field

from server.core.cursors import MAX_OFFSET
from server.core.errors import Error, bad_request
from server.wire.codec import JSON
from server.wire.commands import MAX_KEY

MAX_REASON: Final = 100

Channel = Annotated[str, Meta(min_length=1)]
User = Annotated[str, Meta(min_length=1)]
"""Connections without a user cannot be named here."""
Ids = Annotated[list[str], Meta(max_length=1000)]


class Payload(Struct):
    """What is published, and how."""

    data: Any = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    idempotency_key: Annotated[str, Meta(max_length=MAX_KEY)] = ""
    version: int = 0

    def value(self) -> Any:
        """The data; `bad_request` for what we could not keep faithfully."""
        if self.tags:
            raise bad_request("tags: messages have none here")
        if self.version:
            raise bad_request("version: messages have none here; idempotency_key tells a retry")
        if self.b64data:
            return decoded("b64data", self.b64data)
        if self.data is UNSET:
            raise bad_request("data: required")
        return self.data


class PublishRequest(Payload, kw_only=True):
    channel: Channel


class BroadcastRequest(Payload, kw_only=True):
    channels: Annotated[list[Channel], Meta(min_length=1)]


class Sessions(Struct):
    """Of a user: all, or the one that is named."""

    user: User
    client: str = ""
    session: str = ""

    def one(self) -> str | None:
        return self.client or self.session or None


class Position(Struct):
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = 0
    epoch: str = ""


class SubscribeRequest(Sessions, kw_only=True):
    channel: Channel
    expire_at: int = 0
    info: Any = None
    b64info: str = ""
    data: Any = None
    b64data: str = ""
    recover_since: Position | None = None

    def check(self) -> None:
        """`bad_request` for what would be promised and not kept."""
        if self.expire_at:
            raise bad_request("expire_at: such a subscription lasts as long as its connection here")
        if self.recover_since is not None:
            raise bad_request("recover_since: such a subscription begins now; the client may ask for history")


class UnsubscribeRequest(Sessions, kw_only=True):
    channel: Channel


class Farewell(Struct):
    code: Annotated[int, Meta(ge=3000, le=4999)]
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class DisconnectRequest(Sessions, kw_only=True):
    disconnect: Farewell | None = None
    whitelist: Ids = field(default_factory=list)


class RefreshRequest(Sessions, kw_only=True):
    expired: bool = False
    expire_at: Annotated[int, Meta(ge=0)] = 0
    """Seconds since 1970; 0: they may stay for ever."""


class ChannelRequest(Struct):
    channel: Channel


class HistoryRequest(Struct):
    channel: Channel
    limit: Annotated[int, Meta(ge=-1)] = 0
    since: Position | None = None
    reverse: bool = False


class ChannelsRequest(Struct):
    pattern: str = ""


class RpcRequest(Struct):
    method: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
    params: Any = None


class BatchRequest(Struct):
    commands: list[dict[str, Any]]
    parallel: bool = False


class Call(Struct):
    """Of `POST /api`, where the path does not say the method."""

    method: str
    params: Any = None


def decoded(name: str, text: str) -> Any:
    """The JSON in a field of base64. Other bytes are refused: our other clients could not be sent them."""
    try:
        return JSON.decode(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise bad_request(f"{name}: not base64") from None
    except Error as error:
        raise bad_request(f"{name}: {error.reason}") from None
