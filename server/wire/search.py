"""Searching messages: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Final, TypedDict

from msgspec import Meta, Struct, field

from server.wire.amendments import AmendedMessagePush

MAX_FOUND: Final = 100
MAX_CHANNELS: Final = 100
"""That are searched for one answer."""

Text = Annotated[str, Meta(min_length=1, max_length=256, description="Words; the last may be the beginning of one")]
Place = Annotated[str, Meta(max_length=4096, description="The `cursor` of the page before")]
Most = Annotated[int, Meta(ge=1, le=MAX_FOUND)]
Channels = Annotated[
    list[str], Meta(max_length=MAX_CHANNELS, description="Default: those that the user is a member of")
]


class SearchQuery(Struct, rename={"channels": "channel"}):
    q: Text
    channels: Channels = field(default_factory=list)
    after: Place | None = None
    limit: Most = 20


class FoundPage(TypedDict):
    """Newest first. `cursor`: for the next page, as `after`."""

    messages: list[AmendedMessagePush]
    cursor: str | None
    more: bool
