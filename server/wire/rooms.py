"""Members of channels and each user's rooms, as they go over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypedDict

from msgspec import Meta, Struct, field

from server.wire.commands import DEFAULT_PAGE, Limit
from server.wire.rest import ErrorBody

MAX_MEMBERS: Final = 500
"""In one request."""

Role = Annotated[str, Meta(description="`owner`, `moderator`, `member`, or a name of your own", examples=["member"])]


class MemberRow(Struct):
    user: str
    role: Role
    joined: Annotated[int, Meta(description="Milliseconds since 1970")]


class MembersPage(TypedDict):
    """By name. Behind the last one of a page (`after`) come others if there are `more`."""

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


class MemberResult(TypedDict, total=False):
    channel: str
    user: str
    role: str | None
    error: ErrorBody


class MemberResults(TypedDict):
    results: Annotated[list[MemberResult], Meta(description="In the order of the request")]
