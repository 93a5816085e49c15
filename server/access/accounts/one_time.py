"""Secrets that are good once, for a while: what is mailed, and what an operator hands over.

account_tokens  {_id: SHA-256 of the secret, purpose: text, user: an account's _id, expires: date, about: {…}}
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from server.access.accounts.families import digest
from server.core.clock import Clock
from server.mongo.client import mapped
from server.mongo.databases import Database


class Redeemed(NamedTuple):
    user: str | None
    """The `_id` of an account, if it is about one."""
    about: dict[str, Any]


class OneTimeTokens:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._tokens = database.own("account_tokens")
        self._clock = clock

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        with mapped():
            await self._tokens.create_index("expires", expireAfterSeconds=0)
            await self._tokens.create_index("user")

    async def issue(
        self, purpose: str, seconds: float, user: str | None = None, about: Mapping[str, Any] | None = None
    ) -> str:
        secret = secrets.token_urlsafe(32)
        document = {
            "_id": digest(secret),
            "purpose": purpose,
            "user": user,
            "expires": self._now() + timedelta(seconds=seconds),
            "about": dict(about or {}),
        }
        with mapped():
            await self._tokens.insert_one(document)
        return secret

    async def redeem(self, purpose: str, secret: str) -> Redeemed | None:
        """What it was issued for, once; None: it is not one, or was used, or is too old."""
        with mapped():
            found = await self._tokens.find_one_and_delete(self._good(purpose, secret))
        return None if found is None else Redeemed(found["user"], found["about"])

    async def holds(self, purpose: str, secret: str) -> bool:
        """Whether it could be redeemed now: for who has work to do before that, which strangers are not to cause."""
        with mapped():
            return await self._tokens.find_one(self._good(purpose, secret), {"_id": 1}) is not None

    async def withdraw(self, user: str) -> None:
        """All that are about this account."""
        with mapped():
            await self._tokens.delete_many({"user": user})

    async def withdraw_mailed(self, user: str) -> None:
        """Those of them that were mailed: to an address that may be another one now."""
        with mapped():
            await self._tokens.delete_many({"user": user, "about.email": {"$exists": True}})

    def _good(self, purpose: str, secret: str) -> dict[str, Any]:
        return {"_id": digest(secret), "purpose": purpose, "expires": {"$gt": self._now()}}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)
