"""What all tests share: one MongoDB for those that do not need one of their own."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import Databases
from tests.support.processes import Mongod

# Where no bytecode is written, each of hundreds of servers compiles itself, which takes as long as all else of a start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Said once, Tornado's `make_current` finds that there is no loop to restore; else asyncio makes one that nobody closes.
asyncio.set_event_loop(None)


TESTS = Path(__file__).parent
HEAVY = {"chaos": 0, "browser": 1, "test_docs.py": 1}
UNTIL = 0.8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of the heavy kinds, which work, are spread evenly among the light ones, which wait: at no time are all
    workers heavy, nor all light. The end is left to light ones, so that no worker waits long for another."""
    kinds: list[list[Path]] = [[], [], []]
    for path in dict.fromkeys(item.path for item in items):
        kinds[HEAVY.get(path.relative_to(TESTS).parts[0], 2)].append(path)
    place = {
        path: number / len(kind) * (1 if kind is kinds[-1] else UNTIL)
        for kind in kinds
        for number, path in enumerate(kind)
    }
    items.sort(key=lambda item: (place[item.path], str(item.path)))


def pytest_collection_finish() -> None:
    """What there is by now stays: to look for garbage among it again and again takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One member is enough where MongoDB is not what fails."""
    # Not asyncio.run: this fixture may come up in the middle of a test's own, and that would take its loop away.
    loop = asyncio.new_event_loop()
    one = Mongod(tmp_path_factory.mktemp("mongod"))
    loop.run_until_complete(one.start())
    yield one
    loop.run_until_complete(one.__aexit__(None, None, None))
    loop.close()


@pytest.fixture(scope="session")
def databases(mongod: Mongod) -> Iterator[Databases]:
    some = Databases(mongod.uri)
    yield some
    some.close()
