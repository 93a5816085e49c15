"""The end of a channel: up to where it reaches, and a few messages near that, by one command.

Who opens a channel, or reads its newest page, wants both. Asked for one after the other they take two commands and two
waits, and most of the second command is what we have just been told. So MongoDB does it itself for many channels at
once, in the order in which we would: it finds the heads, computes from each which offsets are wanted, looks these up by
their `_id`s, and reads the states of the channels last. Whatever is up to a head is there when it is looked up, as both
are a majority's; what was trimmed meanwhile is below the floor, which is read after it.

An answer has all the messages that were asked for, or none of them: where they are large, have been amended, stand
behind a gap, or are missing for whatever reason, they are for who reads pages (reader.py). They are rows still, as few
need more of them than the bytes that clients are sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from pymongo import ASCENDING, DESCENDING

from server.core.cursors import MAX_OFFSET, Position
from server.log.ranges import LARGE, State
from server.log.rows import Row, contiguous, pushes
from server.wire.messages import Message
from server.wire.pushes import MessagePush

NEXT: Final = 16
"""Messages behind a cursor that are read with the head for who resumes: who has missed more reads a page."""
ENDINGS: Final = 100
"""Channels of one command: with ten messages of each it has as many rows as it may."""
ROWS: Final = 1000
"""Of one command. Up to LARGE they are 4 MiB."""

SMALL: Final = {"$expr": {"$lte": [{"$bsonSize": "$$ROOT"}, LARGE]}}


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
    """`rows`: what was wanted near the head, oldest first; None: that is to be read by itself."""

    head: Head
    rows: Sequence[Row] | None = None

    def messages(self) -> list[Message]:
        rows = self.rows or ()
        return contiguous(rows, rows[0]["_id"]["o"] - 1, self.head.position.epoch) if rows else []

    def pushes(self) -> list[MessagePush]:
        return pushes(self.rows or (), self.head.position.epoch)


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
    """What one command can read of it; and all that it answers, which besides is what others want of the same channels:
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


def stages(messages: str, wanted: Mapping[str, Near]) -> list[Row]:
    """The same as `heads_of`, with `m`: the messages that are wanted of each channel, but for large ones."""
    channels = list(wanted)
    # From which offset on: below 0 it is counted from the head.
    starts = [-one.number if one.after is None else min(one.after + 1, MAX_OFFSET) for one in wanted.values()]
    start = _for_each(channels, starts)
    number = _for_each(channels, [one.number for one in wanted.values()])
    from_head = {"$max": [1, {"$add": ["$o", 1, start]}]}
    first = {"$cond": [{"$lt": [start, 0]}, from_head, start]}
    left = {"$max": [0, {"$min": [number, {"$subtract": [{"$add": ["$o", 1]}, "$first"]}]}]}
    ids = {"$map": {"input": {"$range": [0, left]}, "in": {"c": "$_id", "o": {"$add": ["$first", "$$this"]}}}}
    lookup = {
        "from": messages, "localField": "ids", "foreignField": "_id", "as": "m",
        "pipeline": [{"$match": SMALL}, {"$sort": {"_id": ASCENDING}}],
    }  # fmt: skip
    return [
        *heads_of(channels),
        {"$set": {"first": first}},
        {"$set": {"ids": ids}},
        {"$lookup": lookup},
        {"$project": {"o": 1, "m": 1}},
    ]


def _for_each(channels: list[str], numbers: list[int]) -> Any:
    """An expression: the number of the channel that `_id` names."""
    if len(set(numbers)) == 1:
        return numbers[0]
    names = {"$literal": channels}  # else `$user:ann` is a field
    return {"$arrayElemAt": [numbers, {"$indexOfArray": [names, "$_id"]}]}


def answers(
    read: Mapping[str, Near], answered: Sequence[Wanted], found: Mapping[str, Row], states: Mapping[str, State]
) -> dict[Wanted, Ending]:
    """`found`: what the stages have found of each channel that has messages."""
    return {
        (channel, near): _ending(near if read[channel] == near else None, found.get(channel), states[channel])
        for channel, near in answered
    }


def _ending(near: Near | None, found: Row | None, state: State) -> Ending:
    """`near`: what was read with the head for who is answered."""
    newest = 0 if found is None else found["o"]
    head = Head(Position(state.epoch, newest), state.floor, state.amended)
    if near is None or state.amended:
        return Ending(head)
    if near.after is None:
        first, last = max(newest - near.number, state.floor) + 1, newest
    else:
        first, last = near.after + 1, min(newest, near.after + near.number)
        if state.floor >= first:  # what comes behind a gap is not known by its offset
            return Ending(head)
    rows = found["m"] if found is not None else []
    if rows and rows[0]["_id"]["o"] < first:  # up to the floor, and not removed yet
        rows = [row for row in rows if row["_id"]["o"] >= first]
    return Ending(head, rows if len(rows) == max(0, last - first + 1) else None)
