"""Sign-ins, each a family of refresh tokens of which one is good at a time: `family.secret`.

    refresh_tokens  {_id: family, user: an account's _id, current: SHA-256 of the secret, expires, created, used: dates,
                     address, agent, way: text, passkey: the ID of the one it was begun with}

Using a refresh token replaces it. If an earlier one of the family comes along, there are two who hold it, and one is a
thief: the family ends, for both. What is shown of a family is a digest of its name, since whoever has the name can end
it; the same digest is the `jti` of its access tokens, so that they can be revoked with it.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from server.core.clock import Clock
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.accounts import SessionRow

logger = logging.getLogger(__name__)

REFRESH_WITHIN: Final = timedelta(days=30)
LISTED: Final = 100
MOST: Final = 100
"""Sign-ins of an account at a time: beyond them the one that was used longest ago ends."""
FRESH_MINUTES: Final = 10
"""For so long a sign-in is proof enough for what else takes a password."""
_AGENT: Final = 200


class Visit(NamedTuple):
    """Where somebody signs in from."""

    address: str
    agent: str = ""
    """What the browser says it is."""


class Family(NamedTuple):
    session: str
    """What it is called in public."""
    user: str
    """The `_id` of the account."""
    refresh_token: str


class Families:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._families = database.own("refresh_tokens")
        self._clock = clock

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        with mapped():
            await self._families.create_index("expires", expireAfterSeconds=0)
            await self._families.create_index("user")

    async def begin(self, user: str, visit: Visit, way: str, passkey: str | None = None) -> Family:
        family, secret, now = secrets.token_urlsafe(16), secrets.token_urlsafe(32), self._now()
        document = {
            "_id": family,
            "user": user,
            "current": digest(secret),
            "expires": now + REFRESH_WITHIN,
            "created": now,
            "used": now,
            "address": visit.address,
            "agent": visit.agent[:_AGENT],
            "way": way,
        }
        if passkey is not None:
            document["passkey"] = passkey
        with mapped():
            await self._families.insert_one(document)
            beyond = self._families.find({"user": user}, {"_id": 1}).sort([("used", -1), ("_id", 1)]).skip(MOST)
            old = [found["_id"] async for found in beyond]
            if old:
                await self._families.delete_many({"_id": {"$in": old}})
        return Family(session_of(family), user, f"{family}.{secret}")

    async def rotate(self, refresh_token: str, visit: Visit) -> Family | None:
        """With a new token; None: it is not one, or not any more, and if it ever was, its family has ended."""
        family, _, secret = refresh_token.partition(".")
        new, now = secrets.token_urlsafe(32), self._now()
        values = {"current": digest(new), "expires": now + REFRESH_WITHIN, "used": now, "address": visit.address}
        with mapped():
            found = await self._families.find_one_and_update(
                {"_id": family, "current": digest(secret), "expires": {"$gt": now}}, {"$set": values}
            )
            if found is not None:
                return Family(session_of(family), found["user"], f"{family}.{new}")
            ended = await self._families.find_one_and_delete({"_id": family})
        if ended is not None:
            logger.warning("a used refresh token came again: its login is ended", extra={"user": ended["user"]})
        return None

    async def end(self, refresh_token: str) -> None:
        """If there is one. Access tokens live on for their minutes."""
        with mapped():
            await self._families.delete_one({"_id": refresh_token.partition(".")[0]})

    async def end_all(self, user: str) -> None:
        with mapped():
            await self._families.delete_many({"user": user.lower()})

    async def end_session(self, user: str, session: str) -> bool:
        """Whether there was one."""
        for found in await self._of(user):
            if session_of(found["_id"]) == session:
                with mapped():
                    return (await self._families.delete_one({"_id": found["_id"]})).deleted_count == 1
        return False

    async def end_begun_with(self, user: str, passkey: str, spared: str | None) -> list[str]:
        """The sessions that a passkey has signed in, but the one that is `spared`: which."""
        with mapped():
            found = self._families.find({"user": user, "passkey": passkey}, {"_id": 1})
            ended = [one["_id"] async for one in found if session_of(one["_id"]) != spared]
            await self._families.delete_many({"_id": {"$in": ended}})
        return [session_of(one) for one in ended]

    async def is_fresh(self, user: str, session: str | None) -> bool:
        """Whether that session of the user's has begun within FRESH_MINUTES."""
        since = self._now() - timedelta(minutes=FRESH_MINUTES)
        with mapped():
            found = self._families.find({"user": user, "created": {"$gt": since}}, {"_id": 1})
            return session is not None and session in [session_of(one["_id"]) async for one in found]

    async def sessions(self, user: str, current: str | None) -> list[SessionRow]:
        """The newest first. `current`: the session that asks."""
        return [
            {
                "session": (session := session_of(found["_id"])),
                "created": _ms(found.get("created")),
                "used": _ms(found.get("used")),
                "expires": _ms(found["expires"]) or 0,
                "address": found.get("address", ""),
                "agent": found.get("agent", ""),
                "way": found.get("way", "password"),
                "current": session == current,
            }
            for found in await self._of(user)
        ]

    async def _of(self, user: str) -> list[dict[str, Any]]:
        query = {"user": user.lower(), "expires": {"$gt": self._now()}}
        with mapped():
            return await self._families.find(query).sort("used", -1).to_list(LISTED)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


def session_of(family: str) -> str:
    return digest(family)[:24]


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _ms(date: datetime | None) -> int | None:
    """MongoDB's dates come without a zone, and are UTC."""
    return None if date is None else int(date.replace(tzinfo=UTC).timestamp() * 1000)
