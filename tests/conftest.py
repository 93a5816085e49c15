"""What all tests share: one MongoDB for those that do not need one of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Mongod

# Said once, Tornado's `make_current` finds that there is no loop to restore; else asyncio makes one that nobody closes.
asyncio.set_event_loop(None)


TESTS = Path(__file__).parent
FIRST = ("chaos", "browser", "test_docs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first, so that in the end no worker waits long for another."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(TESTS).parts[0]
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)


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
