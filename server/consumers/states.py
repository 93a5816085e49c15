"""Which consumers there are, since when, and whether they run:

    consumers  {_id: name, since: when it was seen first (0: it begins at the beginning), state: running | paused |
                stopped, why, at: when the state has changed}               times in milliseconds since 1970, UTC

It is kept, so what is paused stays so after a restart; and whoever changes it has all nodes look at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from pymongo.errors import DuplicateKeyError

from server.core.clock import Clock
from server.core.config import Consumer
from server.mongo.client import mapped
from server.mongo.databases import DatabaseApart

State = Literal["running", "paused", "stopped"]
RUNNING: Final[State] = "running"


class Status(NamedTuple):
    since: int
    """What is older is not for it, in a channel where it has no cursor. Milliseconds since 1970; 0: all is for it."""
    state: State
    why: str | None
    """Of one that is stopped."""
    at: int
    """Since when it is in this state: milliseconds since 1970, UTC."""


class States:
    def __init__(self, database: DatabaseApart, consumers: Mapping[str, Consumer], clock: Clock) -> None:
        self._rows = database.own("consumers")
        self._consumers = consumers
        self._clock = clock
        self._known: dict[str, Status] = {}

    def __getitem__(self, name: str) -> Status:
        return self._known[name]

    def runs(self, name: str) -> bool:
        status = self._known.get(name)
        return status is not None and status.state == RUNNING

    async def load(self) -> None:
        """Read all of them, and write down those that nobody has seen before; `unavailable` without MongoDB."""
        with mapped():
            found = {row["_id"]: row async for row in self._rows.find({"_id": {"$in": list(self._consumers)}})}
            for name, consumer in self._consumers.items():
                if name not in found:
                    found[name] = await self._begin(name, consumer)
        self._known = {
            name: Status(int(row["since"]), row["state"], row.get("why"), int(row["at"])) for name, row in found.items()
        }

    async def _begin(self, name: str, consumer: Consumer) -> dict[str, Any]:
        """Where somebody has dropped the record, it goes on from when this node has seen it first."""
        now = self._clock.now_ms()
        since = 0 if consumer.start == "beginning" else now
        if name in self._known:
            since = self._known[name].since
        row = {"_id": name, "since": since, "state": RUNNING, "at": now}
        try:
            await self._rows.insert_one(row)
        except DuplicateKeyError:  # another node was faster
            return await self._rows.find_one({"_id": name}) or row
        return row

    async def begin_at(self, name: str, since: int) -> None:
        """In channels in which it has no cursor: with what is not older. All nodes are to be told."""
        with mapped():
            await self._rows.update_one({"_id": name}, {"$set": {"since": since}})
        await self.load()

    async def change(self, names: Iterable[str], state: State, why: str | None = None) -> None:
        now = self._clock.now_ms()
        with mapped():
            for name in names:
                await self._rows.update_one(
                    {"_id": name, "state": {"$ne": state}}, {"$set": {"state": state, "why": why, "at": now}}
                )
        await self.load()
