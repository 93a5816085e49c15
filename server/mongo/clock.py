"""Comparing this node's clock with MongoDB's."""

from __future__ import annotations

from datetime import UTC
from typing import Any, Final

from server.core.clock import Clock
from server.mongo.client import mapped
from server.mongo.databases import Database, DatabaseApart

COMPARE_EVERY: Final = 5.0
"""Seconds: clocks drift slowly, but somebody may set one."""


async def compare(database: Database | DatabaseApart, clock: Clock) -> float:
    """The time of MongoDB's primary (seconds since 1970, UTC), which `clock` is compared with on the way;
    `unavailable` if it does not answer."""
    theirs: float = (await greet(database, clock))["localTime"].replace(tzinfo=UTC).timestamp()
    return theirs


async def greet(database: Database | DatabaseApart, clock: Clock) -> dict[str, Any]:
    """What MongoDB says of itself; `clock` is compared with its own on the way."""
    asked = clock.own()
    with mapped():
        answer: dict[str, Any] = await database.command("hello")
    clock.compare(answer["localTime"].replace(tzinfo=UTC).timestamp(), asked, clock.own())
    return answer
