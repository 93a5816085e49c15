"""What is sent: replies, errors and pushes as plain objects, which JSON and Protobuf write down each in its own way.

    {"channel", "pub": {"data", "info"?, "offset"?, "time"}}      a push, inside {"push": …}
    {"id", "subscribe": {…}}, {"id", "error": {"code", "message", "temporary"?}}

What is zero, false or empty is left out, as it is in Protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET

from server.centrifugo.names import Names
from server.core.errors import (
    DISCONNECTED,
    FLOODED,
    NO_CONNECT,
    NO_PONG,
    REVOKED,
    SHUT_OUT,
    SHUTDOWN,
    STALLED,
    TOKEN_EXPIRED,
    UNAVAILABLE,
    Disconnect,
    Error,
)
from server.presence.service import Present
from server.wire.pushes import (
    ClientJoinPush,
    ClientLeavePush,
    DisconnectPush,
    Push,
    UnsubscribedPush,
)

CLOSES: Final[Mapping[int, int]] = {
    SHUTDOWN: 3001,
    STALLED: 3008,
    TOKEN_EXPIRED: 3005,
    NO_PONG: 3012,
    UNAVAILABLE: 3004,
    DISCONNECTED: 3000,
    FLOODED: 3013,
    NO_CONNECT: 3501,
    REVOKED: 3500,
    SHUT_OUT: 3503,
}
"""Our close codes in their words; RFC 6455's own are the same."""
LOST_POSITION: Final = 3010
INVALID_TOKEN: Final = 3500
BAD_REQUEST: Final = 3501
STALE: Final = 3502
CONNECTION_LIMIT: Final = 3504
NO_PERMISSION: Final = 3507
_REFUSALS: Final = {
    "token_expired": TOKEN_EXPIRED,
    "limit_exceeded": CONNECTION_LIMIT,
    "permission_denied": NO_PERMISSION,
    "unauthenticated": NO_PERMISSION,
}
UNSUBSCRIBED: Final = 2000
UNSUBSCRIBES: Final = {"unrecoverable": 2500, "token_expired": 2501}
"""By the code of our push. After these a client subscribes anew by itself, after UNSUBSCRIBED it does not."""

Shape = dict[str, Any]


def close_of(reason: Disconnect) -> int:
    return reason.named or CLOSES.get(reason.code, reason.code)


def end_of(error: Error) -> Disconnect:
    """How a connection ends whose `connect` is refused so."""
    return Disconnect(UNAVAILABLE if error.retry else _REFUSALS.get(error.code, BAD_REQUEST), error.reason)


def push_shape(push: Push, names: Names) -> Shape | None:
    """None: these clients have no word for it. (A message has a shape of its own.)"""
    if isinstance(push, ClientJoinPush | ClientLeavePush):
        kind = "join" if isinstance(push, ClientJoinPush) else "leave"
        info = client_shape(push.client, push.user, push.info, push.channel_info)
        return {"channel": names.theirs(push.channel), kind: {"info": info}}
    if isinstance(push, UnsubscribedPush):
        code = UNSUBSCRIBES.get(push.code, UNSUBSCRIBED)
        return {"channel": names.theirs(push.channel), "unsubscribe": {"code": code, "reason": push.reason}}
    if isinstance(push, DisconnectPush):
        return {"disconnect": {"code": CLOSES.get(push.code, push.code), "reason": push.reason}}
    return None


def client_shape(client: str, user: str | None, info: Any, channel_info: Any) -> Shape:
    shape: Shape = {"user": user or "", "client": client}
    if info is not None and info is not UNSET:
        shape["conn_info"] = info
    if channel_info is not None and channel_info is not UNSET:
        shape["chan_info"] = channel_info
    return shape


def presence(present: Present) -> Shape:
    """Who is in a channel, by client."""
    return {"presence": {one.client: client_shape(*one) for one in present.clients}}


def presence_stats(present: Present) -> Shape:
    return {"num_clients": present.number, "num_users": present.users}
