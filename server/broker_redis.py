"""The broker over Redis pub/sub: fast, at most once, and treated so. The contract is in broker.py.

One connection listens, others publish. What is published in one turn of the event loop goes out in one round trip.
redis-py's own health check does not notice a half-open link, so the node listens for its own announcements and says
when it misses them (`suspect`); the listening connection is then thrown away and made anew.

URLs: redis://, rediss://, unix://, redis+cluster://host:port and redis+sentinel://host:port,host:port/service.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import random
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakValueDictionary

import msgspec
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from server.broker import Announcement, OnAnnouncement, OnMessages, OnReconnect
from server.channels import MAX_OFFSET
from server.codec import check
from server.config import Redis as Options
from server.errors import Error, StartError
from server.messages import Images, Message
from server.tasks import end

logger = logging.getLogger(__name__)

TIMEOUT: Final = 2.0
"""Seconds any exchange with Redis may take."""
CONFIRM_WITHIN: Final = 2.0
QUEUED: Final = 20_000
"""Publications waiting to go out; more are dropped (and repaired from the log)."""
ROUND: Final = 1_000
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
        self._client: Any = client(options.url or "")
        self._prefix = f"{options.prefix}:c:"
        self._nodes = f"{options.prefix}:nodes"
        self._secret = options.hmac_key.encode() if options.hmac_key else None
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        """Topics Redis has confirmed on the present link."""
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pubsub: Any = None
        self._linked = False
        self._linked_at = 0.0
        self._link_problem: str | None = "redis: not connected yet"
        self._send_problem: str | None = None
        self._outgoing: list[tuple[str, bytes]] = []
        self._work = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
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
        await end((*self._tasks, self._reader))
        await self._drop_link()
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()
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
        if len(self._outgoing) >= QUEUED:
            self.dropped += 1
            return
        self._outgoing.append((topic, self._sign(topic, payload) + payload))
        self._work.set()

    async def _send(self) -> None:
        """Round trips, one at a time: what comes during one goes out with the next."""
        while True:
            await self._work.wait()
            batch, self._outgoing = self._outgoing[:ROUND], self._outgoing[ROUND:]
            if not self._outgoing:
                self._work.clear()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._round(batch)
                self._send_problem = None
            except _LINK_ERRORS as error:
                self.dropped += len(batch)
                self._send_problem = self._report(error)
                # Whoever queues up behind a dead link is late anyway, and the log has it.
                self.dropped += len(self._outgoing)
                self._outgoing = []
                await self._forget_connections()
                await asyncio.sleep(0.1)

    async def _forget_connections(self) -> None:
        """After a failure no connection made before it is trusted."""
        if not isinstance(self._client, RedisCluster):
            with contextlib.suppress(*_LINK_ERRORS):
                async with asyncio.timeout(TIMEOUT):
                    await self._client.connection_pool.disconnect(inuse_connections=False)

    async def _round(self, batch: list[tuple[str, bytes]]) -> None:
        command = "SPUBLISH" if self._options.sharded else "PUBLISH"
        if isinstance(self._client, RedisCluster):
            publish = self._client.spublish if self._options.sharded else self._client.publish
            for topic, payload in batch:
                await publish(topic, payload)
            return
        pipeline = self._client.pipeline(transaction=False)
        for topic, payload in batch:
            pipeline.execute_command(command, topic, payload)
        await pipeline.execute()

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
                async with asyncio.timeout(CONFIRM_WITHIN):
                    connection = getattr(self._pubsub, "connection", None)
                    if connection is not None and not connection.is_connected:
                        # redis-py would connect again behind our back, and nobody would own that connection.
                        raise RedisConnectionError("the link is broken")
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

    async def _command(self, verb: str, *topics: str) -> None:
        await getattr(self._pubsub, ("s" if self._options.sharded else "") + verb)(*topics)

    def _cut(self) -> None:
        self._linked = False
        if self._reader is not None:
            self._reader.cancel()

    async def _listen(self) -> None:
        """One link after the other, for ever."""
        pause = 0.05
        while True:
            self._reader = asyncio.create_task(self._link(), name="redis link")
            await asyncio.wait((self._reader,))
            was_linked = self._linked_at > 0 and not self._reader.cancelled() and self._linked
            if not self._reader.cancelled() and (error := self._reader.exception()) is not None:
                if not isinstance(error, RedisError | OSError | TimeoutError | AttributeError):
                    logger.error("the link to Redis failed", exc_info=error)
                self._link_problem = self._report(error)
            await self._drop_link()
            pause = 0.05 if was_linked else min(pause * 2, 1.0)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _drop_link(self) -> None:
        self._linked = False
        self._confirmed.clear()
        pubsub, self._pubsub = self._pubsub, None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)  # not confirmed, but made up for on reconnecting
        self._waiting.clear()
        if pubsub is not None:
            with contextlib.suppress(*_LINK_ERRORS):
                async with asyncio.timeout(TIMEOUT):
                    await pubsub.aclose()

    async def _link(self) -> None:
        """Subscribe to everything wanted, then receive until the connection breaks."""
        self._pubsub = self._client.pubsub()
        topics = [self._nodes, *self._wanted]
        async with asyncio.timeout(TIMEOUT + len(topics) / 1000):
            for index in range(0, len(topics), 500):
                await self._command("subscribe", *topics[index : index + 500])
        missing = set(topics)
        sharded_cluster = self._options.sharded and isinstance(self._client, RedisCluster)
        while True:
            if sharded_cluster:
                message = await self._pubsub.get_sharded_message(timeout=1.0)
            elif missing:
                async with asyncio.timeout(TIMEOUT + len(missing) / 1000):
                    message = await self._pubsub.get_message(timeout=None)
            else:
                message = await self._pubsub.get_message(timeout=None)
            if message is None:
                continue
            kind = message["type"]
            if kind in ("message", "smessage"):
                self._receive(message["channel"].decode(), message["data"])
            elif kind in ("subscribe", "ssubscribe"):
                topic = message["channel"].decode()
                self._confirmed.add(topic)
                missing.discard(topic)
                future = self._waiting.pop(topic, None)
                if future is not None and not future.done():
                    future.set_result(None)
                if not missing and not self._linked:
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


def client(url: str) -> Any:
    """A client that answers or fails within TIMEOUT, without retries of its own: ours know what to make up for."""
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        parts = urlsplit(url)
        if parts.scheme == "redis+cluster":
            return RedisCluster.from_url(
                url.replace("redis+cluster", "redis", 1), socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
            )
        if parts.scheme == "redis+sentinel":
            credentials, _, hosts = parts.netloc.rpartition("@")
            user, _, password = credentials.partition(":")
            sentinels = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
            service = parts.path.strip("/").split("/")[0] or "mymaster"
            if password:
                options |= {"username": user or None, "password": password}
            sentinel_options = {"socket_timeout": TIMEOUT, **dict(parse_qsl(parts.query))}
            return Sentinel(  # type: ignore[no-untyped-call]
                sentinels, sentinel_kwargs=sentinel_options
            ).master_for(service, Redis, **options)
        return Redis.from_url(url, **options)
    except ValueError as error:
        raise StartError(f"redis.url: {error}") from None
