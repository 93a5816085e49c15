"""The broker over Redis pub/sub: fast, at most once, and treated so. The contract is in broker.py.

One connection listens, another publishes (of each, one for every master of a Cluster if pub/sub is sharded). What is
published in one turn of the event loop goes out in one round trip. redis-py's own health check does not notice a
half-open link, so listening connections are pinged, and the node listens for its own announcements and says when it
misses them (`suspect`). After a failure all connections of that direction are thrown away, and whoever is the master
now is looked up and connected to anew (`Place`): that is how a failover is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import random
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from weakref import WeakValueDictionary

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from server.brokers.base import Announcement, OnAnnouncement, OnMessages, OnReconnect
from server.core.config import Redis as Options
from server.core.cursors import MAX_OFFSET
from server.core.errors import Error, StartError
from server.core.tasks import end
from server.wire.codec import check
from server.wire.messages import Images, Message

logger = logging.getLogger(__name__)

TIMEOUT: Final = 2.0
"""Seconds any exchange with Redis may take."""
ASK_WITHIN: Final = 1.0
"""Seconds for one Sentinel or Cluster node to say who is the master, before the next one is asked."""
QUEUED: Final = 20_000
QUEUED_BYTES: Final = 64 * 2**20
"""Publications waiting to go out; more are dropped (and repaired from the log)."""
ROUND: Final = 1_000
ROUND_BYTES: Final = 4 * 2**20
"""What goes out in one round trip, about: so much is left in a transport that a Redis which hangs does not empty."""
SETTLED: Final = 0.5
"""Seconds after which a link that breaks counts as one that had worked: the next is made at once."""
_VERSION: Final = 1
_DIGEST: Final = 32


class _Publication(msgspec.Struct, array_like=True):
    """The messages of one channel on their way; `first` is 0 for ephemeral ones."""

    version: int
    node: str
    epoch: str
    first: int
    messages: list[tuple[str, str | None, int, Any, str | None, str | None]]
    """(key, user, time, data, tag, skip)"""
    images: list[Images | None] | None = None
    """Of the changes of documents."""


_encode: Final = msgspec.msgpack.Encoder(enc_hook=int).encode
_decode_publication: Final = msgspec.msgpack.Decoder(_Publication).decode
_decode_announcement: Final = msgspec.msgpack.Decoder(Announcement).decode


_LINK_ERRORS: Final = (RedisError, OSError, TimeoutError, RuntimeError, AttributeError, TypeError)
"""What redis-py and, of a transport that is closed already, asyncio raise (TypeError: 3.12 and 3.13)."""


def _checked(announcement: Announcement) -> Announcement:
    """What goes on to clients holds what JSON can hold, and nothing else."""
    for _, _, _, info in announcement.attendance.rows if announcement.attendance else ():
        if info is not None:
            check(info)
    check(announcement.stats)
    return announcement


class RedisBroker:
    def __init__(self, options: Options) -> None:
        self.dropped = 0
        self.refused = 0
        self._options = options
        self._place = Place(options.url or "", options.sharded)
        self._prefix = f"{options.prefix}:c:"
        self._nodes = f"{options.prefix}:nodes"
        self._secret = options.hmac_key.encode() if options.hmac_key else None
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        """Topics Redis has confirmed on the present link."""
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._masters: Masters | None = None
        self._pubsubs: dict[Redis, Any] = {}
        self._missing: set[str] = set()
        """Topics to be confirmed before the link counts as made."""
        self._silent: set[Redis] = set()
        self._linked = False
        self._linked_at = 0.0
        self._link_problem: str | None = "redis: not connected yet"
        self._send_problem: str | None = None
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._outgoing_bytes = 0
        self._work = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._node = ""
        self._on_messages: OnMessages
        self._on_announcement: OnAnnouncement
        self._on_reconnect: OnReconnect

    async def start(
        self, node: str, on_messages: OnMessages, on_announcement: OnAnnouncement, on_reconnect: OnReconnect
    ) -> None:
        self._node = node
        self._on_messages = on_messages
        self._on_announcement = on_announcement
        self._on_reconnect = on_reconnect
        self._tasks = [
            asyncio.create_task(self._listen(), name="redis listen"),
            asyncio.create_task(self._send(), name="redis publish"),
        ]

    async def close(self) -> None:
        await end((*self._tasks, self._reader, self._catching_up))
        await self._drop_link()
        await asyncio.sleep(0)  # redis-py leaves closed transports one turn to end in

    # --- out ----------------------------------------------------------------------------------------------------------

    def publish(self, messages: list[Message]) -> None:
        head = messages[0]
        fields = [(m.key, m.user, m.time, m.data, m.tag, m.skip) for m in messages]
        images = [m.images for m in messages] if head.images is not None else None
        publication = _Publication(_VERSION, self._node, head.epoch, head.offset, fields, images)
        self._put(self._prefix + head.channel, _encode(publication))

    def announce(self, announcement: Announcement) -> None:
        self._put(self._nodes, _encode(announcement))

    def _put(self, topic: str, payload: bytes) -> None:
        payload = self._sign(topic, payload) + payload
        if len(self._outgoing) >= QUEUED or self._outgoing_bytes + len(payload) > QUEUED_BYTES:
            self.dropped += 1
            return
        self._outgoing.append((topic, payload))
        self._outgoing_bytes += len(payload)
        self._work.set()

    async def _send(self) -> None:
        """Round trips, one at a time: what comes during one goes out with the next."""
        masters: Masters | None = None
        try:
            while True:
                await self._work.wait()
                batch: list[tuple[str, bytes]] = []
                try:
                    masters = masters or await self._place.find()
                    batch = self._next()
                    async with asyncio.timeout(TIMEOUT):
                        await masters.send(batch)
                    self._send_problem = None
                except _LINK_ERRORS as error:
                    self._send_problem = self._report(error)
                    # Whoever queues up behind a dead link is late anyway, and the log has it.
                    self.dropped += len(batch) + len(self._outgoing)
                    self._outgoing.clear()
                    self._outgoing_bytes = 0
                    self._work.clear()
                    if masters is not None:
                        await masters.close()
                    masters = None
                    await asyncio.sleep(0.1)
        finally:
            if masters is not None:
                await masters.close()

    def _next(self) -> list[tuple[str, bytes]]:
        """What goes out in one round trip."""
        batch: list[tuple[str, bytes]] = []
        size = 0
        while self._outgoing and len(batch) < ROUND and size < ROUND_BYTES:
            batch.append(self._outgoing.popleft())
            size += len(batch[-1][1])
        self._outgoing_bytes -= size
        if not self._outgoing:
            self._work.clear()
        return batch

    # --- in -----------------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str) -> None:
        topic = self._prefix + channel
        self._wanted.add(topic)
        await self._settle(topic)

    async def unsubscribe(self, channel: str) -> None:
        topic = self._prefix + channel
        self._wanted.discard(topic)
        await self._settle(topic)

    async def _settle(self, topic: str) -> None:
        """Bring Redis in line with what is wanted now: one change of a topic at a time, so that the last word counts
        and no confirmation is taken for that of another change."""
        lock = self._locks.setdefault(topic, asyncio.Lock())
        async with lock:
            if not self._linked or (topic in self._wanted) == (topic in self._confirmed):
                return
            try:
                async with asyncio.timeout(TIMEOUT):
                    if topic in self._wanted:
                        future = self._waiting[topic] = asyncio.get_running_loop().create_future()
                        await self._command("subscribe", topic)
                        await future
                    else:
                        self._confirmed.discard(topic)
                        await self._command("unsubscribe", topic)
            except _LINK_ERRORS as error:
                # The link is made anew, and everything wanted with it.
                self._link_problem = self._report(error)
                self._cut()

    def suspect(self) -> None:
        if self._linked and asyncio.get_running_loop().time() - self._linked_at > TIMEOUT + 1.0:
            self._link_problem = "redis: this node does not hear its own announcements"
            self._cut()

    def problem(self) -> str | None:
        return self._link_problem or self._send_problem

    async def _command(self, verb: str, topic: str, *more: str) -> None:
        """Topics of one group (`Masters.groups`)."""
        if self._masters is None:
            raise RedisConnectionError("there is no link")
        pubsub = self._pubsubs[self._masters.of(topic)]
        _check(pubsub)
        await getattr(pubsub, ("s" if self._options.sharded else "") + verb)(topic, *more)

    def _cut(self) -> None:
        self._linked = False
        if self._reader is not None:
            self._reader.cancel()

    async def _listen(self) -> None:
        """One link after the other, for ever."""
        now = asyncio.get_running_loop().time
        pause = 0.05
        while True:
            self._reader = asyncio.create_task(self._link(), name="redis link")
            await asyncio.wait((self._reader,))
            worked = self._linked and now() - self._linked_at > SETTLED
            if not self._reader.cancelled() and (error := self._reader.exception()) is not None:
                if not isinstance(error, RedisError | OSError | AttributeError):
                    logger.error("the link to Redis failed", exc_info=error)
                self._link_problem = self._report(error)
            await self._drop_link()
            pause = 0.05 if worked else min(pause * 2, 1.0)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _drop_link(self) -> None:
        self._linked = False
        self._confirmed.clear()
        pubsubs, self._pubsubs = self._pubsubs, {}
        masters, self._masters = self._masters, None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)  # not confirmed, but made up for on reconnecting
        self._waiting.clear()
        for pubsub in pubsubs.values():
            with contextlib.suppress(*_LINK_ERRORS):
                async with asyncio.timeout(TIMEOUT):
                    await pubsub.aclose()
        if masters is not None:
            await masters.close()

    async def _link(self) -> None:
        """Subscribe to everything wanted, then receive until one of the connections breaks."""
        self._masters = await self._place.find()
        topics = [self._nodes, *self._wanted]
        self._missing = set(topics)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(TIMEOUT + len(topics) / 1000):
                for master in self._masters.all:
                    pubsub: Any = master.pubsub()
                    self._pubsubs[master] = pubsub
                    await pubsub.connect()
                    tasks.append(asyncio.create_task(self._read(master, pubsub), name="redis read"))
                tasks.append(asyncio.create_task(self._watch(), name="redis watch"))
                for group in self._masters.groups(topics):
                    await self._command("subscribe", *group)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await end(tasks)

    async def _watch(self) -> None:
        """Nothing on a connection, not even the answer to a ping, is its end."""
        while True:
            self._silent = set(self._pubsubs)
            for pubsub in self._pubsubs.values():
                _check(pubsub)
                await pubsub.ping()
            # Twice, so that a loop that was held up reads what there is before it judges.
            for _ in range(2):
                await asyncio.sleep(TIMEOUT / 2)
            if self._silent:
                raise RedisConnectionError("Redis does not answer")

    async def _read(self, master: Redis, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            self._silent.discard(master)
            if message is None:
                continue
            kind = message["type"]
            if kind in ("message", "smessage"):
                self._receive(message["channel"].decode(), message["data"])
            elif kind in ("subscribe", "ssubscribe"):
                self._confirm(message["channel"].decode())
            elif kind == "sunsubscribe" and message["channel"].decode() in self._confirmed:
                raise RedisConnectionError("a slot has moved to another master")

    def _confirm(self, topic: str) -> None:
        self._confirmed.add(topic)
        self._missing.discard(topic)
        future = self._waiting.pop(topic, None)
        if future is not None and not future.done():
            future.set_result(None)
        if not self._missing and not self._linked:
            self._up()

    def _up(self) -> None:
        again = self._linked_at > 0
        self._linked = True
        self._linked_at = asyncio.get_running_loop().time()
        logger.info("redis: connected%s", " again" if again else "")
        self._link_problem = None
        # What was asked for while the link was being made is settled now.
        changed = self._wanted.symmetric_difference(self._confirmed - {self._nodes})
        self._catching_up = asyncio.create_task(self._catch_up(changed), name="redis catch up")

    async def _catch_up(self, topics: set[str]) -> None:
        for topic in topics:
            await self._settle(topic)
        self._on_reconnect()

    def _receive(self, topic: str, payload: Any) -> None:
        try:
            body = self._verify(topic, payload)
            if topic == self._nodes:
                announcement = _checked(_decode_announcement(body))
            else:
                node, messages = self._messages(topic.removeprefix(self._prefix), _decode_publication(body))
        except (msgspec.MsgspecError, ValueError, RecursionError, Error) as error:
            self.refused += 1
            if self.refused in (1, 10, 100) or self.refused % 1000 == 0:
                logger.warning("redis: %d payloads were not ours, the last on %s: %s", self.refused, topic, error)
            return
        try:
            if topic == self._nodes:
                self._on_announcement(announcement)
            else:
                self._on_messages(messages, node)
        except Exception:
            logger.exception("a message from Redis could not be handled")

    @staticmethod
    def _messages(channel: str, publication: _Publication) -> tuple[str, list[Message]]:
        version, first, epoch = publication.version, publication.first, publication.epoch
        if version != _VERSION or not publication.messages:
            raise ValueError("an unknown version or an empty publication")
        if not 0 <= first <= MAX_OFFSET - len(publication.messages) + 1:
            raise ValueError("not an offset")
        for _, _, _, data, _, _ in publication.messages:
            check(data)
        images = publication.images or [None] * len(publication.messages)
        if len(images) != len(publication.messages):
            raise ValueError("not as many images as messages")
        for image in (image for pair in images for image in pair or ()):
            check(image)
        return publication.node, [
            Message(channel, epoch, first + index if first else 0, *fields, images=images[index])
            for index, fields in enumerate(publication.messages)
        ]

    def _sign(self, topic: str, payload: bytes) -> bytes:
        if self._secret is None:
            return b""
        return hmac.digest(self._secret, topic.encode() + b"\0" + payload, hashlib.sha256)

    def _verify(self, topic: str, payload: Any) -> bytes:
        if not isinstance(payload, bytes):
            raise ValueError("not bytes")
        if self._secret is None:
            return payload
        digest, body = payload[:_DIGEST], payload[_DIGEST:]
        if not hmac.compare_digest(digest, self._sign(topic, body)):
            raise ValueError("the signature is wrong")
        return body

    def _report(self, error: BaseException) -> str:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if self.problem() is None:
            logger.warning("redis: %s; messages are fetched from MongoDB meanwhile", reason)
        return f"redis: {reason}"


class Masters:
    """Who serves which topic: one server all of them, or the masters of a Cluster by the slots."""

    def __init__(self, clients: Sequence[Redis], publish: str, owners: Sequence[Redis | None] = ()) -> None:
        self.all = clients
        self._publish = publish
        """The command."""
        self._owners = owners
        """By slot."""

    def of(self, topic: str) -> Redis:
        owner = self._owners[key_slot(topic.encode())] if self._owners else self.all[0]
        if owner is None:
            raise RedisConnectionError(f"no master has the slot of {topic}")
        return owner

    def groups(self, topics: Iterable[str]) -> Iterator[list[str]]:
        """Those that one command may subscribe to."""
        by_slot: defaultdict[int, list[str]] = defaultdict(list)
        for topic in topics:
            by_slot[key_slot(topic.encode()) if self._owners else 0].append(topic)
        for group in by_slot.values():
            for index in range(0, len(group), 500):
                yield group[index : index + 500]

    async def send(self, batch: list[tuple[str, bytes]]) -> None:
        """One round trip with each that is concerned."""
        pipelines: dict[Redis, Any] = {}
        for topic, payload in batch:
            owner = self.of(topic)
            if owner not in pipelines:
                pipelines[owner] = owner.pipeline(transaction=False)
            pipelines[owner].execute_command(self._publish, topic, payload)
        outcomes = await asyncio.gather(*(each.execute() for each in pipelines.values()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def close(self) -> None:
        await asyncio.gather(*map(_close, self.all))


class Place:
    """A redis.url, and who that is at the moment.

    redis://, rediss://, unix://           the server, as redis-py reads it
    redis+sentinel://HOST:PORT,…/SERVICE   the master that the Sentinels name
    redis+cluster://HOST:PORT,…            the first node of a Cluster that answers; with sharded pub/sub, all masters

    The last two: rediss for TLS, USER:PASSWORD@ for the servers, redis-py's options in the query, and there also
    sentinel_username and sentinel_password. StartError if it cannot be read.
    """

    def __init__(self, url: str, sharded: bool = False) -> None:
        self._url = url
        self._sharded = sharded
        try:
            scheme, _, rest = url.partition("://")
            self._scheme, _, self._kind = scheme.lower().partition("+")
            if not self._kind:
                _client(url)
                return
            if self._kind not in ("sentinel", "cluster"):
                raise ValueError(f"{scheme}:// is not known")
            # Without urlsplit, which has come to refuse several addresses in brackets.
            netloc: str = re.split(r"[/?#]", rest, maxsplit=1)[0]
            parts = urlsplit(rest[len(netloc) :])
            self._credentials, _, hosts = netloc.rpartition("@")
            self._service = parts.path.strip("/").split("/")[0] or "mymaster"
            query = dict(parse_qsl(parts.query))
            user, password = (quote(query.pop(f"sentinel_{name}", ""), safe="") for name in ("username", "password"))
            self._sentinel_credentials = f"{user}:{password}" if password else ""
            self._query = urlencode(query)
            port = 26379 if self._kind == "sentinel" else 6379
            self._hosts = [host if host.rpartition(":")[2].isdigit() else f"{host}:{port}" for host in hosts.split(",")]
            self._known = self._hosts
            for host in self._hosts:
                self._at(host, self._credentials)
        except ValueError as error:
            raise StartError(f"redis.url: {error}") from None

    def _at(self, address: str, credentials: str) -> Any:
        return _client(f"{self._scheme}://{credentials}{'@' if credentials else ''}{address}/?{self._query}")

    async def find(self) -> Masters:
        """Connections may still fail. RedisError if nobody who is asked knows."""
        if not self._kind:
            return Masters([_client(self._url)], "SPUBLISH" if self._sharded else "PUBLISH")
        problem = ""
        for address in self._known:
            try:
                return await (self._of_sentinel(address) if self._kind == "sentinel" else self._of_node(address))
            except _LINK_ERRORS as error:
                problem = f"{address}: {str(error) or type(error).__name__}"
        raise RedisConnectionError(f"no server found; {problem}")

    async def _of_sentinel(self, address: str) -> Masters:
        sentinel = self._at(address, self._sentinel_credentials)
        try:
            async with asyncio.timeout(ASK_WITHIN):
                found = await sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await _close(sentinel)
        if found is None:
            raise RedisConnectionError(f"it knows no {self._service}")
        master = self._at(_address(*found), self._credentials)
        try:
            with contextlib.suppress(NoPermissionError):  # then the Sentinel's word has to do
                if (await master.execute_command("ROLE"))[0] != b"master":
                    raise RedisConnectionError("it names a replica")
        except BaseException:
            await _close(master)
            raise
        return Masters([master], "SPUBLISH" if self._sharded else "PUBLISH")

    async def _of_node(self, address: str) -> Masters:
        """A Cluster carries what is published on one node to those who listen on another; sharded, only within the
        shard."""
        node = self._at(address, self._credentials)
        try:
            async with asyncio.timeout(ASK_WITHIN):
                slots = await node.execute_command("CLUSTER SLOTS")
            if not slots:
                raise RedisConnectionError("it has no Cluster")
            here = address.rpartition(":")[0].strip("[]")
            ranges = [
                (first, last, [_address(one[0] or here, one[1]) for one in nodes]) for first, last, *nodes in slots
            ]
            # A restarted Cluster may have other addresses, but those of the URL are tried first.
            self._known = list(dict.fromkeys((*self._hosts, *sorted({one for *_, nodes in ranges for one in nodes}))))
            if not self._sharded:
                return Masters([node], "PUBLISH")
        except BaseException:
            await _close(node)
            raise
        await _close(node)
        masters: dict[str, Redis] = {}
        owners: list[Redis | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (owner, *_) in ranges:
            if owner not in masters:
                masters[owner] = self._at(owner, self._credentials)
            owners[first : last + 1] = [masters[owner]] * (last + 1 - first)
        return Masters(list(masters.values()), "SPUBLISH", owners)


def _address(host: bytes | str, port: bytes | int) -> str:
    text = host.decode() if isinstance(host, bytes) else host
    return f"[{text}]:{int(port)}" if ":" in text else f"{text}:{int(port)}"


def _client(url: str) -> Any:
    """A client that answers or fails within TIMEOUT, without retries of its own: ours know what to make up for."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0, ()),  # of no error: else it would still connect again before it gives up
    )


def _check(pubsub: Any) -> None:
    """redis-py would connect again behind our back, and nobody would know what was missed."""
    if not pubsub.connection.is_connected:
        raise RedisConnectionError("the link is broken")


async def _close(client: Redis) -> None:
    with contextlib.suppress(*_LINK_ERRORS):
        async with asyncio.timeout(TIMEOUT):
            await client.aclose()
