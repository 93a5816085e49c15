"""Guests, tokens and API keys."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import jwt
import pytest

from server.auth import Authenticator
from server.config import ApiKey, Auth
from server.errors import Error
from server.principals import GUEST, Principal

SECRET = "s" * 64
HOUR = 3600


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token of ann's for an hour; a claim of None is left out."""
    claims = {"sub": "ann", "exp": int(time.time()) + HOUR, **claims}
    return jwt.encode({name: claim for name, claim in claims.items() if claim is not None}, secret, algorithm)


def authenticate(bearer: str | None, **options: Any) -> Principal:
    return Authenticator(Auth(**{"secret": SECRET, **options})).authenticate(bearer)


def refusal(bearer: str | None, **options: Any) -> str:
    with pytest.raises(Error) as caught:
        authenticate(bearer, **options)
    assert SECRET not in str(caught.value)
    return caught.value.code


def test_guests() -> None:
    """No token makes a guest where guests are allowed, and nobody elsewhere."""
    assert authenticate(None) is GUEST
    assert (GUEST.user, GUEST.server, GUEST.admin, dict(GUEST.channels)) == (None, False, False, {})
    assert refusal(None, guests=False) == "unauthenticated"


def test_a_good_token_is_a_user() -> None:
    """`sub` is the user, `channels` the rights of the token's own, `exp` its end."""
    end = int(time.time()) + HOUR
    ann = authenticate(token(exp=end, channels={"chat:*": ["publish"]}, admin=True, server=True))
    assert ann == Principal(user="ann", channels={"chat:*": ["publish"]}, expires=float(end))
    assert not ann.server
    assert not ann.admin


BAD = {
    "empty": "",
    "no token": "garbage",
    "three dots": "a.b.c",
    "not ASCII": "é.é.é",
    "another's signature": token(secret="x" * 64),
    "no signature": jwt.encode({"sub": "ann", "exp": int(time.time()) + HOUR}, None, "none"),
    "another algorithm": token(algorithm="HS512"),
    "without an end": token(exp=None),
    "without a user": token(sub=None),
    "cut off": token()[:-4],
    "not before tomorrow": token(nbf=int(time.time()) + 24 * HOUR),
    "a strange end": token(exp="soon"),
    **{f"rights {rights!r}": token(channels=rights) for rights in (["chat:*"], "chat:*", {"chat:*": "publish"}, 1)},
}


@pytest.mark.parametrize("bearer", BAD.values(), ids=BAD)
def test_what_proves_nothing_makes_nobody_even_where_guests_are_allowed(bearer: str) -> None:
    """A token that is not good is `unauthenticated`, and never a guest."""
    assert refusal(bearer, guests=True) == "unauthenticated"


def test_an_expired_token_says_so() -> None:
    """`token_expired` tells a client to fetch a new one."""
    assert refusal(token(exp=int(time.time()) - HOUR)) == "token_expired"


@pytest.mark.parametrize("user", ["", 7, ["ann"]])
def test_a_user_is_a_name(user: Any) -> None:
    """`sub` has to be a name: neither empty nor of another kind."""
    claims = json.dumps({"sub": user, "exp": int(time.time()) + HOUR}).encode()
    assert refusal(jwt.PyJWS().encode(claims, SECRET, "HS256")) == "unauthenticated"


def test_issuer_and_audience_are_required_if_set() -> None:
    """Who is configured to be asked for, is."""
    assert authenticate(token(iss="me"), issuer="me").user == "ann"
    assert refusal(token(iss="you"), issuer="me") == "unauthenticated"
    assert refusal(token(), issuer="me") == "unauthenticated"
    assert authenticate(token(aud=["us", "them"]), audience="us").user == "ann"
    assert refusal(token(aud="them"), audience="us") == "unauthenticated"
    assert refusal(token(), audience="us") == "unauthenticated"
    assert authenticate(token(aud="anybody", iss="anybody")).user == "ann"


def test_without_a_secret_tokens_are_refused() -> None:
    """No secret, no users: not even with an unsigned token."""
    for bearer in (token(), BAD["no signature"], "x"):
        assert refusal(bearer, secret=None) == "unauthenticated"


def test_an_api_key_is_a_server() -> None:
    """A key is known by its hash and brings the rights it was given; a token is still a token beside it."""
    digest = hashlib.sha256(b"the key").hexdigest()
    keys = {"shop": ApiKey(sha256=digest.upper(), channels={"chat:*": ["publish"]}, admin=True)}
    shop = authenticate("the key", api_keys=keys)
    assert shop == Principal(user="shop", server=True, channels={"chat:*": ["publish"]}, admin=True)
    assert authenticate("the key", api_keys=keys, secret=None).server
    assert authenticate(token(), api_keys=keys).user == "ann"
    for bearer in ("The key", "shop", digest, digest.upper(), ""):
        assert refusal(bearer, api_keys=keys) == "unauthenticated"
