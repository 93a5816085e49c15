"""The other nodes: what they announce, who has gone silent, and looking into the log for what nobody was told.

Redis is only the fast path. What it may lose is found by the heads every node announces once a second (the same
announcement is the canary that a node must hear itself), and by sweeps: one query for the heads of all channels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from server.brokers.base import Announcement, Broker, Directive, Letter
from server.cluster.announcer import Announcer
from server.cluster.directory import Directory
from server.core.cursors import Position, Tally
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.tasks import Keeper
from server.delivery.streams import Streams
from server.log.log import Log
from server.presence.attendance import Attendance

logger = logging.getLogger(__name__)

DEAF_AFTER: Final = 3.0
"""Seconds without hearing a peer or ourselves before we stop relying on it."""
SWEEP_EVERY: Final = 30.0
SWEEP_CHANNELS: Final = 1000
"""In one query."""


class Peers:
    def __init__(
        self,
        node: str,
        *,
        broker: Broker,
        log: Log,
        streams: Streams,
        attendance: Attendance,
        announcer: Announcer,
        directory: Directory,
        lifecycle: Lifecycle,
        keeper: Keeper,
        publish_timeout: float,
        on_revoked: Callable[[], None],
        on_letter: Callable[[Letter], object],
        on_directive: Callable[[Directive], None],
    ) -> None:
        """`publish_timeout`: seconds within which whatever a peer was writing is decided; `on_revoked`: a peer says
        that there are new revocations; `on_letter`: it has written to somebody, here or elsewhere; `on_directive`: a
        back end has asked it for something."""
        self._node = node
        self._broker = broker
        self._log = log
        self._streams = streams
        self._attendance = attendance
        self._announcer = announcer
        self._directory = directory
        self._lifecycle = lifecycle
        self._keeper = keeper
        self._publish_timeout = publish_timeout
        self._on_revoked = on_revoked
        self._on_letter = on_letter
        self._on_directive = on_directive
        self.on_head: Callable[[str, Position], None] = lambda channel, head: None
        """Called with how far somebody says that a channel reaches, and before a look at all channels. Both are set by
        the consumers."""
        self.on_sweep: Callable[[], None] = lambda: None
        self.on_activity: Callable[[str, Position, Tally, bool], None] = lambda channel, head, tally, mentions: None
        """As `on_head`, but only what is announced once a second, and whether somebody may be mentioned in what is new.
        Set by the rooms, as the next two are."""
        self.on_reads: Callable[[Sequence[tuple[str, str, str, int, int, int]]], None] = lambda reads: None
        self.on_members: Callable[[Sequence[tuple[str, str, str | None]]], None] = lambda changes: None
        """Called with who has become what where, on another node."""
        self._heard: dict[str, float] = {}
        """When each peer was last heard of."""
        self._amending: set[str] = set()
        """Nodes that know of amendments."""
        if log.replies is not None:
            log.replies.check_nodes = self.check_amending
        self._undecided: dict[str, float] = {}
        """Peers gone silent → when the last publish of theirs must have been decided."""
        self._heard_self = self._swept = 0.0
        self._sweep_wanted = False
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on this node is to hear itself."""
        self._heard_self = self._swept = _now()

    @property
    def deaf(self) -> bool:
        """Whether this node does not hear even itself."""
        return _now() - self._heard_self > DEAF_AFTER

    def unheard(self) -> str | None:
        """Why messages do not come back through the broker, or None."""
        deaf = "broker: this node does not hear its own announcements" if self.deaf else None
        return self._broker.problem() or deaf

    # --- hearing ------------------------------------------------------------------------------------------------------

    def hear(self, announcement: Announcement) -> None:
        """An announcement of any node, this one's own too."""
        node = announcement.node
        if node == self._node:
            if announcement.beat:
                self._heard_self = _now()
            return
        self._heard[node] = _now()
        self._undecided.pop(node, None)
        self._directory.hear(announcement)
        if announcement.attendance is not None:
            self._attendance.hear(node, announcement.attendance)
        if announcement.beat:
            self._attendance.hear_beat(node, announcement.attended)
        if self._node in announcement.ask:
            self._attendance.hear_question()
        if announcement.directive is not None:
            self._on_directive(announcement.directive)
        if announcement.revoked:
            self._on_revoked()
        if announcement.reads:
            self.on_reads(announcement.reads)
        if announcement.members:
            self.on_members(announcement.members)
        if announcement.letter is not None:
            self._on_letter(announcement.letter)
        if announcement.want is not None:
            self._log.contend(announcement.want, node)
        for channel, (epoch, offset) in announcement.heads.items():
            head, tally = Position(epoch, offset), Tally(*announcement.tallies.get(channel, ()))
            self._log.learn(channel, head, node, tally)
            self._note_head(channel, head)
            self.on_activity(channel, head, tally, channel in announcement.mentioned)
        for channel, (epoch, offset) in announcement.news.items():
            self.on_head(channel, Position(epoch, offset))
        if announcement.amended is not None:
            self._log.has_amended(announcement.amended)
        if announcement.erased is not None:
            self._log.has_erased(announcement.erased)
        if announcement.amends:
            self._amending.add(node)
        elif announcement.beat:
            self._amending.discard(node)

    def check_amending(self) -> None:
        """`unavailable` while there is a node that would number messages without counting amendments."""
        if not self._heard.keys() <= self._amending:
            text = "not every node can amend messages yet: an older version is still running"
            raise Error("unavailable", text, retry_after=5.0)

    def note_own_head(self, channel: str, head: Position, tally: Tally) -> None:
        """The log has found out that the channel reaches `head`."""
        self._announcer.note_head(channel, head, tally)
        self._note_head(channel, head)

    def reconnected(self) -> None:
        """The broker is back: what it carried meanwhile is lost."""
        self.sweep()

    def _note_head(self, channel: str, head: Position) -> None:
        self.on_head(channel, head)
        if self._streams.note_head(channel, head):
            self.sweep()

    # --- once a second ------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Say that this node is alive, what it knows and how it is; and look who else is."""
        heads, mentioned = self._announcer.take_heads(), self._announcer.take_mentioned()
        self._announcer.announce(
            beat=True,
            heads={channel: (head.epoch, head.offset) for channel, (head, _) in heads.items()},
            tallies={channel: tally for channel, (_, tally) in heads.items() if tally.amendments},
            mentioned=list(mentioned),
            attended=self._attendance.number,
            stats=self._directory.tell(),
        )
        self._attendance.tick(hearing=not self.deaf)
        for channel, (head, tally) in heads.items():
            self._note_head(channel, head)  # what we published ourselves may have been lost on its way as well
            self.on_activity(channel, head, tally, channel in mentioned)
        if self.deaf:
            self._broker.suspect()
        self._watch()
        self._sweep_if_due()

    def _watch(self) -> None:
        """A silent peer may have committed something that nobody was told of: look now, and once more when whatever it
        was writing must have been decided."""
        now = _now()
        for node, heard in tuple(self._heard.items()):
            if now - heard > DEAF_AFTER:
                del self._heard[node]
                self._amending.discard(node)
                self._directory.forget(node)
                self._undecided[node] = now + self._publish_timeout
                self._sweep_wanted = True
        for node, until in tuple(self._undecided.items()):
            if now > until:
                del self._undecided[node]
                self._sweep_wanted = True

    # --- looking into the log -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Compare all channels with the log, as soon as the comparison that may be under way has ended."""
        self._sweep_wanted = True
        self._sweep_if_due()

    def _sweep_if_due(self) -> None:
        due = self._sweep_wanted or self.deaf or self._broker.problem() or _now() - self._swept > SWEEP_EVERY
        if due and self._lifecycle.opened and (self._sweeping is None or self._sweeping.done()):
            self._sweep_wanted = False
            self._sweeping = self._keeper.spawn("sweep", self.compare())

    async def compare(self) -> None:
        """Ask the log how far every channel reaches, and let the sequencers fetch what they miss."""
        self.on_sweep()
        channels = self._streams.durable()
        try:
            for index in range(0, len(channels), SWEEP_CHANNELS):
                self._streams.compare(await self._log.heads(channels[index : index + SWEEP_CHANNELS]))
            self._swept = _now()
        except Error as error:
            self._sweep_wanted = True
            logger.warning("cannot compare with the log: %s", error.reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
