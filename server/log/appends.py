"""Appends: a message that is written piece by piece, such as an answer of a language model.

What waits for the same message becomes one entry of its channel, about ten a second, and each piece is answered when
that is stored. The entries of one message are a chain: the n-th has a key made of n, and the unique index of keys lets
no two have the same. So who adds one has seen all before it, on whatever node they came: which parts there are, and how
large the message is. Who has not is refused by MongoDB, reads on, and looks again at what waits.

The entries stay pending (`p: 1`) while the message grows: readers put them together. They are folded into the message
when it is said to be done, when there are FOLD_AT of them, so that readers never have many to put together, and when
nothing comes any more (assembly.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pymongo import ASCENDING

from server.core.cursors import Position
from server.core.errors import Error, bad_request
from server.core.tasks import Keeper
from server.log.amendments import PENDING_SECONDS, Amendments
from server.log.assembly import Assembly
from server.log.chains import Chain, Piece, in_order, without_numbers
from server.log.foundation import MESSAGES_INDEX
from server.log.pending import Pending, PendingAmendment, PendingAppend, Receipt
from server.log.rows import Row
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.amendments import AmendedMessage, appended
from server.wire.codec import JSON

MERGE_SECONDS: Final = 0.1
"""From one entry of a message to the next."""
MERGE_PARTS: Final = 500
TRUSTED_SECONDS: Final = 1.0
"""How long nothing need be heard of what becomes of the message elsewhere."""
EARLY_SECONDS: Final = 1.0
"""How long a part waits for those before it, which may have taken another way."""
LOOK_AGAIN: Final = 0.1
"""After which it is looked for among what other nodes have stored."""
FOLD_AT: Final = 256
FOLD_BYTES: Final = 1 << 16
"""Of what is pending of a message, at least; more of a large one, so that what is written is in proportion."""
REFOLD_EVERY: Final = 2.0
KNOWN: Final = 1000
"""Messages of which is remembered what was appended to them, at most: while they grow."""
WAITING: Final = 10 * MERGE_PARTS
"""Pieces that may wait for a message."""


class _Stream:
    """A message that is appended to here, and what waits for it. `limit`: bytes that its data may have."""

    def __init__(self, original: AmendedMessage) -> None:
        self.epoch = original.epoch
        self.channel, self.of = original.channel, original.offset
        self.limit = 0
        self.waiting: list[Piece] = []
        self.chain: Chain | None = None
        self.twin: AmendedMessage | None = None
        """What was published in its parent or its thread as well, as it was at `looked`."""
        self.looked = -TRUSTED_SECONDS
        self.stale = False
        """Something else may have become of the message meanwhile."""
        self.early = False
        """There is a part that does not follow what is stored, and none that does."""
        self.task: asyncio.Task[None] | None = None
        self.news = asyncio.Event()
        self.next = 0.0
        """When the next entry may be written."""
        self.unfolded = 0
        """Entries, and `unfolded_bytes` of text, that this node has written since it has last folded."""
        self.unfolded_bytes = 0


class Appends:
    """`put(channel, entry)`: into the queue of the channel's shard."""

    def __init__(
        self,
        database: Database,
        amendments: Amendments,
        pending: Pending,
        keeper: Keeper,
        put: Callable[[str, PendingAmendment], None],
    ) -> None:
        self._messages = database.own("messages")
        self._amendments = amendments
        self._pending = pending
        self._keeper = keeper
        self._put = put
        self._streams: OrderedDict[tuple[str, int], _Stream] = OrderedDict()
        self.assembly = Assembly(database, amendments)
        self.pieces = 0
        """That were stored by this node, in so many `entries`."""
        self.entries = 0

    def original(self, channel: str, of: int) -> AmendedMessage | None:
        """The message as it was, apart from what was appended, if it is being appended to here."""
        stream = self._streams.get((channel, of))
        if stream is None or stream.stale or stream.chain is None:
            return None
        return stream.chain.original

    async def twin(self, original: AmendedMessage) -> AmendedMessage | None:
        """As `Amendments.twin`, which is not asked for each piece of a message that streams in."""
        stream = self._streams.get((original.channel, original.offset))
        now = asyncio.get_running_loop().time()
        if stream is not None and not stream.stale and now < stream.looked + TRUSTED_SECONDS:
            return stream.twin
        twin = await self._amendments.twin(original)
        if stream is not None:
            stream.twin, stream.looked = twin, now
        return twin

    def append(
        self, original: AmendedMessage, text: str, *, user: str | None, part: int | None, key: str | None, done: bool,
        limit: int, again: Callable[[], None] = lambda: None,
    ) -> asyncio.Future[Receipt]:  # fmt: skip
        """Have it appended; the future has its receipt when that is stored. `limit`: bytes that the data of the message
        may have with it; `again` asks for the right once more when it has waited. Not a coroutine, so that the order of
        the calls is the order of what has no numbers.

        It fails with `not_found`, `too_large`, `bad_request` (a message that is no text), `conflict` (a number that
        does not follow), and as a publish. Raises `unavailable` if too many wait already."""
        place = original.channel, original.offset
        stream = self._streams.get(place)
        if stream is None or stream.epoch != original.epoch:
            stream = self._streams[place] = _Stream(original)
        if len(stream.waiting) >= WAITING:
            raise Error("unavailable", "too much is waiting to be appended to the message", retry_after=1.0)
        self._streams.move_to_end(place)
        stream.limit = limit
        piece = Piece(text, user, part, key, done, again)
        stream.waiting.append(piece)
        stream.news.set()
        if stream.task is None:
            stream.task = self._keeper.spawn("append", self._run(stream))
        while len(self._streams) > KNOWN and next(iter(self._streams.values())).task is None:
            self._streams.popitem(last=False)
        return piece.future

    async def stored(
        self, channel: str, of: int, user: str | None, part: int | None, key: str | None
    ) -> Receipt | None:
        """What an earlier attempt has stored, of a piece that would be refused now."""
        own: Row = {"ks": key} if part is None else {"n.0": {"$lte": part}, "n.1": {"$gte": part}}
        query = {"_id.c": channel, "z": of, "op": "append", "by": user, **own}
        with mapped():
            row = await self._messages.find_one(query, {"e": 1, "k": 1}, hint=MESSAGES_INDEX)
        return None if row is None else Receipt(Position(row["e"], row["_id"]["o"]), key or row["k"], True)

    def doubt(self, channel: str, of: int | None = None) -> None:
        """Something else has become of a message, or of some message of the channel."""
        for stream in self._streams.values() if of is None else filter(None, (self._streams.get((channel, of)),)):
            if stream.channel == channel:
                stream.stale = True

    def forget(self) -> None:
        """All that is known is of another history."""
        for stream in self._streams.values():
            stream.chain = None

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while tasks := [stream.task for stream in self._streams.values() if stream.task is not None]:
            await asyncio.wait(tasks)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _run(self, stream: _Stream) -> None:
        """Until nothing waits."""
        loop = asyncio.get_running_loop()
        error = Error("outcome_unknown", "it may or may not be stored: retry with the same part or key")
        try:
            while stream.waiting:
                await asyncio.sleep(stream.next - loop.time())
                trusted = LOOK_AGAIN if stream.early else TRUSTED_SECONDS
                if stream.chain is None or stream.stale or stream.chain.read <= loop.time() - trusted:
                    await self._read(stream)
                chain = stream.chain
                assert chain is not None
                batch = self._take(stream, chain)
                if batch:
                    stream.next = loop.time() + MERGE_SECONDS
                    await self._store(stream, chain, batch)
                elif stream.waiting:
                    await self._news(stream, chain.read + LOOK_AGAIN)
        except Error as raised:
            error = raised
        except Exception:
            error = Error("internal", "the message could not be stored")
            raise
        finally:
            stream.task = None
            if stream.waiting:
                stream.chain = None
            for piece in stream.waiting:
                piece.fail(error)
            stream.waiting.clear()

    async def _news(self, stream: _Stream, until: float) -> None:
        """Return when something has come for the message, or when it is time to look what others have stored."""
        stream.news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await stream.news.wait()

    def _refuse_late(self, stream: _Stream, chain: Chain) -> None:
        """What has waited in vain, also for what others store: nothing has come before it for so long, as was seen by a
        look after that."""
        for piece in stream.waiting:
            if piece.part is not None and max(piece.arrived, chain.advanced) + EARLY_SECONDS <= chain.read:
                expected = 1 if chain.last is None else chain.last + 1
                piece.fail(Error("conflict", f"part: {piece.part} came, but {expected} is the next one"))

    def _take(self, stream: _Stream, chain: Chain) -> list[Piece]:
        """What goes into the next entry; what waits and is stored already, or never will be, is answered."""
        for piece in stream.waiting:
            try:
                link = chain.stored(piece)
            except Error as error:
                piece.fail(error)
            else:
                if link is not None and not piece.future.done():
                    place = Position(stream.epoch, link.offset)
                    piece.future.set_result(Receipt(place, piece.key or link.key, True))
        stream.waiting = [piece for piece in stream.waiting if not piece.future.done()]
        numbered = in_order(stream.waiting, chain)
        stream.early = not numbered and any(piece.part is not None for piece in stream.waiting)
        if stream.early:
            self._refuse_late(stream, chain)
        runs = [run for run in (without_numbers(stream.waiting), numbered) if run]
        return self._fitting(stream, chain, min(runs, key=lambda run: run[0].arrived)) if runs else []

    def _fitting(self, stream: _Stream, chain: Chain, run: list[Piece]) -> list[Piece]:
        """The first of `run` that one user has sent, as many as the message may hold."""
        taken: list[Piece] = []
        size = chain.size
        for piece in run[:MERGE_PARTS]:
            if piece.user != run[0].user:
                break
            try:
                piece.again()
            except Error as gone:
                piece.fail(gone)
                break
            size += piece.size
            if size > stream.limit:
                error = Error("too_large", f"append: {size} bytes with it; message_bytes is {stream.limit}")
                piece.fail(error)
                for other in stream.waiting:  # behind a hole nothing can be appended
                    if piece.part is not None and other.part is not None and other.part > piece.part:
                        other.fail(error)
                break
            taken.append(piece)
        return taken

    async def _store(self, stream: _Stream, chain: Chain, batch: list[Piece]) -> None:
        text = "".join(piece.text for piece in batch)
        size = sum(piece.size for piece in batch)
        # Nobody is called "", so nobody else's keys are in the way.
        key = chain.next_key
        entry = self._pending.add("", key, text, size, None, PendingAppend)
        entry.of, entry.op, entry.epoch = stream.of, "append", stream.epoch
        entry.by, entry.nonce = batch[0].user, secrets.token_hex(4)
        entry.done = any(piece.done for piece in batch)
        first, last = batch[0].part, batch[-1].part
        entry.parts = None if first is None or last is None else [first, last]
        entry.keys = [piece.key for piece in batch if piece.part is None and piece.key is not None]
        self._put(stream.channel, entry)
        try:
            receipt = await entry.future
        except Error as error:
            if error.code == "conflict":  # somebody else has written the next one
                stream.stale = True
                stream.next = 0.0
                return
            stream.chain = None
            raise
        chain.add(receipt.position.offset, entry.by, entry.parts, entry.keys)
        chain.size += size
        self.entries += 1
        self.pieces += len(batch)
        for piece in batch:
            if not piece.future.done():
                piece.future.set_result(Receipt(receipt.position, piece.key or key, receipt.duplicate))
        stream.waiting = [piece for piece in stream.waiting if not piece.future.done()]
        stream.unfolded += 1
        stream.unfolded_bytes += size
        much = stream.unfolded >= FOLD_AT or stream.unfolded_bytes >= max(FOLD_BYTES, chain.size // 2)
        if entry.done or much:
            stream.unfolded = stream.unfolded_bytes = 0
            await self.assembly.fold(stream.channel, stream.of)

    async def _read(self, stream: _Stream) -> None:
        """What is new in the chain, and then the message: it is at least as new."""
        await self._amendments.announce(stream.channel)
        stream.stale = False
        chain = stream.chain or Chain(stream.of)
        began = asyncio.get_running_loop().time()
        query = {"_id.c": stream.channel, "z": stream.of, "_id.o": {"$gt": chain.offset}, "op": "append"}
        fields = {"by": 1, "n": 1, "ks": 1}
        with mapped():
            found = self._messages.find(query, fields).sort("_id.o", ASCENDING).hint(MESSAGES_INDEX)
            rows: list[Row] = await found.to_list(None)
        original = await self._amendments.original(stream.channel, stream.of)
        if original is None or original.deleted is not None or original.epoch != stream.epoch:
            raise Error("not_found", f"offset: there is no message {stream.of} in {stream.channel} (any more)")
        check_text(original)
        for row in rows:
            chain.add(row["_id"]["o"], row["by"], row.get("n"), row.get("ks", ()))
        chain.original, chain.size, chain.read = original, len(JSON.encode(original.data)), began
        stream.chain = chain

    # --- forgetting ---------------------------------------------------------------------------------------------------

    async def refold(self, seconds: float = PENDING_SECONDS) -> None:
        """Fold what nobody has appended to for so many seconds, and forget what was known of it. Called again and
        again, on every node."""
        since = asyncio.get_running_loop().time() - seconds
        while self._streams:
            stream = next(iter(self._streams.values()))
            if stream.task is not None or stream.next > since:
                break
            self._streams.popitem(last=False)
        await self.assembly.refold(seconds)


def check_text(original: AmendedMessage) -> None:
    """`bad_request` if nothing can be appended to the message."""
    if appended(original.data, "") is None:
        raise bad_request(f"of: message {original.offset} is neither a string nor an object with a string as its text")
