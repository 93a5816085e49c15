"""Who is let in: `auth`, `auth.api_keys`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from msgspec import field

from server.core.config.channels import check_rule
from server.core.config.targets import Target
from server.core.config.values import Seconds, Section, is_safe
from server.core.errors import StartError
from server.core.names import is_pattern
from server.core.rules import Rule

SHARED: Final = frozenset(("HS256", "HS384", "HS512"))
"""Algorithms with one secret for signing and verifying."""
ASYMMETRIC: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA")
)
"""Those with a private key for signing and a public one for verifying."""
_SECRET_BYTES: Final = 32
_DOMAIN: Final = re.compile(r"(?=.*[a-z])[a-z0-9-]+(\.[a-z0-9-]+)*")
_EXAMPLE_URL: Final = "http://localhost:8888"


class ApiKey(Section):
    sha256: str
    """hex SHA-256 of the key, so that the configuration holds no key: `printf %s KEY | sha256sum`"""
    channels: dict[str, list[str]] = field(default_factory=dict)
    """rights beyond the namespaces' rules: `{"chat:*": [publish, subscribe]}`"""
    consumers: list[str] = field(default_factory=list)
    """the [consumers](consumers.md) whose messages it may fetch, by name: `[mailer]`"""
    admin: bool = False
    """for operators: disconnecting, unsubscribing and revoking users, `/metrics`, `/v1/nodes`, `/v1/channels`, the
    `$sys:` channels and the console. No right to other channels"""

    def check(self, path: str) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise StartError(f"{path}.sha256: expected 64 hexadecimal digits")
        for pattern in self.channels:
            if not is_pattern(pattern):
                raise StartError(f"{path}.channels: {pattern!r} has no namespace: chat:*")


class Mail(Target):
    url: str | None = None
    """a back end of yours that sends what is to be mailed to users ([accounts](accounts.md)), asked with `POST`. With
    neither this nor a function, passwords are not reset by mail and addresses not verified"""
    timeout: Seconds = Seconds(10)
    """for its answer, any of 200 to 299"""

    @property
    def sends(self) -> bool:
        return self.url is not None or self.function is not None


class Provider(Section):
    issuer: str
    """its `iss`, `https`, or `http` on loopback: where `/.well-known/openid-configuration` is"""
    client_id: str
    """by which it knows this server"""
    client_secret: str | None = None
    """null: a public client, with PKCE alone. Better from the environment"""
    title: str | None = None
    """on the button; null: the name"""
    scopes: list[str] = field(default_factory=lambda: ["openid", "profile", "email"])
    """what it is asked for"""
    algorithms: list[str] = field(default_factory=lambda: ["RS256", "PS256", "ES256", "EdDSA"])
    """of its ID tokens"""
    registers: bool = True
    """whoever comes for the first time gets an account; else only who has one already"""

    def check(self, path: str) -> None:
        if not is_safe(self.issuer) or "#" in self.issuer or "?" in self.issuer:
            raise StartError(f"{path}.issuer: https, or http on loopback")
        if "openid" not in self.scopes:
            raise StartError(f"{path}.scopes: openid is needed")
        if not self.algorithms or not ASYMMETRIC.issuperset(self.algorithms):
            raise StartError(f"{path}.algorithms: some of {', '.join(sorted(ASYMMETRIC))}")


def passkey_pages(domain: str, url: str, origins: Sequence[str]) -> list[str]:
    """The origins whose pages may use the passkeys of a domain."""
    hosts = {page.lower(): f".{urlsplit(page).hostname or ''}" for page in (url, *origins)}
    return [page for page, host in hosts.items() if host.endswith(f".{domain}")]


