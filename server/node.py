"""A node: one running server instance. Here its parts are made, tied together, started and closed, and nothing else.

docs/architecture.md shows all of the house, and the ways through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from functools import partial
from typing import Final

from server.access.accounts.service import Accounts
from server.access.admission import Admission
from server.access.arrivals import Arrivals
from server.access.auth import Authenticator
from server.access.directs import Directs
from server.access.hooks import Hooks
from server.access.identities import Identities
from server.access.memberships import Memberships
from server.access.moderation import Moderation
from server.access.permissions import Permissions
from server.access.quotas import Quotas
from server.access.revocations import Revocation, Revocations
from server.access.rights import Rights
from server.access.seals import Seals
from server.access.threads import Threads
from server.access.tickets import Tickets
from server.brokers.base import Broker
from server.brokers.memory import MemoryBroker
from server.calls.calls import Calls
from server.channels.amender import Amender
from server.channels.capabilities import Capabilities
from server.channels.history import History
from server.channels.patterns import PatternSubscriptions
from server.channels.publisher import Publisher
from server.channels.subscriptions import Subscriptions
from server.cluster.announcer import Announcer
from server.cluster.directives import Directives
from server.cluster.directory import BEAT, Directory
from server.cluster.letters import Letters
from server.cluster.peers import Peers
from server.cluster.stats import Incidents
from server.consumers.operators import ConsumerOperators
from server.consumers.service import Consumers
from server.consumers.workers import Workers
from server.core.clock import Clock
from server.core.config import MAX_STORED, Config, Redis
from server.core.errors import SHUTDOWN, Disconnect, Error
from server.core.histogram import Histogram
from server.core.lifecycle import Lifecycle
from server.core.loop_share import LoopShare
from server.core.names import ONLINE, namespace_of, parent_of
from server.core.tasks import Keeper
from server.delivery.hub import Hub
from server.delivery.patterns import Patterns
from server.delivery.streams import Streams
from server.documents.service import DocumentService
from server.documents.store import Documents
from server.documents.tailer import Tailer
from server.erasure.erasure import Erasure
from server.erasure.messages import Messages
from server.log.log import Log
from server.mongo.client import connect, connect_apart
from server.mongo.clock import COMPARE_EVERY, compare
from server.mongo.migration import Migration
from server.mongo.opening import Opening, find_replica_set, renew_if_unknown
from server.outbox.outbox import Outbox
from server.outbox.scheduled import Scheduler
from server.presence.attendance import Attendance
from server.presence.clients import Visitors
from server.presence.decisions import Decisions
from server.presence.last_seen import LastSeen
from server.presence.service import PresenceService
from server.reactions.reactions import Reactions
from server.rooms.rooms import Rooms
from server.rooms.rows import MemberRows
from server.search.indexing import Indexing
from server.search.search import Search
from server.wire.messages import Message

logger = logging.getLogger(__name__)

RENEW_EVERY: Final = 5.0
"""Seconds between looks whether MongoDB still knows our connections."""
LEFT_WITHIN: Final = 1.0
"""Seconds that writing down who has left is worth, when the node leaves."""


class Node:
    """`broker` and `clock` are for tests: the one follows from the config, the other is this machine's."""

    def __init__(
        self, config: Config, mongodb_uri: str, broker: Broker | None = None, clock: Clock | None = None
    ) -> None:
        self.id = "n" + secrets.token_hex(4)
        self.config = config
        limits, namespaces = config.limits, config.known_namespaces()
        self.lifecycle = Lifecycle()
        self.keeper = Keeper()
        self.loop_share = LoopShare()
        self.clock = clock or Clock()
        self.incidents = Incidents()
        self.lag = Histogram(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
        """Seconds the event loop ran late."""

        def searched(channel: str) -> bool:
            return (of := namespaces.get(parent_of(channel).partition(":")[0])) is not None and of.search

        # Back ends, and what is kept in them.
        self.broker = broker or _broker(config.redis)
        self.announcer = Announcer(self.id, self.broker)
        members = any(namespace.members for namespace in namespaces.values())
        self._announce = self.announcer.committed_where_members_are if members else self.announcer.committed
        self.database = connect(config.mongodb, mongodb_uri)
        self.database_apart = connect_apart(config.mongodb, mongodb_uri)
        self.log = Log(
            self.database, self.database_apart, config.mongodb, node=self.id,
            on_commit=self._committed if config.consumers else self._announce,
            on_head=lambda channel, head, tally: self.peers.note_own_head(channel, head, tally),
            on_contention=lambda channel: self.announcer.announce(want=channel),
            on_epoch=self._start_over, retention=config.retention, clock=self.clock, loop_share=self.loop_share,
            amends=any(namespace.amends for namespace in namespaces.values()),
            mentions=members,
            threads=any(namespace.threads for namespace in namespaces.values()),
            on_amended=lambda channel: self.announcer.announce(amended=channel), on_erased=self.announcer.erased,
            searched=searched if any(namespace.search for namespace in namespaces.values()) else None,
        )  # fmt: skip
        self.document_store = Documents(
            self.database, config.collections, config.mongodb, limits.document_bytes or MAX_STORED
        )
        self.tailer = Tailer(
            self.database_apart, config.collections, self.log.changes, node=self.id, prepare=self.document_store.prepare
        )
        self.last_seen = LastSeen(self.database)
        # Who may do what, and how much.
        self.admission = Admission(limits, namespaces)
        self.authenticator = Authenticator(config.auth, self.clock)
        self.tickets = Tickets(self.database, config.auth.ticket_ttl, self.clock)
        self.revocations = Revocations(
            self.database_apart, config.auth.max_token_ttl, on_revocation=self._take_back,
            on_confirmed=lambda confirmed: self.moderation.confirm(confirmed), clock=self.clock,
        )  # fmt: skip
        self.accounts: Accounts | None = None
        if config.auth.accounts:
            self.accounts = Accounts(
                config.auth, config.server.public_url, config.origins, self.database, self.authenticator,
                self.revocations, take_back=lambda revocation: self.moderation.take_back(revocation),
                keeper=self.keeper, clock=self.clock,
            )  # fmt: skip
        self.identities = Identities(
            self.authenticator, self.tickets, self.revocations, self.admission, config.auth.max_token_ttl
        )
        self.memberships = Memberships(
            self.keeper, listens=self.admission.listens,
            on_change=lambda user: self.moderation.check_subscriptions(user),
        )  # fmt: skip
        directs = Directs(self.keeper)
        self.permissions = Permissions(
            namespaces, self.revocations, config.auth.guests, config.collections, self.memberships, directs,
            Threads(self.log),
        )  # fmt: skip
        self.hooks = Hooks(config.hooks, self.clock)
        self.arrivals = Arrivals(config.hooks, self.hooks, self.identities, self.keeper)
        self.rights = Rights(self.permissions, self.hooks)
        self.quotas = Quotas(config.quotas, enforced=config.quotas_enforced())
        self.moderation = Moderation(
            namespaces=namespaces, admission=self.admission, permissions=self.permissions, lifecycle=self.lifecycle,
            revocations=self.revocations, memberships=self.memberships, accounts=self.accounts,
            tell_peers=lambda: self.announcer.announce(revoked=True), note=self.incidents.note,
        )  # fmt: skip
        # From the log and the broker to who listens.
        self.hub = Hub()
        self.streams = Streams(
            self.id, broker=self.broker, log=self.log, hub=self.hub, keeper=self.keeper, loop_share=self.loop_share
        )

        self.patterns = Patterns(self.broker, self.hub, self.keeper, self.permissions)

        def tells(channel: str) -> bool:
            return (of := namespaces.get(namespace_of(channel))) is not None and of.join_leave and channel != ONLINE

        wanted = config.wanted_events()
        self.attendance = Attendance(
            self.id, announce=self.announcer.announce, deliver=self.streams.notify, tells=tells,
            limit=limits.presence_users, clock=self.clock,
            visitors=Visitors(self.id, deliver=self.hub.notify, tells=tells) if config.centrifugo.enabled else None,
            decisions=Decisions(self.id, lambda one: self.consumers.decided(one), time.monotonic) if wanted else None,
        )  # fmt: skip
        self.directory = Directory(
            self.id, broker=self.broker, announcer=self.announcer, streams=self.streams, hub=self.hub, log=self.log,
            attendance=self.attendance, admission=self.admission, incidents=self.incidents, namespaces=namespaces,
            status=self.lifecycle.status, published=lambda: self.publisher.published,
        )  # fmt: skip
        self.directives = Directives(
            admission=self.admission, permissions=self.permissions, revocations=self.revocations,
            announcer=self.announcer, lifecycle=self.lifecycle, clock=self.clock,
            seals=Seals(self.tickets.derive, "subscriptions"), unheard=lambda: self.peers.unheard(),
        )  # fmt: skip
        self.letters = Letters(self.id, announcer=self.announcer, knows=self.directory.knows)
        self.peers = Peers(
            self.id, broker=self.broker, log=self.log, streams=self.streams, attendance=self.attendance,
            announcer=self.announcer, directory=self.directory, lifecycle=self.lifecycle, keeper=self.keeper,
            publish_timeout=config.mongodb.publish_timeout, on_revoked=self.revocations.look,
            on_letter=self.letters.hear, on_directive=self.directives.carry_out,
        )  # fmt: skip
        self.consumers = Consumers(
            config, self.database, self.database_apart, node=self.id, log=self.log, clock=self.clock,
            announce=lambda news: self.announcer.announce(news=news),
        )  # fmt: skip
        self.consumer_operators = ConsumerOperators(self.consumers, self.log, self.lifecycle, self.clock)
        self.workers = Workers(self.consumers, self.lifecycle)
        self.peers.on_head = self.consumers.note_head
        self.peers.on_sweep = self._look
        # The use cases.
        self.publisher = Publisher(
            permissions=self.permissions, rights=self.rights, hooks=self.hooks, admission=self.admission,
            quotas=self.quotas, log=self.log, broker=self.broker, lifecycle=self.lifecycle, keeper=self.keeper,
            limits=limits,
        )  # fmt: skip
        self.outbox = Outbox(
            self.database_apart, config.mongodb, node=self.id, publisher=self.publisher, log=self.log, clock=self.clock
        )
        self.directory.besides = self.outbox.figures
        self.scheduler = Scheduler(
            self.outbox, permissions=self.permissions, rights=self.rights, admission=self.admission, quotas=self.quotas,
            publisher=self.publisher, lifecycle=self.lifecycle, keeper=self.keeper, clock=self.clock,
            most=limits.scheduled_per_user,
        )  # fmt: skip
        self.amender = Amender(
            rights=self.rights, hooks=self.hooks, admission=self.admission, quotas=self.quotas, log=self.log,
            lifecycle=self.lifecycle, size_of=self.publisher.size_of, limit=limits.message_bytes or MAX_STORED,
            check_nodes=self.peers.check_amending,
        )  # fmt: skip
        self.reactions = Reactions(
            wanted=any(namespace.reactions for namespace in namespaces.values()), database=self.database, log=self.log,
            clock=self.clock, keeper=self.keeper, rights=self.rights, admission=self.admission,
            lifecycle=self.lifecycle, check_nodes=self.peers.check_amending,
        )  # fmt: skip
        self.rooms = Rooms(
            namespaces=namespaces, limits=limits, directs=directs,
            keeper=self.keeper, database=self.database, log=self.log, clock=self.clock, lifecycle=self.lifecycle,
            memberships=self.memberships, permissions=self.permissions, rights=self.rights,
            revocations=self.revocations, moderation=self.moderation, admission=self.admission,
            announcer=self.announcer, peers=self.peers, publisher=self.publisher, streams=self.streams,
        )  # fmt: skip
        self.rooms.on_members = self.patterns.forget_all
        self.documents = DocumentService(
            collections=config.collections, store=self.document_store, tailer=self.tailer, log=self.log,
            rights=self.rights, admission=self.admission, quotas=self.quotas, lifecycle=self.lifecycle,
        )  # fmt: skip
        self.history = History(
            rights=self.rights, admission=self.admission, log=self.log, documents=self.documents,
            lifecycle=self.lifecycle, namespaces=namespaces, mine=self.reactions.mine,
        )  # fmt: skip
        self.capabilities = Capabilities(
            namespaces, rights=self.rights, memberships=self.memberships, admission=self.admission,
            lifecycle=self.lifecycle,
        )  # fmt: skip
        self.subscriptions = Subscriptions(
            rights=self.rights, streams=self.streams, peers=self.peers, hub=self.hub, log=self.log,
            documents=self.documents, attendance=self.attendance, tickets=self.tickets, lifecycle=self.lifecycle,
            tell=self.consumers.subscribed if "subscribed" in wanted else None,
        )  # fmt: skip
        self.pattern_subscriptions = PatternSubscriptions(self.rights, self.patterns, self.log, self.lifecycle)
        self.presence = PresenceService(
            attendance=self.attendance, last_seen=self.last_seen, rights=self.rights, admission=self.admission,
            lifecycle=self.lifecycle, limit=limits.presence_users, counts_connections="connected" in wanted,
        )  # fmt: skip
        self.calls = Calls(
            config, self.database, rights=self.rights, admission=self.admission, quotas=self.quotas,
            lifecycle=self.lifecycle, keeper=self.keeper, clock=self.clock,
        )  # fmt: skip
        self.erasure = Erasure(
            database=self.database, node=self.id, outbox=self.outbox, members=self.rooms.members,
            messages=Messages(self.database, self.log, self.permissions.amends), reactions=self.reactions,
            accounts=self.accounts, moderation=self.moderation, lifecycle=self.lifecycle, keeper=self.keeper,
            clock=self.clock, names=config.auth.api_keys,
        )  # fmt: skip
        self.search = Search(
            rights=self.rights, admission=self.admission, lifecycle=self.lifecycle, log=self.log,
            members=MemberRows(self.database), searched=searched,
        )  # fmt: skip
        self.indexing = Indexing(self.database, self.log, self.id, self.clock, self.keeper, namespaces)
        parts = (self.log, self.tailer, self.revocations, self.consumers, self.outbox, self.keeper)
        self.lifecycle.parts += [part.problem for part in parts]
        self.lifecycle.helpers += [self.peers.unheard, self.clock.problem, self.document_store.problem]

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the broker and open the log, however long that takes; StartError if it can never be."""
        self.peers.start()
        self.directory.start()
        await self.broker.start(self.id, self.streams.receive, self.peers.hear, self.peers.reconnected)
        self.keeper.every("beat", BEAT, self.peers.beat, self.lag.observe)
        self.keeper.every("clients", BEAT, self._tick)
        self.keeper.every("last seen", BEAT, self.presence.note_departures)
        if self.config.mongodb.trim_interval:
            self.keeper.every("retention", self.config.mongodb.trim_interval, self.log.trimmer.step)
        self.keeper.every("clock", COMPARE_EVERY, self._compare_clocks)
        opening = Opening(self.database, self.lifecycle)
        await opening.persist(partial(find_replica_set, self.database_apart, self.clock))
        await opening.persist(Migration(self.database_apart).run)
        for part in (self.log, self.last_seen, self.revocations, self.tickets):
            await opening.persist(part.open)
        if self.accounts is not None:
            await opening.persist(partial(self._open_accounts, self.accounts))
        for later in (
            self.document_store, self.tailer, self.consumers, self.reactions, self.rooms, self.calls, self.outbox,
            self.erasure, self.indexing,
        ):  # fmt: skip
            await opening.persist(later.open)
        self.keeper.every("connections", RENEW_EVERY, partial(renew_if_unknown, self.database, self.database_apart))
        self.lifecycle.opened = True

    async def _open_accounts(self, accounts: Accounts) -> None:
        await accounts.open()
        if self.config.auth.secret is None:
            self.authenticator.use_secret(await accounts.kept_secret())

    def _committed(self, messages: list[Message]) -> None:
        self._announce(messages)
        self.consumers.committed(messages)

    def _look(self) -> None:
        self.consumers.look()
        self.rooms.look()

    def _start_over(self) -> None:
        self.peers.sweep()
        self.consumers.start_over()

    async def _compare_clocks(self) -> None:
        with contextlib.suppress(Error):  # while MongoDB is away there is nothing to compare with, and others say so
            await compare(self.database_apart, self.clock)

    def _take_back(self, revocation: Revocation) -> None:
        self.patterns.forget_all()
        self.moderation.carry_out(revocation)
        self.scheduler.look_again(revocation.user)

    async def _tick(self) -> None:
        self.hub.tick(asyncio.get_running_loop().time())
        self.admission.tick()

    async def close(self) -> None:
        """The order of leaving: accepted publishes are decided, clients are told, then the back ends are let go."""
        self.lifecycle.leaving = True
        await self.calls.drain()
        await self.outbox.close()
        await self.publisher.drain()
        await self.reactions.drain()
        await self.log.drain()
        await self.document_store.drain()
        # A herd comes back spread over the time that a restart takes anyway.
        spread = 1.0 + len(self.admission.clients) / 500
        for client in tuple(self.admission.clients):
            client.disconnect(Disconnect(SHUTDOWN, "the server is leaving"), random.uniform(0.1, spread))
        await self.loop_share.turn()  # behind the last of their subscriptions
        self.streams.close()
        await self.keeper.close()
        self.attendance.close()
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(LEFT_WITHIN):
                await self.presence.note_departures()
        await self.consumers.close()
        await self.tailer.close()
        await self.broker.close()
        await self.calls.close()
        await self.hooks.close()
        await self.revocations.close()
        await self.log.close()
        await self.authenticator.close()
        if self.accounts is not None:
            await self.accounts.close()
        self.database.client.close()
        await self.database_apart.client.close()

    # --- how it is ----------------------------------------------------------------------------------------------------

    async def readiness(self) -> tuple[str, list[str]]:
        """As `Lifecycle.status`, after a look at MongoDB if nobody has had one for a second."""
        if self.lifecycle.opened and not self.lifecycle.leaving:
            await self.log.probe()
        return self.lifecycle.status()


def _broker(options: Redis) -> Broker:
    if not options.url:
        return MemoryBroker()
    from server.brokers.redis import RedisBroker  # here: it would be a fifth of the start of a node that is alone

    return RedisBroker(options)
