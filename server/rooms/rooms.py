"""The rooms of one node: its parts, and how the others hear of what changes."""

from __future__ import annotations

from collections.abc import Sequence

from server.access.admission import Admission
from server.access.memberships import Memberships
from server.access.revocations import Revocations
from server.access.rights import Rights
from server.cluster.announcer import Announcer
from server.cluster.peers import Peers
from server.core.clock import Clock
from server.core.config import Limits
from server.core.lifecycle import Lifecycle
from server.core.tasks import Keeper
from server.log.log import Log
from server.mongo.databases import Database
from server.rooms.members import Change, Members
from server.rooms.rows import MemberRows


class Rooms:
    """`wanted`: whether any channels have members; else nothing is asked of MongoDB, and nothing told."""

    def __init__(
        self,
        *,
        wanted: bool,
        keeper: Keeper,
        database: Database,
        memberships: Memberships,
        rights: Rights,
        revocations: Revocations,
        admission: Admission,
        announcer: Announcer,
        peers: Peers,
        log: Log,
        lifecycle: Lifecycle,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._wanted = wanted
        self._rows = rows = MemberRows(database)
        self._memberships = memberships
        memberships.read = rows.roles
        self._announcer = announcer
        self.members = Members(
            keeper=keeper,
            rows=rows,
            rights=rights,
            revocations=revocations,
            admission=admission,
            log=log,
            lifecycle=lifecycle,
            limits=limits,
            clock=clock,
            tell=self._tell,
        )
        peers.on_members = self._hear

    async def open(self) -> None:
        """Make the index, and begin to look after what is remembered. `unavailable` if MongoDB is not there."""
        if self._wanted:
            await self._rows.open()
            self._memberships.open()

    def _tell(self, changes: Sequence[Change]) -> None:
        self._announcer.announce(members=list(changes), revoked=True)
        self._hear(changes)

    def _hear(self, changes: Sequence[Change]) -> None:
        for user, channel, _ in changes:
            self._memberships.forget(user, channel)
