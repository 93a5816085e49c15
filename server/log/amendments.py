"""Amendments: editing, erasing, pinning and summing up messages. Entry first, then fold into the original. (Appending:
appends.py.)

An amendment is stored as an entry of its channel with `p: 1`, like any publish, and is then good, whatever happens.
After that it is folded: the message gets what the entry says, unless it knows better (a later edit, or it is erased),
and the entry loses its data and `p`, so that the data stands in one place. Both are one command, in this order, and may
be done twice, by anybody: what a node has left behind that died in between is folded by any other (`refold`). There is
no transaction: a node that dies in one would shut the channel for as long as MongoDB takes to notice.

Erasing is real: the data of the message goes, and that of edits of it which are still on their way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pymongo.errors import ConnectionFailure, PyMongoError

from server.core.clock import Clock
from server.core.cursors import Position
from server.core.errors import Error
from server.core.names import is_thread, parent_of, root_of
from server.log.folding import WHOLE
from server.log.foundation import PENDING_INDEX, Foundation
from server.log.pending import Pending, PendingAmendment, Receipt
from server.log.reader import Reader
from server.log.rows import ON_ITS_WAY, SAID, Row, content, counted, id_of
from server.log.words import words_of
from server.mongo.client import brief, mapped
from server.mongo.databases import Database
from server.wire.amendments import SUMMARIES, AmendedMessage, Amendment, Op, amendment
from server.wire.messages import Message

logger = logging.getLogger(__name__)

REFOLD_EVERY: Final = 1.0
PENDING_SECONDS: Final = 5.0
"""After which what is not folded is folded by whoever finds it."""
AT_ONCE: Final = 500


class Amendments:
    """`put(channel, entry)`: into the queue of the channel's shard."""

    def __init__(
        self,
        database: Database,
        foundation: Foundation,
        reader: Reader,
        pending: Pending,
        clock: Clock,
        put: Callable[[str, PendingAmendment], None],
        searched: Callable[[str], bool],
    ) -> None:
        self._database = database
        self._messages = database.own("messages")
        self._channels = database.own("channels")
        self._foundation = foundation
        self._reader = reader
        self._pending = pending
        self.clock = clock
        self._put = put
        self._searched = searched
        self.on_erased: list[Callable[[str, int], Awaitable[None]]] = []
        """Awaited with the channel and the offset of a message that is erased, as often as it takes: what else there is
        of it has to go as well. They raise PyMongoError or Error if they cannot do it now."""
        self.folded = 0
        """Amendments that this node has folded, for the figures; and in `refolded` those that others have left."""
        self.refolded = 0

    async def original(self, channel: str, offset: int) -> AmendedMessage | None:
        """The message at `offset` as it is now; None if there is none (any more)."""
        return await self._reader.original(channel, offset)

    async def twin(self, message: AmendedMessage) -> AmendedMessage | None:
        """Of what was published in a thread and in its parent as well the other one, as it is now."""
        here = message.channel
        there = parent_of(here) if is_thread(here) else message.tag
        if there is None:
            return None
        query: Row = {"_id.c": there, "u": message.user, "k": message.key, "z": None}
        if is_thread(here):
            query["th"] = root_of(here)
        with mapped():
            row = await self._messages.find_one(query, {"_id": 1})
        return None if row is None else await self.original(there, row["_id"]["o"])

    async def append(
        self, original: AmendedMessage, op: Op, data: Any, *, user: str | None, key: str, size: int,
        again: Callable[[], None] = lambda: None,
    ) -> Receipt:  # fmt: skip
        """Store an amendment and fold it. Raises what a publish raises; `not_found` if the channel has another history
        by now. `size`: bytes of the encoded data; `again` asks for the right once more before it is put anywhere."""
        channel, of = original.channel, original.offset
        if await self.announce(channel):
            again()
        entry = self._pending.add(user, key, data, size, None, PendingAmendment)
        entry.of, entry.op, entry.epoch = of, op, original.epoch
        self._put(channel, entry)
        receipt = await entry.future
        if not receipt.duplicate:
            place = Message(channel, original.epoch, receipt.position.offset, key, user, entry.time, data)
            try:
                await self._fold(amendment(place, of, op))
            except (PyMongoError, Error) as error:  # it is stored, readers see it, and it will be folded
                logger.warning("MongoDB: %s; an amendment is folded later", brief(error))
        return receipt

    async def stored(self, channel: str, of: int, op: Op, user: str | None, key: str) -> Receipt | None:
        """What an earlier attempt with the same key has stored, of an amendment that would be refused now."""
        with mapped():
            row = await self._messages.find_one({"_id.c": channel, "u": user, "k": key, "z": of, "op": op}, {"_id": 1})
        if row is None:
            return None
        position = (await self._reader.head(channel)).position
        return Receipt(Position(position.epoch, row["_id"]["o"]), key, True)

    async def announce(self, channel: str) -> bool:
        """Before the first amendment of a channel all that read it have to know that there may be some; and so before
        anything else of which messages have to tell. Whether that has taken time."""
        if self._reader.overlays.known(channel):
            return False
        with mapped():
            await self._channels.update_one({"_id": channel}, {"$set": {"amended": True}}, upsert=True)
        self._reader.overlays.note(channel)
        return True

    # --- folding ------------------------------------------------------------------------------------------------------

    async def _fold(self, amendment: Amendment) -> None:
        """Raises PyMongoError or Error: perhaps not, or in part."""
        steps = self._updates(amendment)
        if amendment.op == "delete" and self.on_erased:
            # What is written of the message once it is known to be erased is forgotten by whoever has written it; so
            # what was there before goes behind that.
            await self.update(*steps[:-1])
            for erase in self.on_erased:
                await erase(amendment.channel, amendment.of)
            steps = steps[-1:]
        await self.update(*steps)
        self.folded += 1

    def _updates(self, amendment: Amendment) -> list[Row]:
        """First the message, then the entry: so whatever is done of it, nothing is lost."""
        offset, channel = amendment.offset, amendment.channel
        original = {"_id": id_of(channel, amendment.of), "z": None}
        if amendment.op != "delete":
            original["gone"] = None
        steps: list[Row] = []
        if amendment.op == "edit":
            new = self.content(channel, amendment.data)
            steps.append(
                {
                    "q": original | {"v": {"$not": {"$gte": offset}}},
                    "u": {"$set": new | {"v": offset}, "$unset": {"j" if "d" in new else "d": 1, "w": 1}},
                }
            )
        elif amendment.op == "pin":
            pinned = {"$set": {"pin": amendment.data, "pv": offset}}
            steps.append({"q": original | {"pv": {"$not": {"$gte": offset}}}, "u": pinned})
        elif amendment.op in SUMMARIES:
            (value, at), field = amendment.data, f"sums.{amendment.op}"
            counted = {"$set": {f"{field}.v": value, f"{field}.at": at}}
            steps.append({"q": original | {f"{field}.at": {"$not": {"$gte": at}}}, "u": counted})
        else:
            steps.append(_erasing(channel, amendment.of, {"o": offset, "u": amendment.user, "t": amendment.time}))
            steps.append(_clearing(channel, amendment.of))
        steps.append({"q": {"_id": id_of(channel, offset)}, "u": {"$unset": ON_ITS_WAY}})
        return steps

    def content(self, channel: str, data: Any) -> Row:
        """What a message stores of what it says."""
        stored = content(data)
        return stored | {"ws": words_of(data)} if self._searched(channel) else stored

    async def update(self, *updates: Row) -> int:
        """Of messages, one after the other: how many were found. Raises PyMongoError or Error: perhaps not."""
        command = {
            "update": self._messages.name,
            "updates": list(updates),
            "ordered": True,
            "writeConcern": {"w": "majority", "j": True},
        }
        reply = await self._database.command(command | self._foundation.base.guard())
        if reply.get("writeErrors") or reply.get("writeConcernError"):
            raise Error("unavailable", "the write was not confirmed")
        return int(reply["n"])

    async def erase_in_place(self, channel: str, offsets: Sequence[int]) -> int:
        """Erase messages without an entry that says so, where there can be none; how many. What was read of the channel
        before must not be shown any more, which is for others to see to."""
        now = self.clock.now_ms()
        gone = [_erasing(channel, offset, {"o": offset, "u": None, "t": now}) for offset in offsets]
        with mapped():
            erased = await self.update(*gone)
            if self._foundation.amends:
                await self.update(*(_clearing(channel, offset) for offset in offsets))
        for offset in offsets:
            for erase in self.on_erased:
                await erase(channel, offset)
        return erased

    async def refold(self, seconds: float = PENDING_SECONDS) -> None:
        """Fold what was left behind, so many seconds ago. Called once a second."""
        old = {"p": 1, "op": {"$ne": "append"}, "t": {"$lte": self.clock.now_ms() - int(seconds * 1000)}}
        try:
            found = self._messages.find(old).hint(PENDING_INDEX)  # which MongoDB does not choose for all channels
            rows: list[Row] = await found.limit(AT_ONCE).to_list(AT_ONCE)
        except PyMongoError as error:
            logger.warning("MongoDB: %s; amendments are folded later", brief(error))
            return
        for row in rows:
            try:
                entry = counted(row, "")
                if isinstance(entry, Amendment):
                    await self._fold(entry)
                    self.refolded += 1
            except Exception as error:  # whatever is wrong with one, the others are not to wait for it
                logger.warning("an amendment is folded later: %s", brief(error))
                if isinstance(error, ConnectionFailure):
                    return


def _clearing(channel: str, of: int) -> Row:
    """The update that takes what is still on its way into the message."""
    texts = {"_id.c": channel, "p": 1, "z": of, "op": {"$in": WHOLE}}
    return {"q": texts, "u": {"$unset": ON_ITS_WAY}, "multi": True}


def _erasing(channel: str, offset: int, gone: Row) -> Row:
    """The update of the message at `offset` that takes all that it says: `gone`, {o, u, t}, is what is left. Of two who
    erase it at once the earlier has done it."""
    original = {"_id": id_of(channel, offset), "z": None, "gone.o": {"$not": {"$lte": gone["o"]}}}
    return {"q": original, "u": {"$set": {"gone": gone}, "$unset": SAID}}
