"""run.py as an operator meets it: how it refuses to start, waits for MongoDB, leaves, and is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

import run
from tests.support.client import Client, ConnectionLost, Refused
from tests.support.commands import alive, mongods, refused, stopped
from tests.support.processes import LOOPBACK, UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until

LOBBY = "/v1/channels/chat:lobby/messages"
NOWHERE = "mongodb://127.0.0.1:1/"


async def history(server: Server, channel: str = "chat:lobby") -> list[dict[str, Any]]:
    """Everything in a channel, oldest first."""
    messages: list[dict[str, Any]] = []
    cursor, more = "0", True
    while more:
        answer = await server.get(f"/v1/channels/{channel}/messages?after={cursor}&limit=1000")
        assert answer.status == 200, answer
        messages += answer.body["messages"]
        cursor, more = answer.body["cursor"], answer.body["more"]
    return messages


async def publish(server: Server, *data: Any) -> None:
    for one in data:
        assert (await server.post(LOBBY, {"data": one})).status == 201


# --- refusing to start ------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=60)
async def test_a_taken_port(tmp_path: Path) -> None:
    """The address that is taken is named, and the flag that chooses another."""
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        said = await refused("--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert f"127.0.0.1:{port} is taken" in said
    assert "--port" in said


@pytest.mark.gen_test(timeout=60)
async def test_an_unknown_key_in_the_file(tmp_path: Path) -> None:
    """The key is named with its section."""
    file = tmp_path / "config.yaml"
    file.write_text("limits:\n  mesage_bytes: 1\n")
    assert "limits.mesage_bytes" in await refused("--config", str(file))


@pytest.mark.gen_test(timeout=60)
async def test_an_unknown_key_in_the_environment(tmp_path: Path) -> None:
    """A misspelt variable is refused like a misspelt key of the file."""
    assert "limits.mesage_bytes" in await refused(environment={"WATERSPOUT__LIMITS__MESAGE_BYTES": "1"})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("server.port", "server.port"),
        ("=1", "=1"),
        ("server.port=many", "server.port"),
        ("server.prot=1", "server.prot"),
        ("server=5", "server"),
        ("server.port={", "server.port"),
        ("namespaces.chat={publish: everybody}", "namespaces.chat.publish"),
        ("server.shutdown_timeout=soon", "server.shutdown_timeout"),
    ],
)
def test_a_bad_set(setting: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a --set is said, and with which."""
    assert run.main(["--set", setting]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("waterspout: ")
    assert named in line


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize(
    "uri", ["", "mongodb://", "mongodb://127.0.0.1:99999/", "http://127.0.0.1/", "mongodb://[::1", "mongodb://h/?w=x=y"]
)
async def test_a_bad_mongodb_uri(uri: str) -> None:
    """A URI that can never work is refused at once instead of being retried for ever."""
    assert "mongodb.uri" in await refused("--port", str(free_port()), "--mongodb-uri", uri)


@pytest.mark.gen_test(timeout=60)
async def test_a_standalone_mongod(tmp_path: Path) -> None:
    """A mongod that is no replica set can never do; the server says so and leaves."""
    async with Mongod(tmp_path, replica_set="") as mongod:
        assert "replica set" in await refused("--port", str(free_port()), "--mongodb-uri", mongod.uri)


@pytest.mark.gen_test(timeout=60)
async def test_no_mongod_to_embed(tmp_path: Path) -> None:
    """Without the wheel and without one on PATH, the line says what to do."""
    (tmp_path / "hidden" / "fiftyone").mkdir(parents=True)
    (tmp_path / "hidden" / "fiftyone" / "__init__.py").touch()
    said = await refused(
        *("--port", str(free_port()), "--data-dir", str(tmp_path / "data")),
        environment={"PYTHONPATH": str(tmp_path / "hidden"), "PATH": str(tmp_path)},
    )
    assert "no mongod found" in said
    assert "make setup" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.gen_test(timeout=90)
async def test_a_data_directory_in_use(tmp_path: Path) -> None:
    """The second server on the same data leaves; the first one isn't disturbed."""
    async with Server(tmp_path) as server:
        said = await refused("--port", str(free_port()), "--data-dir", str(server.data))
        assert str(server.data) in said
        assert "in use" in said
        await publish(server, "undisturbed")


@pytest.mark.gen_test(timeout=60)
async def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    """A data directory that cannot be made is named."""
    (tmp_path / "data").touch()
    said = await refused("--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    assert "server.data_dir" in said


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=90)
async def test_mongodb_that_comes_later(tmp_path: Path) -> None:
    """Without MongoDB the server stays, says why it is down and refuses publishes; it is ready once MongoDB is."""
    mongod = Mongod(tmp_path)
    server = Server(tmp_path, mongod.uri)
    try:
        server.launch()
        await server.wait_status("down")
        answer = await server.get("/readyz")
        assert answer.status == 503
        assert any("MongoDB" in reason for reason in answer.body["reasons"])
        assert (await server.get("/healthz")).status == 200
        answer = await server.post(LOBBY, {"data": 1})
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        await mongod.start()
        await server.wait_ready()
        assert (await server.get("/readyz")).status == 200
        await publish(server, "at last")
        assert await server.terminate() == 0
    finally:
        await server.stop()
        await mongod.stop()
        mongod.clean()


@pytest.mark.gen_test(timeout=60)
async def test_leaving_before_mongodb_came(tmp_path: Path) -> None:
    """SIGTERM ends a server that still waits for MongoDB."""
    server = Server(tmp_path, NOWHERE)
    try:
        server.launch()
        await server.wait_status("down")
        assert await server.terminate() == 0
    finally:
        await server.stop()


NAMES = ("My 100% + 1@b, c", "long" * 30, "ü" * 28)
"""The last one has fewer characters than a socket's path may have bytes."""


@pytest.mark.gen_test(timeout=120)
async def test_any_data_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The embedded MongoDB works whatever the directory is called, and keeps its data over a restart, also where it is
    moved to another place between."""
    places = [Server(tmp_path_factory.mktemp("d") / name) for name in NAMES]
    before: Server | None = None
    for number, server in enumerate((*places, places[-1]), 1):
        if before is not None and before is not server:
            server.directory.mkdir()
            before.data.rename(server.data)
        try:
            await server.start()
            await publish(server, number)
            assert [message["data"] for message in await history(server)] == list(range(1, number + 1))
        finally:
            await server.stop()
        before = server
    places[-1].clean()


# --- leaving and dying ------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=90)
async def test_a_killed_server_leaves_no_mongod(tmp_path: Path) -> None:
    """kill -9 takes mongod along, and the next start on the same data works at once with every message."""
    server = Server(tmp_path)
    try:
        await server.start()
        for n in range(20):
            await publish(server, n)
        (mongod,) = mongods(server)
        await server.kill()
        await server.start()  # at once: mongod may still be dying
        assert [message["data"] for message in await history(server)] == list(range(20))
        await until(lambda: not alive(mongod), 10, "end of the first mongod")
        await publish(server, 20)
        assert (await history(server))[-1]["offset"] == 21
    finally:
        await server.stop()
        server.clean()


@pytest.mark.gen_test(timeout=60)
async def test_an_idle_server_leaves_tidily(tmp_path: Path) -> None:
    """SIGTERM: exit code 0, mongod stopped in order (not killed), no traceback in the log."""
    server = Server(tmp_path)
    try:
        await server.start()
        (mongod,) = mongods(server)
        assert await server.terminate() == 0
        assert not alive(mongod)
        log = server.log.read_text()
        assert "Traceback" not in log
        assert "never retrieved" not in log
        assert '"s":"I",  "c":"CONTROL",  "id":23138' in (server.data / "mongodb" / "mongod.log").read_text()
    finally:
        await server.stop()
        server.clean()


class Load:
    """A client that publishes without a pause until it is told to stop; what became of each key."""

    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self.server = server
        self.client = Client(server.ws, name=f"publisher {number}")
        self.acknowledged: dict[str, int] = {}
        self.refused: set[str] = set()
        self.unknown: set[str] = set()

    async def run(self) -> None:
        for n in range(1_000_000):
            key = f"{self.number}-{n}"
            try:
                reply = await self.client.publish("chat:lobby", {"n": n}, key=key)
                self.acknowledged[key] = reply["offset"]
            except Refused as refusal:
                known = {"unavailable": self.refused, "outcome_unknown": self.unknown}
                known[refusal.code].add(key)
            except ConnectionLost:
                self.unknown.add(key)
                return

    async def run_rest(self) -> None:
        for n in range(1_000_000):
            key = f"rest-{self.number}-{n}"
            try:
                answer = await self.server.post(LOBBY, {"data": {"n": n}, "key": key}, timeout=20)
            except (OSError, HTTPClientError) as error:
                if getattr(error, "code", 599) == 599 and not isinstance(error, ConnectionRefusedError):
                    self.unknown.add(key)
                return
            if answer.status == 201:
                self.acknowledged[key] = answer.body["offset"]
            else:
                assert (answer.status, answer.body["code"]) == (503, "unavailable")
                self.refused.add(key)


@pytest.mark.gen_test(timeout=120)
async def test_leaving_under_load(tmp_path: Path) -> None:
    """SIGTERM while clients publish: all are told to come back, and what was acknowledged is there afterwards."""
    server = Server(tmp_path, settings=UNLIMITED)
    async with AsyncExitStack() as stack:
        stack.callback(server.clean)
        stack.push_async_callback(server.stop)
        await server.start()
        loads = [Load(number, server) for number in range(8)]
        listener = Client(server.ws, name="listener")
        for client in (listener, *(load.client for load in loads)):
            await stack.enter_async_context(client)
        subscription = await listener.subscribe("chat:lobby")
        running = [asyncio.ensure_future(load.run()) for load in loads]
        running += [asyncio.ensure_future(load.run_rest()) for load in loads[:4]]
        await until(lambda: all(len(load.acknowledged) >= 20 for load in loads), 30, "traffic")
        assert await server.terminate() == 0
        await asyncio.gather(*running)
        await until(lambda: listener.losses and all(load.client.losses for load in loads), 10, "goodbyes")

        for client in (listener, *(load.client for load in loads)):
            (loss,) = client.losses
            assert loss.code == 4000
            assert loss.disconnect is not None
            assert (loss.disconnect["code"], loss.disconnect["reconnect"]) == (4000, True)
            assert loss.disconnect["delay"] > 0
        seen = [push["offset"] for push in subscription.waiting()]
        assert seen == list(range(1, len(seen) + 1))
        assert "Traceback" not in server.log.read_text()

        await server.start()
        stored = {message["key"]: message["offset"] for message in await history(server)}
        for load in loads:
            assert load.acknowledged.items() <= stored.items()
            assert not load.refused & stored.keys()
        answered = set[str]().union(*(load.acknowledged.keys() | load.unknown for load in loads))
        assert stored.keys() <= answered
        assert sorted(stored.values()) == list(range(1, len(stored) + 1))


@pytest.mark.gen_test(timeout=60)
async def test_the_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """A server held up by a MongoDB that does not answer leaves at the second SIGTERM, with its mongod."""
    server = Server(tmp_path)
    try:
        await server.start()
        (mongod,) = mongods(server)
        os.kill(mongod, signal.SIGSTOP)
        await until(lambda: stopped(mongod), 10, "a mongod that stands still")  # its threads have to notice
        async with Client(server.ws) as client:
            publishing = asyncio.ensure_future(client.publish("chat:lobby", 1))
            await asyncio.sleep(0)
            await client.ping()  # the publish before it has been taken in
            server.send_signal(signal.SIGTERM)
            await until(lambda: "leaving" in server.log.read_text(), 10, "taken signal")
            assert server.running
            server.send_signal(signal.SIGTERM)
            assert await server.wait_exit(5) != 0
        with pytest.raises(ConnectionLost):
            await publishing
        await until(lambda: not alive(mongod), 10, "end of mongod")
    finally:
        await server.stop()
        server.clean()
