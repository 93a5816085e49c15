"""The storm: messages published while a server is killed and Redis is away, and every one has to arrive once."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.interop.programs import Program, Run, start
from tests.interop.servers import API_KEY, SECRET, SETTINGS
from tests.support.plain_http import plain
from tests.support.processes import Mongod, Redis, Server

AT_A_TIME = 16
STEPS_WITHIN = 90.0
ARRIVE_WITHIN = 60.0


async def storm(
    programs: list[tuple[Program, list[str]]], directory: Path, mongod_uri: str | None, count: int
) -> dict[Program, Mapping[str, str]]:
    """Program → step → why it has failed. All programs listen at once, on the instance that is killed; what is
    published goes through another."""
    async with contextlib.AsyncExitStack() as stack:
        if mongod_uri is None:
            mongod_uri = (await stack.enter_async_context(Mongod(directory / "mongod"))).uri
        redis = await stack.enter_async_context(Redis(directory))
        settings = SETTINGS | {"mongodb.database": f"storm_{uuid.uuid4().hex[:8]}"}
        killed, other = [
            await stack.enter_async_context(Server(directory, mongod_uri, redis.url, settings, name))
            for name in ("killed", "other")
        ]
        channel = f"storm-{uuid.uuid4().hex[:8]}"
        runs = [await start(program, command, killed.base, SECRET, channel, count) for program, command in programs]
        readers = [asyncio.create_task(run.read()) for run in runs]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEPS_WITHIN):
                    await asyncio.gather(*(run.ready.wait() for run in runs))
            faults = {count // 4: lambda: _kill(killed), count // 2: redis.kill, 3 * count // 4: redis.start}
            await _publish(other, channel, count, faults)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ARRIVE_WITHIN):
                    await asyncio.gather(*map(asyncio.shield, readers))
        finally:
            await _end(runs, readers)
        return {run.program: run.outcome(count) for run in runs}


async def _kill(server: Server) -> None:
    await server.kill()
    await server.start()


async def _publish(
    server: Server, channel: str, count: int, faults: Mapping[int, Callable[[], Awaitable[object]]]
) -> None:
    """Numbered from 1 on, in order: so that they may be checked for order, one request has to be answered before the
    next batch is sent."""
    async with plain(base_url=server.base, headers={"X-API-Key": API_KEY}, timeout=30) as http:
        for first in range(1, count + 1, AT_A_TIME):
            numbers = range(first, min(first + AT_A_TIME, count + 1))
            for at, fault in faults.items():
                if at in numbers:
                    await fault()
            commands = [
                {"publish": {"channel": channel, "data": {"n": n}, "idempotency_key": f"{channel}-{n}"}}
                for n in numbers
            ]
            while commands:  # what was not acknowledged is sent again, under its key
                replies = (await http.post("/api/batch", json={"commands": commands})).json()["replies"]
                commands = commands[next((at for at, one in enumerate(replies) if "error" in one), len(replies)) :]


async def _end(runs: list[Run], readers: list[asyncio.Task[None]]) -> None:
    for run in runs:
        if run.process.returncode is None:
            run.process.kill()
    await asyncio.gather(*readers, return_exceptions=True)
