"""A node: one running server instance, and the use cases, one method each. It ties the parts together.

    publish ── permission, size ──> log.append ──(durable)──> broker.publish
    broker ──> sequencer (order, repair) ──> hub ──> sinks          the same way for the node's own messages

Redis is only the fast path. What it may lose is found by the heads every node announces once a second (the same
announcement is the canary that a node must hear itself), and by sweeps: one query for the heads of all channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, Protocol, cast

from server import __version__
from server.access.accounts import Accounts
from server.access.auth import Authenticator
from server.access.hooks import Hooks
from server.access.permissions import Permissions, revocable
from server.access.revocations import Revocation, Revocations
from server.access.tickets import Tickets
from server.brokers.base import Announcement, Answer, Broker, Question
from server.brokers.memory import MemoryBroker
from server.brokers.redis import RedisBroker
from server.cluster.stats import REASON, Events, Rates
from server.core.clock import now_ms
from server.core.config import MAX_STORED, Collection, Config, Namespace, UserRate
from server.core.cursors import BEGINNING, MAX_OFFSET, Position, parse_cursor
from server.core.errors import DISCONNECTED, REVOKED, SHUT_OUT, SHUTDOWN, Disconnect, Error, bad_request
from server.core.histogram import Histogram
from server.core.names import DOCUMENTS, EVENTS, NODES, is_pattern, namespace_of, without_label
from server.core.principals import Principal
from server.core.rates import Buckets
from server.core.tasks import end
from server.delivery.hub import Hub
from server.delivery.sequencer import Sequencer
from server.delivery.subscription import Stream, Subscriber, Subscription
from server.documents.store import Documents, Written
from server.documents.tailer import Tailer
from server.documents.views import Owner, View
from server.documents.where import parse as parse_where
from server.log.log import TRIM_ALL_EVERY, Log, Receipt
from server.mongo.client import connect, mapped
from server.presence.last_seen import Seen
from server.presence.presence import Presence
from server.wire.codec import JSON
from server.wire.messages import Message, Notice
from server.wire.protocol import DocumentWrite, Find, Gap, HistoryPage, MessagePush, Push, gap_push

logger = logging.getLogger(__name__)

TICK: Final = 1.0
DEAF_AFTER: Final = 3.0
"""Seconds without hearing a peer or ourselves before we stop relying on it."""
SWEEP_EVERY: Final = 30.0
SWEEP_CHANNELS: Final = 1000
LINGER: Final = 1.0
"""Seconds a channel without subscribers stays subscribed at the broker: people reload pages."""
RATE_OVER: Final = 5
"""Ticks over which a channel's rate is reckoned."""
ANSWER_WITHIN: Final = 1.0
"""Seconds the other nodes have to answer a question, and the broker or the log to bring what was acknowledged here."""


class Client(Protocol):
    """A connected client, as far as the node has to know it."""

    transport: str

    @property
    def queued(self) -> int: ...

    @property
    def principal(self) -> Principal | None: ...

    def tick(self, now: float) -> None: ...

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None: ...

    def end(self, concerned: Callable[[str], bool], code: str, reason: str) -> None:
        """End the subscriptions to these channels; what waits of them is not sent."""

    def hold(self, concerned: Callable[[str], bool]) -> None:
        """Deliver nothing of these channels until `unhold`."""

    def unhold(self) -> None: ...


