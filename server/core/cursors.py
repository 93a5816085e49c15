"""Cursors: positions in a channel.

A cursor is `epoch:offset`, opaque to clients, or `0`: the beginning of any channel. A joined cursor is a position in
each of several channels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from server.core.errors import bad_request

MAX_OFFSET: Final = 2**63 - 1
_CURSOR: Final = re.compile(r"([0-9a-z]{1,32}):(0|[1-9][0-9]{0,18})")


class Position(Struct, frozen=True, order=True, array_like=True, gc=False):
    """Behind the message `offset` of the history `epoch`. (There are several for each message; a struct is made in a
    fifth of the time of a named tuple.)"""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}" if self.epoch else "0"


BEGINNING: Final = Position("", 0)
"""The beginning of any channel, whatever its epoch."""


class Tally(NamedTuple):
    """What a channel's entries are, up to one of them: so many are no messages of their own (amendments), and `newest`
    is the offset of the newest that is one. Without amendments nothing is counted, and `newest` is 0.

    The entry at the offset o is, or comes behind, the message number o − `amendments` of its channel."""

    amendments: int = 0
    newest: int = 0

    def after_message(self, offset: int) -> Tally:
        """With the message at `offset` as well."""
        return Tally(self.amendments, offset) if self.amendments else self

    def after_amendment(self, offset: int) -> Tally:
        """With the amendment at `offset` as well."""
        return Tally(self.amendments + 1, self.newest if self.amendments else offset - 1)


NO_TALLY: Final = Tally()


def parse_cursor(text: str, field: str = "after") -> Position:
    if text == "0":
        return BEGINNING
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[2]) > MAX_OFFSET:
        raise bad_request(f"{field}: not a cursor")
    return Position(match[1], int(match[2]))


def join_cursors(cursors: Mapping[str, str | None]) -> str:
    """One cursor for several channels, in whatever order they are asked for: `~digest.epoch:offset.offset.-`, by name.

    The digest tells the set of channels; an epoch stands where it is not the one before; `-` is for an ephemeral
    channel. 128 channels take about 500 bytes: it travels in headers and URLs. Of one channel it is that channel's own.
    """
    if len(cursors) == 1:
        return next(iter(cursors.values())) or "-"
    items = [_digest(cursors)]
    known = ""
    for channel in sorted(cursors):
        cursor = cursors[channel]
        epoch, colon, offset = (cursor or "-").partition(":")
        items.append(offset if colon and epoch == known else cursor or "-")
        known = epoch if colon else known
    return "~" + ".".join(items)


def split_cursor(text: str, channels: Iterable[str], field: str = "after") -> dict[str, str | None]:
    """The channels' own cursors again; `bad_request` if they are not the channels that were joined."""
    names = sorted(channels)
    digest, *items = text.removeprefix("~").split(".")
    if digest != _digest(names) or len(items) != len(names):
        raise bad_request(f"{field}: not a cursor of these channels")
    cursors: dict[str, str | None] = {}
    epoch = ""
    for channel, item in zip(names, items, strict=True):
        if item == "-":
            cursors[channel] = None
            continue
        if ":" in item:
            epoch = item.partition(":")[0]
        elif item != "0":
            item = f"{epoch}:{item}"
        cursors[channel] = str(parse_cursor(item, field))
    return cursors


def _digest(channels: Iterable[str]) -> str:
    return hashlib.blake2s(" ".join(sorted(channels)).encode(), digest_size=6).hexdigest()
