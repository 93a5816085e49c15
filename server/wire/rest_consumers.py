"""What REST takes and answers of consumers."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta, Struct

from server.wire.commands import DEFAULT_FETCH, Delay, FetchLimit, FetchWait, Ids
from server.wire.rest import Channel, ChannelGap, Cursor, Datum


class Lag(TypedDict):
    """What is not delivered yet."""

    messages: int
    seconds: Annotated[float, Meta(description="The age of the oldest of them")]
    channels: int


class ConsumerRow(TypedDict):
    """`failed`, `changed`: milliseconds since 1970."""

    name: str
    state: Literal["running", "paused", "stopped"]
    why: Annotated[str | None, Meta(description="Why it is stopped")]
    changed: int
    target: Literal["url", "function", "workers"]
    channels: list[str]
    lag: Lag
    retention: Annotated[
        float, Meta(description="The share of what a channel retains that waits there: from 1 on something is lost")
    ]
    failing: Annotated[int, Meta(description="Channels whose last attempt has failed")]
    attempts: Annotated[int, Meta(description="The most that one of them has had")]
    error: Annotated[str | None, Meta(description="Of the latest failure")]
    failed: int | None
    dead_letter: Channel


class ConsumersList(TypedDict):
    consumers: list[ConsumerRow]


class FailingChannel(TypedDict):
    channel: Channel
    cursor: Cursor
    attempts: int
    error: str
    next: Annotated[int, Meta(description="When it is tried again: milliseconds since 1970")]


class ConsumerDetails(ConsumerRow):
    failures: list[FailingChannel]


class PauseRequest(Struct):
    paused: Annotated[bool, Meta(description="False: let it run again")] = True


class ResetRequest(Struct):
    to: Annotated[str, Meta(description="`beginning`, `now`, or a cursor of the channel", examples=["beginning"])]
    channel: Annotated[Channel | None, Meta(description="Without it: all channels, those to come as well")] = None


class FetchRequest(Struct):
    limit: Annotated[FetchLimit, Meta(description="Messages, at most")] = DEFAULT_FETCH
    wait: Annotated[FetchWait, Meta(description="Seconds to wait while there is nothing")] = 0


class AckRequest(Struct):
    ids: Annotated[Ids, Meta(description="Of messages that were fetched")]


class NackRequest(Struct):
    ids: Annotated[Ids, Meta(description="Of messages that were fetched")]
    delay: Annotated[Delay, Meta(description="Seconds until they are handed out again")] = 0


class Job(TypedDict):
    id: Annotated[str, Meta(description="For `ack` and `nack`; good for one lease")]
    channel: Channel
    offset: int
    key: str
    user: str | None
    time: Annotated[int, Meta(description="Milliseconds since 1970")]
    data: Datum
    delivery: Annotated[int, Meta(description="1: it is handed out for the first time")]
    type: NotRequired[
        Annotated[str, Meta(description="`amend`: what has become of a message, with fields as in history")]
    ]
    of: NotRequired[Annotated[int, Meta(description="Of an amendment: the message's offset")]]
    op: NotRequired[Annotated[str, Meta(description="Of an amendment")]]


class Jobs(TypedDict):
    """`gaps`: what retention has taken before it was handed out."""

    messages: list[Job]
    gaps: NotRequired[list[ChannelGap]]


class Nothing(TypedDict):
    pass


class ConsumerReset(TypedDict):
    name: str
    channel: Channel | None
    cursor: Cursor | None
