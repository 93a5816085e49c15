"""What of a channel's messages is under way with workers that fetch, in MongoDB beside the cursor:

    consumer_cursors  {_id: {n: consumer, c: channel}, e: epoch, o: offset up to which all is done,
                       w: [[offset, until, deliveries, lease], …] handed out, or to be handed out again,
                       d: [offset, …] done behind o, v: version}

`until` is in milliseconds since 1970, by MongoDB's time. Whoever changes it, on whichever node, does so by
compare-and-set of the version. Nothing of it is in a node's memory alone: a lease outlives the node that gave it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import msgspec
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from server.core.cursors import Position
from server.core.errors import bad_request
from server.mongo.client import mapped
from server.mongo.databases import Database

WINDOW: Final = 500
"""Messages of one channel that may be under way, or done behind one that is not."""


class Lent(NamedTuple):
    until: int
    deliveries: int
    lease: str
    """Names the handing out: who has it may say what became of the message. Empty: nobody has it."""


class Receipt(NamedTuple):
    """What the id of a message that was handed out says."""

    channel: str
    offset: int
    lease: str

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def parse_receipt(text: str) -> Receipt:
    """`bad_request` if it is none."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Receipt)
    except (ValueError, msgspec.MsgspecError):
        raise bad_request("ids: not an id of a message that was fetched") from None


class Work(NamedTuple):
    """Of one channel; never changed, each change makes a new one."""

    position: Position
    lent: Mapping[int, Lent]
    done: frozenset[int]
    version: int
    """0: it is not in MongoDB yet."""

    @property
    def reached(self) -> int:
        """The highest offset that was ever handed out."""
        return max(self.position.offset, max(self.lent, default=0), max(self.done, default=0))

    def behind(self, head: Position) -> int:
        """How many messages are not done."""
        if head.epoch != self.position.epoch:
            return head.offset
        return max(head.offset - self.position.offset - len(self.done), 0)

    def free_at(self, head: Position, now: int, *, ordered: bool) -> int | None:
        """When there is something to hand out: at `now` or later; None: not before something happens."""
        if head.epoch != self.position.epoch:
            return now
        untils = [one.until for one in self.lent.values()]
        if ordered and untils:
            return max(now, *untils)
        if head.offset > self.reached and len(self.lent) + len(self.done) < WINDOW:
            return now
        return max(now, min(untils)) if untils else None

    def choose(self, head: Position, most: int, now: int, *, ordered: bool) -> list[int]:
        """The next offsets to be handed out, in order."""
        if ordered and any(one.until > now for one in self.lent.values()):
            return []
        again = sorted(offset for offset, one in self.lent.items() if one.until <= now)
        first = self.reached + 1
        room = max(WINDOW - len(self.lent) - len(self.done), 0)
        return list(islice(chain(again, range(first, min(head.offset, first + room - 1) + 1)), most))

    def with_lent(self, offsets: Iterable[int], until: int, lease: str) -> Work:
        lent = dict(self.lent)
        for offset in offsets:
            before = lent.get(offset)
            lent[offset] = Lent(until, (before.deliveries if before else 0) + 1, lease)
        return self._replace(lent=lent)

    def with_done(self, offsets: Iterable[int]) -> Work:
        done = self.done | set(offsets)
        offset = self.position.offset
        while offset + 1 in done:
            offset += 1
        return self._replace(
            position=Position(self.position.epoch, offset),
            lent={one: lent for one, lent in self.lent.items() if one not in done},
            done=frozenset(one for one in done if one > offset),
        )

    def with_given_back(self, offsets: Iterable[int], until: int) -> Work:
        return self._replace(
            lent={**self.lent, **{offset: Lent(until, self.lent[offset].deliveries, "") for offset in offsets}}
        )

    def from_floor(self, floor: int) -> Work:
        """Without what is not retained any more."""
        if floor <= self.position.offset:
            return self
        return self._replace(
            position=Position(self.position.epoch, floor),
            lent={offset: lent for offset, lent in self.lent.items() if offset > floor},
            done=frozenset(offset for offset in self.done if offset > floor),
        ).with_done(())

    def holds(self, receipt: Receipt) -> bool:
        lent = self.lent.get(receipt.offset)
        return lent is not None and lent.lease == receipt.lease != ""


class Works:
    """Reads and changes them."""

    def __init__(self, database: Database, consumer: str) -> None:
        self._rows = database.own("consumer_cursors")
        self._consumer = consumer

    async def load(self, channels: Iterable[str]) -> dict[str, Work]:
        """Of those that have one. `unavailable` without MongoDB."""
        ids = [{"n": self._consumer, "c": channel} for channel in channels]
        with mapped():
            return {row["_id"]["c"]: _work(row) async for row in self._rows.find({"_id": {"$in": ids}})}

    async def begin(self, positions: Mapping[str, Position]) -> None:
        """Write down where it begins in channels in which it has no cursor yet. `unavailable` without MongoDB."""
        updates = [
            UpdateOne(
                {"_id": {"n": self._consumer, "c": channel}},
                {"$setOnInsert": {"e": position.epoch, "o": position.offset, "f": 0}},
                upsert=True,
            )
            for channel, position in positions.items()
        ]
        with mapped():
            await self._rows.bulk_write(updates, ordered=False)

    async def exchange(self, channel: str, before: Work, after: Work) -> Work | None:
        """The new one as it is stored, or None: somebody else has changed it. `unavailable`: nobody knows."""
        version = before.version + 1
        fields = {
            "e": after.position.epoch,
            "o": after.position.offset,
            "w": [[offset, *one] for offset, one in after.lent.items()],
            "d": sorted(after.done),
            "v": version,
            "f": 0,
        }
        known = {"_id": {"n": self._consumer, "c": channel}, "v": before.version or {"$exists": False}}
        with mapped():
            try:
                result = await self._rows.update_one(known, {"$set": fields}, upsert=not before.version)
            except DuplicateKeyError:
                return None
        if not result.matched_count and result.upserted_id is None:
            return None
        return after._replace(version=version)


def _work(row: Mapping[str, Any]) -> Work:
    lent = {int(one[0]): Lent(int(one[1]), int(one[2]), one[3]) for one in row.get("w", ())}
    position = Position(row["e"], row["o"])
    return Work(position, lent, frozenset(row.get("d", ())), row.get("v", 0))
