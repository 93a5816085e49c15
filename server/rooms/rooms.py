"""The rooms of one node: its parts, and how the others hear of what changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from server.access.admission import Admission
from server.access.directs import Directs
from server.access.memberships import Memberships
from server.access.moderation import Moderation
from server.access.permissions import Permissions
from server.access.revocations import Revocations
from server.access.rights import Rights
from server.channels.publisher import Publisher
from server.cluster.announcer import Announcer
from server.cluster.peers import Peers
from server.core.clock import Clock
from server.core.config import Limits, Namespace
from server.core.cursors import Position
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.names import is_thread, namespace_of
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.delivery.streams import Streams
from server.log.log import Log
from server.mongo.databases import Database
from server.rooms.direct import Blocks, Conversations
from server.rooms.doubts import Doubts
from server.rooms.followers import Followers
from server.rooms.heads import Heads
from server.rooms.lists import Lists
from server.rooms.markers import Markers, Read
from server.rooms.members import Members
from server.rooms.receipts import Receipts
from server.rooms.rows import Change, MemberRows
from server.rooms.views import MyRooms


class Rooms:
    """Where no channels have members nothing is asked of MongoDB, and nothing told."""

    def __init__(
        self,
        *,
        namespaces: Mapping[str, Namespace],
        directs: Directs,
        keeper: Keeper,
        database: Database,
        memberships: Memberships,
        permissions: Permissions,
        rights: Rights,
        revocations: Revocations,
        moderation: Moderation,
        admission: Admission,
        announcer: Announcer,
        peers: Peers,
        publisher: Publisher,
        streams: Streams,
        log: Log,
        lifecycle: Lifecycle,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._wanted = wanted = any(namespace.members for namespace in namespaces.values())
        self._namespaces = namespaces
        self._keeper = keeper
        self._rows = rows = MemberRows(database)
        self._memberships = memberships
        self._announcer = announcer
        self._peers = peers
        self.on_members: Callable[[], None] = lambda: None
        """Called when somebody has become a member somewhere, or none any more."""
        self._unheard = False
        self._looking = False
        doubts = Doubts(keeper, rows, self._tell_members)
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
            doubts=doubts,
            tell=self._tell_members,
        )
        self.markers = Markers(
            keeper=keeper,
            rows=rows,
            counts=log.counts,
            rights=rights,
            admission=admission,
            lifecycle=lifecycle,
            doubts=doubts,
            tell=self._tell_reads,
        )
        self.followers = Followers(
            rows=rows,
            members=self.members,
            markers=self.markers,
            log=log,
            rights=rights,
            limits=limits,
            clock=clock,
            doubts=doubts,
            tell=self._tell_followers,
        )
        self.receipts = Receipts(namespaces, streams.notify)
        self.conversations = Conversations(
            keeper=keeper, rows=rows, counts=log.counts, clock=clock, doubts=doubts, tell=self._tell_members
        )
        self.blocks = Blocks(
            database, directs=directs, rights=rights, admission=admission, lifecycle=lifecycle, clock=clock
        )
        self.heads = Heads(keeper, log.counts, log.mentions)
        self.mine = MyRooms(
            keeper=keeper,
            rows=rows,
            lists=Lists(keeper, rows, log.counts, log.mentions),
            heads=self.heads,
            permissions=permissions,
            rights=rights,
            admission=admission,
            lifecycle=lifecycle,
        )
        memberships.read = rows.roles
        if wanted:
            moderation.on_member = self.mine.recheck
            moderation.on_unban = self._look_at_all
            peers.on_activity = self.heads.note
            peers.on_members = self._hear_members
            peers.on_reads = self._hear_reads
            publisher.on_own = self._published
        if log.replies is not None and any(one.members and one.threads for one in namespaces.values()):
            publisher.on_reply = self.followers.replied
            self.members.on_left = self._left
            log.replies.on_ended.append(self.followers.ended)
            log.amendments.on_erased.append(self._erased)

    def of(self, channel: str) -> Members | Followers:
        """Who belongs to a channel: of a thread its followers."""
        return self.followers if is_thread(channel) else self.members

    async def open(self) -> None:
        """Make the index, and begin to look after what is remembered. `unavailable` if MongoDB is not there."""
        if self._wanted:
            await self._rows.open()
            self._memberships.open()

    async def _published(self, principal: Principal, channel: str, position: Position, earlier: bool) -> None:
        """A message is stored: whoever has written it has read it, and all before it, unless that was `earlier`."""
        if self._namespaces[namespace_of(channel)].direct:
            await self.conversations.published(channel, position)
        await self.markers.published(principal, channel, position, earlier)

    async def _left(self, user: str, channel: str) -> None:
        if self._has_followers(channel):
            await self.followers.left(user, channel)

    async def _erased(self, channel: str, offset: int) -> None:
        if self._has_followers(channel):
            await self.followers.erased(channel, offset)

    def _has_followers(self, channel: str) -> bool:
        namespace = self._namespaces.get(namespace_of(channel))
        return namespace is not None and namespace.members and namespace.threads

    # --- telling and hearing ------------------------------------------------------------------------------------------

    def _tell_members(self, changes: Sequence[Change]) -> None:
        self._announcer.announce(members=list(changes), revoked=True)
        self._hear_members(changes)

    def _tell_followers(self, changes: Sequence[Change]) -> None:
        self._announcer.announce(members=list(changes))
        self._hear_members(changes)

    def _hear_members(self, changes: Sequence[Change]) -> None:
        rights = [(user, channel) for user, channel, _ in changes if not is_thread(channel)]
        for user, channel in rights:
            self._memberships.forget(user, channel)
        if rights:
            self.on_members()
        self.mine.changed(changes)

    def _tell_reads(self, reads: Sequence[Read]) -> None:
        self._announcer.announce(reads=list(reads))
        self._hear_reads(reads)

    def _hear_reads(self, reads: Sequence[Read]) -> None:
        # Nobody else: clients that know nothing of markers would take their cursors for that of the channel.
        self.mine.read(reads)
        for user, channel, epoch, offset, _, _ in reads:
            self.receipts.note(user, channel, Position(epoch, offset))

    # --- what nobody was told -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Nobody may have been told of what has happened: look at the rooms that are watched."""
        if self.mine.any and not self._looking:
            self._looking = True
            self._keeper.spawn("rooms that are watched", self._look())

    def _look_at_all(self) -> None:
        """Rooms may be shown again that were not: which, only the rows say."""
        self._unheard = True
        self.look()

    async def _look(self) -> None:
        try:
            unheard, self._unheard = self._unheard, self._peers.unheard() is not None
            await self.heads.look()
            if unheard or self._unheard:
                await self.mine.compare()
        except Error:
            self._unheard = True  # it is looked again, and the log says why
        finally:
            self._looking = False