class Node:
    """`async with Node(config) as node`, or `start`/`close`. `broker` is for tests; it follows from the config."""

    def __init__(self, config: Config, mongodb_uri: str, broker: Broker | None = None) -> None:
        self.id = "n" + secrets.token_hex(4)
        self.config = config
        self.authenticator = Authenticator(config.auth)
        self.hub = Hub()
        self.broker: Broker = broker or (RedisBroker(config.redis) if config.redis.url else MemoryBroker())
        self._database = connect(config.mongodb, mongodb_uri)
        self.log = Log(
            self._database,
            config.mongodb,
            node=self.id,
            on_commit=self._on_commit,
            on_head=self._on_head,
            on_contention=self._on_contention,
        )
        self._accounts: Accounts | None = None
        if config.auth.accounts:
            self._accounts = Accounts(self._database, self.authenticator.sign, config.auth.api_keys)
        self.tickets = Tickets(self._database, config.auth.ticket_ttl)
        self.seen = Seen(self._database)
        self.attendance = Presence(
            self.id,
            announce=self._announce,
            deliver=self._notify,
            tells=self._tells,
            limit=config.limits.presence_users,
        )
        self.events = Events()
        self.revocations = Revocations(
            self._database,
            config.auth.max_token_ttl,
            on_revocation=self._on_revocation,
            on_confirmed=self._on_confirmed,
        )
        self.permissions = Permissions(config.namespaces, self.revocations, config.auth.guests, config.collections)
        self.hooks = Hooks(config.hooks)
        self._hooked: dict[tuple[str, str], asyncio.Future[None]] = {}
        """(session, channel) → done when its newest publish has been asked about and is in the log's queue."""
        self._asking: set[asyncio.Task[Receipt | None]] = set()
        limits = config.limits
        self._per_user = Buckets(limits.user_messages_per_second, limits.user_burst)
        self._requests = Buckets(limits.requests_per_second, limits.requests_burst)
        self._per_namespace = {
            name: _buckets(namespace.rate) for name, namespace in config.namespaces.items() if namespace.rate
        }
        self.users: dict[str, set[Client]] = {}
        """The sessions of each user; those of API keys are not among them."""
        self.documents = Documents(
            self._database, config.collections, config.mongodb, limits.document_bytes or MAX_STORED
        )
        self.tailer = Tailer(self._database, config.collections, self.log, node=self.id, prepare=self.documents.prepare)
        self.clients: set[Client] = set()
        self.addresses: dict[str, int] = {}
        """Connections per client address."""
        self.published = 0
        self.bytes_in = 0
        self.refusals: Counter[str] = Counter()
        """Errors that clients were answered with, by code."""
        self.farewells: Counter[str] = Counter()
        """Connections ended, by close code; `client`: not by us."""
        self.repairs: Counter[str] = Counter()
        """Reads of the log for what the broker had lost, by what showed it."""
        self.lag = Histogram(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
        self.opened = False
        self.leaving = False
        self._streams: dict[str, Stream] = {}
        self._changed: dict[str, Position] = {}
        """Heads of what this node has committed since its last announcement."""
        self._peers: dict[str, float] = {}
        self._suspects: dict[str, float] = {}
        """Peers gone silent → when the last publish of theirs must have been decided."""
        self._heard_self = 0.0
        self._swept = 0.0
        self._sweep_wanted = False
        self._trimmed_all = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self._started = now_ms()
        self._rates = Rates()
        self._nodes: dict[str, Push] = {}
        """What every node has last told of itself."""
        self._ticks = 0
        self._repaired = 0
        self._questions: dict[str, asyncio.Queue[tuple[str, Answer]]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the broker and open the log, however long that takes; StartError if it can never be."""
        self._heard_self = self._swept = self._now()
        self._nodes[self.id] = self._state() | self._figures()
        await self.broker.start(self.id, self._on_messages, self._on_announcement, self._on_reconnect)
        self._tasks = [
            asyncio.create_task(self._forever(self._tick, lambda: TICK), name="tick"),
            asyncio.create_task(self._forever(self._trim, lambda: self.config.mongodb.trim_interval), name="trim"),
            asyncio.create_task(self._forever(self._note_departures, lambda: TICK), name="seen"),
        ]
        await self._persist(self.log.open)
        await self._persist(self.seen.open)
        await self._persist(self.revocations.open)
        await self._persist(self.tickets.open)
        if self._accounts is not None:
            await self._persist(self._open_accounts, self._accounts)
        await self._persist(self.documents.open)
        await self._persist(self.tailer.open)
        self.opened = True

    async def _persist(self, opening: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Again and again, while MongoDB is not reached."""
        pause = 0.5
        while True:
            try:
                await opening(*arguments)
                return
            except Error as error:
                logger.warning("%s; trying again in %.1f s", error.reason, pause)
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            pause = min(pause * 2, 5.0)

    async def _open_accounts(self, accounts: Accounts) -> None:
        await accounts.open()
        if self.config.auth.secret is None:
            self.authenticator.use_secret(await accounts.kept_secret())

    async def close(self) -> None:
        """The order of leaving: accepted publishes are decided, clients are told, then the back ends are let go."""
        self.leaving = True
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self.log.drain()
        await self.documents.drain()
        # A herd comes back spread over the time that a restart takes anyway.
        spread = 1.0 + len(self.clients) / 500
        for client in tuple(self.clients):
            client.disconnect(Disconnect(SHUTDOWN, "the server is leaving"), random.uniform(0.1, spread))
        await end((*self._tasks, self._sweeping))
        self.attendance.close()
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(1):  # not worth waiting for
                await self._note_departures()
        for stream in self._streams.values():
            stream.close()
        await self.tailer.close()
        await self.broker.close()
        await self.hooks.close()
        await self.revocations.close()
        await self.log.close()
        await self.authenticator.close()
        if self._accounts is not None:
            self._accounts.close()
        self._database.client.close()

    def usable_accounts(self) -> Accounts:
        """`not_found` where there are none, `unavailable` while they cannot be used."""
        if self._accounts is None:
            raise Error("not_found", "auth.accounts is off")
        self._check_open()
        return self._accounts

    async def readiness(self) -> tuple[str, list[str]]:
        """("ready" | "degraded" | "down", why). Degraded: it works, but without the broker's speed."""
        if self.leaving:
            return "down", ["leaving"]
        if not self.opened:
            return "down", ["MongoDB: not reached yet"]
        problem = await self.log.probe()
        reasons = [problem] if problem else []
        unheard = self.unheard()
        if unheard:
            reasons.append(unheard)
        return ("down" if problem else "degraded" if reasons else "ready"), reasons

    def unheard(self) -> str | None:
        """Why messages do not come back through the broker, or None."""
        deaf = "broker: this node does not hear its own announcements" if self._deaf() else None
        return self.broker.problem() or deaf

    def listening(self) -> tuple[int, int]:
        """(channels somebody here is subscribed to, subscriptions to them, live or not)"""
        return len(self._streams), sum(stream.users for stream in self._streams.values())

    # --- who, and how much --------------------------------------------------------------------------------------------

    def authenticate(self, token: str | None) -> Principal:
        """The principal of a bearer token, or a guest; `unauthenticated` (revoked tokens too) or `token_expired`."""
        principal = self.authenticator.authenticate(token)
        self.recognize(principal)
        return principal

    def recognize(self, principal: Principal) -> None:
        """`unauthenticated` if what proves the principal was revoked, or is good for longer than tokens may be."""
        if self.revocations.token(principal):
            raise Error("unauthenticated", "the token has been revoked")
        longest = self.config.auth.max_token_ttl
        if longest and principal.expires is not None:
            if principal.issued is None:
                raise Error("unauthenticated", "the token is not valid: iat is needed, auth.max_token_ttl is set")
            if principal.expires - principal.issued > longest:
                raise Error(
                    "unauthenticated", f"the token is not valid: exp - iat is over auth.max_token_ttl, {longest:g} s"
                )

    async def readable(self, principal: Principal, channel: str) -> Namespace:
        """The channel's options if the principal may subscribe to it, by its rights and by the namespace's hook."""
        namespace = self.permissions.check(principal, "subscribe", channel)
        await self.hooks.ask(namespace.hook, "subscribe", principal, {"channel": without_label(channel)})
        return namespace

    def admit(self, principal: Principal | None, address: str) -> None:
        """`limit_exceeded` if one more connection would be too many: in all, of this address, or of this user."""
        limits = self.config.limits
        if limits.connections and len(self.clients) >= limits.connections:
            raise _too_many("connections", limits.connections)
        if limits.connections_per_ip and self.addresses.get(address, 0) >= limits.connections_per_ip:
            raise _too_many("connections_per_ip", limits.connections_per_ip)
        if principal is not None:
            self.admit_user(principal)

    def admit_user(self, principal: Principal) -> None:
        limit = self.config.limits.connections_per_user
        if limit and revocable(principal) and len(self.users.get(principal.user or "", ())) >= limit:
            raise _too_many("connections_per_user", limit)

    def spend(self, principal: Principal, address: str, channel: str | None = None) -> None:
        """`rate_limited` if the user (a guest: the address) publishes, into `channel`, or reads too much. Back ends are
        not counted."""
        if principal.server:
            return
        who = _counted(principal, address)
        rates = self._per_namespace.get(channel.partition(":")[0]) if channel is not None else None
        wait = rates.take(who, self._now()) if rates is not None else 0.0
        if wait:
            raise Error("rate_limited", f"rate of the namespace: too many messages in {channel}", retry_after=wait)
        wait = self._per_user.take(who, self._now())
        if wait:
            limit = self.config.limits.user_messages_per_second
            raise Error("rate_limited", f"user_messages_per_second is {limit:g}", retry_after=wait)

    def count_request(self, principal: Principal, address: str) -> None:
        """`rate_limited` if the user (a guest: the address) makes too many requests."""
        who = _counted(principal, address)
        wait = 0.0 if principal.server else self._requests.take(who, self._now())
        if wait:
            limit = self.config.limits.requests_per_second
            raise Error("rate_limited", f"requests_per_second is {limit:g}", retry_after=wait)

    # --- revoking -----------------------------------------------------------------------------------------------------

    async def disconnect_user(self, principal: Principal, user: str, reason: str, reconnect: bool) -> None:
        """End the user's sessions, on every node within a second."""
        await self._revoke(principal, Revocation("disconnect", user, time.time(), reason=reason, reconnect=reconnect))

    async def revoke(
        self, principal: Principal, user: str, token: str | None = None, channels: Sequence[str] = ()
    ) -> None:
        """Take back, for good: all tokens of the user issued until now, or the one with this `jti`, or what they
        all allow in the channels of these patterns."""
        if token is not None and channels:
            raise bad_request("token, channels: one of them")
        for pattern in channels:
            if not is_pattern(pattern):
                raise bad_request(f"channels: {pattern} has no namespace, as chat:* has")
        self._must_be_admin(principal)
        if self._accounts is not None and token is None and not channels:
            await self._accounts.log_out(user)  # first: what its refresh tokens are exchanged for is older than now
        patterns = [without_label(pattern) for pattern in channels]
        await self._revoke(principal, Revocation("revoke", user, time.time(), token, patterns))

    async def unsubscribe_user(self, principal: Principal, channel: str, user: str, reason: str) -> None:
        """End the user's subscriptions to the channel, on every node within a second. It may subscribe again."""
        if namespace_of(channel) not in self.config.namespaces and namespace_of(channel) != DOCUMENTS:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        await self._revoke(principal, Revocation("unsubscribe", user, time.time(), channels=[channel], reason=reason))

    async def _revoke(self, principal: Principal, revocation: Revocation) -> None:
        self._must_be_admin(principal)
        self._check_open()
        await self.revocations.add(revocation)
        self._announce(revoked=True)

    @staticmethod
    def _must_be_admin(principal: Principal) -> None:
        if not principal.admin:
            raise Error("permission_denied", f"{principal.name} is no API key with admin")

    def _on_revocation(self, revocation: Revocation) -> None:
        for client in tuple(self.users.get(revocation.user, ())):
            principal = client.principal
            assert principal is not None
            if revocation.kind == "disconnect":
                code = DISCONNECTED if revocation.reconnect else SHUT_OUT
                client.disconnect(Disconnect(code, revocation.reason or "disconnected by the server"))
            elif revocation.kind == "unsubscribe":
                client.end(revocation.names, "unsubscribed", revocation.reason or "by the server")
            elif not revocation.concerns(principal):
                continue
            elif revocation.channels:
                client.end(revocation.covers, "permission_denied", "the right was revoked")
            else:
                client.disconnect(Disconnect(REVOKED, "the token has been revoked"))

    def _on_confirmed(self, confirmed: bool) -> None:
        """While revocations cannot be confirmed, nothing that may have been revoked is delivered."""
        if not confirmed:
            logger.warning("revocations cannot be confirmed: what needs a right is not delivered")
        for user in tuple(self.users.values()):
            for client in tuple(user):
                principal = client.principal
                if confirmed:
                    client.unhold()
                elif principal is not None:
                    client.hold(partial(self.permissions.held, principal))

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        principal: Principal,
        channel: str,
        data: Any,
        key: str | None = None,
        *,
        tag: str | None = None,
        skip: str | None = None,
        ephemeral: bool = False,
        session: str | None = None,
        address: str = "",
    ) -> asyncio.Future[Receipt | None] | None:
        """Store and send a message; None for an ephemeral one, which is not stored (or a future of it, if the
        namespace has a hook). `skip`: the session that does not get it; `session`, `address`: where it comes from.

        Not a coroutine: the order of the calls is the order in the channel, for those of one `session` that is.
        """
        namespace = self.permissions.check(principal, "publish", channel)
        if ephemeral and namespace.durable and not namespace.ephemeral:
            raise bad_request(f"ephemeral: {channel} stores every message; its namespace does not allow others")
        ephemeral = ephemeral or not namespace.durable
        size = self._size(data)
        self.spend(principal, address, channel)
        if not self.hooks.wanted(namespace.hook, "publish"):
            return self._append(principal, channel, data, size, key, tag, skip, ephemeral)
        self._check_open()
        lane = None if session is None else (session, channel)
        asking = self._ask_and_append(lane, principal, namespace, channel, data, key, tag, skip, ephemeral)
        task = asyncio.create_task(asking, name=f"hook of {channel}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    def _append(
        self, principal: Principal, channel: str, data: Any, size: int, key: str | None, tag: str | None,
        skip: str | None, ephemeral: bool,
    ) -> asyncio.Future[Receipt | None] | None:  # fmt: skip
        if ephemeral:
            now = now_ms()
            self.broker.publish([Message(channel, "", 0, "", principal.user, now, data, tag, skip)])
            self.published += 1
            return None
        self._check_open()
        # Every message has a key before its first attempt: after an unknown outcome it is found by it.
        receipt = self.log.append(channel, principal.user, key or secrets.token_urlsafe(12), data, size, skip)
        self.published += 1
        return cast("asyncio.Future[Receipt | None]", receipt)

    async def _ask_and_append(
        self, lane: tuple[str, str] | None, principal: Principal, namespace: Namespace, channel: str, data: Any,
        key: str | None, tag: str | None, skip: str | None, ephemeral: bool,
    ) -> Receipt | None:  # fmt: skip
        """The hook may be asked about many at a time; they are appended in the order in which they came."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = None if lane is None else self._hooked.get(lane)
        if lane is not None:
            self._hooked[lane] = turn
        try:
            try:
                question = {"channel": channel, "data": data, "key": key}
                answer = await self.hooks.ask(namespace.hook, "publish", principal, question)
            finally:
                if before is not None:  # refused or not: who comes next must not overtake who came before
                    await asyncio.wait((before,))
            data = answer.get("data", data)
            self.permissions.check(principal, "publish", channel)
            receipt = self._append(principal, channel, data, self._size(data), key, tag, skip, ephemeral)
        finally:
            turn.set_result(None)
            if lane is not None and self._hooked[lane] is turn:
                del self._hooked[lane]
        return None if receipt is None else await receipt

    def _size(self, data: Any) -> int:
        limit = self.config.limits.message_bytes or MAX_STORED
        size = len(JSON.encode(data))
        if size > limit:
            raise Error("too_large", f"data: {size} bytes; message_bytes is {limit}")
        return size

    # --- subscribing --------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        principal: Principal,
        channel: str,
        subscriber: Subscriber,
        *,
        after: str | None = None,
        last: int | None = None,
        where: Any = None,
        snapshot: bool = False,
        conflate: float = 0.0,
    ) -> tuple[Subscription, Push, Push | None]:
        """A subscription that is to be started once its reply is sent, the fields of that reply, and the gap that
        comes before its messages, if there is one. `where`, `snapshot` (the documents as they are, first) and
        `conflate` (only the newest change of each document, so many seconds apart) are for the changes of documents."""
        namespace = await self.readable(principal, channel)
        if after is not None and last is not None:
            raise bad_request("after, last: one of them")
        wanted = None if after is None else parse_cursor(after)
        view = self._view(principal, channel, where, conflate)
        if view is None and (snapshot or conflate):
            raise bad_request(f"snapshot, conflate: {channel} has no documents")
        if snapshot and last is not None:
            raise bad_request("last, snapshot: one of them")
        if not namespace.durable:
            if wanted is not None or last is not None:
                raise bad_request(f"{'last' if wanted is None else 'after'}: {channel} is ephemeral, it has no history")
            stream = await self._acquire(channel, namespace)
            try:
                self.permissions.check(principal, "subscribe", channel)  # it may have been revoked meanwhile
            except Error:
                self._release(stream)
                raise
            return self._subscription(stream, subscriber, BEGINNING, principal, namespace), {"channel": channel}, None
        self._check_open()
        stream = await self._acquire(channel if view is None else view.log_channel, namespace)
        try:
            position, gap = await self._begin(stream, channel, wanted, last)
            self.permissions.check(principal, "subscribe", channel)  # it may have been revoked meanwhile
        except BaseException:
            self._release(stream)
            raise
        assert stream.sequencer is not None
        fields = {
            "channel": channel,
            "cursor": str(position),
            "head": str(stream.sequencer.position),
            "recovered": gap is None,
        }
        options: dict[str, Any] = {}
        due = snapshot and (wanted is None or gap is not None)
        if view is not None:
            options["view"] = view
            if snapshot:
                options |= {"snapshot": lambda: self._snapshot(stream, view), "snapshot_due": due}
                fields["snapshot"] = due
        if due:  # instead of the gap; and until it is there, there is nothing to resume from
            fields["cursor"], gap = None, None
        return self._subscription(stream, subscriber, position, principal, namespace, **options), fields, gap

    def _subscription(
        self,
        stream: Stream,
        subscriber: Subscriber,
        position: Position,
        principal: Principal,
        namespace: Namespace,
        **options: Any,
    ) -> Subscription:
        leave = None
        if namespace.presence and not principal.server:  # a back end is not a person
            leave = self.attendance.enter(stream.channel, principal.user, principal.info, subscriber.id)
        return Subscription(
            stream, self.hub, self.log.read, subscriber, position, release=self._release, leave=leave, **options
        )

    async def _begin(
        self, stream: Stream, channel: str, after: Position | None, last: int | None
    ) -> tuple[Position, Push | None]:
        """Where a subscription starts to read, and the gap before that; `channel` is the name it was asked for by."""
        sequencer = stream.sequencer
        assert sequencer is not None
        head = sequencer.position
        known = self.log.known_head(stream.channel)
        if known is not None and known.epoch == head.epoch and known.offset > head.offset:
            # Acknowledged here, and not back through the broker yet: it is not news to who has been told of it.
            sequencer.reach(known)
            with contextlib.suppress(TimeoutError):  # MongoDB is away as well
                async with asyncio.timeout(ANSWER_WITHIN):
                    await sequencer.reached(known.offset)
            head = sequencer.position
        if after is None:
            if not last:
                return head, None
            _, floor = await self.log.read_back(stream.channel, head.offset + 1, 1)
            return Position(head.epoch, max(head.offset - last, floor, 0)), None
        if after == BEGINNING:
            after = Position(head.epoch, 0)
        if after.epoch == head.epoch and after.offset > head.offset:
            # Ahead of us: acknowledged elsewhere and not here yet, or from a future that was lost.
            confirmed = await self.log.confirmed_head(stream.channel)
            if after.offset <= confirmed:
                sequencer.reach(Position(head.epoch, confirmed), at_once=True)
                await sequencer.reached(after.offset)
                return after, None
            after = Position("future", 0)
        if after.epoch != head.epoch:
            gone = (await self.log.read(stream.channel, Position(head.epoch, 0), head.offset)).gap
            start = Position(head.epoch, gone[1] if gone else 0)
            return start, gap_push(channel, head.epoch, None, None, "epoch") | {"cursor": str(start)}
        if after.offset < head.offset:
            page = await self.log.read(stream.channel, after, head.offset)
            if page.gap is not None:
                return Position(head.epoch, page.gap[1]), gap_push(channel, head.epoch, *page.gap)
        return after, None

    # --- reading ------------------------------------------------------------------------------------------------------

    async def history(
        self,
        principal: Principal,
        channel: str,
        *,
        after: str | None,
        before: str | None,
        limit: int,
        where: Any = None,
        address: str = "",
        head: Position | None = None,
    ) -> HistoryPage:
        """Oldest first, bounds exclusive; with neither bound the newest. A page may be shorter than `limit`, or empty
        though there are more: of the changes of documents only those are in it that `where` shows. `head`: the newest
        position, where it is known already."""
        self.spend(principal, address)
        namespace = await self.readable(principal, channel)
        if not namespace.durable:
            raise bad_request(f"channel: {channel} is ephemeral, it has no history")
        if after is not None and before is not None:
            raise bad_request("after, before: one of them")
        start = None if after is None else parse_cursor(after, "after")
        end = None if before is None else parse_cursor(before, "before")
        view = self._view(principal, channel, where)
        self._check_open()
        name = channel
        if view is not None:
            channel = view.log_channel
        head = head or (await self.log.heads([channel]))[channel]
        if start is not None:
            page = await self._history_after(channel, start, head, limit, view)
        else:
            page = await self._history_before(channel, end, head, limit, view)
        self.permissions.check(principal, "subscribe", name)  # it may have been revoked meanwhile
        return page

    async def _history_after(
        self, channel: str, after: Position, head: Position, limit: int, view: View | None
    ) -> HistoryPage:
        gap: Gap | None = None
        given = after
        if after == BEGINNING:
            after = Position(head.epoch, 0)
        elif after.epoch != head.epoch or (
            after.offset > head.offset and after.offset > await self.log.confirmed_head(channel)
        ):
            gap = {"from": None, "to": None, "reason": "epoch"}
            after = given = Position(head.epoch, 0)
        messages: list[Message] = []
        if after.offset < head.offset:
            page = await self.log.read(channel, after, head.offset, limit)
            messages = page.messages
            if page.gap is not None:
                gap = gap or {"from": page.gap[0], "to": page.gap[1]}
                given = Position(head.epoch, max(given.offset, page.gap[1]))
        cursor = messages[-1].position if messages else given
        more = bool(messages) and cursor.offset < head.offset
        return _history(messages, cursor, head, more, gap, view)

    async def _history_before(
        self, channel: str, before: Position | None, head: Position, limit: int, view: View | None
    ) -> HistoryPage:
        gap: Gap | None = None
        offset = MAX_OFFSET
        if before is not None:
            if before.epoch == head.epoch or before == BEGINNING:
                offset = before.offset
            else:
                gap = {"from": None, "to": None, "reason": "epoch"}
        messages, floor = await self.log.read_back(channel, offset, limit)
        if before is not None and gap is None and not messages and 1 < offset <= head.offset:
            gap = {"from": 1, "to": min(floor, offset - 1)}
        first = messages[0].offset if messages else 0
        cursor = (messages[0] if before is not None else messages[-1]).position if messages else before or head
        return _history(messages, cursor, head, bool(messages) and first - 1 > floor, gap, view)

    # --- documents ----------------------------------------------------------------------------------------------------

    async def get_document(self, principal: Principal, collection: str, identifier: str, *, address: str = "") -> Push:
        owner = await self._readable_rows(principal, collection, address)
        return await self.documents.get(collection, identifier, owner)

    async def find_documents(self, principal: Principal, query: Find, *, address: str = "") -> Push:
        owner = await self._readable_rows(principal, query.collection, address)
        return await self.documents.find(query.collection, query, owner)

    async def write_document(
        self, principal: Principal, collection: str, write: DocumentWrite, *, address: str = ""
    ) -> Written:
        declared = self._documents(principal, "write", collection, address)
        await self._ask_about(principal, collection, declared, write)
        return await self.documents.write(
            collection, write, principal.user, self._owner(principal, collection, declared)
        )

    async def write_documents(
        self, principal: Principal, collection: str, writes: list[DocumentWrite], *, address: str = ""
    ) -> list[Written | Error]:
        declared = self._documents(principal, "write", collection, address)
        refused: dict[int, Error] = {}

        async def ask(index: int) -> None:
            try:
                await self._ask_about(principal, collection, declared, writes[index])
            except Error as error:
                refused[index] = error

        await asyncio.gather(*map(ask, range(len(writes))))
        owner = self._owner(principal, collection, declared)
        allowed = [write for index, write in enumerate(writes) if index not in refused]
        results = iter(await self.documents.write_many(collection, allowed, principal.user, owner))
        return [refused[index] if index in refused else next(results) for index in range(len(writes))]

    def _documents(self, principal: Principal, action: Literal["read", "write"], name: str, address: str) -> Collection:
        collection = self.permissions.check_documents(principal, action, name)
        self.spend(principal, address)
        self._check_open()
        return collection

    async def _readable_rows(self, principal: Principal, name: str, address: str) -> Owner | None:
        collection = self._documents(principal, "read", name, address)
        await self.hooks.ask(collection.hook, "subscribe", principal, {"channel": f"{DOCUMENTS}:{name}"})
        return self._owner(principal, name, collection)

    async def _ask_about(self, principal: Principal, name: str, collection: Collection, write: DocumentWrite) -> None:
        """The hook's answer may have other fields for the document."""
        about = {"collection": name, "op": write.op, "document_id": write.document_id, "document": write.document}
        answer = await self.hooks.ask(collection.hook, "write", principal, about)
        if isinstance(answer.get("data"), dict):
            write.document = answer["data"]

    def _owner(self, principal: Principal, name: str, collection: Collection) -> Owner | None:
        """Where rows have owners, everybody sees their own; a server sees all."""
        if collection.owner is None or principal.server:
            return None
        if principal.user is None:
            raise Error("permission_denied", f"a guest owns no documents of {name}")
        return Owner(collection.owner, principal.user)

    def _view(self, principal: Principal, channel: str, where: Any, conflate: float = 0.0) -> View | None:
        """What a principal sees of the changes of documents; None for other channels. The right is checked already."""
        namespace, _, rest = without_label(channel).partition(":")
        if namespace != DOCUMENTS:
            if where is not None:
                raise bad_request(f"where: {channel} has no documents")
            return None
        name, slash, identifier = rest.partition("/")
        if slash and not identifier:
            raise bad_request("channel: docs:collection/id, the id is missing")
        wanted = parse_where(where) if where else None
        owner = self._owner(principal, name, self.config.collections[name])
        return View(channel, name, identifier if slash else None, wanted, owner, conflate)

    async def _snapshot(
        self, stream: Stream, view: View
    ) -> tuple[Position, AsyncGenerator[tuple[list[Any], bool], None]]:
        """What there was at a moment up to which the log has every change, and the position behind the last of them."""
        with mapped():
            at = await self.tailer.position(view.collection)
        position = await self.log.position_at(stream.channel, at)
        if position is None:
            raise Error("unavailable", f"{stream.channel} has just started over", retry_after=0.5)
        assert stream.sequencer is not None
        if position.epoch != stream.sequencer.position.epoch:
            self._sweep_wanted = True
            self._sweep_if_due()
            raise Error("unavailable", f"{stream.channel} has just started over", retry_after=0.5)
        return position, self.documents.snapshot(view, at)

    async def ticket(self, principal: Principal, channels: list[str]) -> tuple[str, float]:
        """For listening to `channels` without a token (see tickets.py), and the seconds it is good for."""
        for channel in channels:
            await self.readable(principal, channel)
        return self.tickets.issue(principal, channels)

    def redeem(self, ticket: str, channels: list[str]) -> Principal:
        """Whoever got the ticket, unless their token has been revoked."""
        principal = self.tickets.redeem(ticket, channels)
        self.recognize(principal)
        return principal

    # --- presence -----------------------------------------------------------------------------------------------------

    async def presence(self, principal: Principal, channel: str, left: int = 0, *, address: str = "") -> Push:
        """{"users": [{"user", "sessions", "info"?}], "count", "guests"}, and if asked for "left": [{"user",
        "last_seen"}]. Above limits.presence_users `users` is empty and `count` is not."""
        self.spend(principal, address)
        namespace = await self.readable(principal, channel)
        if not namespace.presence:
            raise bad_request(f"channel: nobody's presence is kept in {channel}; its namespace says presence: false")
        present = self.attendance.show(channel)
        if left:
            self._check_open()
            present["left"] = await self.seen.latest(channel, left, self.attendance.users(channel))
        return present

    def _tells(self, channel: str) -> bool:
        namespace = self.config.namespaces.get(namespace_of(channel))
        return namespace is not None and namespace.join_leave

    def _notify(self, notices: list[Notice]) -> None:
        stream = self._streams.get(notices[0].channel)
        if stream is not None:
            stream.passed += len(notices)
            self.hub.notify(notices)

    async def _note_departures(self) -> None:
        departures, self.attendance.departures = self.attendance.departures, []
        self.seen.note(departures)
        if self.opened:
            await self.seen.write()

    # --- for operators: this node and its peers -----------------------------------------------------------------------

    def nodes(self, principal: Principal) -> Push:
        """{"nodes": […]}: what each node within hearing last said of itself, once a second."""
        self._must_be_admin(principal)
        own = self._nodes[self.id] | self._state()
        return {"nodes": [of for _, of in sorted((self._nodes | {self.id: own}).items())]}

    async def channels(self, principal: Principal, prefix: str, after: str, limit: int) -> Push:
        """{"channels": [{"channel", "subscribers", "rate", "users"?, "guests"?}], "next", "missing"}: the channels of
        all nodes with subscribers, by name; `missing` are nodes that did not answer."""
        self._must_be_admin(principal)
        question = Question(secrets.token_hex(8), prefix, after, limit + 1)
        answers = [self._answer(question)]
        missing = set(self._peers)
        queue = self._questions[question.id] = asyncio.Queue()
        self._announce(question=question)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                while missing:
                    node, answer = await queue.get()
                    missing.discard(node)
                    answers.append(answer)
        except TimeoutError:
            pass
        finally:
            del self._questions[question.id]
        names = sorted({channel for answer in answers for channel in answer.channels})
        rows = [self._row(name, [a.channels[name] for a in answers if name in a.channels]) for name in names[:limit]]
        following = names[limit - 1] if len(names) > limit else None
        return {"channels": rows, "next": following, "missing": sorted(missing)}

    def _row(self, channel: str, counts: list[tuple[int, float]]) -> Push:
        row = {"channel": channel, "subscribers": sum(n for n, _ in counts), "rate": max(rate for _, rate in counts)}
        namespace = self.config.namespaces.get(namespace_of(channel))
        if namespace is not None and namespace.presence:
            row["users"], row["guests"] = self.attendance.count(channel)
        return row

    def _answer(self, question: Question) -> Answer:
        names = (
            channel
            for channel, stream in self._streams.items()
            if stream.users and channel > question.after and channel.startswith(question.prefix)
        )
        streams = ((name, self._streams[name]) for name in heapq.nsmallest(question.limit, names))
        return Answer(question.id, {name: (stream.users, stream.rate) for name, stream in streams})

    def refused(self, error: Error, principal: Principal | None, address: str) -> None:
        """A command or request was answered with an error."""
        self.refusals[error.code] += 1
        user = principal.user if principal is not None else None
        self.events.note("refusal", code=error.code, reason=error.reason[:REASON], user=user, address=address)

    def _state(self) -> Push:
        problem = self.log.problem()
        reasons = [reason for reason in (problem, self.unheard()) if reason]
        down = self.leaving or not self.opened or problem
        channels, subscriptions = self.listening()
        return {
            "node": self.id,
            "version": __version__,
            "uptime": (now_ms() - self._started) // 1000,
            "status": "down" if down else "degraded" if reasons else "ready",
            "reasons": reasons,
            "connections": len(self.clients),
            "channels": channels,
            "subscriptions": subscriptions,
            "queue_bytes": sum(client.queued for client in self.clients),
        }

    def _figures(self) -> Push:
        """Per second since the last time, and in seconds."""
        counters = {
            "in": self.published,
            "out": self.hub.messages,
            "bytes_out": self.hub.bytes,
            "refusals": self.refusals.total(),
            "repairs": self.repairs.total(),
        }
        quick, slow = self._rates.quantiles(self.log.publish_seconds, 0.5, 0.99)
        return self._rates.look(self._now(), counters) | {"publish_p50": quick, "publish_p99": slow}

    def _tell_operators(self) -> Push:
        """Once a second: how this node is, and what has gone wrong since."""
        own = self._state() | self._figures()
        self._hear_of(own)
        repairs = self.repairs.total()
        if repairs > self._repaired:
            self.events.note("repair", repairs - self._repaired)
            self._repaired = repairs
        now = now_ms()
        events = [Message(EVENTS, "", 0, "", None, now, event | {"node": self.id}) for event in self.events.take()]
        if events:
            self.broker.publish(events)
        return own

    def _hear_of(self, stats: Push) -> None:
        node = stats["node"]
        self._nodes[node] = stats
        if NODES in self._streams:
            self.hub.deliver([Message(NODES, "", 0, "", None, now_ms(), stats, node)])

    def _reckon_rates(self) -> None:
        for stream in self._streams.values():
            stream.rate = round((stream.received - stream.counted) / (RATE_OVER * TICK), 1)
            stream.counted = stream.received

    # --- streams: the channels somebody here listens to ---------------------------------------------------------------

    async def _acquire(self, channel: str, namespace: Namespace) -> Stream:
        stream = self._streams.get(channel)
        if stream is None:
            sequencer = None
            if namespace.durable:
                sequencer = Sequencer(
                    channel,
                    read=self.log.read,
                    confirmed_head=self.log.confirmed_head,
                    deliver=self.hub.deliver,
                    lost=self._lost,
                    repairs=self.repairs,
                )
            stream = self._streams[channel] = Stream(channel, float(namespace.conflate), sequencer)
            stream.opening = asyncio.create_task(self._open(stream), name=f"open {channel}")
        stream.users += 1
        try:
            assert stream.opening is not None
            await asyncio.shield(stream.opening)
        except BaseException:
            self._release(stream)
            raise
        return stream

    async def _open(self, stream: Stream) -> None:
        """First the broker, then the log's head: what comes in between is held back by the sequencer."""
        try:
            await self.broker.subscribe(stream.channel)
            if stream.sequencer is not None:
                stream.sequencer.start((await self.log.heads([stream.channel]))[stream.channel])
        except BaseException:
            self._drop(stream)
            raise

    def _release(self, stream: Stream) -> None:
        stream.users -= 1
        if not stream.users:
            asyncio.get_running_loop().call_later(LINGER, self._close_unused, stream)

    def _close_unused(self, stream: Stream) -> None:
        if not stream.users and self._streams.get(stream.channel) is stream and not self.leaving:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        if self._streams.get(stream.channel) is stream:
            del self._streams[stream.channel]
            stream.closing = asyncio.create_task(self.broker.unsubscribe(stream.channel))
        stream.close()

    def _lost(self, channel: str, epoch: str, first: int | None, last: int | None) -> None:
        reason = "epoch" if first is None else None
        self.hub.tell(channel, gap_push(channel, epoch, first, last, reason), first or 0, last or 0)
        for subscription in tuple(self._streams[channel].copies) if channel in self._streams else ():
            subscription.copy_again()

    # --- between nodes ------------------------------------------------------------------------------------------------

    def _on_commit(self, messages: list[Message]) -> None:
        last = messages[-1]
        self._changed[last.channel] = last.position
        self.broker.publish(messages)

    def _on_head(self, channel: str, position: Position) -> None:
        self._changed[channel] = position
        self._reach(channel, position)

    def _reach(self, channel: str, head: Position) -> None:
        stream = self._streams.get(channel)
        if stream is not None and stream.sequencer is not None:
            if stream.sequencer.position.epoch not in ("", head.epoch):
                self._sweep_wanted = True  # another history is not believed before the log says so
                self._sweep_if_due()
            stream.sequencer.reach(head)

    def _announce(self, **fields: Any) -> None:
        self.broker.announce(Announcement(self.id, **fields))

    def _on_contention(self, channel: str) -> None:
        self._announce(want=channel)

    def _on_messages(self, messages: list[Message], node: str) -> None:
        stream = self._streams.get(messages[0].channel)
        if stream is not None:
            stream.received += len(messages)
            if stream.sequencer is not None and messages[0].offset:
                stream.sequencer.offer(messages)
            else:
                stream.passed += len(messages)
                self.hub.deliver(messages)
        if node != self.id and messages[-1].offset:
            self.log.learn(messages[-1].channel, messages[-1].position, node)

    def _on_announcement(self, announcement: Announcement) -> None:
        node = announcement.node
        if node == self.id:
            if announcement.beat:
                self._heard_self = self._now()
            return
        self._peers[node] = self._now()
        self._suspects.pop(node, None)
        if announcement.attendance is not None:
            self.attendance.hear(node, announcement.attendance)
        if announcement.beat:
            self.attendance.hear_beat(node, announcement.attended)
        if self.id in announcement.ask:
            self.attendance.hear_question()
        if announcement.stats is not None:
            self._hear_of(announcement.stats | {"node": node})
        if announcement.question is not None:
            self._announce(answer=self._answer(announcement.question))
        if announcement.answer is not None and announcement.answer.id in self._questions:
            self._questions[announcement.answer.id].put_nowait((node, announcement.answer))
        if announcement.revoked:
            self.revocations.look()
        if announcement.want is not None:
            self.log.contend(announcement.want, node)
        for channel, (epoch, offset) in announcement.heads.items():
            self.log.learn(channel, Position(epoch, offset), node)
            self._reach(channel, Position(epoch, offset))

    def _on_reconnect(self) -> None:
        self._sweep_wanted = True
        self._sweep_if_due()

    def _deaf(self) -> bool:
        return self._now() - self._heard_self > DEAF_AFTER

    async def _tick(self) -> None:
        changed, self._changed = self._changed, {}
        heads = {channel: (head.epoch, head.offset) for channel, head in changed.items()}
        self._announce(beat=True, heads=heads, attended=self.attendance.number, stats=self._tell_operators())
        self._ticks += 1
        if self._ticks % RATE_OVER == 0:
            self._reckon_rates()
        self.attendance.tick(hearing=not self._deaf())
        for channel, head in changed.items():
            self._reach(channel, head)  # what we published ourselves may have been lost on its way as well
        if self._deaf():
            self.broker.suspect()
        self._watch_peers()
        self._sweep_if_due()
        now = self._now()
        self.hub.tick(now)
        for client in tuple(self.clients):
            client.tick(now)

    def _watch_peers(self) -> None:
        """A silent peer may have committed something that nobody was told of: look now, and once more when whatever it
        was writing must have been decided."""
        now = self._now()
        for node, heard in tuple(self._peers.items()):
            if now - heard > DEAF_AFTER:
                del self._peers[node]
                self._nodes.pop(node, None)
                self._suspects[node] = now + self.config.mongodb.publish_timeout
                self._sweep_wanted = True
        for node, until in tuple(self._suspects.items()):
            if now > until:
                del self._suspects[node]
                self._sweep_wanted = True

    def _sweep_if_due(self) -> None:
        due = self._sweep_wanted or self._deaf() or self.broker.problem() or self._now() - self._swept > SWEEP_EVERY
        if due and self.opened and (self._sweeping is None or self._sweeping.done()):
            self._sweep_wanted = False
            self._sweeping = asyncio.create_task(self._sweep(), name="sweep")

    async def _sweep(self) -> None:
        """Ask the log how far every channel reaches, and let the sequencers fetch what they miss."""
        channels = [stream.channel for stream in self._streams.values() if stream.sequencer is not None]
        try:
            for index in range(0, len(channels), SWEEP_CHANNELS):
                heads = await self.log.heads(channels[index : index + SWEEP_CHANNELS])
                for channel, head in heads.items():
                    stream = self._streams.get(channel)
                    if stream is None or stream.sequencer is None or stream.sequencer.position.offset < 0:
                        continue
                    if stream.sequencer.position.epoch != head.epoch:
                        stream.sequencer.restart(head)
                    else:
                        stream.sequencer.reach(head, "sweep")
            self._swept = self._now()
        except Error as error:
            self._sweep_wanted = True
            logger.warning("cannot compare with the log: %s", error.reason)

    async def _trim(self) -> None:
        """Retention for what this node has written or has found too young; once an hour, and after a start, for every
        channel."""
        if not self.opened:
            return
        due = self.log.trim_due
        if not self._trimmed_all or self._now() - self._trimmed_all > TRIM_ALL_EVERY:
            due.update(dict.fromkeys(await self.log.channels(), 0))
            self._trimmed_all = self._now()
        now = now_ms()
        for channel in [channel for channel, when in due.items() if when <= now]:
            del due[channel]  # what is appended meanwhile makes it due again
            kind, _, rest = channel.partition(":")
            declared = self.config.collections.get(rest) if kind == DOCUMENTS else self.config.namespaces.get(kind)
            if declared is None:
                continue
            try:
                await self.log.trim(channel, declared.history)
            except BaseException:
                due[channel] = 0
                raise

    async def _forever(self, step: Callable[[], Any], pause: Callable[[], float]) -> None:
        while pause():  # 0: never
            due = self._now() + pause()
            await asyncio.sleep(pause())
            self.lag.observe(max(self._now() - due, 0.0))
            try:
                await step()
            except Error as error:
                logger.warning("%s: %s", step.__name__.strip("_"), error.reason)
            except Exception:
                logger.exception("%s failed", step.__name__)

    def _check_open(self) -> None:
        if not self.opened:
            raise Error("unavailable", "the server is starting: MongoDB is not reached yet", retry_after=1.0)
        if self.leaving:
            raise Error("unavailable", "the server is leaving", retry_after=1.0)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _counted(principal: Principal, address: str) -> tuple[str | None, str]:
    """Whose rates these are: the user's, or a guest's address's."""
    return principal.user, "" if principal.user is not None else address


def _too_many(limit: str, value: int) -> Error:
    return Error("limit_exceeded", f"{limit} is {value}", retry_after=5.0)


def _buckets(rate: float | UserRate) -> Buckets:
    return Buckets(rate.per_user, rate.burst) if isinstance(rate, UserRate) else Buckets(rate)


def _history(
    messages: list[Message], cursor: Position, head: Position, more: bool, gap: Gap | None, view: View | None
) -> HistoryPage:
    if view is not None:
        messages = [shown for message in messages if (shown := view.show(message)) is not None]
    pushes = [cast(MessagePush, message.push()) for message in messages]
    return {"messages": pushes, "cursor": str(cursor), "head": str(head), "more": more, "gap": gap}
