"""The end of a channel: up to where it reaches, and a few messages near that, for many channels by two commands.

Who opens a channel, or reads its newest page, wants both. The first command finds the heads, and from each head follows
which messages are wanted; the second one reads these, and the states of the channels last. Whatever is up to a head is
there when it is looked up, as both are a majority's; what was trimmed meanwhile is below the floor, which is read after
it. (MongoDB could do all of it by one command with a `$lookup`, and would take twice as long for it.)

An answer has all the messages that were asked for, or none of them: where they are large, have been amended, stand
behind a gap, or are missing for whatever reason, they are for who reads pages (reader.py). Of a message there is what
clients are told, and no more (`Line`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from pymongo import ASCENDING, DESCENDING

from server.core.cursors import Position
from server.log.ranges import State
from server.log.rows import Line, Row, pushes
from server.wire.pushes import MessagePush

NEXT: Final = 16
"""Messages behind a cursor that are read with the head for who resumes: who has missed more reads a page."""
ENDINGS: Final = 100
"""Channels of one read: with ten messages of each it has as many rows as it may."""
ROWS: Final = 1000
"""Of one read. Up to LARGE they are 4 MiB, whose decoding holds everybody else up."""


class Near(Struct, frozen=True, gc=False):
    """Messages near the head of a channel: the `number` newest, or (with `after`) the first `number` behind that
    offset."""

    number: int
    after: int | None = None


class Head(Struct, frozen=True, gc=False):
    """Up to where a channel reaches (offset 0: nobody has published to it), and what of it is not retained."""

    position: Position
    floor: int
    amended: bool = False


class Ending(Struct, frozen=True, gc=False):
    """Of `channel`. `lines`: what was wanted near the head, oldest first; None: that is to be read by itself."""

    channel: str
    head: Head
    lines: Sequence[Line] | None = None

    @property
    def first(self) -> int:
        """The offset of the first of them; of none the one behind the head."""
        return self.lines[0][0] if self.lines else self.head.position.offset + 1

    @property
    def last(self) -> int:
        """Of the last of them; of none the head's."""
        return self.lines[-1][0] if self.lines else self.head.position.offset

    def pushes(self) -> list[MessagePush]:
        return pushes(self.channel, self.head.position.epoch, self.lines or ())


Wanted = tuple[str, Near]
"""Of a channel."""


def heads_of(channels: Sequence[str]) -> list[Row]:
    """Stages of a pipeline over messages that find {_id: channel, o: its newest offset}."""
    return [
        {"$match": {"_id.c": {"$in": list(channels)}}},
        {"$sort": {"_id.c": ASCENDING, "_id.o": DESCENDING}},
        {"$group": {"_id": "$_id.c", "o": {"$first": "$_id.o"}}},
    ]


def taken(wanted: Sequence[Wanted]) -> tuple[dict[str, Near], list[Wanted]]:
    """What one read can have of it; and all that it answers, which besides is what others want of the same channels:
    they get the head alone."""
    read: dict[str, Near] = {}
    answered: list[Wanted] = []
    room = ROWS
    for one in wanted:
        channel, near = one
        if channel not in read:
            room -= near.number
            if room < 0 and read:
                break
            read[channel] = near
        answered.append(one)
    return read, answered


def offsets_near(near: Near, newest: int) -> range:
    """Which messages these are, if the channel reaches `newest`."""
    if near.after is None:
        return range(max(0, newest - near.number) + 1, newest + 1)
    return range(near.after + 1, min(newest, near.after + near.number) + 1)


def answers(
    read: Mapping[str, Near],
    answered: Sequence[Wanted],
    newest: Mapping[str, int],
    offsets: Mapping[str, range],
    found: Mapping[str, list[Line]],
    states: Mapping[str, State],
) -> dict[Wanted, Ending]:
    """`newest`: the heads; `offsets`: what follows from them for what is `read`. `found`: what there is of that."""
    made: dict[Wanted, Ending] = {}
    for one in answered:
        channel, near = one
        state = states[channel]
        lines = None
        if not state.amended and read[channel] == near:  # else others want other messages of the channel
            lines = _lines(near, offsets[channel], state.floor, found[channel])
        head = Head(Position(state.epoch, newest.get(channel, 0)), state.floor, state.amended)
        made[one] = Ending(channel, head, lines)
    return made


def _lines(near: Near, offsets: range, floor: int, found: list[Line]) -> list[Line] | None:
    if floor >= offsets.start:
        if near.after is not None:  # what comes behind a gap is not known by its offset
            return None
        offsets = range(floor + 1, offsets.stop)
        found = [line for line in found if line[0] > floor]
    if len(found) != len(offsets):
        return None
    found.sort()  # by their offsets: no two are the same
    return found
