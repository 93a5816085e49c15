"""Who somebody is: guests, users with a token (JWT), servers with an API key.

The signature is PyJWT's to judge. The claims are read here, strictly: what is of another type than RFC 7519 says is
refused, not converted.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import jwt
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from server.access.keys import JWKS, Key, configured, secret_key
from server.core.clock import Clock
from server.core.config import Auth
from server.core.cursors import parse_cursor
from server.core.errors import Error, StartError
from server.core.names import namespace_of, without_label
from server.core.principals import GUEST, Principal, Start
from server.core.rules import satisfies
from server.wire.codec import JSON

TOKEN_BYTES: Final = 8192
REMEMBERED: Final = 1024
"""Tokens whose signature need not be looked at again: REST brings one with each request, and a public key's signature
takes 0.2 to 0.4 ms, ten times as long as all the rest."""
_LEEWAY: Final = 10
"""Seconds by which the clock of whoever issues tokens may differ from MongoDB's, by which they are judged."""
_OTHER_KINDS: Final = frozenset(("logout+jwt", "secevent+jwt", "dpop+jwt"))
"""Of `typ` (RFC 8725, section 3.11): what identity providers sign with the keys of their logins, for other purposes."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_JWS: Final = jwt.PyJWS()

Seconds = int | float


class RegisteredClaims(Struct, kw_only=True):
    """Those of RFC 7519 that any token may have."""

    sub: Annotated[str, Meta(max_length=255)] = ""
    exp: Seconds | UnsetType = UNSET
    nbf: Seconds | UnsetType = UNSET
    iat: Seconds | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    jti: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET


class _Claims(RegisteredClaims, kw_only=True):
    sub: Annotated[str, Meta(min_length=1, max_length=255)]
    exp: Seconds
    channels: dict[str, list[str]] | None = None
    subscribe: list[str] | dict[str, Start | None] | None = None
    info: Any = None


class Authenticator:
    """StartError if a key of the configuration is none."""

    def __init__(self, config: Auth, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or Clock()
        self._api_keys = {key.sha256.lower(): (name, key) for name, key in config.api_keys.items()}
        self._secret = config.secret
        self._keys = configured(config)
        self._jwks = JWKS(config.jwks_url, config.algorithms) if config.jwks_url else None
        self._remembered: dict[str, dict[str, Any]] = {}
        """SHA-256 of a token → its claims, of those that `_remembered_for` has verified."""
        self._remembered_for: list[Key] | None = None

    @property
    def guests(self) -> bool:
        return self._config.guests

    def use_secret(self, secret: str) -> None:
        """Sign and verify with this one, where the configuration has none."""
        self._secret = secret
        self._keys.append(secret_key(secret, self._config.algorithms))

    async def close(self) -> None:
        if self._jwks is not None:
            await self._jwks.close()

    def authenticate(self, token: str | None) -> Principal:
        """The principal of a bearer token; of None a guest, where guests are allowed.

        `unauthenticated` or `token_expired` otherwise; `unavailable` while no key could be fetched. A token never makes
        a guest of whom it fails to prove.
        """
        if token is None:
            if not self._config.guests:
                raise Error("unauthenticated", "a token is needed here")
            return GUEST
        digest = _digest(token)
        for known, (name, key) in self._api_keys.items():
            if hmac.compare_digest(known, digest):
                return Principal(
                    user=name, server=True, channels=key.channels, admin=key.admin, consumers=frozenset(key.consumers)
                )
        claims = self._claims(token, digest)
        if "channel" in claims:
            raise invalid_token("channel: it is for a subscription to one channel, which is no login")
        return self._principal(token, claims)

    def claims(self, token: str) -> dict[str, Any]:
        """All that a token says which one of our keys has signed, for whatever purpose: `check` and the purpose are the
        caller's to look at. `unauthenticated` otherwise."""
        return self._claims(token, _digest(token))

    def knows(self, token: str) -> bool:
        """Whether no signature has to be verified for this token, which may be expired all the same."""
        if len(token) > TOKEN_BYTES:
            return False
        digest = hashlib.sha256(token.encode()).hexdigest()
        return digest in self._remembered or digest in self._api_keys

    def fetching(self, token: str | None) -> asyncio.Future[None] | None:
        """What has to be waited for before `authenticate` knows the key of this token. Nearly always None: only the
        keys of `auth.jwks_url` are ever fetched, and then for everybody at once. It never raises."""
        if self._jwks is None or token is None or len(token) > TOKEN_BYTES:
            return None
        try:
            header = _JWS.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            return None
        if header.get("alg") not in self._config.algorithms:
            return None
        known = bool(self._candidates(header))
        under_way = self._jwks.fetch(unknown=not known)
        return None if known or under_way is None else asyncio.shield(under_way)

    def _candidates(self, header: Mapping[str, Any]) -> list[Key]:
        """The keys of the algorithm and the id that a token's header names."""
        algorithm, identifier = str(header.get("alg")), header.get("kid")
        keys = self._keys if self._jwks is None else [*self._keys, *self._jwks.keys]
        return [
            key
            for key in keys
            if algorithm in key.algorithms and (key.id is None or identifier is None or key.id == identifier)
        ]

    def _claims(self, token: str, digest: str) -> dict[str, Any]:
        published = None if self._jwks is None else self._jwks.keys
        if self._remembered_for is not published:  # a key may be gone
            self._remembered_for = published
            self._remembered.clear()
        claims = self._remembered.get(digest)
        if claims is None:
            claims = self._remembered[digest] = self._verified(token)
            if len(self._remembered) > REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of our keys has signed."""
        try:
            # Taken apart here, verified below with the keys' own algorithms.
            parts = _JWS.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):
            raise invalid_token("it is not a signed JSON Web Token, or has a header that is not understood") from None
        keys = self._candidates(parts["header"])
        if not keys:
            raise self._no_key()
        signed = token.rpartition(".")[0].encode()
        if not any(key.verifies(parts["header"]["alg"], signed, parts["signature"]) for key in keys):
            raise invalid_token("its signature is not that of a key known here")
        try:
            claims = JSON.decode(parts["payload"])
        except Error as error:
            raise invalid_token(error.reason) from None
        if not isinstance(claims, dict):
            raise invalid_token("its claims are not an object")
        kind = parts["header"].get("typ")
        if isinstance(kind, str) and kind.lower().removeprefix("application/") in _OTHER_KINDS:
            raise invalid_token(f"typ: {kind} is no login")
        return claims

    def _no_key(self) -> Error:
        if self._jwks is not None and not self._jwks.loaded:
            return Error("unavailable", "auth.jwks_url: its keys could not be fetched yet", retry_after=5.0)
        if self._config.accounts and self._secret is None:
            return Error("unavailable", "the server is starting: its secret is not read yet", retry_after=1.0)
        if self._jwks is None and not self._keys:
            return Error("unauthenticated", "tokens are not accepted here: auth.secret is not set")
        return invalid_token("there is no key here for its algorithm (alg) and key id (kid)")

    def _principal(self, token: str, claims: dict[str, Any]) -> Principal:
        try:
            known = msgspec.convert(claims, _Claims)
        except msgspec.ValidationError as error:
            raise invalid_token(str(error)) from None
        self.check(known)
        try:
            subscribe = served_by(known.subscribe)
        except Error as error:
            raise invalid_token(f"subscribe: {error.reason}") from None
        principal = Principal(
            user=known.sub,
            channels=with_rights(known.channels or {}, subscribe),
            subscribe=subscribe,
            expires=float(known.exp),
            claims=claims,
            info=known.info,
            token=token_id(token, known),
            issued=None if known.iat is UNSET else float(known.iat),
        )
        return structs.replace(principal, admin=True) if satisfies(principal, self._config.operators) else principal

    def check(self, known: RegisteredClaims) -> None:
        """Whether a token is meant for this server, and now: `unauthenticated` or `token_expired` if not."""
        if _CONTROL.search(known.sub):
            raise invalid_token("sub: control characters are no part of a name")
        config, now = self._config, self._clock.time()
        if config.issuer is not None and known.iss != config.issuer:
            raise invalid_token("iss is not who is trusted here")
        if config.audience is not None:
            audience = [known.aud] if isinstance(known.aud, str) else known.aud or []
            if config.audience not in audience:
                raise invalid_token("aud does not name this server")
        if known.nbf is not UNSET and known.nbf > now + _LEEWAY:
            raise invalid_token("nbf: it is not valid yet")
        if known.iat is not UNSET and known.iat > now + _LEEWAY:
            raise invalid_token("iat: it is from the future")
        if known.exp is not UNSET and known.exp <= now - _LEEWAY:
            raise Error("token_expired", "the token has expired")

    def sign(
        self,
        user: str,
        seconds: float,
        *,
        channels: Mapping[str, list[str]] | None = None,
        info: Any = None,
        roles: list[str] | None = None,
        issued: float | None = None,
        token_id: str | None = None,
    ) -> tuple[str, int]:
        """A token of ours for `user`, and when it expires (seconds since 1970); StartError where none can be signed.
        `issued`: when it was, if not now; `token_id`: its `jti`."""
        config = self._config
        algorithm = next((name for name in config.algorithms if name.startswith("HS")), None)
        if self._secret is None:
            raise StartError("auth.secret is null: there is nothing to sign a token with, and tokens are refused")
        if algorithm is None:
            raise StartError(f"auth.algorithms: {', '.join(config.algorithms)}: tokens are signed elsewhere")
        now = self._clock.time() if issued is None else issued
        claims = {
            "sub": user,
            "iat": int(now) if issued is None or issued == int(issued) else issued,
            "exp": int(now) + int(seconds),
            "jti": token_id or secrets.token_urlsafe(12),
            "iss": config.issuer,
            "aud": config.audience,
            "channels": channels,
            "info": info,
            "roles": roles or None,
        }
        present = {name: claim for name, claim in claims.items() if claim is not None}
        return jwt.encode(present, self._secret, algorithm), claims["exp"]


def token_id(token: str, known: RegisteredClaims) -> str:
    """What a revocation names it by: its `jti`, or else a digest of what is signed, as a signature can be written in
    several ways."""
    return known.jti or hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def with_rights(channels: Mapping[str, list[str]], served: Iterable[str]) -> Mapping[str, list[str]]:
    """The rights `channels`, and those to subscribe to what is `served` without asking."""
    rights = dict(channels)
    for channel in served:
        name = without_label(channel)
        rights[name] = [*rights.get(name, ()), "subscribe"]
    return rights


def served_by(claim: list[str] | dict[str, Start | None] | None) -> dict[str, Start]:
    """Channel → where it begins; `claim` is a list of names, or has options of each. `bad_request` for what is none."""
    if not claim:
        return {}
    starts = claim if isinstance(claim, dict) else dict.fromkeys(claim)
    for channel, start in starts.items():
        namespace_of(channel)
        if start is not None and start.after is not None:
            parse_cursor(start.after)
    return {channel: start or Start() for channel, start in starts.items()}


def _digest(token: str) -> str:
    """`unauthenticated` if the token is too long to be looked at."""
    if len(token) > TOKEN_BYTES:
        raise Error("unauthenticated", f"token: {len(token)} bytes; {TOKEN_BYTES} at most")
    return hashlib.sha256(token.encode()).hexdigest()


def invalid_token(why: str) -> Error:
    return Error("unauthenticated", f"the token is not valid: {why}")
