"""The objects on the wire: commands in, replies and pushes out. docs/protocol.md tells them to people.

Commands are msgspec structs told apart by `type`; the same validation serves JSON and MessagePack, since both arrive
here as plain objects. Unknown fields are ignored, an unknown `type` is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.core.errors import ERRORS, Disconnect, Error, bad_request

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
    where: dict[str, Any] | None = None
    """These three for the changes of documents: what to show, the documents themselves first, and not too often."""
    snapshot: bool = False
    conflate: Annotated[float, Meta(ge=0, le=60)] = 0.0


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
    where: dict[str, Any] | None = None


class Get(Command, tag="get"):
    collection: str
    document_id: str


class Find(Command, tag="find"):
    """Also what the query of a listing over REST says."""

    collection: str
    where: Any = None
    sort: str | None = None
    limit: Limit = DEFAULT_PAGE
    page: str | None = None
    fields: str | None = None
    count: bool = False


class DocumentWrite(Struct, kw_only=True):
    """One write, whichever way it came."""

    op: Literal["put", "patch", "delete"]
    document_id: str | None = None
    """None: a put whose id the server makes, or the document has."""
    document: dict[str, Any] | None = None
    if_rev: str | None = None
    """A revision, or `*`: whatever is there."""
    if_absent: bool = False
    key: Key | None = None


class Write(Command):
    op: ClassVar[Literal["put", "patch", "delete"]]
    collection: str
    document_id: str | None = None
    document: dict[str, Any] | None = None
    if_rev: str | None = None
    if_absent: bool = False
    key: Key | None = None

    def as_write(self) -> DocumentWrite:
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("id", "collection")}
        return DocumentWrite(op=self.op, **fields)


class Put(Write, tag="put"):
    op: ClassVar[Literal["put"]] = "put"


class Patch(Write, tag="patch"):
    op: ClassVar[Literal["patch"]] = "patch"


class Delete(Write, tag="delete"):
    op: ClassVar[Literal["delete"]] = "delete"


class Presence(Command, tag="presence"):
    channel: str
    left: Annotated[int, Meta(ge=0, le=MAX_PAGE)] = 0
    """How many of those who have left are to be named, the latest first."""


class Ping(Command, tag="ping"):
    pass


DocumentCommand = Get | Find | Put | Patch | Delete
AnyCommand = Connect | Refresh | Subscribe | Unsubscribe | Publish | History | Presence | Ping | DocumentCommand
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
    "get": Get,
    "find": Find,
    "put": Put,
    "patch": Patch,
    "delete": Delete,
}


def parse_command(value: Any) -> AnyCommand:
    if not isinstance(value, dict):
        raise bad_request("a command is an object")
    name = value.get("type")
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise bad_request(f"type: one of {', '.join(_COMMANDS)}")
    command: AnyCommand = convert(value, kind)
    return command


def convert(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """`value` as the struct `kind`, or `bad_request` naming the field. Not strict: numbers may be text, as in URLs."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise bad_request(_readable(str(error))) from None


def _readable(message: str) -> str:
    """msgspec's «Expected `int`, got `str` - at `$.id`», with the field in front: «id: expected `int`, got `str`»."""
    text, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {text[:1].lower()}{text[1:]}" if field else text


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


# --- REST: docs/rest.md tells them to people, /openapi.json to programs -----------------------------------------------

MAX_BATCH: Final = 500
MAX_WAIT: Final = 60
MAX_CHANNELS: Final = 128

Channel = Annotated[str, Meta(description="`namespace:rest`", examples=["chat:lobby"])]
Cursor = Annotated[str, Meta(description="A position, opaque; `0` is the beginning", examples=["0"])]
Datum = Annotated[Any, Meta(description="Any JSON value", examples=[{"text": "hello"}])]
Tag = Annotated[str, Meta(max_length=MAX_KEY, description="What a conflating channel keeps the newest message of")]
Passing = Annotated[bool, Meta(description="Pass it on and store nothing")]
IdempotencyKey = Annotated[Key, Meta(description="A retry with the same key is stored once", examples=["order-17"])]


class PublishRequest(Struct):
    data: Datum
    key: IdempotencyKey | None = None
    tag: Tag | None = None
    ephemeral: Passing = False


class PublishItem(PublishRequest, kw_only=True):
    channel: Channel


class BatchRequest(Struct):
    """Either `messages`, or one datum for many `channels`."""

    # One by one, so that a bad item is the error of that item.
    messages: Annotated[
        list[Annotated[Any, Meta(extra_json_schema={"$ref": "#/components/schemas/PublishItem"})]],
        Meta(max_length=MAX_BATCH),
    ] = msgspec.field(default_factory=list)
    channels: Annotated[list[Channel], Meta(max_length=MAX_BATCH)] = msgspec.field(default_factory=list)
    data: Datum | UnsetType = UNSET
    key: IdempotencyKey | None = None
    tag: Tag | None = None
    ephemeral: Passing = False


