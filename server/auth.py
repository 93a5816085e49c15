"""Who somebody is: guests, users with a token (JWT), servers with an API key."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import jwt

from server.config import Auth
from server.errors import Error
from server.principals import GUEST, Principal

_LEEWAY: Final = 10
"""Seconds two clocks may differ."""


class Authenticator:
    def __init__(self, config: Auth) -> None:
        self._config = config
        self._keys = {key.sha256.lower(): (name, key) for name, key in config.api_keys.items()}

    @property
    def guests(self) -> bool:
        return self._config.guests

    def authenticate(self, token: str | None) -> Principal:
        """The principal of a bearer token; of None a guest, where guests are allowed.

        `unauthenticated` or `token_expired` otherwise. A token never makes a guest of whom it fails to prove.
        """
        if token is None:
            if not self._config.guests:
                raise Error("unauthenticated", "a token is needed here")
            return GUEST
        digest = hashlib.sha256(token.encode()).hexdigest()
        for known, (name, key) in self._keys.items():
            if hmac.compare_digest(known, digest):
                return Principal(user=name, server=True, channels=key.channels, admin=key.admin)
        return self._verify(token)

    def _verify(self, token: str) -> Principal:
        config = self._config
        if config.secret is None:
            raise Error("unauthenticated", "tokens are not accepted here: auth.secret is not set")
        try:
            claims = jwt.decode(
                token,
                config.secret,
                algorithms=config.algorithms,
                issuer=config.issuer,
                audience=config.audience,
                leeway=_LEEWAY,
                options={"require": ["exp", "sub"], "verify_aud": config.audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise Error("token_expired", "the token has expired") from None
        except jwt.PyJWTError as error:
            raise Error("unauthenticated", f"the token is not valid: {error}") from None
        if not claims["sub"]:
            raise Error("unauthenticated", "the token is not valid: sub is empty")
        return Principal(user=claims["sub"], channels=_rights(claims.get("channels")), expires=float(claims["exp"]))


def _rights(claim: Any) -> dict[str, list[str]]:
    if claim is None:
        return {}
    if not isinstance(claim, dict) or not all(
        isinstance(pattern, str) and isinstance(actions, list) for pattern, actions in claim.items()
    ):
        raise Error("unauthenticated", "the token is not valid: channels must map patterns to lists of actions")
    return claim
