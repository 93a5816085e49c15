"""The process helpers start real programs, strike them, and leave nothing behind. What they do to MongoDB is seen in
tests/chaos, where it is struck in every way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import Redis, free_port
from tests.support.waiting import until


def test_free_ports_lie_below_the_ports_of_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < first_outgoing for _ in range(20))


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
