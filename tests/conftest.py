"""What all tests share: one MongoDB for those that do not need one of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.processes import Mongod

# Said once, Tornado's `make_current` finds that there is no loop to restore; else asyncio makes one that nobody closes.
asyncio.set_event_loop(None)


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
