"""A Redis for all tests of a file that only need one, and the sets of several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.processes import Redis, RedisCluster, SentinelSet


def started(servers: Redis | SentinelSet | RedisCluster) -> Iterator[Redis | SentinelSet | RedisCluster]:
    asyncio.run(servers.start())
    yield servers
    asyncio.run(servers.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis | SentinelSet | RedisCluster]:
    yield from started(Redis(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="module")
def shared_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis | SentinelSet | RedisCluster]:
    yield from started(SentinelSet(tmp_path_factory.mktemp("sentinel")))


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis | SentinelSet | RedisCluster]:
    yield from started(RedisCluster(tmp_path_factory.mktemp("cluster")))
