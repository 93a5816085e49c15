"""Parts of the log: what was asked for, what was found of it, and how much of that an answer has room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from server.log.pages import Read
from server.log.rows import Row, contiguous, id_of
from server.wire.messages import Page

PAGE: Final = 500
SHORT: Final = 64
"""Messages up to which a range is read together with others."""
LARGE: Final = 4 << 10
"""Bytes. PAGE rows up to this size are 2 MiB."""
LARGE_BYTES: Final = 2 << 20
"""Of the larger ones in a page: together so many, or one."""

SMALL: Final = {"$expr": {"$lte": [{"$bsonSize": "$$ROOT"}, LARGE]}}
RUN: Final = 4
"""Messages in a row that MongoDB finds faster between two ends than one by one."""

Offsets = range | set[int]
"""Of a channel's messages."""
Found = tuple[int, Row | int]
"""An offset and its message, or of a large one its bytes."""
Large = dict[tuple[str, int], int]
"""Channels and offsets of large messages, and their bytes."""


class Range(NamedTuple):
    """The messages first…last; the newest of them if `back` and they are too many bytes, else the oldest."""

    channel: str
    first: int
    last: int
    back: bool


class Rows(NamedTuple):
    """What there is of a range, oldest first."""

    rows: list[Row]
    cut: bool = False
    """Whether there is more than an answer may be."""
    bytes: int = 0
    """At most."""


class State(NamedTuple):
    """Of a channel: what is not retained any more, its epoch, and whether there may be amendments in it."""

    floor: int
    epoch: str
    amended: bool = False


def parted(wanted: Mapping[str, Offsets]) -> tuple[dict[range, list[str]], list[Row]]:
    """The runs among these offsets, each with the channels of which it is wanted; and the ids of all other messages.
    (MongoDB takes as long to plan for a run as to read six messages, but not longer if it is of many channels.)"""
    runs: dict[range, list[str]] = {}
    ids: list[Row] = []
    for channel, offsets in wanted.items():
        if isinstance(offsets, range) and len(offsets) >= RUN:
            runs.setdefault(offsets, []).append(channel)
        else:
            ids += [id_of(channel, offset) for offset in offsets]
    return runs, ids


def all_of(one: Range, rows: Mapping[int, Row]) -> Rows:
    """What there is of a range of small messages."""
    found = [rows[offset] for offset in range(one.first, one.last + 1) if offset in rows]
    return Rows(found, False, LARGE * len(found))


def made_of(found: Rows, state: State, after: int | None) -> Read:
    """The messages from `after` + 1 on, and what is gone of them; None: from the first that was found and is not."""
    gap = None
    if after is None:
        visible = [row for row in found.rows if row["_id"]["o"] > state.floor]
        after = visible[0]["_id"]["o"] - 1 if visible else 0
    elif state.floor > after:
        gap = (after + 1, state.floor)
    messages = contiguous(found.rows, max(after, state.floor), state.epoch, amended=state.amended)
    return Read(Page(messages, gap), state.floor, state.epoch, found.cut, found.bytes, state.amended)


def whole_of(channel: str, found: Iterable[Found], large: Mapping[tuple[str, int], Row]) -> list[Row]:
    """The messages, with the large ones in their places. One that is gone meanwhile has been trimmed."""
    messages = (large.get((channel, offset)) if isinstance(row, int) else row for offset, row in found)
    return [message for message in messages if message is not None]


class Fit(NamedTuple):
    """How many of the messages found, from the first on, an answer has room for."""

    messages: int
    bytes: int
    """At most."""
    large: Large
    """Those of them that are still to be read."""


def fit_in(channel: str, found: Sequence[Found]) -> Fit:
    """Up to LARGE_BYTES of large ones, or one of them."""
    large: Large = {}
    total = 0
    for index, (offset, row) in enumerate(found):
        if isinstance(row, int):
            if large and total + row > LARGE_BYTES:
                return Fit(index, total + LARGE * index, large)
            total += row
            large[channel, offset] = row
    return Fit(len(found), total + LARGE * len(found), large)


def cut(page: Page, upto: int, limit: int) -> Page:
    messages = page.messages
    if messages and (len(messages) > limit or messages[-1].offset > upto):
        messages = [message for message in messages[:limit] if message.offset <= upto]
    return Page(messages, page.gap)
