"""Where the servers are: an Endpoint is a redis.url, a Topology what it has led to, by Sentinels or a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import NoPermissionError

from server.brokers import links
from server.brokers.links import LINK_ERRORS, NoLink, brief
from server.core.errors import StartError

ASK_WITHIN: Final = 1.0
"""Seconds for one Sentinel or Cluster node to say who is the master, before the next one is asked."""


class Topology:
    """Who serves which topic: one server all of them, or the masters of a Cluster by the slots."""

    def __init__(self, clients: Sequence[Redis], publish: str, owners: Sequence[Redis | None] = ()) -> None:
        self.all = clients
        self._publish = publish
        """The command."""
        self._owners = owners
        """By slot."""

    def of(self, topic: str) -> Redis:
        if not self._owners:
            return self.all[0]
        slot = key_slot(topic.encode())
        owner = self._owners[slot]
        if owner is None:
            raise NoLink(f"no master has slot {slot}")
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
        await asyncio.gather(*map(links.close, self.all))


class Endpoint:
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
                links.client(url)
                return
            if self._kind not in ("sentinel", "cluster"):
                raise ValueError
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
                self.client(host)
        except ValueError:  # whose words may quote the password
            raise StartError(
                "redis.url: cannot be read; it is redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, "
                "then USER:PASSWORD@ with special characters percent-encoded, HOST:PORT, and redis-py's options"
            ) from None

    @property
    def addresses(self) -> Sequence[str]:
        """Of the Sentinels or of the Cluster's nodes: who is asked, in this order."""
        return self._known

    def client(self, address: str, sentinel: bool = False) -> Any:
        credentials = self._sentinel_credentials if sentinel else self._credentials
        return links.client(f"{self._scheme}://{credentials}{'@' if credentials else ''}{address}/?{self._query}")

    async def resolve(self) -> Topology:
        """Connections may still fail. RedisError if nobody who is asked knows."""
        if not self._kind:
            return Topology([links.client(self._url)], "SPUBLISH" if self._sharded else "PUBLISH")
        problem = ""
        for address in self.addresses:
            try:
                return await (self._of_sentinel(address) if self._kind == "sentinel" else self._of_node(address))
            except LINK_ERRORS as error:
                problem = f"{address}: {brief(error)}"
        raise NoLink(f"no server found; {problem}")

    async def _of_sentinel(self, address: str) -> Topology:
        sentinel = self.client(address, sentinel=True)
        try:
            async with asyncio.timeout(ASK_WITHIN):
                found = await sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await links.close(sentinel)
        if found is None:
            raise NoLink(f"it knows no {self._service}")
        master = self.client(_address(*found))
        try:
            with contextlib.suppress(NoPermissionError):  # then the Sentinel's word has to do
                if (await master.execute_command("ROLE"))[0] != b"master":
                    raise NoLink("it names a replica")
        except BaseException:
            await links.close(master)
            raise
        return Topology([master], "SPUBLISH" if self._sharded else "PUBLISH")

    async def _of_node(self, address: str) -> Topology:
        """A Cluster carries what is published on one node to those who listen on another; sharded, only within the
        shard."""
        node = self.client(address)
        try:
            async with asyncio.timeout(ASK_WITHIN):
                slots = await node.execute_command("CLUSTER SLOTS")
            if not slots:
                raise NoLink("it has no Cluster")
            here = address.rpartition(":")[0].strip("[]")
            ranges = [
                (first, last, [_address(one[0] or here, one[1]) for one in nodes]) for first, last, *nodes in slots
            ]
            # A restarted Cluster may have other addresses, but those of the URL are tried first.
            self._known = list(dict.fromkeys((*self._hosts, *sorted({one for *_, nodes in ranges for one in nodes}))))
            if not self._sharded:
                return Topology([node], "PUBLISH")
        except BaseException:
            await links.close(node)
            raise
        await links.close(node)
        masters: dict[str, Redis] = {}
        owners: list[Redis | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (owner, *_) in ranges:
            if owner not in masters:
                masters[owner] = self.client(owner)
            owners[first : last + 1] = [masters[owner]] * (last + 1 - first)
        return Topology(list(masters.values()), "SPUBLISH", owners)


def _address(host: bytes | str, port: bytes | int) -> str:
    text = host.decode() if isinstance(host, bytes) else host
    return f"[{text}]:{int(port)}" if ":" in text else f"{text}:{int(port)}"
