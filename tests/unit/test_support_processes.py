"""The process helpers start real programs, strike them, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.errors import AutoReconnect

from tests.support.processes import Mongod, Redis, ReplicaSet, free_port
from tests.support.waiting import until

MAJORITY = WriteConcern("majority", j=True)


def test_free_ports_lie_below_the_ports_of_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < first_outgoing for _ in range(20))


@pytest.mark.gen_test(timeout=60)
async def test_mongod_comes_back_with_its_data_after_a_kill(tmp_path: Path) -> None:
    async with Mongod(tmp_path) as mongod:
        with MongoClient[dict[str, Any]](mongod.uri) as client:
            client.test.things.with_options(write_concern=MAJORITY).insert_one({"_id": 1})
            await mongod.kill()
            assert mongod.exit_code == -9
            await mongod.start()
            assert client.test.things.find_one({"_id": 1}) == {"_id": 1}
    assert not mongod.running
    assert _names(tmp_path) == ["mongod.log"]


@pytest.mark.gen_test(timeout=60)
async def test_an_armed_fail_point_fails_so_many_commands(tmp_path: Path) -> None:
    async with Mongod(tmp_path) as mongod:
        with MongoClient[dict[str, Any]](mongod.uri, retryWrites=False) as client:
            client.test.things.insert_one({"_id": 1})
            await mongod.fail_command({"failCommands": ["insert"], "closeConnection": True}, {"times": 1})
            with pytest.raises(AutoReconnect):
                client.test.things.insert_one({"_id": 2})
            client.test.things.insert_one({"_id": 3})


@pytest.mark.gen_test(timeout=120)
async def test_a_replica_set_survives_a_step_down_and_a_killed_primary(tmp_path: Path) -> None:
    async with ReplicaSet(tmp_path) as replica_set:
        client = MongoClient[dict[str, Any]](replica_set.uri)
        things = client.test.things.with_options(write_concern=MAJORITY)
        things.insert_one({"_id": 1})
        old = await replica_set.step_down()
        assert await replica_set.primary() is not old or not await old.is_primary()
        things.insert_one({"_id": 2})
        dead = await replica_set.kill_primary()
        assert await replica_set.primary() is not dead
        things.insert_one({"_id": 3})
        await replica_set.restart(dead)
        await replica_set.all_in_step()
        assert things.count_documents({}) == 3
        client.close()


@pytest.mark.gen_test(timeout=60)
async def test_redis_loses_its_subscribers_on_demand_and_comes_back_empty(tmp_path: Path) -> None:
    async with Redis(tmp_path) as redis:
        assert await redis.call("SET kept no") == "+OK"
        assert await redis.client_kill_pubsub() == 0
        await redis.restart()
        assert await redis.call("GET kept") == "$-1"
        redis.pause()
        with pytest.raises(TimeoutError):
            await until(lambda: redis.call("PING"), within=0.3)
        redis.resume()
        assert await redis.call("PING") == "+PONG"
    assert _names(tmp_path) == ["redis.log"]


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
