"""Guests, tokens and API keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from server.access import auth
from server.access.auth import Authenticator
from server.access.keys import read_jwks
from server.core.clock import Clock
from server.core.config import ApiKey, Auth
from server.core.errors import Error, StartError
from server.core.principals import GUEST, Principal

SECRET = "s" * 64
HOUR = 3600


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token of ann's for an hour; a claim of None is left out."""
    return jwt.encode(
        {
            name: claim
            for name, claim in {"sub": "ann", "exp": int(time.time()) + HOUR, **claims}.items()
            if claim is not None
        },
        secret,
        algorithm,
    )


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
    assert (ann.user, ann.channels, ann.expires) == ("ann", {"chat:*": ["publish"]}, float(end))
    assert not ann.server
    assert not ann.admin


def test_a_token_brings_along_what_it_says() -> None:
    """All its claims, `info`, `iat`, and a name for the token: its `jti`, or what was signed, hashed."""
    issued = int(time.time()) - 5
    bearer = token(info={"name": "Ann"}, iat=issued, jti="t1", plan="gold")
    ann = authenticate(bearer)
    assert (ann.info, ann.issued, ann.token, ann.claims["plan"]) == ({"name": "Ann"}, float(issued), "t1", "gold")
    bare = token()
    assert authenticate(bare).token == hashlib.sha256(bare.rpartition(".")[0].encode()).hexdigest()
    assert (authenticate(bare).issued, authenticate(bare).info) == (None, None)


def raw(claims: Any, header: Any = None, secret: str = SECRET) -> str:
    """A well-signed token of any bytes whatever."""
    parts = [header if header is not None else {"alg": "HS256", "typ": "JWT"}, claims]
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    signed = ".".join(base64.urlsafe_b64encode(text).rstrip(b"=").decode() for text in texts)
    signature = hmac.new(secret.encode(), signed.encode(), "sha256").digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def claims(**others: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + HOUR, **others}


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
    "from the future": token(iat=int(time.time()) + 24 * HOUR),
    "an end without an end": raw(b'{"sub": "ann", "exp": 1e999}'),
    "no number for an end": raw(b'{"sub": "ann", "exp": NaN}'),
    "two users": raw(b'{"sub": "ann", "exp": 9999999999, "sub": "eve"}'),
    "half a character": raw(b'{"sub": "\\ud800", "exp": 9999999999}'),
    "claims nested deep": raw(b'{"sub": "ann", "exp": 9999999999, "info": ' + b"[" * 40 + b"]" * 40 + b"}"),
    "claims that are a list": raw([]),
    "claims that are no JSON": raw(b"\xff"),
    "a header that is a list": raw(claims(), []),
    "a header nested deep": raw(claims(), b"[" * 5000),
    "a header without an algorithm": raw(claims(), {}),
    "no algorithm": raw(claims(), {"alg": None}),
    "an algorithm that is a list": raw(claims(), {"alg": ["HS256"]}),
    "an algorithm in lower case": raw(claims(), {"alg": "hs256"}),
    "None": raw(claims(), {"alg": "None"}),
    "what is critical and unknown": raw(claims(), {"alg": "HS256", "crit": ["x"], "x": 1}),
    "no base64": raw(claims(), {"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "a key id that is none": raw(claims(), {"alg": "HS256", "kid": {"$ne": ""}}),
    "too large": token(info="x" * 9000),
    "a signature of nothing": token().rpartition(".")[0] + ".",
    "padded": token() + "==",
    "a line break in it": token() + "\n",
    **{
        f"{name} {value!r}": raw(claims(**{name: value}))
        for name, value in [
            ("exp", "9999999999"),
            ("exp", True),
            ("exp", None),
            ("exp", [9999999999]),
            ("nbf", "0"),
            ("nbf", None),
            ("iat", "now"),
            ("iat", {}),
            ("aud", 1),
            ("aud", [1]),
            ("iss", ["me"]),
            ("jti", 7),
            ("jti", ""),
            ("sub", "a\nb"),
            ("sub", "x" * 256),
            ("sub", {"$ne": 1}),
            ("channels", {"chat:*": [1]}),
            ("channel", "chat:vip"),
            ("channel", None),
        ]
    },
    **{
        f"for another purpose: {kind}": raw(claims(), {"alg": "HS256", "typ": kind})
        for kind in ("logout+jwt", "application/Logout+JWT", "secevent+jwt", "dpop+jwt")
    },
    **{f"rights {rights!r}": token(channels=rights) for rights in (["chat:*"], "chat:*", {"chat:*": "publish"}, 1)},
}


@pytest.mark.parametrize("bearer", BAD.values(), ids=BAD)
def test_what_proves_nothing_makes_nobody_even_where_guests_are_allowed(bearer: str) -> None:
    """A token that is not good is `unauthenticated`, and never a guest."""
    assert refusal(bearer, guests=True) == "unauthenticated"


def test_a_token_for_one_channel_says_why_it_is_no_login() -> None:
    """Whoever moves from another product reads that its subscription tokens are not needed here."""
    with pytest.raises(Error, match="channel: it is for a subscription"):
        authenticate(token(channel="chat:vip"))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "our-own+jwt", None, 7])
