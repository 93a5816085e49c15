"""Tickets: what an EventSource shows instead of a token, since it cannot send headers. They stand in URLs.

So they are good for little: listening to the channels they name, and opening a stream within `auth.ticket_ttl`. They
are signed with a key that all instances find in MongoDB (`meta {_id: "tickets", key: …}`), and are not stored: a
browser that lost its connection comes back with the same URL.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import jwt
from motor.motor_asyncio import AsyncIOMotorDatabase

from server.core.errors import Error, bad_request
from server.core.names import without_label
from server.core.principals import Principal
from server.mongo.client import agreed

_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "ticket"
_LEEWAY: Final = 10
"""Seconds two instances' clocks may differ."""


class Tickets:
    def __init__(self, database: AsyncIOMotorDatabase[dict[str, Any]], lifetime: float) -> None:
        self._database = database
        self._lifetime = lifetime
        self._key = ""

    async def open(self) -> None:
        """Make the key, or find it. `unavailable` if MongoDB is not there."""
        self._key = await agreed(self._database, "tickets", "key", secrets.token_hex(32))

    def issue(self, principal: Principal, channels: Sequence[str]) -> tuple[str, float]:
        """A ticket for listening to `channels`, to which `principal` has the right, and the seconds it is good for."""
        if any("*" in channel for channel in channels):
            raise bad_request("channels: a ticket names channels, not patterns")
        now = time.time()
        expires = min(now + self._lifetime, principal.expires or float("inf"))
        claims: dict[str, Any] = {
            "aud": _AUDIENCE,
            "exp": expires,
            "user": principal.user,
            "server": principal.server,
            "claims": dict(principal.claims),
            "info": principal.info,
            "channels": list(channels),
            "until": principal.expires,
            "token": principal.token,
            "issued": principal.issued,
        }
        return jwt.encode(claims, self._checked_key(), _ALGORITHM), expires - now

    def redeem(self, ticket: str, channels: Iterable[str]) -> Principal:
        """Whoever got the ticket, with the right to listen to its channels and until their token expires."""
        try:
            claims = jwt.decode(
                ticket,
                self._checked_key(),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                leeway=_LEEWAY,
                options={"require": ["exp", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Error("token_expired", "the ticket has expired") from None
        except jwt.PyJWTError as error:
            raise Error("unauthenticated", f"the ticket is not valid: {error}") from None
        if not set(channels) <= set(claims["channels"]):
            raise Error("permission_denied", "ticket: it is for other channels")
        rights = {without_label(channel): ["subscribe"] for channel in claims["channels"]}
        return Principal(
            user=claims["user"],
            server=claims["server"],
            channels=rights,
            claims=claims["claims"],
            info=claims["info"],
            expires=claims["until"],
            token=claims["token"],
            issued=claims["issued"],
        )

    def _checked_key(self) -> str:
        if not self._key:
            raise Error("unavailable", "the server is starting: MongoDB is not reached yet", retry_after=1.0)
        return self._key
