"""`run.py doctor`: it says what is wrong with MongoDB, Redis and the machine, and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

import run
from server.core import config
from server.node import Node
from server.tools import doctor
from tests.support.processes import ROOT, Mongod, Redis
from tests.support.waiting import until

NOWHERE = "mongodb://127.0.0.1:1/"


def options(**values: object) -> config.Config:
    return config.load(None, {}, [(name.replace("__", "."), value) for name, value in values.items()])


async def findings(checks: Any) -> dict[str, list[doctor.Finding]]:
    found: dict[str, list[doctor.Finding]] = {"ok": [], "note": [], "broken": []}
    async for finding in checks:
        found[finding.status].append(finding)
    return found


@pytest.mark.gen_test(timeout=30)
async def test_a_good_mongodb(mongod: Mongod, node: Node) -> None:
    found = await findings(doctor.mongodb(node.config, mongod.uri))
    assert found["broken"] == []
    for word in ("answers", "majority and journal", "indexes are there", "clock: agrees"):
        assert any(word in finding.what for finding in found["ok"]), word
    assert any("three members" in finding.fix for finding in found["note"])  # the test's has one


@pytest.mark.gen_test(timeout=30)
async def test_a_missing_index_is_named_and_nothing_is_left_behind(mongod: Mongod, node: Node) -> None:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(mongod.uri)
    database = client[node.config.mongodb.database]
    await database["waterspout.messages"].drop_index("head")
    found = await findings(doctor.mongodb(node.config, mongod.uri))
    (finding,) = found["broken"]
    assert "lacks the index head" in finding.what
    assert finding.fix
    assert await database["waterspout.meta"].count_documents({"_id": "doctor"}) == 0
    client.close()


@pytest.mark.gen_test(timeout=30)
async def test_a_database_of_an_older_version_is_looked_at_as_it_is(mongod: Mongod) -> None:
    """Nothing of the new names is made before the start that renames all of it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(mongod.uri)
    await client[name]["meta"].insert_one({"_id": "epoch", "epoch": "old", "n": 1})
    found = await findings(doctor.mongodb(options(mongodb__database=name), mongod.uri))
    assert found["broken"] == []
    assert any("at the next start" in finding.what for finding in found["note"])
    assert await client[name].list_collection_names() == ["meta"]
    assert await client[name]["meta"].count_documents({}) == 1
    client.close()


@pytest.mark.gen_test(timeout=30)
async def test_a_mongodb_that_is_not_there() -> None:
    found = await findings(doctor.mongodb(options(), NOWHERE))
    assert [finding.what for finding in found["ok"]] == []
    assert found["broken"][0].what.startswith("MongoDB: ")
    assert found["broken"][0].fix


@pytest.mark.gen_test(timeout=30)
async def test_redis_and_its_output_buffer(tmp_path: Path) -> None:
    async with Redis(tmp_path) as redis:
        found = await findings(doctor.redis(options(redis__url=redis.url, redis__hmac_key="k" * 32)))
        assert found["broken"] == []
        assert "came back" in found["ok"][0].what
        assert "client-output-buffer-limit" in found["note"][0].what  # the default is tight
        await redis.call('CONFIG SET client-output-buffer-limit "pubsub 256mb 64mb 60"')
        found = await findings(doctor.redis(options(redis__url=redis.url)))
        assert found["note"] == []
        url = redis.url
    found = await findings(doctor.redis(options(redis__url=url)))
    assert found["broken"]


def test_file_descriptors() -> None:
    (finding,) = doctor.descriptors(options(limits__connections=1000), 1024)
    assert finding.status == "broken"
    assert "1200" in finding.fix
    assert [finding.status for finding in doctor.descriptors(options(), 65536)] == ["ok"]


@pytest.mark.gen_test(timeout=60)
async def test_the_command_says_it_and_its_exit_code_too(mongod: Mongod) -> None:
    async def called(*flags: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "run.py"), *flags),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    code, text = await called("--mongodb-uri", mongod.uri, "doctor", "--set", "limits.connections=10")
    assert code == 0, text
    assert "ok     MongoDB: a write with majority" in text
    code, text = await called("doctor", "--mongodb-uri", NOWHERE, "--set", "limits.connections=10")
    assert code == 1, text
    assert "broken MongoDB" in text
    assert "→" in text
    assert "Traceback" not in text


def test_flags_are_the_same_with_a_command_and_without() -> None:
    given = ["--port", "1", "--set", "a.b=1", "--data-dir", "x"]
    plain = run.parse_flags(given)
    assert plain.run is run.run_server
    for arguments in (["doctor", *given], [*given, "doctor"], [*given[:4], "doctor", *given[4:]]):
        flags = run.parse_flags(arguments)
        assert flags.run is not run.run_server
        assert {**vars(flags), "run": None} == {**vars(plain), "run": None}
    both = run.parse_flags(["--set", "a=1", "doctor", "--set", "b=2"])
    assert both.set == ["a=1", "b=2"]


@pytest.mark.gen_test(timeout=30)
async def test_back_ends_are_reached_and_not_asked() -> None:
    """Of hooks, calls and consumers: who is there, who is not, and whose certificate nobody trusts. Of consumers that
    is worth a note, for nothing is lost by it."""
    talked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" if said else b"")  # which is no TLS
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        talked.append(said)

    secret = "a secret between the two, of 32 bytes and more"
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as there:
        port = there.sockets[0].getsockname()[1]
        found = await findings(
            doctor.back_ends(
                options(
                    hooks={"web": {"url": f"http://127.0.0.1:{port}/hook", "secret": secret}},
                    calls={
                        "x.*": {"url": "http://127.0.0.1:1/", "secret": secret},
                        "y.*": {"url": f"https://127.0.0.1:{port}/", "secret": secret},
                        "f": {"function": "a:b"},
                    },
                    consumers={"mailer": {"channels": ["x:*"], "url": "http://127.0.0.1:1/", "secret": secret}},
                )
            )
        )
        await until(lambda: len(talked) == 2, what="the ends of two connections")
    (ok,) = found["ok"]
    assert ok.what.startswith("hooks.web: accepts connections")
    refused, untrusted = sorted(found["broken"])
    assert refused.what == "calls.x.*: ConnectionRefusedError"
    assert untrusted.what.startswith("calls.y.*: ")
    assert "certificate" in untrusted.fix
    (note,) = found["note"]
    assert note.what == "consumers.mailer: ConnectionRefusedError"
    assert "consumers.mailer.url" in note.fix
    assert b"" in talked
