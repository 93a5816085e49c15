"""Where redis.url leads, and what happens on the way: Sentinels and Clusters that change, links that hang."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection
from redis.crc import key_slot

from server.brokers.redis import QUEUED_BYTES
from server.brokers.topology import Endpoint
from server.core.errors import StartError
from tests.conformance.test_brokers import Peer, World, message, run
from tests.support.processes import Redis, RedisCluster, SentinelSet
from tests.support.proxy import Proxy
from tests.support.tls import Authority
from tests.support.waiting import until

PASSWORD = "p@ss:/wo%rd{}"
PUBSUB = ("+@pubsub", "+ping")
"""All that a user needs, besides the question for the masters (docs/operations.md)."""
QUOTED = "p%40ss%3A%2Fwo%25rd%7B%7D"


async def troubled(peer: Peer, *words: str) -> None:
    await until(lambda: all(word in (peer.broker.problem() or "") for word in words), what=f"a problem of {words}")


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "http://127.0.0.1", "redis+sentinels://127.0.0.1/x", "http+sentinel://127.0.0.1", "redis+cluster://a:1,b:x",
    "redis+cluster://a:70000", "redis://127.0.0.1/0?socket_timeout=soon", "127.0.0.1:6379",
])  # fmt: skip
def test_addresses_that_cannot_be_read(url: str) -> None:
    """A start says how an address is written, and does not repeat what stands in it: it may be a password."""
    with pytest.raises(StartError, match=r"redis\.url"):
        Endpoint(url)


def test_what_addresses_mean() -> None:
    """Ports have defaults, rediss is TLS for all of them, and the query has redis-py's options."""
    endpoint = Endpoint(
        f"rediss+sentinel://bob:{QUOTED}@a,b:7,[::1]:8,[::2]/shop?sentinel_password=s%26s&ssl_ca_certs=/ca.pem"
    )
    assert endpoint.addresses == ["a:26379", "b:7", "[::1]:8", "[::2]:26379"]
    for sentinel, user, password in ((False, "bob", PASSWORD), (True, None, "s&s")):
        pool = endpoint.client("[::1]:8", sentinel).connection_pool
        assert pool.connection_class is SSLConnection
        expected = {"host": "::1", "port": 8, "password": password, "ssl_ca_certs": "/ca.pem"}
        assert pool.connection_kwargs.items() >= expected.items()
        assert pool.connection_kwargs.get("username") == user
    assert Endpoint("redis+cluster://a,b").addresses == ["a:6379", "b:6379"]


def test_tls(shared_redis: Redis, tmp_path: Path) -> None:
    """What is sent is received, over links that are lost as well; only of who is who it says to be, and to who shows a
    certificate where one is asked for."""
    world = World("redis", shared_redis)
    authority, strangers = Authority(tmp_path), Authority(tmp_path / "strangers")
    certificate, key = authority.issue("node")
    ours = f"ssl_ca_certs={authority.certificate}"
    shown = f"ssl_certfile={certificate}&ssl_keyfile={key}"

    async def refused(proxy: Proxy, query: str, *words: str) -> None:
        peer = world.peer(url=f"rediss://127.0.0.1:{proxy.port}/0?{query}")
        await peer.start()
        await until(lambda: "not connected yet" not in (peer.broker.problem() or ""), what="an attempt")
        await troubled(peer, *words)
        await peer.broker.close()

    async def test() -> None:
        async with (
            Proxy(shared_redis.port, tls=authority.server()) as proxy,
            Proxy(shared_redis.port, tls=authority.server(mutual=True)) as strict,
            Proxy(shared_redis.port, tls=authority.server("other", "127.0.0.2")) as other,
            Proxy(shared_redis.port) as plain,
            world.peer(url=f"rediss://127.0.0.1:{proxy.port}/0?{ours}") as one,
            world.peer(url=f"rediss://127.0.0.1:{strict.port}/0?{ours}&{shown}") as two,
        ):
            await two.broker.subscribe("chat:a")
            one.broker.publish([message("hello")])
            await two.got("hello")
            await strict.drop()
            await two.settled()
            one.broker.publish([message("again")])
            await two.got("hello", "again")
            await refused(proxy, "", "certificate verify failed")
            await refused(proxy, f"ssl_ca_certs={strangers.certificate}", "certificate verify failed")
            await refused(other, ours, "IP address mismatch")
            await refused(strict, ours, "redis: ")
            await refused(plain, ours, "redis: ")

    run(test)


