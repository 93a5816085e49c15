"""Connections that were made while a mongod was no working member of its set are made anew once it is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import ConfigurationError, PyMongoError

from server.core.config import MongoDB
from server.mongo.client import connect
from tests.support.mongod import Mongod
from tests.support.waiting import until


async def with_a_session(database: Any) -> bool:
    """Whether a command with a session of its own comes through."""
    async with await database.client.start_session() as session:
        await database.command("ping", session=session)
    return True


@pytest.mark.gen_test(timeout=120)
async def test_what_was_connected_too_early_is_connected_again(tmp_path: Path) -> None:
    async with Mongod(tmp_path / "mongod") as mongod:
        await mongod.admin("replSetStepDown", 3600, force=True)
        await mongod.admin("replSetMaintenance", True)
        uri = f"mongodb://{mongod.address}/?directConnection=true"
        database = connect(MongoDB(), uri)
        try:

            async def refused() -> bool:
                try:
                    return not await with_a_session(database)
                except ConfigurationError:
                    return True

            await until(refused, 20, "a connection to a mongod that recovers")
            await mongod.admin("replSetMaintenance", False)
            await mongod.admin("replSetFreeze", 0)

            async def works() -> bool:
                try:
                    return await with_a_session(database)
                except PyMongoError:
                    return False

            await until(works, 30, "sessions")
        finally:
            database.client.close()
