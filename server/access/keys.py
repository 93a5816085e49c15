"""The keys that tokens are verified with: shared secrets, public keys (PEM), and those of a JWKS URL (RFC 7517).

A key brings along the algorithms of its own family and is never tried with another: a token's header only chooses
among them, so a public key cannot be used as a shared secret (HS/RS confusion), and `none` belongs to no key.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms

from server.backend.http_client import HTTPClient, NoAnswer
from server.core.config import Auth
from server.core.errors import Error, StartError
from server.core.tasks import Keeper
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

REFRESH_EVERY: Final = 300.0
"""Seconds after which the keys of a JWKS URL are fetched anew, while they go on being used."""
REFETCH_AFTER: Final = 10.0
"""Seconds between two fetches that unknown keys ask for: anybody can send a token with one."""
FETCH_WITHIN: Final = 3.0
JWKS_BYTES: Final = 1 << 18
JWKS_KEYS: Final = 64
RSA_BITS: Final = 2048

_ALGORITHMS: Final[Mapping[str, Algorithm]] = get_default_algorithms()
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
_PEM: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


class Key(NamedTuple):
    id: str | None
    """The `kid` of a JWKS's key. A secret or a PEM has none, and answers to any."""
    algorithms: Mapping[str, Algorithm]
    material: Any

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        return bool(self.algorithms[algorithm].verify(signed, self.material, signature))


def secret_key(secret: str, pinned: Iterable[str]) -> Key:
    return Key(None, _choose(("HS256", "HS384", "HS512"), pinned), secret.encode())


def configured(config: Auth) -> list[Key]:
    """The keys that are in the configuration; StartError if one is none."""
    keys = [secret_key(secret, config.algorithms) for secret in (config.secret, config.previous_secret) if secret]
    return keys + (_pem_keys(config.public_key, config.algorithms) if config.public_key else [])


def _pem_keys(pem: str, pinned: Iterable[str]) -> list[Key]:
    """All the keys of a PEM, given as text or as the path of a file: while keys are changed, there are two."""
    if "-----BEGIN" not in pem:
        try:
            pem = Path(pem).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise StartError(f"auth.public_key: {pem}: {reason}") from None
    keys = []
    for block in _PEM.finditer(pem):
        if not block[1].endswith("PUBLIC KEY"):
            raise StartError(f"auth.public_key: expected PUBLIC KEY, found {block[1]}")
        try:
            keys.append(_public_key(None, load_pem_public_key(block[0].encode()), pinned))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise StartError(f"auth.public_key: {str(error).splitlines()[0].partition('. ')[0]}") from None
    if not keys:
        raise StartError("auth.public_key: no PEM in it")
    return keys


def _public_key(identifier: str | None, key: Any, pinned: Iterable[str]) -> Key:
    """A public key with the algorithms of its family; ValueError for any other kind, private ones among them."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits; {RSA_BITS} are the least")
        family = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    elif isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        family = [_CURVES[key.curve.name]]
    elif isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        family = ["EdDSA"]
    else:
        raise ValueError("not a public key of RSA, of P-256, P-384, P-521, secp256k1, or of Ed25519, Ed448")
    return Key(identifier, _choose(family, pinned), key)


def _choose(family: Iterable[str], pinned: Iterable[str]) -> Mapping[str, Algorithm]:
    return {name: _ALGORITHMS[name] for name in family if name in pinned}


# --- JWKS -------------------------------------------------------------------------------------------------------------


class JWKS:
    """The keys that a URL publishes. What was fetched once is used until a later fetch succeeds."""

    def __init__(self, url: str, pinned: Iterable[str]) -> None:
        self.keys: list[Key] = []
        self.loaded = False
        """Whether there ever was an answer: without one, nobody can say that a token is bad."""
        self._url = url
        self._pinned = tuple(pinned)
        self._begun = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._keeper = Keeper()
        # On loopback (http) without a proxy of the environment, which would be asked for it as well.
        self._http = HTTPClient(proxies=url.startswith("https:"))

    def fetch(self, unknown: bool) -> asyncio.Task[None] | None:
        """Fetch the keys if it is time for that: the fetch under way, if there is one."""
        wait = REFETCH_AFTER if unknown else REFRESH_EVERY
        if time.monotonic() - self._begun > wait and (self._fetching is None or self._fetching.done()):
            self._begun = time.monotonic()
            self._fetching = self._keeper.spawn("fetch JWKS", self._fetch())
        return None if self._fetching is None or self._fetching.done() else self._fetching

    async def close(self) -> None:
        await self._keeper.close()
        await self._http.close()

    async def _fetch(self) -> None:
        where = urlsplit(self._url).netloc.rpartition("@")[2]
        try:
            async with asyncio.timeout(FETCH_WITHIN):
                body = await self._download()
            keys = read_jwks(body, self._pinned)
        except (NoAnswer, TimeoutError, ValueError, Error) as error:
            why = str(error) or f"no whole answer within {FETCH_WITHIN:.0f} s"
            logger.warning("auth.jwks_url: %s: %s; the keys there are remain", where, why)
            return
        self.keys, self.loaded = keys, True
        if not keys:
            logger.warning("auth.jwks_url: %s: no key for auth.algorithms", where)

    async def _download(self) -> bytes:
        answer = await self._http.ask("GET", self._url, {"Accept": "application/json"}, most=JWKS_BYTES)
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}")
        return answer.body


def read_jwks(raw: bytes, pinned: Iterable[str]) -> list[Key]:
    """The keys of a JSON Web Key Set that can verify a signature. The others (for encryption, of other kinds, and
    symmetric ones, which have no place in something public) are passed over, as RFC 7517, section 5 says."""
    document = JSON.decode(raw)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a JSON Web Key Set")
    keys = []
    for jwk in listed[:JWKS_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("kty") == "oct":
            continue
        identifier, algorithm = jwk.get("kid"), jwk.get("alg")
        try:
            if not isinstance(identifier, str | None) or not isinstance(algorithm, str | None):
                raise ValueError("kid and alg are text")
            only = pinned if algorithm is None else [algorithm] if algorithm in pinned else []
            key = _public_key(identifier, jwt.PyJWK(jwk).key, only)
        except (ValueError, TypeError, KeyError, jwt.PyJWTError) as error:
            logger.warning("auth.jwks_url: a key is passed over: %s", str(error).splitlines()[0][:100])
            continue
        if key.algorithms:
            keys.append(key)
    return keys