def test_sentinels_and_servers_have_passwords_of_their_own(shared_sentinel: SentinelSet) -> None:
    world = World("sentinel", shared_sentinel)
    hosts = shared_sentinel.url.partition("://")[2]

    async def test() -> None:
        for server in shared_sentinel.servers:
            await server.ask("ACL SETUSER", "server", "on", f">{PASSWORD}", f"&{world.prefix}:*", *PUBSUB, "+role")
        for sentinel in shared_sentinel.sentinels:
            await sentinel.ask("ACL SETUSER", "asked", "on", f">{PASSWORD}", "+sentinel|get-master-addr-by-name")
        address = f"redis+sentinel://server:%s@{hosts}?sentinel_username=asked&sentinel_password=%s"
        for passwords in ((QUOTED, "wrong"), ("wrong", QUOTED)):
            peer = world.peer(url=address % passwords)
            await peer.start()
            await troubled(peer, "invalid username-password")
            await peer.broker.close()
        async with world.peer(url=address % (QUOTED, QUOTED)) as one:
            await one.broker.subscribe("chat:a")
            one.broker.publish([message("hello")])
            await one.got("hello")

    run(test)


@pytest.mark.parametrize("kind", ["cluster", "sharded cluster"])
def test_all_nodes_of_a_cluster_have_one_password(shared_cluster: RedisCluster, kind: str) -> None:
    world = World(kind, shared_cluster)
    host = shared_cluster.url.partition("://")[2]

    async def test() -> None:
        for node in shared_cluster.nodes:
            await node.ask(
                "ACL SETUSER", "server", "on", f">{PASSWORD}", f"&{world.prefix}:*", *PUBSUB, "+cluster|slots"
            )
        peer = world.peer(url=f"redis+cluster://server:wrong@{host}")
        await peer.start()
        await troubled(peer, "invalid username-password")
        await peer.broker.close()
        async with world.peer(url=f"redis+cluster://server:{QUOTED}@{host}") as one:
            await one.broker.subscribe("chat:a")
            one.broker.publish([message("hello")])
            await one.got("hello")

    run(test)


# --- Sentinels and Clusters that change -------------------------------------------------------------------------------


def test_a_sentinel_that_hangs_is_passed_over(shared_sentinel: SentinelSet) -> None:
    first = shared_sentinel.sentinels[0]

    async def test() -> None:
        first.pause()
        try:
            async with World("sentinel", shared_sentinel).peer() as one:
                await one.settled()
        finally:
            first.resume()

    run(test)


def test_a_slot_that_moves_is_followed(shared_cluster: RedisCluster) -> None:
    """Both who listens and who publishes go to the new master, whoever notices first."""
    world = World("sharded cluster", shared_cluster)
    slot = key_slot(f"{world.prefix}:c:chat:a".encode())

    async def test() -> None:
        async with world.peer() as one, world.peer() as two:
            for channel in ("chat:a", "chat:b", "chat:c"):
                await one.broker.subscribe(channel)
            before = one.reconnects
            home = await shared_cluster.owner(slot)
            away = next(node for node in shared_cluster.masters if node is not home)
            for target in (away, home):
                await shared_cluster.move(slot, target)
                await until(lambda before=before: one.reconnects > before, what="reconnect")
                before = one.reconnects
                await one.settled()
                arrived = len(one.data("chat:a"))

                def arrives(arrived: int = arrived) -> bool:
                    two.broker.publish([message("again", "chat:a")])
                    return len(one.data("chat:a")) > arrived

                await until(arrives, what="a message by the new master")
                await until(lambda: two.broker.problem() is None, what="end of the problem")

    run(test)


