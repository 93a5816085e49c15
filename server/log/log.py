"""The log: the durable messages of all channels, in MongoDB.

    messages  {_id: {c: channel, o: offset}, e: epoch, u: user, k: key, t: time, d: data}         (rows.py)
    channels  {_id: channel, floor: highest offset that is gone, epoch: if not the database's}    (reader.py)
    meta      {_id: "epoch", epoch: …}                                                            (foundation.py)

Messages that are edited or erased: amendments.py says how, folding.py what readers see, rows.py what is stored.

Offsets of a channel are 1, 2, 3… without holes. They are given out optimistically: a batch is numbered on from the
channel's head as last seen and inserted in order; the unique `_id` refuses a number that somebody else has taken, and
the unique (channel, user, key) a message that is stored already. Ordered inserts persist a prefix and nothing starts
beyond a missing offset, so there is no hole, by induction. What makes it true:

- A message is acknowledged only if the reply to its insert carries no write-concern error, or if a majority read finds
  it. Anything else leaves its outcome in doubt.
- Whatever is in doubt is looked up by its key (one majority read, causally after the error) before it is inserted
  again, renumbered, in front of anything newer of its channel.
- Heads come from majority-acknowledged writes, majority reads, or other nodes' acknowledged writes (`learn`).
- What is numbered for one state of the database is never stored in another, after a drop or a restore.

A channel goes with one shard as long as anything of it is under way, and a shard has one batch in flight: a channel's
messages keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from server.core.clock import Clock
from server.core.config import MongoDB, Retention
from server.core.cursors import MAX_OFFSET, NO_TALLY, Position, Tally
from server.core.loop_share import LoopShare
from server.core.tasks import Keeper
from server.log.amendments import REFOLD_EVERY, Amendments
from server.log.appends import REFOLD_EVERY as REFOLD_APPENDS_EVERY
from server.log.appends import Appends
from server.log.changes import Changes, Conflict
from server.log.counts import Counts
from server.log.endings import Ending, Head, Near
from server.log.finder import Finder
from server.log.foundation import Foundation
from server.log.inserts import Inserts
from server.log.mentions import Mentions
from server.log.pending import Pending, PendingMarkedPublish, PendingPublish, Receipt, key_taken
from server.log.ranges import PAGE
from server.log.reader import Reader
from server.log.replies import Replies
from server.log.retention import Trimmer
from server.log.rows import is_same
from server.log.shard import Listener, Shard
from server.log.shards import Shards
from server.log.survey import Survey
from server.mongo.client import mapped
from server.mongo.databases import Database, DatabaseApart
from server.wire.amendments import Amendment
from server.wire.messages import Message, Page

__all__ = ["Conflict", "Log", "Receipt"]

CLEAR_SECONDS: Final = 5.0
UNKNOWN: Final[Any] = object()


class Log:
    """The parts of the log under one name. `listener` is told what happens in it, `retention(channel)` answers what is
    to be kept of a channel. `amends`: whether messages may be amended in any, `mentions`: whether they may mention
    members, `threads`: whether any have threads; `searched(channel)`: whether they are found by their words, None: in
    none. `on_amended(channel)` is called when one has been amended, before anybody is told of it, `on_erased(channel)`
    when something was erased without an amendment that says so."""

    def __init__(
        self,
        database: Database,
        apart: DatabaseApart,
        options: MongoDB,
        *,
        node: str,
        on_commit: Callable[[list[Message]], None],
        on_head: Callable[[str, Position, Tally], None],
        on_contention: Callable[[str], None],
        on_epoch: Callable[[], None] = lambda: None,
        retention: Callable[[str], Retention | None] = lambda channel: None,
        clock: Clock | None = None,
        loop_share: LoopShare | None = None,
        amends: bool = False,
        mentions: bool = False,
        threads: bool = False,
        on_amended: Callable[[str], None] = lambda channel: None,
        on_erased: Callable[[str], None] = lambda channel: None,
        searched: Callable[[str], bool] | None = None,
    ) -> None:
        clock = clock or Clock()
        timeout = float(options.publish_timeout)
        on_commit = partial(self._committed, on_commit) if amends else on_commit
        listener = Listener(on_commit, on_head, on_contention, on_epoch)
        self._keeper = Keeper()
        self._on_amended = on_amended
        self._on_erased = on_erased
        self._listener = listener
        searches = searched is not None
        self._foundation = Foundation(database, apart, self._keeper, self._start_over, amends, mentions, searches)
        self._pending = Pending(timeout, clock)
        self._inserts = Inserts(database, timeout)
        self._reader = Reader(database, self._foundation, self._keeper, timeout, loop_share or LoopShare())
        self.trimmer = Trimmer(database, self._reader, options, clock, retention)
        self.survey = Survey(database, self._reader)
        self.finder = Finder(database, self._foundation, self._reader)
        self.counts = Counts(database, self._foundation, self._keeper)
        self.mentions = Mentions(database)
        parts = (self._inserts, self._reader, listener, self.trimmer.note)
        self.changes = Changes(database, self._foundation, *parts)
        self._shards = Shards(
            options.shards,
            lambda lanes: Shard(
                database, node, self._foundation, self._pending, options.dedupe_window, *parts, lanes=lanes
            ),
        )
        self.amendments = Amendments(
            database, self._foundation, self._reader, self._pending, clock,
            self._shards.put, searched or (lambda channel: False),
        )  # fmt: skip
        self._searched = searched
        self.replies: Replies | None = None
        """Where any channels have threads."""
        if threads:
            self.replies = Replies(database, self.amendments, self.trimmer, clock, self._keeper, head=self.head)
        self.appends = Appends(
            database, self.amendments, self._pending, self._keeper,
            self._shards.put,
        )  # fmt: skip

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the indexes and the epoch, and start writing. `unavailable` if MongoDB is not there (try again),
        StartError if it will never do."""
        await self._foundation.open()
        for number, shard in enumerate(self._shards, 1):
            self._keeper.keep(f"log shard {number}", shard.run)
        self._keeper.keep("log deadlines", self._pending.expire)
        if self._foundation.amends:
            self._keeper.every("log amendments", REFOLD_EVERY, self.amendments.refold)
            self._keeper.every("log appends", REFOLD_APPENDS_EVERY, self.appends.refold)
        if self.replies is not None:
            self.replies.summaries.start()

    async def drain(self) -> None:
        """Wait until every accepted publish is answered (its deadline, at the latest)."""
        if self.replies is not None:
            await self.replies.summaries.drain()
        await self.appends.drain()
        await self._pending.drain()

    async def close(self) -> None:
        """Stop at once. Accepted publishes should have been waited for (`drain`)."""
        await self._keeper.close()
        self._pending.close()

    async def probe(self) -> str | None:
        """Why a publish would fail, or None: a write with majority and journal, or a recent one that succeeded."""
        return self._keeper.problem() or await self._foundation.probe()

    def problem(self) -> str | None:
        """What the last write or probe has said, or which task has ended."""
        return self._keeper.problem() or self._foundation.problem()

    @property
    def epoch(self) -> str:
        """Of all channels that have none of their own."""
        return self._foundation.base.epoch

    def _start_over(self) -> None:
        """The database has been dropped or restored: nothing that is known of its channels is true any more."""
        self._reader.forget()
        self.appends.forget()
        self._shards.forget_heads()
        self._listener.on_epoch()

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(
        self, channel: str, user: str | None, key: str, data: Any, size: int, skip: str | None = None,
        *, by_server: bool = False, mentions: Sequence[str] = (), root: int = 0, patient: bool = False,
    ) -> asyncio.Future[Receipt]:  # fmt: skip
        """Queue a message; the future has its receipt once it is durable. `size`: bytes of the encoded data.
        `by_server`: it is to be known as a back end's, where messages can be amended. `mentions`: members, or `*`.
        `root`: the offset of a message in whose thread it was published as well; `amendments.announce` comes before.

        `patient`: it has no deadline; who does not want it any more cancels the future.

        The future fails with `unavailable` (not stored), `conflict` (the key is taken by other data) or, at the
        publish deadline, `outcome_unknown`: retry with the same key. Not a coroutine, so that the order of the calls
        is the order in the log.
        """
        searched = self._searched is not None and self._searched(channel)
        if by_server or mentions or searched or root:
            marked = self._pending.add(user, key, data, size, skip, PendingMarkedPublish, patient=patient)
            marked.by_server, marked.mentions, marked.searched = by_server, mentions, searched
            marked.root = root
            entry: PendingPublish = marked
        else:
            entry = self._pending.add(user, key, data, size, skip, patient=patient)
        self._shards.put(channel, entry)
        return entry.future

    def learn(self, channel: str, position: Position, node: str, tally: Tally = NO_TALLY) -> None:
        """`node` has had `position` acknowledged: number on from there, and expect it to write again."""
        if tally.amendments:
            self._reader.overlays.note(channel)
        self._shards.learn(channel, position, node, tally)

    def has_amended(self, channel: str) -> None:
        """Somebody has amended a message: nothing that was read before is shown any more."""
        self._reader.overlays.touch(channel)
        self.appends.doubt(channel)

    def has_erased(self, channel: str) -> None:
        """Another node has erased something in place: as `has_amended`, where there need be no amendments."""
        self._reader.overlays.drop(channel)
        self.appends.doubt(channel)

    def tell_erased(self, channel: str) -> None:
        """The same, of this node: the others are told."""
        self.has_erased(channel)
        self._on_erased(channel)

    def changed(self, channel: str) -> float:
        """When a message of the channel was last amended, or all was cleared, by the monotonic clock: what was read
        before that is old."""
        return self._reader.overlays.changed(channel)

    def _committed(self, on_commit: Callable[[list[Message]], None], messages: list[Message]) -> None:
        # What was read before something was appended is still right: it comes behind it.
        if messages[-1].tally.amendments and any(
            isinstance(message, Amendment) and message.op != "append" for message in messages
        ):
            self.has_amended(messages[-1].channel)
            self._on_amended(messages[-1].channel)
        on_commit(messages)

    def known_head(self, channel: str) -> Position | None:
        """What this node has last had acknowledged or heard of; None if it has not written to the channel lately."""
        return self._shards.head(channel)

    def knows(self, channel: str) -> bool:
        """Whether the channel is known here to have messages."""
        return self._shards.knows(channel)

    def contend(self, channel: str, node: str) -> None:
        """`node` cannot get its messages in: from now on, take turns with it."""
        self._shards.contend(channel, node)

    # --- reading (reader.py) ------------------------------------------------------------------------------------------

    async def head(self, channel: str) -> Head:
        """The newest position, and the highest offset that is gone; together with other channels asked for now."""
        return await self._reader.head(channel)

    async def stored(self, channel: str, user: str | None, key: str, data: Any) -> Receipt | None:
        """What an earlier attempt with the same key has stored, of a message that would be refused now; `conflict` if
        that says something else. `data`: UNKNOWN, if that cannot be known."""
        with mapped():
            row = (await self._reader.by_keys({(channel, user): [key]})).get((channel, user, key))
        if row is None:
            return None
        if data is not UNKNOWN and not is_same(row, data):
            raise key_taken()
        position = (await self.head(channel)).position
        return Receipt(Position(position.epoch, row["_id"]["o"]), key, True)

    def ending(self, channel: str, near: Near | None) -> asyncio.Future[Ending]:
        """The head, and what is `near` it; see endings.py."""
        return self._reader.ending(channel, near)

    async def channels(self) -> list[str]:
        """All that have messages."""
        return await self._reader.channels()

    async def heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """The newest position of each channel, by majority reads. One that nobody published to has offset 0."""
        with mapped():
            return {channel: head.position for channel, head in (await self._reader.heads(channels)).items()}

    async def floor(self, channel: str) -> int:
        """The highest offset that is gone."""
        return (await self._reader.state(channel)).floor

    async def confirmed_head(self, channel: str) -> int:
        """The newest offset, by a linearizable read: whatever was acknowledged before the call is in it."""
        return await self._reader.confirmed_head(channel)

    async def read(self, channel: str, after: Position, upto: int = MAX_OFFSET, limit: int = PAGE) -> Page:
        """The messages behind `after` with offset ≤ `upto`, oldest first; see Reader.read."""
        return await self._reader.read(channel, after, upto, limit)

    async def before_last(self, channel: str, upto: int, number: int) -> int:
        """The offset behind which the `number` newest messages up to `upto` stand, with the amendments among them; 0:
        there are not as many."""
        if not self._reader.overlays.known(channel):
            return upto - number
        return max(0, await self._reader.nth_newest(channel, number, upto) - 1)

    async def read_back(self, channel: str, before: int, limit: int) -> tuple[list[Message], int]:
        """The `limit` newest messages with offset < `before`, oldest first, and the floor; see Reader.read_back."""
        return await self._reader.read_back(channel, before, limit)

    async def clear(self, channel: str) -> None:
        """Hide all that the channel holds now; offsets go on from there. `unavailable`: perhaps not. Who has asked is
        kept waiting until nothing of it is stored either, unless it is very much."""
        try:
            await self.trimmer.clear(channel)
        finally:  # it may be hidden although something that depends on it could not be ended
            self.tell_erased(channel)
        purging = self._keeper.spawn("taking out what was cleared", self.trimmer.purge(channel))
        await asyncio.wait((purging,), timeout=CLEAR_SECONDS)

    # --- figures ------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        return self._pending.messages

    @property
    def queued_bytes(self) -> int:
        return self._pending.bytes

    @property
    def inserts(self) -> int:
        return self._inserts.count

    @property
    def reads(self) -> int:
        return self._reader.count

    @property
    def conflicts(self) -> int:
        return self._shards.conflicts

    @property
    def publish_seconds(self) -> Any:
        return self._pending.seconds

    @property
    def batch_messages(self) -> Any:
        return self._inserts.batch_messages
