"""The objects on the wire: commands in, replies and pushes out. docs/protocol.md tells them to people.

Commands are msgspec structs told apart by `type`; the same validation serves JSON and MessagePack, since both arrive
here as plain objects. Unknown fields are ignored, an unknown `type` is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.errors import Disconnect, Error, bad_request

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
MAX_KEY: Final = 255

Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]


Reason = Annotated[str, Meta(max_length=100)]


class Command(Struct, tag_field="type", kw_only=True):
    id: int | None = None
    """Echoed by the reply; a command without one gets no reply (but its errors)."""


class Connect(Command, tag="connect"):
    token: str | None = None


class Refresh(Command, tag="refresh"):
    token: str


class Subscribe(Command, tag="subscribe"):
    channel: str
    after: str | None = None
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None


class Unsubscribe(Command, tag="unsubscribe"):
    channel: str


class Publish(Command, tag="publish"):
    channel: str
    data: Any
    key: Key | None = None
    tag: Annotated[str, Meta(max_length=MAX_KEY)] | None = None
    """What a conflating channel keeps the newest message of."""
    echo: bool = True
    ephemeral: bool = False
    """Pass it on without storing it, in a durable channel."""


class History(Command, tag="history"):
    channel: str
    after: str | None = None
    before: str | None = None
    limit: Limit = DEFAULT_PAGE


class Presence(Command, tag="presence"):
    channel: str
    left: Annotated[int, Meta(ge=0, le=MAX_PAGE)] = 0
    """How many of those who have left are to be named, the latest first."""


class Ping(Command, tag="ping"):
    pass


AnyCommand = Connect | Refresh | Subscribe | Unsubscribe | Publish | History | Presence | Ping
# By hand instead of msgspec's tagged union, which is resolved anew at every call (a third of a publish's time).
_COMMANDS: Final[dict[str, type[AnyCommand]]] = {
    "connect": Connect,
    "refresh": Refresh,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "publish": Publish,
    "history": History,
    "presence": Presence,
    "ping": Ping,
}


class PublishRequest(Struct):
    """The body of POST /v1/channels/{channel}/messages."""

    data: Any
    key: Key | None = None
    tag: Annotated[str, Meta(max_length=MAX_KEY)] | None = None
    ephemeral: bool = False


class LoginRequest(Struct):
    """The body of POST /v1/auth/login."""

    user: str
    password: str


class RegisterRequest(LoginRequest):
    """The body of POST /v1/auth/register. `info` is what others may be shown."""

    info: Any = None


class RefreshRequest(Struct):
    """The body of POST /v1/auth/refresh and /v1/auth/logout."""

    refresh_token: Annotated[str, Meta(max_length=255)]


class DisconnectRequest(Struct):
    """The body of POST /v1/users/{user}/disconnect."""

    reason: Reason = ""
    reconnect: bool = False


class RevokeRequest(Struct):
    """The body of POST /v1/users/{user}/revoke."""

    token: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)] | None = None
    channels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]], Meta(max_length=100)] = field(
        default_factory=list
    )


class UnsubscribeRequest(Struct):
    """The body of POST /v1/channels/{channel}/unsubscribe."""

    user: Annotated[str, Meta(min_length=1)]
    reason: Reason = ""


def parse_command(value: Any) -> AnyCommand:
    if not isinstance(value, dict):
        raise bad_request("a command is an object")
    name = value.get("type")
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise bad_request(f"type: one of {', '.join(_COMMANDS)}")
    command: AnyCommand = convert(value, kind)
    return command


def convert(value: Any, kind: Any) -> Any:
    """`value` as the struct `kind`, or `bad_request` naming the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise bad_request(_readable(str(error))) from None


def _readable(message: str) -> str:
    """msgspec's «Expected `int`, got `str` - at `$.id`», with the field in front: «id: expected `int`, got `str`»."""
    text, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {text[:1].lower()}{text[1:]}" if field else text


def id_of(value: Any) -> int | None:
    """The id of what may not be a valid command, so that even its error can be told apart."""
    identifier = value.get("id") if isinstance(value, dict) else None
    return identifier if type(identifier) is int else None


# --- what the server sends --------------------------------------------------------------------------------------------


class MessagePush(Struct, tag_field="type", tag="message", omit_defaults=False):
    """One message of a durable channel."""

    channel: str
    offset: int
    cursor: str
    key: str
    user: str | None
    time: int
    data: Any


class EphemeralPush(Struct, tag_field="type", tag="message"):
    """One message of an ephemeral channel: neither offset nor cursor, and nothing to ask for again."""

    channel: str
    user: str | None
    time: int
    data: Any
    tag: str | UnsetType = UNSET


Push = dict[str, Any]


def reply(identifier: int | None, **fields: Any) -> Push:
    return {"type": "reply", "id": identifier, **fields}


def error_push(identifier: int | None, error: Error) -> Push:
    push: Push = {"type": "error", **problem(error)}
    if identifier is not None:
        push["id"] = identifier
    return push


def problem(error: Error) -> Push:
    body: Push = {"code": error.code, "reason": error.reason, "retry": error.retry}
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    return body


def gap_push(channel: str, epoch: str, first: int | None, last: int | None, reason: str | None = None) -> Push:
    """The messages `first`…`last` (both inclusive) are gone; both None: another history altogether (`reason`). The
    cursor is the position behind the gap."""
    push: Push = {"type": "gap", "channel": channel, "from": first, "to": last, "cursor": f"{epoch}:{last or 0}"}
    if reason is not None:
        push["reason"] = reason
    return push


def dropped_push(channel: str, count: int) -> Push:
    return {"type": "dropped", "channel": channel, "count": count}


def unsubscribed_push(channel: str, code: str, reason: str) -> Push:
    return {"type": "unsubscribed", "channel": channel, "code": code, "reason": reason}


def disconnect_push(disconnect: Disconnect, delay: float) -> Push:
    return {
        "type": "disconnect",
        "code": disconnect.code,
        "reason": disconnect.reason,
        "reconnect": disconnect.reconnect,
        "delay": round(delay, 3),
    }