def test_tokens_of_other_types_are_logins(kind: Any) -> None:
    """What a header calls a token is looked at only to find those that are something else."""
    assert authenticate(raw(claims(), {"alg": "HS256", "typ": kind})).user == "ann"


def test_an_expired_token_says_so() -> None:
    """`token_expired` tells a client to fetch a new one."""
    assert refusal(token(exp=int(time.time()) - HOUR)) == "token_expired"


def test_a_token_that_is_known_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is that it was signed; at most so many tokens, and none that is refused."""
    ahead = 0
    ours = Authenticator(Auth(secret=SECRET), Clock(lambda: time.time() + ahead))
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    bearer = token(nbf=int(time.time()))
    steps = ((0, None), (0, None), (2 * HOUR, "token_expired"), (-HOUR, "unauthenticated"), (0, None))
    for ahead, code in steps:  # noqa: B007 - the clock reads it
        try:
            assert ours.authenticate(bearer).user == "ann"
            assert code is None
        except Error as error:
            assert error.code == code  # noqa: PT017
    good, bad = [token(n=n) for n in range(9)], [token(secret="x" * 64, n=n) for n in range(9)]
    for n in range(9):
        assert ours.authenticate(good[n]).claims["n"] == n
        with pytest.raises(Error):
            ours.authenticate(bad[n])
    assert [ours.knows(one) for one in good] == [False] * 6 + [True] * 3
    assert not any(ours.knows(one) for one in [*bad, bearer, "x" * 9000])


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


# --- keys of other kinds ----------------------------------------------------------------------------------------------

RSA = rsa.generate_private_key(65537, 2048)
ASYMMETRIC = {
    "RS256": RSA,
    "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(private: Any) -> str:
    public: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key_verifies_its_own_algorithms(algorithm: str, tmp_path: Path) -> None:
    """As text or as a file; another key's signature is refused, and so is another algorithm of the same key."""
    private = ASYMMETRIC[algorithm]
    file = tmp_path / "key.pem"
    file.write_text(pem(private))
    bearer = jwt.encode(claims(), private, algorithm)
    for key in (pem(private), str(file)):
        options: dict[str, Any] = {"secret": None, "public_key": key, "algorithms": [algorithm]}
        assert authenticate(bearer, **options).user == "ann"
        assert refusal(bearer[:-6] + "AAAAAA", **options) == "unauthenticated"
        if private is RSA:
            other = jwt.encode(claims(), private, "RS384")
            assert refusal(other, **options) == "unauthenticated"


def test_two_public_keys_while_they_are_changed() -> None:
    """A PEM may hold several keys; what either has signed is good."""
    new, old = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    options: dict[str, Any] = {"secret": None, "public_key": pem(new) + pem(old), "algorithms": ["ES256"]}
    for private in (new, old):
        assert authenticate(jwt.encode(claims(), private, "ES256"), **options).user == "ann"
    assert refusal(jwt.encode(claims(), ASYMMETRIC["ES256"], "ES256"), **options) == "unauthenticated"


def test_a_public_key_is_never_a_shared_secret() -> None:
    """HS/RS confusion: a token signed with the public key's own text is refused, whatever algorithms are allowed."""
    public = pem(RSA)
    for secret in (None, SECRET):
        options: dict[str, Any] = {"secret": secret, "public_key": public, "algorithms": ["RS256", "HS256"]}
        for text in (public, public.strip(), public.encode().hex()):
            assert refusal(raw(claims(), secret=text), **options) == "unauthenticated"
            assert refusal(raw(claims(), {"alg": "RS256"}, secret=text), **options) == "unauthenticated"
    assert authenticate(token(), **options).user == "ann"
    assert authenticate(jwt.encode(claims(), RSA, "RS256"), **options).user == "ann"


