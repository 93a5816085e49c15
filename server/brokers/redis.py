"""The broker over Redis pub/sub: fast, at most once, and treated so. The contract is in base.py.

One connection listens, another publishes (of each, one for every master of a Cluster if pub/sub is sharded). What is
published in one turn of the event loop goes out in one round trip. redis-py's own health check does not notice a
half-open link, so listening connections are pinged, and the node listens for its own announcements and says when it
misses them (`suspect`). After a failure all connections of that direction are thrown away, and whoever is the master
now is looked up and connected to anew (`Endpoint`): that is how a failover is followed. While `problem()` is not None,
`Peers` (server/cluster/peers.py) compares with the log once a second, so that messages come later, but come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections import deque
from typing import Any, Final

from redis.asyncio import Redis

from server.brokers import links
from server.brokers.base import Announcement, OnAll, OnAnnouncement, OnMessages, OnReconnect
from server.brokers.envelope import (
    Envelope,
    Foreign,
    decode_announcement,
    decode_messages,
    encode_announcement,
    encode_messages,
)
from server.brokers.following import Following
from server.brokers.links import LINK_ERRORS, TIMEOUT, NoLink, brief
from server.brokers.topology import Endpoint, Topology
from server.core.config import Redis as Options
from server.core.in_turn import InTurn
from server.core.tasks import Keeper, end
from server.wire.messages import Message

logger = logging.getLogger(__name__)

QUEUED: Final = 20_000
QUEUED_BYTES: Final = 64 * 2**20
"""Publications waiting to go out; more are dropped (and repaired from the log)."""
ROUND: Final = 1_000
ROUND_BYTES: Final = 4 * 2**20
"""What goes out in one round trip, about: so much is left in a transport that a Redis which hangs does not empty."""
SETTLED: Final = 0.5
"""Seconds after which a link that breaks counts as one that had worked: the next is made at once."""


class RedisBroker:
    def __init__(self, options: Options) -> None:
        self.dropped = 0
        self.refused = 0
        self._options = options
        self._endpoint = Endpoint(options.url or "", options.sharded)
        self._prefix = f"{options.prefix}:c:"
        self._nodes = f"{options.prefix}:nodes"
        self._envelope = Envelope(options.hmac_key)
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        """Topics Redis has confirmed on the present link."""
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._changing = InTurn()
        self._topology: Topology | None = None
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
        self._keeper = Keeper()
        self._following = Following(self._endpoint, self._keeper, self._receive_followed)
        self.on_all: OnAll = lambda messages: None
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
        self._keeper.keep("redis listen", self._listen)
        self._keeper.keep("redis publish", self._send)

    async def close(self) -> None:
        await self._keeper.close()
        await self._drop_link()
        await asyncio.sleep(0)  # redis-py leaves closed transports one turn to end in

    # --- out ----------------------------------------------------------------------------------------------------------

    def publish(self, messages: list[Message]) -> None:
        self._put(self._prefix + messages[0].channel, encode_messages(self._node, messages))

    def announce(self, announcement: Announcement) -> None:
        self._put(self._nodes, encode_announcement(announcement))

    def _put(self, topic: str, payload: bytes) -> None:
        payload = self._envelope.seal(topic, payload)
        if len(self._outgoing) >= QUEUED or self._outgoing_bytes + len(payload) > QUEUED_BYTES:
            self.dropped += 1
            return
        self._outgoing.append((topic, payload))
        self._outgoing_bytes += len(payload)
        self._work.set()

    async def _send(self) -> None:
        """Round trips, one at a time: what comes during one goes out with the next."""
        topology: Topology | None = None
        try:
            while True:
                await self._work.wait()
                batch: list[tuple[str, bytes]] = []
                try:
                    topology = topology or await self._endpoint.resolve()
                    batch = self._next()
                    async with asyncio.timeout(TIMEOUT):
                        await topology.send(batch)
                    self._send_problem = None
                except LINK_ERRORS as error:
                    self._send_problem = self._report(error)
                    # Whoever queues up behind a dead link is late anyway, and the log has it.
                    self.dropped += len(batch) + len(self._outgoing)
                    self._outgoing.clear()
                    self._outgoing_bytes = 0
                    self._work.clear()
                    if topology is not None:
                        await topology.close()
                    topology = None
                    await asyncio.sleep(0.1)
        finally:
            if topology is not None:
                await topology.close()

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

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        topic = self._prefix + channel
        self._wanted.add(topic)
        # Whoever gives up waiting must not leave it half done.
        return asyncio.shield(self._keeper.spawn("subscribe", self._apply(topic), awaited=True))

    async def unsubscribe(self, channel: str) -> None:
        topic = self._prefix + channel
        self._wanted.discard(topic)
        await self._apply(topic)

    async def _apply(self, topic: str) -> None:
        """Bring Redis in line with what is wanted now: one change of a topic at a time, so that the last word counts
        and no confirmation is taken for that of another change."""
        async with self._changing.take(topic):
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
            except LINK_ERRORS as error:
                # The link is made anew, and everything wanted with it.
                self._link_problem = self._report(error)
                self._cut()

    async def follow(self, namespace: str) -> None:
        await self._following.follow(self._all_of(namespace))

    async def unfollow(self, namespace: str) -> None:
        await self._following.unfollow(self._all_of(namespace))

    def _all_of(self, namespace: str) -> str:
        """As Redis writes patterns."""
        return re.sub(r"([\\*?\[\]^])", r"\\\1", f"{self._prefix}{namespace}:") + "*"

    def suspect(self) -> None:
        """This node does not hear its own announcements, though the link seems to be there: cut it, so that it is made
        anew. A link that has just been made is given time to bring something."""
        if self._linked and asyncio.get_running_loop().time() - self._linked_at > TIMEOUT + 1.0:
            self._link_problem = "redis: this node does not hear its own announcements"
            self._cut()

    def problem(self) -> str | None:
        return self._keeper.problem() or self._link_problem or self._send_problem

    async def _command(self, verb: str, topic: str, *more: str) -> None:
        """Topics of one group (`Topology.groups`)."""
        if self._topology is None:
            raise NoLink("there is no link")
        pubsub = self._pubsubs[self._topology.of(topic)]
        links.check(pubsub)
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
            self._reader = self._keeper.spawn("redis link", self._link(), awaited=True)
            await asyncio.wait((self._reader,))
            worked = self._linked and now() - self._linked_at > SETTLED
            if not self._reader.cancelled() and (error := self._reader.exception()) is not None:
                if not isinstance(error, LINK_ERRORS):
                    logger.error("the link to Redis failed", exc_info=error)
                self._link_problem = self._report(error)
            await self._drop_link()
            pause = 0.05 if worked else min(pause * 2, 1.0)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _drop_link(self) -> None:
        self._linked = False
        self._confirmed.clear()
        pubsubs, self._pubsubs = self._pubsubs, {}
        topology, self._topology = self._topology, None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)  # not confirmed, but made up for on reconnecting
        self._waiting.clear()
        for pubsub in pubsubs.values():
            with contextlib.suppress(*LINK_ERRORS):
                async with asyncio.timeout(TIMEOUT):
                    await pubsub.aclose()
        if topology is not None:
            await topology.close()

    async def _link(self) -> None:
        """Subscribe to everything wanted, then receive until one of the connections breaks."""
        self._topology = await self._endpoint.resolve()
        topics = [self._nodes, *self._wanted]
        self._missing = set(topics)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(TIMEOUT + len(topics) / 1000):
                for master in self._topology.all:
                    pubsub: Any = master.pubsub()
                    self._pubsubs[master] = pubsub
                    await pubsub.connect()
                    tasks.append(self._keeper.spawn("redis read", self._read(master, pubsub), awaited=True))
                tasks.append(self._keeper.spawn("redis watch", self._watch(), awaited=True))
                for group in self._topology.groups(topics):
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
                links.check(pubsub)
                await pubsub.ping()
            # Twice, so that a loop that was held up reads what there is before it judges.
            for _ in range(2):
                await asyncio.sleep(TIMEOUT / 2)
            if self._silent:
                raise NoLink("Redis does not answer")

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
                raise NoLink("a slot has moved to another master")

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
        # What was asked for while the link was being made is done now.
        changed = self._wanted.symmetric_difference(self._confirmed - {self._nodes})
        self._keeper.spawn("redis catch up", self._catch_up(changed))

    async def _catch_up(self, topics: set[str]) -> None:
        for topic in topics:
            await self._apply(topic)
        self._on_reconnect()

    def _receive_followed(self, topic: str, payload: Any) -> None:
        try:
            _, messages = decode_messages(topic.removeprefix(self._prefix), self._envelope.open(topic, payload))
        except Foreign as error:
            self._refuse(topic, error)
            return
        try:
            self.on_all(messages)
        except Exception:
            logger.exception("a message from Redis could not be handled")

    def _refuse(self, topic: str, error: Foreign) -> None:
        self.refused += 1
        if self.refused in (1, 10, 100) or self.refused % 1000 == 0:
            logger.warning("redis: %d payloads were not ours, the last on %s: %s", self.refused, topic, error)

    def _receive(self, topic: str, payload: Any) -> None:
        try:
            body = self._envelope.open(topic, payload)
            if topic == self._nodes:
                announcement = decode_announcement(body)
            else:
                node, messages = decode_messages(topic.removeprefix(self._prefix), body)
        except Foreign as error:
            self._refuse(topic, error)
            return
        try:
            if topic == self._nodes:
                self._on_announcement(announcement)
            else:
                self._on_messages(messages, node)
        except Exception:
            logger.exception("a message from Redis could not be handled")

    def _report(self, error: BaseException) -> str:
        reason = brief(error)
        if self.problem() is None:
            logger.warning("redis: %s; messages are fetched from MongoDB meanwhile", reason)
        return f"redis: {reason}"
