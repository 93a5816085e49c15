"""What REST takes and answers: docs/rest.md tells it to people, /openapi.json to programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.core.errors import ERRORS, Error
from server.wire.amendments import AmendedMessagePush, AmendPush
from server.wire.commands import DEFAULT_PAGE, MAX_KEY, MAX_PAGE, At, Key, Limit, Mentions, Part, Write

MAX_BATCH: Final = 500
MAX_WAIT: Final = 60
MAX_CHANNELS: Final = 128

Channel = Annotated[str, Meta(description="`namespace:rest`", examples=["chat:lobby"])]
Cursor = Annotated[str, Meta(description="A position, opaque; `0` is the beginning", examples=["0"])]
Datum = Annotated[Any, Meta(description="Any JSON value", examples=[{"text": "hello"}])]
Tag = Annotated[str, Meta(max_length=MAX_KEY, description="What a conflating channel keeps the newest message of")]
Passing = Annotated[bool, Meta(description="Pass it on and store nothing")]
InParent = Annotated[bool, Meta(description="Of a thread: publish it in the parent as well")]
Reason = Annotated[str, Meta(max_length=100)]
IdempotencyKey = Annotated[Key, Meta(description="A retry with the same key is stored once", examples=["order-17"])]


class PublishRequest(Struct):
    data: Datum
    key: IdempotencyKey | None = None
    tag: Tag | None = None
    ephemeral: Passing = False
    at: Annotated[At, Meta(description="Later: seconds since 1970, or a date and time with its zone")] | None = None
    mentions: Annotated[Mentions, Meta(description="Of members, or `*`: they count it apart")] | None = None
    broadcast: InParent = False


class PublishItem(PublishRequest, kw_only=True):
    channel: Channel


class BatchRequest(Struct):
    """Either `messages`, or one datum for many `channels`."""

    # One by one, so that a bad item is the error of that item.
    messages: Annotated[
        list[Annotated[Any, Meta(extra_json_schema={"$ref": "#/components/schemas/PublishItem"})]],
        Meta(max_length=MAX_BATCH),
    ] = field(default_factory=list)
    channels: Annotated[list[Channel], Meta(max_length=MAX_BATCH)] = field(default_factory=list)
    data: Datum | UnsetType = UNSET
    key: IdempotencyKey | None = None
    tag: Tag | None = None
    ephemeral: Passing = False
    mentions: Mentions | None = None


class AmendRequest(Struct):
    """One of them: the new data, a text that comes behind it, or whether it is pinned."""

    data: Datum | UnsetType = UNSET
    append: Annotated[str, Meta(description="A text that comes behind it")] | UnsetType = UNSET
    part: Annotated[Part, Meta(description="Its number, from 1 on: a retry is appended once")] | None = None
    done: Annotated[bool, Meta(description="Nothing more is appended")] = False
    pin: Annotated[bool, Meta(description="Pin it, or no longer")] | UnsetType = UNSET
    key: IdempotencyKey | None = None


class IdempotencyHeader(Struct, rename={"key": "Idempotency-Key"}):
    key: IdempotencyKey | None = None


class Published(Struct):
    """Where the message is. `duplicate`: an earlier publish with the same key put it there."""

    channel: Channel
    offset: int
    cursor: Cursor
    key: str
    duplicate: bool


class Accepted(Struct, omit_defaults=True):
    """An ephemeral channel stores nothing; a message for later has an id by which it can be cancelled."""

    channel: Channel
    id: str | None = None
    at: float | None = None


class ScheduledMessage(Struct):
    id: str
    channel: Channel | None
    data: Datum
    key: str | None
    user: str | None
    at: float | None


class ScheduledPage(Struct):
    """Those that are due first are in front."""

    scheduled: list[ScheduledMessage]


class ScheduledQuery(Struct):
    channel: Channel | None = None
    limit: Limit = DEFAULT_PAGE


class ErrorBody(TypedDict):
    code: Annotated[str, Meta(extra_json_schema={"enum": list(ERRORS)})]
    reason: str
    retry: Annotated[bool, Meta(description="Whether the same may succeed later")]
    retry_after: NotRequired[Annotated[float, Meta(description="Seconds")]]
    rev: NotRequired[Annotated[str, Meta(description="The document's, where another one was expected")]]
    details: NotRequired[Annotated[Any, Meta(description="What the back end says besides, of `refused`")]]


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


class CallRequest(Struct):
    data: Datum = None
    key: Annotated[Key, Meta(description="A retry with the same key gets the same answer")] | None = None


class CallAnswer(TypedDict):
    data: Annotated[Any, Meta(description="What the back end answers")]


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

    messages: Sequence[AmendedMessagePush]
    amends: NotRequired[Annotated[Sequence[AmendPush], Meta(description="With `after`: what became of older messages")]]
    mine: NotRequired[
        Annotated[dict[str, list[str]], Meta(description="How you have reacted: kinds, by the message's offset")]
    ]
    cursor: Cursor
    head: Cursor
    more: bool
    gap: Gap | None


Channels = Annotated[list[Channel], Meta(min_length=1, max_length=MAX_CHANNELS)]
Listened = Annotated[
    list[Channel], Meta(max_length=MAX_CHANNELS, description="None: those that the token subscribes to")
]


Afters = Annotated[list[str], Meta(description="In the order of the channels, or one joined cursor")]


class PollQuery(Struct, rename={"channels": "channel"}):
    channels: Listened = field(default_factory=list)
    after: Afters = field(default_factory=list)
    limit: Limit = DEFAULT_PAGE
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait while there is nothing")] = 0


class PollPage(TypedDict):
    """Of several channels: the cursor is a joined one."""

    messages: list[AmendedMessagePush]
    amends: NotRequired[list[AmendPush]]
    cursor: Cursor
    more: bool
    gaps: list[ChannelGap]


WithThreads = Annotated[bool, Meta(description="In `$rooms`: also the threads that you follow")]


class EventsQuery(Struct):
    after: Cursor | None = None
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None
    ticket: str | None = None
    threads: WithThreads = False


class JoinedEventsQuery(Struct, rename={"channels": "channel"}):
    channels: Listened = field(default_factory=list)
    after: Afters = field(default_factory=list)
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None
    ticket: str | None = None
    threads: WithThreads = False


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
    writes: Annotated[list[Write], Meta(min_length=1, max_length=MAX_BATCH)]


DocumentFields = Annotated[
    dict[str, Any], Meta(title="DocumentFields", description="Any fields", examples=[{"status": "open", "total": 30}])
]
StoredDocument = Annotated[
    dict[str, Any],
    Meta(
        title="StoredDocument",
        description="Its fields, _id and _rev",
        extra_json_schema={
            "properties": {"_id": {"type": "string"}, "_rev": {"type": "string"}},
            "required": ["_id", "_rev"],
        },
    ),
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


class SubscribeRequest(Struct):
    """`last`: begin with the newest so many messages."""

    channel: Channel
    last: Annotated[int, Meta(ge=0, le=MAX_PAGE)] | None = None


class UnsubscribeFrom(Struct):
    channel: Channel
    reason: Reason = ""


class UserNamed(TypedDict):
    user: str


class ErasedUser(UserNamed):
    """`erased`: how much of what."""

    done: bool
    erased: dict[str, int]


class UserInChannel(UserNamed):
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


class StoredChannel(TypedDict):
    channel: str
    head: Cursor
    messages: Annotated[int, Meta(description="That are retained, without what became of them")]
    oldest: Annotated[int | None, Meta(description="Of what is retained: milliseconds since 1970")]
    newest: Annotated[int | None, Meta(description="Of the newest message: milliseconds since 1970")]


class StoredChannelsPage(TypedDict):
    """`next` is the `after` of the next page."""

    channels: list[StoredChannel]
    next: str | None


class ChannelCapabilities(TypedDict):
    """`role`: of who asks, where the channel has members; `may`: what they may do, as far as rules say; `has`: which
    options of its namespace are on."""

    channel: str
    role: str | None
    may: list[str]
    has: list[str]


class NodesPage(TypedDict):
    nodes: list[dict[str, Any]]


Many = Annotated[float, Meta(description="A second, at most")]


FiguresRow = TypedDict(
    "FiguresRow",
    {
        "time": Annotated[int, Meta(description="The end of the ten seconds: milliseconds since 1970")],
        "connections": int,
        "in": Many,
        "out": Many,
        "refusals": Many,
        "repairs": Many,
        "publish_p99": Annotated[float | None, Meta(description="Seconds, of the slowest node")],
    },
)


class RefusedRow(TypedDict):
    code: str
    limit: Annotated[str | None, Meta(description="The option whose limit was met")]
    user: str | None
    address: str
    count: int
    last: Annotated[int, Meta(description="Milliseconds since 1970")]


class RecentHour(TypedDict):
    """`figures`, the oldest first, are as old as the node that is asked; `refused` is who was refused what most often;
    `limits` are those of the configuration; `missing` are nodes that did not answer."""

    figures: list[FiguresRow]
    events: Annotated[list[dict[str, Any]], Meta(description="As in `$sys:events`, with their time")]
    refused: list[RefusedRow]
    limits: dict[str, Any]
    missing: list[str]


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


def problem(error: Error) -> ErrorBody:
    body: ErrorBody = {"code": error.code, "reason": error.reason, "retry": error.retry}
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    if error.rev is not None:
        body["rev"] = error.rev
    if error.details is not None:
        body["details"] = error.details
    return body