class IdempotencyHeader(Struct, rename={"key": "Idempotency-Key"}):
    key: IdempotencyKey | None = None


class Published(Struct):
    """Where the message is. `duplicate`: an earlier publish with the same key put it there."""

    channel: Channel
    offset: int
    cursor: Cursor
    key: str
    duplicate: bool


class Accepted(Struct):
    """An ephemeral channel stores nothing."""

    channel: Channel


class ErrorBody(TypedDict):
    code: Annotated[str, Meta(extra_json_schema={"enum": list(ERRORS)})]
    reason: str
    retry: Annotated[bool, Meta(description="Whether the same may succeed later")]
    retry_after: NotRequired[Annotated[float, Meta(description="Seconds")]]
    rev: NotRequired[Annotated[str, Meta(description="The document's, where another one was expected")]]


class Problem(ErrorBody):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int


class Result(TypedDict, total=False):
    """As of a single publish, or an error."""

    channel: Channel
    offset: int
    cursor: Cursor
    key: str
    duplicate: bool
    error: ErrorBody


class BatchResults(Struct):
    results: Annotated[list[Result], Meta(description="In the order of the request")]


Gap = TypedDict("Gap", {"from": int | None, "to": int | None, "reason": NotRequired[str]})
ChannelGap = TypedDict(
    "ChannelGap", {"channel": Channel, "from": int | None, "to": int | None, "reason": NotRequired[str]}
)


class HistoryQuery(Struct):
    after: Cursor | None = None
    before: Cursor | None = None
    limit: Limit = DEFAULT_PAGE
    wait: Annotated[
        int, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait while there is nothing after the cursor")
    ] = 0


class HistoryPage(TypedDict):
    """Oldest first. `more` looks the way of reading; `gap`: what was asked for and is no longer retained."""

    messages: Sequence[MessagePush]
    cursor: Cursor
    head: Cursor
    more: bool
    gap: Gap | None


Channels = Annotated[list[Channel], Meta(min_length=1, max_length=MAX_CHANNELS)]


Afters = Annotated[list[str], Meta(description="In the order of the channels, or one joined cursor")]


class PollQuery(Struct, rename={"channels": "channel"}):
    channels: Channels
    after: Afters = msgspec.field(default_factory=list)
    limit: Limit = DEFAULT_PAGE
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait while there is nothing")] = 0


class PollPage(TypedDict):
    """Of several channels: the cursor is a joined one."""

    messages: list[MessagePush]
    cursor: Cursor
    more: bool
    gaps: list[ChannelGap]


class EventsQuery(Struct):
    after: Cursor | None = None
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None
    ticket: str | None = None


class JoinedEventsQuery(Struct, rename={"channels": "channel"}):
    channels: Channels
    after: Afters = msgspec.field(default_factory=list)
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None
    ticket: str | None = None


class Place(Struct):
    """A channel, and where in it to begin: from now on, if that is not given."""

    channel: Channel
    after: str | None = None


Places = Annotated[list[Place], Meta(min_length=1, max_length=MAX_CHANNELS)]
JoinedAfter = Annotated[str | None, Meta(description="One joined cursor, instead of those of the channels")]


class PollRequest(Struct):
    channels: Places
    after: JoinedAfter = None
    limit: Limit = DEFAULT_PAGE
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait while there is nothing")] = 0


class EventsRequest(Struct):
    channels: Places
    after: JoinedAfter = None
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None


class LastEventId(Struct, rename={"cursor": "Last-Event-ID"}):
    cursor: Annotated[str, Meta(description="Goes before `after`")] | None = None


class DocumentQuery(Struct):
    where: Annotated[str, Meta(description='JSON: {"price": {"$lt": 30}}')] | None = None
    sort: Annotated[str, Meta(description="-price,name")] | None = None
    limit: Limit = DEFAULT_PAGE
    page: str | None = None
    fields: Annotated[str, Meta(description="name,price")] | None = None
    count: Annotated[bool, Meta(description="Count all that match")] = False


class Conditions(Struct, rename={"match": "If-Match", "none_match": "If-None-Match"}):
    match: Annotated[str, Meta(description='"revision", or *')] | None = None
    none_match: Annotated[str, Meta(description="*")] | None = None


class DocumentBatch(Struct):
    writes: Annotated[list[DocumentWrite], Meta(min_length=1, max_length=MAX_BATCH)]


