"""What REST takes and answers of bans."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypedDict

from msgspec import Meta, Struct, field

from server.wire.commands import DEFAULT_PAGE, MAX_KEY, Limit

MAX_BAN: Final = 10 * 366 * 86400

Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, examples=["chat:*"])]
Patterns = Annotated[list[Pattern], Meta(max_length=100, description="None: everything")]


class BanRequest(Struct):
    """`seconds`: none, and it lasts until it is lifted."""

    channels: Patterns = field(default_factory=list)
    seconds: Annotated[float, Meta(gt=0, le=MAX_BAN)] | None = None
    reason: Annotated[str, Meta(max_length=100, description="The user is told")] = ""


class UnbanRequest(Struct):
    channels: Patterns = field(default_factory=list)


class BansQuery(Struct):
    prefix: Annotated[str, Meta(description="What the user's name begins with")] = ""
    after: Annotated[str, Meta(description="A user")] = ""
    limit: Limit = DEFAULT_PAGE


Since = Annotated[int, Meta(description="Milliseconds since 1970")]
Until = Annotated[int | None, Meta(description="Milliseconds since 1970; null: until it is lifted")]


class BanRow(TypedDict):
    user: str
    channel: Annotated[str | None, Meta(description="A pattern of channels; null: everything")]
    reason: str
    by: Annotated[str, Meta(description="The API key, or the operator")]
    since: Since
    until: Until


class BansPage(TypedDict):
    """Those in force. `next` is the `after` of the next page."""

    bans: list[BanRow]
    next: str | None


class UserBans(TypedDict):
    """Those in force."""

    user: str
    bans: list[BanRow]


class BanSaid(TypedDict):
    what: Literal["ban", "unban"]
    channel: str | None
    reason: str
    by: str
    time: Since
    until: Until


class UserBansLog(UserBans):
    """`log`: who has banned the user and who has lifted that, the newest first."""

    log: list[BanSaid]


class LogQuery(Struct):
    limit: Limit = DEFAULT_PAGE
