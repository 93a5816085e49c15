"""Faults by chance, and by a seed: whatever two nodes stand on is paused, killed, cut and made to fail, all at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.support.processes import Mongod, Process, Redis, Server
from tests.support.proxy import Proxy

Strike = Callable[[random.Random], Awaitable[None]]
WRITES = ["insert", "update", "findAndModify", "delete"]
READS = ["find", "aggregate", "getMore", "distinct"]
CODES = (11600, 11602, 10107, 189, 91, 50, 112, 134, 262)
"""Of a MongoDB that is leaving, electing, late or in the way of another."""


class Fuzzer:
    """`await strike(count)`: so many faults of each of three kinds, the kinds side by side. `history` has every one
    with its time, so that a finding can be read. The same seed makes the same faults in the same order; what they meet
    is chance all the same."""

    def __init__(
        self,
        seed: str,
        servers: Sequence[Server],
        redis: Redis,
        mongod: Mongod,
        to_redis: Sequence[Proxy],
        to_mongodb: Sequence[Proxy],
    ) -> None:
        self.seed = seed
        self.history: list[str] = []
        self._servers = servers
        self._redis = redis
        self._mongod = mongod
        self._to_redis = to_redis
        self._to_mongodb = to_mongodb
        self._began = time.monotonic()
        self._kinds: dict[str, list[Strike]] = {
            "node": [self._pause_node, self._kill_node, self._leave],
            "redis": [self._pause_redis, self._kill_redis, self._cut_redis, self._link_to_redis],
            "mongodb": [self._pause_mongod, self._kill_mongod, self._fail, self._fail, self._link_to_mongodb],
        }

    async def strike(self, count: int) -> None:
        try:
            async with asyncio.TaskGroup() as kinds:
                for kind, strikes in self._kinds.items():
                    kinds.create_task(self._strike(kind, strikes, count))
        finally:
            await self.heal()

    async def _strike(self, kind: str, strikes: list[Strike], count: int) -> None:
        chance = random.Random(f"{self.seed} {kind}")
        for _ in range(count):
            await asyncio.sleep(chance.uniform(0.1, 2.0))
            await chance.choice(strikes)(chance)

    async def heal(self) -> None:
        """Everything runs again, and nothing is in the way."""
        for one in (self._mongod, self._redis, *self._servers):
            if not one.running:
                one.launch()
            one.resume()
        await self._mongod.wait_ready()
        await self._mongod.disarm()
        for proxy in (*self._to_redis, *self._to_mongodb):
            await proxy.heal()
        self._note("healed")

    def _note(self, text: str) -> None:
        self.history.append(f"{time.monotonic() - self._began:6.2f} {text}")

    async def _pause(self, one: Process, seconds: float) -> None:
        self._note(f"{one.name} stands still for {seconds:.2f} s")
        one.pause()
        await asyncio.sleep(seconds)
        one.resume()

    async def _kill(self, one: Process, away: float) -> None:
        self._note(f"{one.name} is killed, and started after {away:.2f} s")
        await one.kill()
        await asyncio.sleep(away)
        one.launch()

    # --- nodes --------------------------------------------------------------------------------------------------------

    async def _pause_node(self, chance: random.Random) -> None:
        await self._pause(chance.choice(self._servers), chance.choice((0.2, 1.0, 3.0, 5.0)))

    async def _kill_node(self, chance: random.Random) -> None:
        await self._kill(chance.choice(self._servers), chance.choice((0.0, 1.0, 4.0)))

    async def _leave(self, chance: random.Random) -> None:
        server = chance.choice(self._servers)
        self._note(f"{server.name} is asked to leave")
        try:
            await server.terminate(within=20)
        except TimeoutError:
            self._note(f"{server.name} has not left within 20 s")
            await server.kill()
        server.launch()

    # --- Redis --------------------------------------------------------------------------------------------------------

    async def _pause_redis(self, chance: random.Random) -> None:
        await self._pause(self._redis, chance.choice((0.2, 1.0, 3.0)))

    async def _kill_redis(self, chance: random.Random) -> None:
        await self._kill(self._redis, chance.choice((0.0, 0.5, 3.0)))

    async def _cut_redis(self, chance: random.Random) -> None:
        kind = chance.choice(("pubsub", "normal"))
        self._note(f"redis cuts {kind} links")
        try:
            await self._redis.call(f"CLIENT KILL TYPE {kind}")
        except OSError:
            pass  # it is starting

    async def _link_to_redis(self, chance: random.Random) -> None:
        await self._break(chance.choice(self._to_redis), "redis", chance)

    # --- MongoDB ------------------------------------------------------------------------------------------------------

    async def _pause_mongod(self, chance: random.Random) -> None:
        await self._pause(self._mongod, chance.choice((0.2, 1.0, 3.0)))

    async def _kill_mongod(self, chance: random.Random) -> None:
        await self._kill(self._mongod, chance.choice((0.0, 1.0)))
        await self._mongod.wait_ready()

    async def _fail(self, chance: random.Random) -> None:
        commands = chance.choice((["insert"], WRITES, READS, [*WRITES, *READS]))
        fault: dict[str, Any] = chance.choice((
            {"closeConnection": True},
            {"errorCode": chance.choice(CODES)},
            {"writeConcernError": {"code": chance.choice((64, 91)), "errmsg": "it was not waited for"}},
            {"blockConnection": True, "blockTimeMS": chance.choice((50, 500, 2500))},
        ))  # fmt: skip
        times = chance.choice((1, 3, 10))
        self._note(f"mongod: {fault} for {times} of {', '.join(commands)}")
        await self._mongod.fail_command({"failCommands": commands, "appName": "waterspout", **fault}, {"times": times})

    async def _link_to_mongodb(self, chance: random.Random) -> None:
        await self._break(chance.choice(self._to_mongodb), "mongod", chance)

    async def _break(self, proxy: Proxy, where: str, chance: random.Random) -> None:
        how, seconds = chance.choice(("drop", "cut", "hole", "up", "down", "late")), chance.choice((0.2, 1.0, 3.0))
        self._note(f"a link to {where}: {how} for {seconds} s")
        match how:
            case "drop":
                await proxy.drop()
                return
            case "cut":
                await proxy.cut()
            case "hole":
                proxy.black_hole()
            case "up" | "down":
                proxy.black_hole(how)
            case "late":
                proxy.delay(chance.choice((0.02, 0.2)))
        await asyncio.sleep(seconds)
        await proxy.heal()