StoredDocument = Annotated[
    dict[str, Any], Meta(extra_json_schema={"required": ["_id", "_rev"]}, description="Its fields, _id and _rev")
]


class DocumentPage(TypedDict):
    """`page`: the token of the next one."""

    documents: list[StoredDocument]
    page: str | None
    count: NotRequired[int]


class DocumentResult(TypedDict, total=False):
    document: StoredDocument
    created: bool
    duplicate: bool
    deleted: bool
    error: ErrorBody


class DocumentResults(TypedDict):
    results: Annotated[list[DocumentResult], Meta(description="In the order of the request")]


class LoginRequest(Struct):
    user: str
    password: str


class RegisterRequest(LoginRequest):
    info: Annotated[Any, Meta(description="What others may be shown")] = None


class RefreshRequest(Struct):
    refresh_token: Annotated[str, Meta(max_length=255)]


class DisconnectRequest(Struct):
    reason: Reason = ""
    reconnect: bool = False


class RevokeRequest(Struct):
    token: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)] | None = None
    channels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]], Meta(max_length=100)] = field(
        default_factory=list
    )


class UnsubscribeRequest(Struct):
    user: Annotated[str, Meta(min_length=1)]
    reason: Reason = ""


class UserNamed(TypedDict):
    user: str


class UserUnsubscribed(UserNamed):
    channel: str


class PresenceQuery(Struct):
    left: Annotated[int, Meta(ge=0, le=MAX_PAGE, description="How many of those who left, the latest first")] = 0


class PresentUser(TypedDict):
    user: str
    sessions: int
    info: NotRequired[Any]


class LeftUser(TypedDict):
    user: str
    last_seen: Annotated[int, Meta(description="Milliseconds since 1970")]


class PresencePage(TypedDict):
    """Above `presence_users` there is only the `count`."""

    users: list[PresentUser]
    count: int
    guests: int
    left: NotRequired[list[LeftUser]]


class ChannelsQuery(Struct):
    prefix: str = ""
    after: Annotated[str, Meta(description="A channel's name")] = ""
    limit: Limit = DEFAULT_PAGE


class ChannelRow(TypedDict):
    channel: str
    subscribers: int
    rate: Annotated[float, Meta(description="Messages a second")]
    users: NotRequired[int]
    guests: NotRequired[int]


class ChannelsPage(TypedDict):
    """`next` is the `after` of the next page; `missing` are nodes that did not answer."""

    channels: list[ChannelRow]
    next: str | None
    missing: list[str]


class NodesPage(TypedDict):
    nodes: list[dict[str, Any]]


class Tokens(TypedDict):
    user: str
    token: str
    expires: Annotated[int, Meta(description="Seconds since 1970")]
    refresh_token: str


class HealthStatus(TypedDict):
    status: Literal["ok"]


class ReadinessQuery(Struct):
    strict: Annotated[str, Meta(description="`1`: degraded is 503 too", examples=["1"])] = ""


class ReadinessStatus(TypedDict):
    status: Literal["ready", "degraded", "down"]
    reasons: NotRequired[list[str]]


class TicketRequest(Struct):
    channels: Channels


class Ticket(Struct):
    ticket: str
    channels: list[Channel]
    expires_in: Annotated[float, Meta(description="Seconds")]


def reply(identifier: int | None, **fields: Any) -> Push:
    return {"type": "reply", "id": identifier, **fields}


def error_push(identifier: int | None, error: Error) -> Push:
    push: Push = {"type": "error", **problem(error)}
    if identifier is not None:
        push["id"] = identifier
    return push


def problem(error: Error) -> ErrorBody:
    body: ErrorBody = {"code": error.code, "reason": error.reason, "retry": error.retry}
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    if error.rev is not None:
        body["rev"] = error.rev
    return body


def gap_push(channel: str, epoch: str, first: int | None, last: int | None, reason: str | None = None) -> Push:
    """The messages `first`…`last` (both inclusive) are gone; both None: another history altogether (`reason`). The
    cursor is the position behind the gap."""
    push: Push = {"type": "gap", "channel": channel, "from": first, "to": last, "cursor": f"{epoch}:{last or 0}"}
    if reason is not None:
        push["reason"] = reason
    return push


def progress_push(channel: str, cursor: str) -> Push:
    """There was much that the view does not show: the position behind it."""
    return {"type": "progress", "channel": channel, "cursor": cursor}


def snapshot_push(channel: str, documents: list[Push], *, first: bool, cursor: str | None) -> Push:
    """A page of a snapshot. `start`: the client drops what it has; the last page has the cursor to go on from."""
    push: Push = {"type": "snapshot", "channel": channel, "documents": documents, "more": cursor is None}
    if first:
        push["start"] = True
    if cursor is not None:
        push["cursor"] = cursor
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
