"""The embedded mongod ends by itself: it is started again, or the server ends with it, and either is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.commands import alive, mongods
from tests.support.processes import UNLIMITED, Server
from tests.support.waiting import until


async def another(server: Server, *old: int) -> int:
    """The pid of the mongod that has taken the place of these."""

    def found() -> int | None:
        return next((pid for pid in mongods(server) if pid not in old and alive(pid)), None)

    return await until(found, 30, "another mongod")


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("name", ["data", "long" * 30], ids=["socket", "port"])
async def test_a_killed_mongod_is_started_again(tmp_path: Path, name: str) -> None:
    """Publishes wait for it, what was acknowledged is there, and subscribers need not come back."""
    async with Server(tmp_path / name, settings=UNLIMITED) as server, Client([server.ws]) as client:
        heard = await client.subscribe("chat:x")
        await client.publish_surely("chat:x", 1, key="one")
        (mongod,) = mongods(server)
        os.kill(mongod, signal.SIGKILL)
        await client.publish_surely("chat:x", 2, key="two")
        assert await another(server, mongod)
        await server.wait_ready()
        await client.publish_surely("chat:x", 3, key="three")
        assert [push["data"] for push in await heard.messages(3)] == [1, 2, 3]
        assert "the embedded mongod was ended by signal 9; it is started again" in server.log.read_text()
        await until(lambda: "serves again after" in server.log.read_text(), 10, "word of it")
        assert await server.terminate() == 0


@pytest.mark.gen_test(timeout=120)
async def test_readiness_says_that_mongod_is_gone(tmp_path: Path) -> None:
    """While it is away `/readyz` is down, with its reason; `/healthz` lives on."""
    async with Server(tmp_path) as server:
        reasons: set[str] = set()
        killed: set[int] = set()

        async def told() -> bool:
            killed.update(mongods(server))
            for pid in killed:
                if alive(pid) and len(killed) == 1:
                    os.kill(pid, signal.SIGKILL)
            answer = await server.get("/readyz")
            reasons.update(answer.body.get("reasons", ()))
            assert answer.status == (503 if answer.body["status"] == "down" else 200)
            assert (await server.get("/healthz")).status == 200
            return any("embedded mongod was ended by signal 9" in reason for reason in reasons)

        await until(told, 30, "the reason", every=0.01)
        await server.wait_ready()


@pytest.mark.gen_test(timeout=180)
async def test_a_mongod_that_keeps_ending_ends_the_server(tmp_path: Path) -> None:
    """Not for ever: after five times within a minute the server leaves, says why, and its exit code is not 0."""
    server = Server(tmp_path)
    try:
        await server.start()
        killed: list[int] = []
        while len(killed) < 5:
            killed.append(await another(server, *killed))
            os.kill(killed[-1], signal.SIGKILL)
        assert await server.wait_exit(60) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith("waterspout: mongod was ended by signal 9, 5 times within 60 s")
        assert not any(alive(pid) for pid in killed)
    finally:
        await server.stop()
        server.clean()


@pytest.mark.gen_test(timeout=120)
async def test_a_mongod_that_cannot_be_started_again_ends_the_server(tmp_path: Path) -> None:
    """Its data are spoilt: the line says what mongod said, and where its log is."""
    server = Server(tmp_path)
    try:
        await server.start()
        (mongod,) = mongods(server)
        os.kill(mongod, signal.SIGSTOP)  # so that it does not mend it
        (server.data / "mongodb" / "WiredTiger.turtle").write_text("spoilt")
        (server.data / "mongodb" / "WiredTiger.wt").write_text("spoilt")
        os.kill(mongod, signal.SIGKILL)
        assert await server.wait_exit(60) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith("waterspout: mongod ended ")
        assert "WiredTiger" in last
        assert "mongod.log" in last
    finally:
        await server.stop()
        server.clean()
