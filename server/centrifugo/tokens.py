"""Tokens with Centrifugo's claims: of a connection, and of a subscription to one channel."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from server.access.auth import Authenticator, RegisteredClaims, invalid_token, token_id
from server.access.identities import Identities
from server.core.errors import Error
from server.core.principals import Principal
from server.sessions.grants import Grant
from server.wire.codec import JSON


class _Connection(RegisteredClaims, kw_only=True):
    channels: dict[str, list[str]] | list[str] | None = None
    """A list: subscriptions that the server makes. A map: rights, as in our own tokens."""
    subs: dict[str, Any] | None = None
    info: Any = None
    b64info: str = ""


class _Subscription(RegisteredClaims, kw_only=True):
    channel: str
    client: str = ""
    info: Any = None
    b64info: str = ""


class Tokens:
    """`without_exp`: tokens may be good for ever."""

    def __init__(
        self, authenticator: Authenticator, identities: Identities, *, without_exp: bool, max_ttl: float
    ) -> None:
        self._authenticator = authenticator
        self._identities = identities
        self._without_exp = without_exp and not max_ttl

    def connection(self, token: str | None, address: str) -> tuple[Principal, dict[str, Grant]]:
        """Who it is, and the channels that the server subscribes it to; a guest without a token, where guests are
        allowed. Errors as `Identities.authenticate`."""
        if token is None:
            return self._identities.authenticate(None, address), {}
        grants: dict[str, Grant] = {}
        return self._identities.authenticate(token, address, partial(self._principal, grants)), grants

    def _principal(self, grants: dict[str, Grant], token: str | None) -> Principal:
        assert token is not None
        claims = self._authenticator.claims(token)
        if "channel" in claims:
            raise invalid_token("channel: it is for a subscription to one channel, which is no login")
        known: _Connection = self._convert(claims, _Connection)
        channels = known.channels or {}
        for name in known.subs or {}:
            options = (known.subs or {})[name]
            grants[name] = Grant(info=options.get("info") if isinstance(options, dict) else None)
        if isinstance(channels, list):
            grants.update({name: Grant() for name in channels if name not in grants})
            channels = {}
        return Principal(
            user=known.sub or None,
            channels=channels,
            expires=None if known.exp is UNSET else float(known.exp),
            claims=claims,
            info=_info(known.info, known.b64info),
            token=token_id(token, known),
            issued=None if known.iat is UNSET else float(known.iat),
        )

    def subscription(self, token: str, name: str, principal: Principal, client: str) -> Grant:
        """What `token` gives a client with this id in the channel that it calls `name`: `token_expired`, or
        `permission_denied` where it is for somebody else, for another channel, or none of ours."""
        try:
            known: _Subscription = self._convert(self._authenticator.claims(token), _Subscription)
        except Error as error:
            raise error if error.code != "unauthenticated" else _no_right(error.reason) from None
        if known.channel != name:
            raise _no_right("the token is for another channel")
        if known.sub != (principal.user or ""):
            raise _no_right("the token is for another user")
        if known.client and known.client != client:
            raise _no_right("the token is for another client")
        expires = None if known.exp is UNSET else float(known.exp)
        issued = None if known.iat is UNSET else float(known.iat)
        identifier = token_id(token, known)
        try:
            bearer = Principal(user=principal.user, token=identifier, expires=expires, issued=issued)
            self._identities.recognize(bearer)
        except Error as error:
            raise _no_right(error.reason) from None
        return Grant(expires, _info(known.info, known.b64info), identifier, issued or 0.0)

    def _convert(self, claims: dict[str, Any], kind: Any) -> Any:
        try:
            known = msgspec.convert(claims, kind)
        except msgspec.ValidationError as error:
            raise invalid_token(str(error)) from None
        self._authenticator.check(known)
        if known.exp is UNSET and not self._without_exp:
            raise invalid_token("exp: required; centrifugo.tokens_without_exp is not set")
        return known


def _no_right(why: str) -> Error:
    return Error("permission_denied", f"token: {why}")


def _info(info: Any, encoded: str) -> Any:
    """`encoded`: the same in base64, which has the word where it is there."""
    if not encoded:
        return info
    try:
        return JSON.decode(base64.b64decode(encoded, validate=True))
    except (binascii.Error, Error):
        raise invalid_token("b64info: expected JSON in base64") from None
