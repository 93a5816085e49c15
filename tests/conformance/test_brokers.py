"""One suite for every broker: the contract in server/brokers/base.py, against real servers: one redis-server, a
master and a replica under three Sentinels, and a Cluster of three masters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

import msgpack
import pytest
from redis.crc import key_slot

from server.brokers.base import Announcement, Broker
from server.brokers.memory import MemoryBroker
from server.brokers.redis import RedisBroker
from server.core.config import Redis as Options
from server.wire.messages import Message
from tests.support.processes import Redis, RedisCluster, SentinelSet
from tests.support.waiting import until

KEY = "0123456789abcdef0123456789abcdef"
SINGLE: dict[str, dict[str, Any]] = {"redis": {}, "sharded": {"sharded": True}, "signed": {"hmac_key": KEY}}
"""What one redis-server is enough for."""
REDIS: dict[str, dict[str, Any]] = {
    **SINGLE,
    "sentinel": {},
    "cluster": {},
    "sharded cluster": {"sharded": True},
}
SERVERS = {"sentinel": "shared_sentinel", "cluster": "shared_cluster", "sharded cluster": "shared_cluster"}
"""Fixtures."""
prefixes = (f"test{number}" for number in itertools.count())


class Peer:
    """A broker as a node holds it, and what the node was told. Entering waits for the link."""

    def __init__(self, broker: Broker, node: str, fences: Sequence[str] = ()) -> None:
        self.broker = broker
        self.node = node
        self.fences = fences
        """Channels on all servers that messages come through; none, if announcements come the same way as they."""
        self.marks: list[Any] = []
        self.messages: list[Message] = []
        self.origins: list[str] = []
        self.announcements: list[Announcement] = []
        self.reconnects = 0
        self.failure: Exception | None = None
        """What it raises over the next messages, once."""

    async def start(self) -> None:
        await self.broker.start(self.node, self._on_messages, self.announcements.append, self._on_reconnect)

    async def __aenter__(self) -> Self:
        await self.start()
        await self.linked()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()

    def _on_messages(self, messages: list[Message], node: str) -> None:
        if messages[0].channel in self.fences:
            self.marks += [(message.channel, message.data) for message in messages]
            return
        self.messages += messages
        self.origins += [node] * len(messages)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def _on_reconnect(self) -> None:
        self.reconnects += 1

    async def linked(self) -> None:
        await until(lambda: self.broker.problem() is None, what=f"link of {self.node}")

    def data(self, channel: str | None = None) -> list[Any]:
        return [message.data for message in self.messages if channel in (None, message.channel)]

    async def got(self, *data: Any, channel: str | None = None) -> None:
        """Wait for exactly these data, in this order (that of one channel, if they come from several servers)."""
        await until(lambda: len(self.data(channel)) >= len(data), what=f"{len(data)} messages at {self.node}")
        if self.fences:
            assert sorted(map(repr, self.data(channel))) == sorted(map(repr, data))
        else:
            assert self.data(channel) == list(data)

    async def subscribe(self, channel: str) -> None:
        confirmed = self.broker.subscribe(channel)
        if confirmed is not None:
            await confirmed

    async def fence(self) -> None:
        """Return when everything published before by anybody who was awaited has come, or will never come."""
        mark = Announcement(self.node, want=f"fence {len(self.announcements)}")
        self.broker.announce(mark)
        await until(lambda: mark in self.announcements, what=f"own announcement at {self.node}")
        marks = [(channel, len(self.marks)) for channel in self.fences]
        for channel, number in marks:
            await self.subscribe(channel)
            self.broker.publish([message(number, channel)])
        await until(lambda: set(marks) <= set(self.marks), what=f"own marks at {self.node}")

    async def settled(self) -> None:
        """Return when the link carries again both ways and the broker says so; meanwhile announce, as a node does."""
        mark = Announcement(self.node, want="settled")

        def carries() -> bool:
            self.broker.announce(mark)
            return mark in self.announcements and self.broker.problem() is None

        await until(carries, what=f"own announcements at {self.node}")
        await self.fence()


class World:
    """Makes peers that share one broker's server and prefix."""

    def __init__(self, kind: str, redis: Redis | SentinelSet | RedisCluster | None) -> None:
        self.kind = kind
        self.redis = redis
        self.prefix = next(prefixes)
        self.names = (f"n{number}" for number in itertools.count())

    def peer(self, **changes: Any) -> Peer:
        if self.redis is None:
            return Peer(MemoryBroker(), next(self.names))
        options = {"url": self.redis.url, "prefix": self.prefix, **REDIS[self.kind], **changes}
        fences = self.everywhere(options["prefix"]) if self.kind == "sharded cluster" else ()
        return Peer(RedisBroker(Options(**options)), next(self.names), fences)

    @staticmethod
    def everywhere(prefix: str) -> list[str]:
        """A channel of every third of the slots."""
        thirds = {key_slot(f"{prefix}:c:fence:{n}".encode()) * 3 // 16384: f"fence:{n}" for n in range(50)}
        assert len(thirds) == 3
        return list(thirds.values())

    async def inject(self, topic: str, payload: bytes) -> None:
        """Publish bytes behind the brokers' backs; `topic` is "nodes" or "c:" and a channel. They have a listener."""
        assert self.redis is not None
        topic = f"{self.prefix}:{topic}"
        if isinstance(self.redis, SentinelSet):
            server = await self.redis.master()
        elif self.kind == "sharded cluster":
            server = await self.redis.owner(key_slot(topic.encode()))  # type: ignore[union-attr]
        else:
            server = self.redis.nodes[0] if isinstance(self.redis, RedisCluster) else self.redis
        command = "SPUBLISH" if "sharded" in self.kind else "PUBLISH"
        assert await server.ask(command, topic, payload) == 1

    def sign(self, topic: str, payload: bytes, key: str = KEY) -> bytes:
        """What the broker itself would put in front of the payload."""
        if self.kind != "signed":
            return payload
        return hmac.digest(key.encode(), f"{self.prefix}:{topic}".encode() + b"\0" + payload, hashlib.sha256) + payload


@pytest.fixture(params=["memory", *REDIS])
def world(request: pytest.FixtureRequest) -> World:
    """Every broker."""
    kind = request.param
    return World(kind, None if kind == "memory" else request.getfixturevalue(SERVERS.get(kind, "shared_redis")))


@pytest.fixture(params=REDIS)
def redis_world(request: pytest.FixtureRequest) -> World:
    """Every broker that joins several nodes."""
    return World(request.param, request.getfixturevalue(SERVERS.get(request.param, "shared_redis")))


@pytest.fixture(params=SINGLE)
def fragile_world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """The same with a Redis of the test's own, not started yet, to be struck."""
    return World(request.param, Redis(tmp_path))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it with a deadline; the loop must end without a task left over or an exception nobody saw."""

    async def main() -> None:
        unseen: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(60):
            await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not unseen

    asyncio.run(main())


def message(data: Any, channel: str = "chat:a", offset: int = 0, **more: Any) -> Message:
    fields = {"epoch": "e" if offset else "", "key": f"k{offset}" if offset else "", "user": None, "time": 1}
    return Message(channel=channel, offset=offset, data=data, **{**fields, **more})


def fields(message: Message) -> list[Any]:
    return [getattr(message, name) for name in Message.__slots__ if name not in ("facts", "_frames")]


# --- every broker ---------------------------------------------------------------------------------------------------


def test_a_nodes_own_messages_arrive(world: World) -> None:
    """A node receives what it publishes, with its own name on it, if it is subscribed."""

    async def test() -> None:
        async with world.peer() as one:
            await one.subscribe("chat:a")
            one.broker.publish([message("hello")])
            await one.got("hello")
            assert one.origins == [one.node]

    run(test)


def test_only_subscribed_channels_arrive(world: World) -> None:
    """Channels nobody subscribed to are silent, however alike their names."""

    async def test() -> None:
        async with world.peer() as one:
            for channel in ("chat:a", "chat:*", "chat:日本"):
                await one.subscribe(channel)
            for channel in ("chat:b", "chat:", "chat:a:b", "chat:ab", "chat:A", "chat:a"):
                one.broker.publish([message(channel, channel)])
            one.broker.publish([message("star", "chat:*")])
            one.broker.publish([message("unicode", "chat:日本")])
            await one.fence()
            await one.got("chat:a", "star", "unicode")

    run(test)


VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.1, -0.0, 5e-324, 1.7e308, 1.0, "", "\x00", "😀 \u2028", "é" * 5000,
    [], {}, {"": None, "$where": 1, "a.b": [{"$ref": "x", "$id": 1}]}, [[[[]]]], {"k": {"k": [1, "1", 1.5, None]}},
]  # fmt: skip


def test_everything_is_carried_faithfully(world: World) -> None:
    """Every kind of value, and every field of a message, arrives as it was, durable or not."""
    sent = [message(value, offset=offset, user="ann", epoch="e1") for offset, value in enumerate(VALUES, 1)]
    sent[0].user, sent[1].key, sent[2].time, sent[3].skip = "日本", "ключ", 1764000000123, "s1"
    ephemeral = [message(value, user=None, tag="EUR") for value in VALUES]

    async def test() -> None:
        async with world.peer() as one:
            await one.subscribe("chat:a")
            one.broker.publish(sent)
            one.broker.publish(ephemeral)
            await until(lambda: len(one.messages) == 2 * len(VALUES), what="all of them")
            got = [fields(item) for item in one.messages]
            assert repr(got) == repr([fields(item) for item in sent + ephemeral])

    run(test)


def test_the_largest_offset_is_carried(world: World) -> None:
    """Offsets have 63 bits."""

    async def test() -> None:
        async with world.peer() as one:
            await one.subscribe("chat:a")
            one.broker.publish([message("last", offset=2**63 - 1)])
            await one.got("last")
            assert one.messages[0].offset == 2**63 - 1

    run(test)


def test_order_is_kept(world: World) -> None:
    """What one node publishes arrives in its order, across channels too."""

    async def test() -> None:
        async with world.peer() as one:
            for channel in ("chat:a", "chat:b"):
                await one.subscribe(channel)
            for number in range(3000):
                one.broker.publish([message(number, f"chat:{'ab'[number % 2]}")])
            await one.got(*range(3000))
            assert one.broker.dropped == 0

    run(test)


def test_unsubscribe_stops(world: World) -> None:
    """After `unsubscribe` nothing more of the channel arrives; doing it twice or for nothing is fine."""

    async def test() -> None:
        async with world.peer() as one:
            await one.broker.unsubscribe("chat:never")
            for channel in ("chat:a", "chat:b"):
                await one.subscribe(channel)
            await one.broker.unsubscribe("chat:a")
            await one.broker.unsubscribe("chat:a")
            await one.fence()
            one.broker.publish([message("no")])
            one.broker.publish([message("yes", "chat:b")])
            await one.got("yes")

    run(test)


INTERLEAVINGS = {
    "back while leaving": "-+",
    "away while joining": "+-",
    "back after leaving while joining": "+-+",
    "away at last": "+-+-",
    "often": "+-+-+-+-+",
}


@pytest.mark.parametrize("begins_subscribed", [True, False])
@pytest.mark.parametrize("steps", INTERLEAVINGS.values(), ids=INTERLEAVINGS)
def test_the_last_word_counts(world: World, steps: str, begins_subscribed: bool) -> None:
    """However subscribing and unsubscribing overlap, the last one decides, and a later subscribe is heard."""

    async def test() -> None:
        async with world.peer() as one:
            if begins_subscribed:
                await one.subscribe("chat:a")
            calls: list[Awaitable[None]] = []
            for step in steps:
                call = one.subscribe if step == "+" else one.broker.unsubscribe
                calls.append(asyncio.create_task(call("chat:a")))
                await asyncio.sleep(0)
            await asyncio.gather(*calls)
            await one.fence()
            one.broker.publish([message("first")])
            await one.fence()
            expected = ["first"] if steps[-1] == "+" else []
            assert one.data() == expected
            await one.subscribe("chat:a")
            one.broker.publish([message("second")])
            await one.got(*expected, "second")

    run(test)


def test_a_followed_namespace_arrives_whole(world: World) -> None:
    """All that anybody publishes in it, subscribed to or not, beside what subscriptions bring; nothing of others, and
    nothing any more once it is not followed. (Redis's sharded pub/sub has no such thing.)"""
    if "sharded" in world.kind:
        return

    async def test() -> None:
        async with world.peer() as peer:
            followed: list[Message] = []
            peer.broker.on_all = followed.extend
            await peer.broker.follow("chat")
            await peer.subscribe("chat:a")
            for channel in ("chat:a", "chatter:a", "chat:b*[", "live:a"):
                peer.broker.publish([message(channel, channel)])
            await until(lambda: len(followed) >= 2, what="what is followed")
            await peer.got("chat:a")
            await peer.fence()
            assert [one.channel for one in followed] == ["chat:a", "chat:b*["]
            await peer.broker.unfollow("chat")
            await peer.fence()
            peer.broker.publish([message(1, "chat:c")])
            await peer.fence()
            assert len(followed) == 2

    run(test)


def test_announcements_are_heard_by_everybody(world: World) -> None:
    """A node hears its own announcements, whole, without subscribing to anything."""
    heads = {"chat:a": ("e", 2**63 - 1), "chat:日本": ("f", 0)}

    async def test() -> None:
        async with world.peer() as one:
            sent = [Announcement(one.node, beat=True, heads=heads), Announcement(one.node, want="chat:a")]
            for announcement in sent:
                one.broker.announce(announcement)
            await until(lambda: len(one.announcements) == 2, what="both")
            assert one.announcements == sent

    run(test)


def test_after_close_nothing_happens(world: World) -> None:
    """Publishing to a broker that is closed does not raise, and closing leaves no task behind."""

    async def test() -> None:
        async with world.peer() as one:
            await one.subscribe("chat:a")
        one.broker.publish([message("late")])
        one.broker.announce(Announcement(one.node))
        assert one.messages == []

    run(test)


# --- brokers that join several nodes --------------------------------------------------------------------------------


def test_messages_reach_the_subscribed_nodes(redis_world: World) -> None:
    """What one node publishes arrives at all that are subscribed and at no other, with its name on it."""

    async def test() -> None:
        async with redis_world.peer() as one, redis_world.peer() as two, redis_world.peer() as three:
            await one.subscribe("chat:a")
            await two.subscribe("chat:a")
            three.broker.publish([message("hi", offset=7), message("ho", offset=8)])
            for peer in (one, two):
                await peer.got("hi", "ho")
                assert peer.origins == [three.node] * 2
                assert [m.offset for m in peer.messages] == [7, 8]
            await three.fence()
            assert three.messages == []

    run(test)


def test_once_subscribed_nothing_is_missed(redis_world: World) -> None:
    """What any node publishes from the moment `subscribe` returns arrives."""

    async def test() -> None:
        async with redis_world.peer() as one, redis_world.peer() as two:
            for number in range(200):
                channel = f"chat:{number}"
                await one.subscribe(channel)
                two.broker.publish([message(number, channel)])
            await one.got(*range(200))

    run(test)


def test_announcements_reach_every_node(redis_world: World) -> None:
    """All nodes hear an announcement, each once."""

    async def test() -> None:
        async with redis_world.peer() as one, redis_world.peer() as two, redis_world.peer() as three:
            two.broker.announce(Announcement(two.node, beat=True))
            for peer in (one, two, three):
                await peer.fence()
                beats = [item for item in peer.announcements if item.beat]
                assert beats in ([], [Announcement(two.node, beat=True)])
                await until(lambda peer=peer: any(item.beat for item in peer.announcements), what="the beat")

    run(test)


def test_prefixes_do_not_see_each_other(redis_world: World) -> None:
    """Two Waterspouts share a Redis without noticing."""

    async def test() -> None:
        other = redis_world.peer(prefix=f"{redis_world.prefix}b")
        async with redis_world.peer() as one, other:
            for peer in (one, other):
                await peer.subscribe("chat:a")
            one.broker.publish([message("one")])
            other.broker.publish([message("other")])
            await one.fence()
            await other.fence()
            await one.got("one")
            await other.got("other")
            assert {item.node for item in one.announcements} == {one.node}

    run(test)


PUBLICATION = [1, "n9", "e", 5, [["k", None, 1, "forged?", None, None]]]


def forged(data: Any) -> bytes:
    return bytes(msgpack.packb([*PUBLICATION[:4], [["k", None, 1, data, None, None]]]))


FOREIGN_MESSAGES = {
    "nothing": b"",
    "text": b"hello",
    "random": bytes(range(256)),
    "truncated": bytes(msgpack.packb(PUBLICATION))[:-3],
    "trailing": bytes(msgpack.packb(PUBLICATION)) + b"\x00",
    "another version": bytes(msgpack.packb([2, *PUBLICATION[1:]])),
    "no messages": bytes(msgpack.packb([*PUBLICATION[:4], []])),
    "negative offset": bytes(msgpack.packb([1, "n9", "e", -5, PUBLICATION[4]])),
    "offset of 64 bits": bytes(msgpack.packb([1, "n9", "e", 2**63, PUBLICATION[4]])),
    "offset as text": bytes(msgpack.packb([1, "n9", "e", "5", PUBLICATION[4]])),
    "a map": bytes(msgpack.packb({"version": 1})),
    "text that is not UTF-8": b"\x95\x01\xa1\xff" + bytes(msgpack.packb(["e", 5, PUBLICATION[4]]))[1:],
    "deep": b"\x91" * 100_000,
    "deep data": bytes(msgpack.packb(PUBLICATION[:4]))[1:].join([b"\x95", b"\x91\x96\xa1k\xc0\x01" + b"\x91" * 5000]),
    "bin in the data": forged(b"bytes"),
    "ext in the data": forged(msgpack.ExtType(5, b"x")),
    "timestamp in the data": forged(msgpack.Timestamp(1)),
    "integer as a key in the data": forged({1: 2}),
}
FOREIGN_ANNOUNCEMENTS = {
    "nothing": b"",
    "text": b"hello",
    "a list": b"\x90",
    "no node": bytes(msgpack.packb({"beat": True})),
    "strange heads": bytes(msgpack.packb({"node": "n9", "heads": {"chat:a": "e:1"}})),
    "strange attendance": bytes(msgpack.packb({"node": "n9", "attendance": [1, [["chat:a", 7, 1, None]]]})),
    "bytes as info": bytes(msgpack.packb({"node": "n9", "attendance": [1, [["chat:a", "ann", 1, b"x"]]]})),
    "bytes as stats": bytes(msgpack.packb({"node": "n9", "stats": {"in": b"x"}})),
    "deep": b"\x81\xa5heads" * 5000,
}


@pytest.mark.parametrize("payload", FOREIGN_MESSAGES.values(), ids=FOREIGN_MESSAGES)
def test_foreign_payloads_are_dropped_and_counted(redis_world: World, payload: bytes) -> None:
    """Whatever else somebody publishes where we listen, even well signed, is counted, and nothing else happens."""

    async def test() -> None:
        async with redis_world.peer() as one:
            await one.subscribe("chat:a")
            await redis_world.inject("c:chat:a", redis_world.sign("c:chat:a", payload))
            one.broker.publish([message("ours")])
            await until(lambda: "ours" in one.data(), what="our message")
            await one.got("ours")
            assert one.broker.refused == 1
            assert one.broker.problem() is None

    run(test)


@pytest.mark.parametrize("payload", FOREIGN_ANNOUNCEMENTS.values(), ids=FOREIGN_ANNOUNCEMENTS)
def test_foreign_announcements_are_dropped_and_counted(redis_world: World, payload: bytes) -> None:
    """The same where nodes announce themselves."""

    async def test() -> None:
        async with redis_world.peer() as one:
            await redis_world.inject("nodes", redis_world.sign("nodes", payload))
            await one.fence()
            assert len(one.announcements) == 1
            assert one.broker.refused == 1

    run(test)


def test_only_what_is_signed_for_its_channel_counts(shared_redis: Redis) -> None:
    """With a key, payloads without signature, with another key's, altered, or moved to another topic are refused."""
    world = World("signed", shared_redis)
    body = bytes(msgpack.packb(PUBLICATION))
    good = world.sign("c:chat:a", body)
    bad = [body, body[:20], world.sign("c:chat:a", body, "x" * 32), world.sign("c:chat:b", body), good[:-1] + b"\xc3"]

    async def test() -> None:
        async with world.peer() as one:
            await one.subscribe("chat:a")
            for payload in bad:
                await world.inject("c:chat:a", payload)
            await world.inject("nodes", good)
            await world.inject("c:chat:a", good)
            await one.got("forged?")
            assert one.broker.refused == len(bad) + 1

    run(test)


def test_what_a_callback_raises_is_logged(redis_world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A node that fails over one message still gets the next."""

    async def test() -> None:
        async with redis_world.peer() as one:
            one.failure = RuntimeError("over one message")
            await one.subscribe("chat:a")
            one.broker.publish([message(1)])
            one.broker.publish([message(2)])
            await one.got(1, 2)

    run(test)
    assert "over one message" in caplog.text


# --- and when Redis fails -------------------------------------------------------------------------------------------


def test_everything_wanted_is_subscribed_again_after_a_cut(fragile_world: World) -> None:
    """After CLIENT KILL the node is told of a reconnect, and hears all its channels and none that it left."""
    redis = fragile_world.redis
    assert redis is not None

    async def test() -> None:
        async with redis, fragile_world.peer() as one:
            for number in range(1500):
                await one.subscribe(f"chat:{number}")
            await one.broker.unsubscribe("chat:7")
            for _ in range(2):
                before = one.reconnects
                assert await redis.client_kill_pubsub() == 1
                await until(lambda before=before: one.reconnects > before, what="reconnect")
                await one.settled()
            for number in (0, 7, 1499):
                one.broker.publish([message(number, f"chat:{number}")])
            await one.got(0, 1499)

    run(test)


def test_nothing_raises_or_hangs_while_redis_is_away(fragile_world: World) -> None:
    """Started without Redis, the broker says so, drops and counts; once Redis is there everything wanted works."""
    redis = fragile_world.redis
    assert redis is not None

    async def test() -> None:
        one = fragile_world.peer()
        await one.start()
        try:
            for number in range(100):
                one.broker.publish([message(number)])
                one.broker.announce(Announcement(one.node))
            await one.subscribe("chat:a")
            await one.subscribe("chat:b")
            await one.broker.unsubscribe("chat:b")
            await until(lambda: one.broker.dropped >= 200, what="count of what was dropped")
            assert one.broker.problem()
            assert (one.messages, one.reconnects) == ([], 0)
            async with redis:
                await one.settled()
                await until(lambda: one.reconnects == 1, what="on_reconnect")
                one.broker.publish([message("no", "chat:b")])
                one.broker.publish([message("yes")])
                await one.got("yes")
        finally:
            await one.broker.close()

    run(test)


def test_a_failed_publish_is_no_problem_once_publishing_works_again(fragile_world: World) -> None:
    """A cut of the publishing connection alone is over as soon as messages get through again, and `problem` says so."""
    redis = fragile_world.redis
    assert redis is not None

    async def test() -> None:
        async with redis, fragile_world.peer() as one:
            await one.subscribe("chat:a")
            one.broker.publish([message("before")])
            await one.got("before")
            await redis.call("CLIENT KILL TYPE normal")
            one.broker.publish([message("perhaps lost")])
            await until(lambda: one.broker.dropped or len(one.messages) == 2, what="the outcome")
            one.broker.publish([message("after")])
            await until(lambda: "after" in one.data(), what="the message after")
            await until(lambda: one.broker.problem() is None, what="end of the problem")

    run(test)


def test_a_restart_of_redis_is_survived_by_all(fragile_world: World) -> None:
    """Two nodes hear each other again after Redis was killed and came back empty; what was wanted meanwhile too."""
    redis = fragile_world.redis
    assert redis is not None

    async def test() -> None:
        async with redis, fragile_world.peer() as one, fragile_world.peer() as two:
            for peer in (one, two):
                await peer.subscribe("chat:a")
            before = {peer.node: peer.reconnects for peer in (one, two)}
            await redis.kill()
            for peer in (one, two):
                await until(lambda peer=peer: peer.broker.problem(), what="a problem")
            await one.subscribe("chat:meanwhile")
            await two.broker.unsubscribe("chat:a")
            one.broker.publish([message("lost")])
            await until(lambda: one.broker.dropped == 1, what="count of what was dropped")
            await redis.start()
            for peer in (one, two):
                await until(lambda peer=peer: peer.reconnects > before[peer.node], what="reconnect")
                await peer.settled()
            two.broker.publish([message("again")])
            two.broker.publish([message("new", "chat:meanwhile")])
            await one.got("again", "new")
            await two.fence()
            assert two.messages == []

    run(test)


def test_joining_and_leaving_while_the_link_is_made(fragile_world: World) -> None:
    """Channels joined and left at any moment of a reconnect end up as the node wants them."""
    redis = fragile_world.redis
    assert redis is not None

    async def test() -> None:
        async with redis, fragile_world.peer() as one:
            for number in range(300):
                await one.subscribe(f"chat:{number}")
            reconnects = one.reconnects
            await redis.client_kill_pubsub()
            number = 0
            while one.reconnects == reconnects and number < 2000:
                await one.broker.unsubscribe(f"chat:{number}")
                await one.subscribe(f"chat:new{number}")
                number += 1
                await asyncio.sleep(0)
            await until(lambda: one.reconnects > reconnects, what="reconnect")
            await one.settled()
            assert number > 0
            for left in range(min(number, 300)):
                one.broker.publish([message(f"left {left}", f"chat:{left}")])
            for joined in range(number):
                one.broker.publish([message(joined, f"chat:new{joined}")])
            await one.fence()
            assert one.data() == list(range(number))

    run(test)
