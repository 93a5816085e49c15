"""The databases that the cases share (a set of three takes seconds to start), and the report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.report import Report
from tests.chaos.world import World, span
from tests.support.processes import Mongod, ReplicaSet


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("report"), span("short", "long"))


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Stopped after its file: three members that only watch each other take 30 ms of CPU a second."""
    three = ReplicaSet(tmp_path_factory.mktemp("set"))
    asyncio.run(three.start())
    yield three
    asyncio.run(three.__aexit__(None, None, None))


@pytest.fixture
def world(tmp_path: Path, mongod: Mongod, report: Report) -> World:
    return World(tmp_path, mongod.uri, report)


@pytest.fixture
def replicated_world(tmp_path: Path, replica_set: ReplicaSet, report: Report) -> World:
    asyncio.run(replica_set.heal())
    return World(tmp_path, replica_set.uri, report)