def test_what_a_header_brings_along_is_not_looked_at() -> None:
    """A key in the token itself, or where to fetch one, makes nobody; a key id is a name and no path."""
    own = jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    options: dict[str, Any] = {"public_key": pem(rsa.generate_private_key(65537, 2048)), "algorithms": ["RS256"]}
    for header in ({"jwk": own}, {"jku": "http://127.0.0.1:9/"}, {"x5u": "http://127.0.0.1:9/"}, {"x5c": ["AAAA"]}):
        assert refusal(jwt.encode(claims(), RSA, "RS256", headers=header), **options) == "unauthenticated"
    for kid in ("../../dev/null", "/dev/null", "' OR 1=1 --", "", "x" * 5000):
        forged = raw(claims(), {"alg": "HS256", "kid": kid}, secret="")
        assert refusal(forged) == "unauthenticated"
        assert authenticate(raw(claims(), {"alg": "HS256", "kid": kid})).user == "ann"


def test_two_secrets_while_they_are_changed() -> None:
    """The previous secret's tokens are good until it is taken out; a third one's never are."""
    old = token(secret="o" * 64)
    assert authenticate(old, previous_secret="o" * 64).user == "ann"
    assert authenticate(token(), previous_secret="o" * 64).user == "ann"
    assert refusal(token(secret="x" * 64), previous_secret="o" * 64) == "unauthenticated"
    assert refusal(old) == "unauthenticated"


def private_pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("/nowhere/key.pem", "No such file"),
        (private_pem(RSA), "PRIVATE KEY"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "auth.public_key"),
        ("-----BEGIN PUBLIC KEY-----", "no PEM"),
        (pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
    ],
    ids=["no file", "private", "broken", "cut off", "weak"],
)
def test_a_key_that_is_none_does_not_start(key: str, named: str) -> None:
    """A private, weak or broken key is refused at the start, in one line that does not quote it."""
    with pytest.raises(StartError, match=named) as caught:
        Authenticator(Auth(public_key=key, algorithms=["RS256"]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def jwk(private: Any, **others: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(private.public_key(), as_dict=True), **others}


def test_a_key_set_gives_what_can_verify_a_signature() -> None:
    """Keys for encryption, symmetric, private, weak and broken ones are passed over; a key's `alg` pins it."""
    curve = ASYMMETRIC["ES256"]
    listed = [
        jwk(RSA, kid="a"),
        jwk(RSA, kid="b", alg="PS256"),
        jwk(curve, kid="c", use="sig"),
        jwk(RSA, kid="encryption", use="enc"),
        jwk(RSA, kid="not pinned", alg="RS512"),
        jwk(RSA, kid=7),
        jwk(rsa.generate_private_key(65537, 1024), kid="weak"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric", "alg": "HS256"},
        jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True),
        {"kty": "RSA", "n": "AQAB"},
        {"kty": "EC", "crv": "P-999"},
        {},
        "key",
    ]
    found = read_jwks(json.dumps({"keys": listed}).encode(), ("RS256", "PS256", "ES256", "HS256"))
    assert {key.id: set(key.algorithms) for key in found} == {"a": {"RS256", "PS256"}, "b": {"PS256"}, "c": {"ES256"}}
    for bad in (b"[]", b"{}", b'{"keys": {}}', b"<html>"):
        with pytest.raises((ValueError, Error)):
            read_jwks(bad, ("RS256",))


def test_what_is_signed_here_is_good_here() -> None:
    """`sign` makes tokens with the configured issuer and audience, and says when it cannot."""
    ours = Authenticator(Auth(secret=SECRET, issuer="me", audience="us"))
    bearer, expires = ours.sign("ann", 60, channels={"chat:*": ["publish"]}, info=[1])
    ann = ours.authenticate(bearer)
    assert (ann.user, ann.channels, ann.info, ann.expires) == ("ann", {"chat:*": ["publish"]}, [1], float(expires))
    assert abs(expires - time.time() - 60) < 5
    assert ann.issued is not None
    with pytest.raises(StartError, match=r"auth\.secret is null"):
        Authenticator(Auth()).sign("ann", 60)
    with pytest.raises(StartError, match=r"auth\.algorithms"):
        Authenticator(Auth(secret=SECRET, public_key=pem(RSA), algorithms=["RS256"])).sign("ann", 60)
