"""Members of channels and each user's rooms, as they go over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.wire.commands import DEFAULT_PAGE, Limit
from server.wire.pushes import Push
from server.wire.rest import Cursor, ErrorBody

MAX_MEMBERS: Final = 500
"""In one request."""

Role = Annotated[str, Meta(description="`owner`, `moderator`, `member`, or a name of your own", examples=["member"])]


class MemberRow(Struct):
    user: str
    role: Role
    joined: Annotated[int, Meta(description="Milliseconds since 1970")]
    read: Annotated[Cursor, Meta(description="Where the namespace has receipts")] | UnsetType = UNSET


class MembersPage(TypedDict):
    """By name. Behind the last of a page (`after`) come others if there are `more`."""

    members: Sequence[MemberRow]
    more: bool


class MembersQuery(Struct):
    after: Annotated[str, Meta(description="A user's name")] | None = None
    limit: Limit = DEFAULT_PAGE


class RoleRequest(Struct):
    role: Role = "member"


class MemberItem(Struct):
    user: str
    role: Annotated[str | None, Meta(description="`null`: no member any more")] = "member"


class MembersRequest(Struct):
    # One by one, so that a bad item is the error of that item.
    members: Annotated[
        list[Annotated[Any, Meta(extra_json_schema={"$ref": "#/components/schemas/MemberItem"})]],
        Meta(min_length=1, max_length=MAX_MEMBERS),
    ] = field(default_factory=list)


class MemberSet(TypedDict):
    channel: str
    user: str
    role: Annotated[str | None, Meta(description="`null`: no member")]


class PreferRequest(Struct):
    """Those that are to change."""

    mute: Annotated[bool, Meta(description="Listed, but not counted as unread")] | UnsetType = UNSET
    pin: Annotated[bool, Meta(description="In front of the others")] | UnsetType = UNSET


class Preferred(MemberSet):
    mute: bool
    pin: bool


class MemberResult(TypedDict, total=False):
    channel: str
    user: str
    role: str | None
    error: ErrorBody


class MemberResults(TypedDict):
    results: Annotated[list[MemberResult], Meta(description="In the order of the request")]


# --- who takes no messages of whom ------------------------------------------------------------------------------------


class BlockSet(TypedDict):
    user: str
    blocked: bool


class BlocksPage(TypedDict):
    """By name."""

    blocked: Sequence[str]


# --- my rooms ---------------------------------------------------------------------------------------------------------

MAX_ROOMS: Final = 100
"""In one page over REST."""


class ThreadPlace(Struct):
    """What a thread is about."""

    channel: Annotated[str, Meta(description="Its parent")]
    of: Annotated[int, Meta(description="The offset of the message")]


class RoomRow(Struct):
    """A channel that the user is a member of. What comes later is counted by the client: so many messages are unread as
    there are more (`count`) than there were when this was told, and not erased since."""

    channel: str
    role: Role
    read: Annotated[Cursor, Meta(description="How far the user has read")]
    head: Cursor
    count: Annotated[int, Meta(description="How many messages there have been")]
    unread: int
    mentions: int
    newest: Annotated[str | None, Meta(description="The cursor of the newest message")]
    time: Annotated[int | None, Meta(description="Of the newest message: milliseconds since 1970")]
    mute: bool | UnsetType = UNSET
    pin: bool | UnsetType = UNSET
    """Both only where they are true."""
    thread: Annotated[ThreadPlace, Meta(description="Of a thread that the user follows")] | UnsetType = UNSET


class RoomsPage(TypedDict):
    """The one with the newest message first. Behind the last of a page (`after`) come others if there are `more`."""

    rooms: Sequence[RoomRow]
    more: bool


class RoomsQuery(Struct):
    after: Annotated[str, Meta(description="A channel: the last one of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_ROOMS)] = 50
    threads: Annotated[bool, Meta(description="Also the threads that you follow")] = False


class ReadRequest(Struct):
    """`set`: the marker may go back as well."""

    cursor: Cursor
    set: bool = False


class ReadResult(TypedDict):
    """Where the marker is now."""

    channel: str
    cursor: Cursor


class RoomsPush(Push, tag="rooms"):
    rooms: list[RoomRow]
    more: bool
    start: bool | UnsetType = UNSET
    """The first page: what the client knew before is to be forgotten."""


class ActivityPush(Push, tag="activity"):
    """Something has come in a room. The same for all of its members."""

    channel: str
    head: str
    count: int
    newest: str | None
    deleted: list[int] | UnsetType = UNSET
    """Offsets of messages that were erased meanwhile."""
    mentioned: dict[str, list[int]] | UnsetType = UNSET
    """Who is mentioned in what is new, or `*`, and in which messages."""
    by: dict[str, list[int]] | UnsetType = UNSET
    """Who has written those of them that mention everybody: it is not mentioned by these itself."""


class RoomPush(Push, tag="room"):
    """The user is a member of a room with this role now (then all of its row), or no member any more."""

    channel: str
    role: str | None
    read: str | UnsetType = UNSET
    head: str | UnsetType = UNSET
    count: int | UnsetType = UNSET
    unread: int | UnsetType = UNSET
    mentions: int | UnsetType = UNSET
    newest: str | UnsetType | None = UNSET
    time: int | UnsetType | None = UNSET
    mute: bool | UnsetType = UNSET
    pin: bool | UnsetType = UNSET
    thread: ThreadPlace | UnsetType = UNSET


class ReceiptPush(Push, tag="read"):
    """A member has read up to there. It has no cursor: clients that do not know it would take that for their own."""

    channel: str
    user: str
    offset: int


class ReadPush(Push, tag="read"):
    """The user has read up to there. `seen`: how many of the messages of the room are not unread for that; so many less
    than its `count` are."""

    channel: str
    user: str
    cursor: str
    seen: int | UnsetType = UNSET
    mentions: int | UnsetType = UNSET
    """With `seen`: how many of what is unread mention the user."""