def test_a_cluster_loses_a_node_and_gets_it_back(tmp_path: Path) -> None:
    """Without a replica. Unsharded, the other nodes do as well, though the URL names only the lost one. Sharded, there
    is no link until it is back."""
    cluster = RedisCluster(tmp_path)

    async def test() -> None:
        async with cluster:
            plain, sharded = World("cluster", cluster), World("sharded cluster", cluster)
            async with plain.peer() as one, plain.peer() as two, sharded.peer() as three:
                for peer in (one, two, three):
                    for channel in ("chat:a", "chat:b", "chat:c"):
                        await peer.broker.subscribe(channel)
                before = {peer: peer.reconnects for peer in (one, two, three)}
                await cluster.nodes[0].kill()
                for peer in (one, two):
                    await until(lambda peer=peer: peer.reconnects > before[peer], what="reconnect")
                    await peer.settled()
                await troubled(three, "redis: ")
                one.broker.publish([message("still")])
                await two.got("still")
                assert three.broker.problem()
                await cluster.nodes[0].start()
                await cluster.whole()
                await three.settled()
                assert three.reconnects > before[three]
                three.broker.publish([message("again")])
                await three.got("again")

    run(test)


# --- links that hang --------------------------------------------------------------------------------------------------


def test_a_silent_link_is_noticed_by_itself(tmp_path: Path) -> None:
    """Nothing is published, nobody suspects anything, and no FIN or RST comes."""
    redis = Redis(tmp_path)
    world = World("redis", redis)

    async def test() -> None:
        async with redis, Proxy(redis.port) as proxy, world.peer(url=f"redis://127.0.0.1:{proxy.port}") as one:
            proxy.black_hole()
            await troubled(one, "redis: ")
            await proxy.heal()
            await one.settled()
            assert one.reconnects == 2

    run(test)


def test_a_link_that_breaks_as_soon_as_it_is_made_is_made_less_and_less_often(tmp_path: Path) -> None:
    """Each costs Redis all subscriptions and MongoDB a sweep."""
    redis = Redis(tmp_path)
    world = World("redis", redis)

    async def test() -> None:
        async with redis, world.peer() as one:
            began = time.monotonic()
            for number in range(1, 6):
                await until(lambda number=number: one.reconnects >= number, what=f"link {number}", every=0.002)
                await redis.client_kill_pubsub()
            await until(lambda: one.reconnects >= 6, what="the last link")
            assert time.monotonic() - began > (0.1 + 0.2 + 0.4 + 0.8 + 1.0) / 2

    run(test)


def test_what_waits_for_redis_is_bounded_in_bytes(tmp_path: Path) -> None:
    """20,000 publications may be gigabytes."""
    peer = World("redis", Redis(tmp_path)).peer()
    text = "x" * 2**20

    async def test() -> None:
        for _ in range(100):
            peer.broker.publish([message(text)])
        assert 100 - peer.broker.dropped == (QUEUED_BYTES - 1) // 2**20
        await peer.broker.close()

    run(test)


def test_closing_does_not_wait_for_a_redis_that_hangs(tmp_path: Path) -> None:
    """Not even with more on its way than sockets hold; nor does anything stay behind."""
    redis = Redis(tmp_path)
    world = World("redis", redis)

    async def test() -> None:
        async with redis, world.peer() as one:
            await one.broker.subscribe("chat:a")
            one.broker.publish([message("before")])
            await one.got("before")
            redis.pause()
            for _ in range(50):
                one.broker.publish([message("x" * 2**20)])
            for _ in range(20):  # turns, so that it is on its way
                await asyncio.sleep(0)
            async with asyncio.timeout(15):
                await one.broker.close()

    run(test)
