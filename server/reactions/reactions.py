"""Reacting to messages: who may, how much, and what each user has said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from bson import Timestamp

from server.access.admission import Admission
from server.access.rights import Rights
from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.log.groups import GroupReader
from server.log.log import Log
from server.log.summaries import Round, Summaries
from server.mongo.cluster_time import number_of
from server.mongo.databases import Database
from server.reactions.rows import KINDS, Change, Reaction, ReactionRows, Written
from server.wire.amendments import AmendedMessage, Op

MAX_KIND: Final = 64
"""Bytes."""
OF_ONE_USER: Final = 20
"""Kinds of reactions that one user may have on a message."""
WRITE_TOGETHER: Final = 1000

_NO_KIND: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


class Reactions:
    """`wanted`: whether there are any namespaces with them; else nothing is asked of MongoDB. `check_nodes` raises
    `unavailable` while there is a node that knows nothing of amendments."""

    op: Op = "reactions"

    def __init__(
        self,
        *,
        wanted: bool,
        database: Database,
        log: Log,
        clock: Clock,
        keeper: Keeper,
        rights: Rights,
        admission: Admission,
        lifecycle: Lifecycle,
        check_nodes: Callable[[], None],
    ) -> None:
        self._wanted = wanted
        self._rights = rights
        self._admission = admission
        self._lifecycle = lifecycle
        self._check_nodes = check_nodes
        self._rows = ReactionRows(database, clock)
        self._writer: GroupReader[Change, Written] = GroupReader(keeper, "reactions", self._rows.write, WRITE_TOGETHER)
        self.accepted = 0
        """Reactions, and takings back, that were asked for and done."""
        self.summaries: Summaries | None = None
        if wanted:
            self.summaries = Summaries(database, log.amendments, clock, keeper, self)
            log.trimmer.on_trimmed.append(self._rows.forget_up_to)

    async def open(self) -> None:
        """Make the index, and begin to count what others have left. `unavailable` if MongoDB is not there."""
        if self.summaries is not None:
            await self._rows.open()
            self.summaries.start()

    async def drain(self) -> None:
        if self.summaries is not None:
            await self.summaries.drain()

    # --- the use cases ------------------------------------------------------------------------------------------------

    async def react(
        self, principal: Principal, channel: str, of: int, kind: str, on: bool, *, address: str = ""
    ) -> int:
        """Have the user react to the message at `of`, or no longer: done once, however often it is asked for. Answers
        the cluster time by which it is so, as a number: a summary `at` that, or later, has it."""
        right = self._rights.to_react(principal, channel, on)
        if not 1 <= len(kind.encode()) <= MAX_KIND or _NO_KIND.search(kind):
            raise bad_request(f"kind: 1 to {MAX_KIND} bytes, without white space or control characters")
        self._admission.spend(principal, address, channel)
        self._lifecycle.check()
        self._check_nodes()
        await right.ask("subscribe", {"channel": channel})
        assert self.summaries is not None
        assert principal.user is not None
        change = Change(Reaction(channel, of, kind, principal.user, principal.server), on)
        async with self.summaries.changing(channel, of) as round:
            await right.ask_again()
            written = await (self._add if on else self._write)(round, change)
        self.accepted += 1
        return number_of(written.at)

    async def mine(self, principal: Principal, channel: str, offsets: Sequence[int]) -> dict[str, list[str]]:
        """How the principal has reacted to these messages, by their offsets."""
        if principal.user is None or not offsets:
            return {}
        kinds = await self._rows.kinds_of(principal.user, principal.server, channel, min(offsets), max(offsets))
        return {str(offset): kinds[offset] for offset in offsets if offset in kinds}

    async def forget_user(self, user: str) -> int:
        """Take back all that a user has said, and have it counted where that is shown."""
        reactions = await self._rows.of_user(user)
        for one in reactions:
            try:
                if self.summaries is not None:
                    async with self.summaries.changing(one.channel, one.offset) as round:
                        await self._write(round, Change(one, False))
                    continue
            except Error as error:
                if error.code != "not_found":
                    raise
            await self._rows.write([Change(one, False)])
        return len(reactions)

    # --- how many there may be ----------------------------------------------------------------------------------------

    async def _write(self, round: Round, change: Change) -> Written:
        written = await self._writer.ask(change)
        if written.changed:
            round.changed(written.at)
        return written

    async def _add(self, round: Round, change: Change) -> Written:
        """The same of one that comes. Whether there are too many is counted when it is there, since others may come at
        the same moment, on any node: then it is taken back. The kinds of the message are those that were counted, those
        that are being counted and those that come now."""
        channel, offset, kind, user, by_server = change.reaction
        kinds = _kinds(round.original.result()) | round.notes | (round.before.notes if round.before else set())
        new, number = kind not in kinds, len(kinds)
        if new and number >= KINDS:
            raise _too_many_kinds()
        round.notes.add(kind)
        written = await self._write(round, change)
        if new:
            number = await self._rows.number_of_kinds(channel, offset)
            if number > KINDS:
                await self._take_back(round, change)
                raise _too_many_kinds()
        if number > OF_ONE_USER:  # nobody has more than there are
            own = await self._rows.kinds_of(user, by_server, channel, offset, offset)
            if len(own.get(offset, ())) > OF_ONE_USER:
                await self._take_back(round, change)
                raise _too_many(f"a user reacts to a message in {OF_ONE_USER} ways at most", "reactions_per_user")
        return written

    async def _take_back(self, round: Round, change: Change) -> None:
        round.notes.discard(change.reaction.kind)
        await self._write(round, change._replace(on=False))

    # --- counting (log/summaries.py) ----------------------------------------------------------------------------------

    async def count(self, channel: str, offset: int, since: Timestamp) -> Any:
        return await self._rows.count(channel, offset, since)

    async def forget(self, channel: str, offset: int) -> None:
        await self._rows.forget(channel, offset)


def _kinds(message: AmendedMessage) -> set[str]:
    summary = message.summaries.get("reactions")
    return {reaction["k"] for reaction in summary.value} if summary is not None else set()


def _too_many_kinds() -> Error:
    return _too_many(f"a message has {KINDS} kinds of reactions at most", "reactions_per_message")


def _too_many(what: str, limit: str) -> Error:
    return Error("limit_exceeded", f"kind: {what}", limit=limit)