class Auth(Section):
    secret: str | None = None
    """the shared key of JSON Web Tokens, 32 bytes at least. Null: such tokens are refused; guests, API keys and the
    keys below remain"""
    previous_secret: str | None = None
    """accepted as well, never signed with: the old secret, until the last token it has signed is expired"""
    allow_short_secret: bool = False
    """for development, on a loopback address only: a secret may be shorter, as those in other servers' tests are"""
    public_key: str | None = None
    """for tokens that others sign: a PEM (`-----BEGIN PUBLIC KEY-----`), as text or as the path of a file. May hold
    several keys; all are accepted"""
    jwks_url: str | None = None
    """where such keys are published (JSON Web Key Set). `https`, or `http` on loopback; redirects are not followed.
    Fetched with the first token, every 5 minutes, and for a key id nobody knows (every 10 s at most). While the URL
    is away, the keys last seen are used"""
    algorithms: list[str] = field(default_factory=lambda: ["HS256"])
    """the only ones accepted, of HS256/384/512 (with `secret`) and RS256/384/512, PS256/384/512, ES256/384/512,
    ES256K, EdDSA (with `public_key` or `jwks_url`). A key is only used with algorithms of its own kind"""
    issuer: str | None = None
    """the `iss` a token must have, if set"""
    audience: str | None = None
    """the `aud` a token must have, if set"""
    max_token_ttl: Seconds = Seconds(0)
    """the longest that `exp` may be after `iat`, which tokens must have then. Revocations are kept for as long,
    without it for ever"""
    guests: bool = True
    """clients without a token are let in, as user null"""
    public_guests: bool = False
    """the second word that is needed for guests on a public address"""
    accounts: bool = False
    """accounts kept in MongoDB, at [`/v1/auth/…`](protocol.md). Tokens are signed with `auth.secret`; if that is null,
    with one that is made at the first start and kept in MongoDB"""
    mail: Mail = field(default_factory=Mail)
    oidc: dict[str, Provider] = field(default_factory=dict)
    """where users may sign in with an account that they have there, by name
    ([accounts](accounts.md#signing-in-elsewhere)). Needs the extra `oidc` (Authlib)"""
    passkeys: bool = False
    """users may sign in with a passkey ([accounts](accounts.md#passkeys)), on pages that are `https`, or
    `http://localhost`. Needs the extra `passkeys` (webauthn)"""
    passkey_domain: str | None = None
    """what passkeys are bound to, and must not change later: `example.com`. Pages of `server.url` and of `origins` that
    are within it may use them. Null: the name in `server.url`"""
    operators: Rule = "nobody"
    """users who are operators, as an API key is that is `admin`: `claim:roles=operator`. They may use the console"""
    development: bool = False
    """for trying accounts on your own machine, on a loopback address without a proxy only: one click signs in as an
    example user, whom `run.py seed` makes; links that are to be mailed are printed in the log"""
    ticket_ttl: Seconds = Seconds(60)
    """how long a [ticket](rest.md#tickets) opens an event stream"""
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    """keys for back ends, by name; the name is the `user` of what they publish"""

    def check(self, path: str) -> None:
        check_rule(f"{path}.operators", self.operators)
        self.mail.check_target(f"{path}.mail", needed=False)
        for name, provider in self.oidc.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
                raise StartError(f"{path}.oidc.{name}: a name is [a-z][a-z0-9-]*, 32 characters at most")
            provider.check(f"{path}.oidc.{name}")
        if self.oidc and not self.accounts:
            raise StartError(f"{path}.oidc: accounts are what it signs in to; set auth.accounts as well")
        if self.passkeys and not self.accounts:
            raise StartError(f"{path}.passkeys: accounts are what they sign in to; set auth.accounts as well")
        for name, key in self.api_keys.items():
            if not name:
                raise StartError(f"{path}.api_keys: a key has a name")
            key.check(f"{path}.api_keys.{name}")
        for name, secret in (("secret", self.secret), ("previous_secret", self.previous_secret)):
            if secret is not None and len(secret.encode()) < _SECRET_BYTES and not self.allow_short_secret:
                raise StartError(f"{path}.{name} must have at least {_SECRET_BYTES} bytes")
            if secret is not None and "-----BEGIN" in secret:
                raise StartError(f"{path}.{name} is a shared secret; a PEM belongs in auth.public_key")
        if self.previous_secret is not None and self.secret is None:
            raise StartError(f"{path}.previous_secret is of use beside auth.secret only")
        self._check_algorithms(path)
        if self.jwks_url is not None and not is_safe(self.jwks_url):
            raise StartError(f"{path}.jwks_url: https, or http on loopback")

    def passkeys_domain(self, url: str) -> str:
        """Of a server that is called by this `url`."""
        return self.passkey_domain or urlsplit(url).hostname or ""

    def check_passkeys(self, path: str, url: str, origins: Sequence[str]) -> None:
        """Browsers make them for names alone, on pages that nobody on the way has changed."""
        domain = self.passkeys_domain(url)
        if not _DOMAIN.fullmatch(domain):
            raise StartError(f"{path}.passkeys: {domain}: they are bound to a name; set server.url: {_EXAMPLE_URL}")
        pages = passkey_pages(domain, url, origins)
        if not pages:
            raise StartError(f"{path}.passkey_domain: {domain}: neither server.url ({url}) nor an origin is within")
        for page in pages:
            if not page.startswith("https://") and urlsplit(page).hostname != "localhost":
                raise StartError(f"{path}.passkeys: {page} has to be https, or http://localhost")

    def _check_algorithms(self, path: str) -> None:
        unknown = set(self.algorithms) - SHARED - ASYMMETRIC
        if unknown or not self.algorithms:
            names = ", ".join(sorted(SHARED | ASYMMETRIC))
            raise StartError(f"{path}.algorithms: some of {names}; not {', '.join(sorted(unknown)) or 'none'}")
        asymmetric = ASYMMETRIC.intersection(self.algorithms)
        if asymmetric and not (self.public_key or self.jwks_url):
            raise StartError(f"{path}.algorithms: {min(asymmetric)} needs auth.public_key or auth.jwks_url")
        if (self.public_key or self.jwks_url) and not asymmetric:
            raise StartError(f"{path}.public_key, auth.jwks_url: name their algorithm in auth.algorithms")
        if self.accounts and not SHARED.intersection(self.algorithms):
            raise StartError(f"{path}.accounts signs its tokens: auth.algorithms must have HS256 as well")
