"""Tickets: what an EventSource shows instead of a token, since it cannot send headers. They stand in URLs.

So they are good for little: listening to the channels they name, and opening a stream within `auth.ticket_ttl`. And
they tell nothing: URLs end up in histories and logs, so all that a ticket holds (the user, what hooks and others are
told of them) is encrypted, with a key that all instances find in MongoDB (`meta {_id: "tickets", key: …}`). They are
not stored: a browser that lost its connection comes back with the same URL.

    ticket = base64url(nonce, AES-256-GCM(claims as JSON))
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.core.names import without_label
from server.core.principals import Principal
from server.mongo.client import agreed
from server.mongo.databases import Database
from server.wire.codec import JSON

_PURPOSE: Final = b"waterspout ticket"
_NONCE_BYTES: Final = 12
_LEEWAY: Final = 10
"""Seconds by which two instances' times may differ."""


class Tickets:
    """`lifetime`: the seconds a ticket is good for."""

    def __init__(self, database: Database, lifetime: float, clock: Clock | None = None) -> None:
        self._database = database
        self._lifetime = lifetime
        self._clock = clock or Clock()
        self._cipher: AESGCM | None = None
        self._key = b""

    async def open(self) -> None:
        """Make the key, or find it. `unavailable` if MongoDB is not there."""
        key = await agreed(self._database, "tickets", "key", secrets.token_hex(32))
        self._key = key.encode()
        self._cipher = AESGCM(hashlib.sha256(_PURPOSE + key.encode()).digest())

    def derive(self, purpose: str) -> bytes:
        """A key for something else, which all instances have in common as well; `unavailable` until it is known."""
        self._checked_cipher()
        return hashlib.sha256(f"waterspout {purpose} ".encode() + self._key).digest()

    def issue(self, principal: Principal, channels: Sequence[str]) -> tuple[str, float]:
        """A ticket for listening to `channels`, to which `principal` has the right, and the seconds it is good for."""
        if any("*" in channel for channel in channels):
            raise bad_request("channels: a ticket names channels, not patterns")
        now = self._clock.time()
        expires = min(now + self._lifetime, principal.expires or float("inf"))
        claims: dict[str, Any] = {
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
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._checked_cipher().encrypt(nonce, JSON.encode(claims), _PURPOSE)
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode(), expires - now

    def redeem(self, ticket: str, channels: Iterable[str]) -> Principal:
        """Whoever got the ticket, with the right to listen to its channels and until their token expires."""
        cipher = self._checked_cipher()
        try:
            raw = base64.b64decode(ticket.encode() + b"=" * (-len(ticket) % 4), b"-_", validate=True)
            claims = JSON.decode(cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PURPOSE))
        except (InvalidTag, binascii.Error, ValueError):
            raise Error("unauthenticated", "ticket: not one of this server's") from None
        if claims["exp"] <= self._clock.time() - _LEEWAY:
            raise Error("token_expired", "the ticket has expired")
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

    def _checked_cipher(self) -> AESGCM:
        if self._cipher is None:
            raise Error("unavailable", "the server is starting", retry_after=1.0)
        return self._cipher
