"""Signing in elsewhere: OpenID Connect, by the authorization code with PKCE (RFC 7636), of any provider in `auth.oidc`.

    page      POST /v1/auth/oidc/NAME {return, challenge}    a state, a nonce and a verifier are made and kept
    browser   → the provider → GET /v1/auth/oidc/NAME/callback?code&state
    server    exchanges the code, looks at the ID token, finds or makes the account, and sends the browser back to
              `return` with a code of its own behind the `#`, good once and for a minute
    page      POST /v1/auth/oidc {code, verifier}            tokens

There are no cookies, so what ties the end to the browser that has begun is the page's verifier, of which the server
knows the SHA-256 (`challenge`) from the beginning: a code that somebody else has brought about signs nobody in.

An identity is the provider's name and its `sub`. No account is found by its address of e-mail: what a provider says of
addresses must not open the accounts of others.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlsplit

from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from msgspec import structs

from server.access.accounts.families import Visit
from server.access.accounts.one_time import OneTimeTokens
from server.access.accounts.store import EMAIL_BYTES, Account, AccountStore, as_email, as_info, as_user
from server.backend.http_client import HTTPClient, NoAnswer
from server.core.clock import Clock
from server.core.config import Auth, is_safe
from server.core.config.auth import Provider as Options
from server.core.errors import Error, bad_request
from server.wire.accounts import Provider, Tokens
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

BACK_WITHIN: Final = 600.0
"""Seconds for what somebody does at the provider."""
FINISH_WITHIN: Final = 60.0
ANSWER_WITHIN: Final = 10.0
ANSWER_BYTES: Final = 1 << 18
ACCEPT: Final = {"Accept": "application/json"}
KNOWN_FOR: Final = 3600.0
"""Seconds after which a provider's own description is asked for again; its keys, for one that is not known, sooner."""
KEYS_AGAIN: Final = 10.0
LEEWAY: Final = 10
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")

LogIn = Callable[[Account, Visit, str], Awaitable[Tokens]]


class OpenID:
    """`url`: what users call the server; `origins`: of pages that one may come back to, besides its own."""

    def __init__(
        self,
        config: Auth,
        url: str,
        origins: Sequence[str],
        *,
        store: AccountStore,
        tokens: OneTimeTokens,
        log_in: LogIn,
        check_free: Callable[..., None],
        clock: Clock,
    ) -> None:
        self._providers = {
            name: _Provider(name, options, f"{url}/v1/auth/oidc/{name}/callback", clock)
            for name, options in config.oidc.items()
        }
        self._origins = origins
        self._store = store
        self._tokens = tokens
        self._log_in = log_in
        self._check_free = check_free
        self._clock = clock

    def shown(self) -> list[Provider]:
        return [{"name": name, "title": one.options.title or name.title()} for name, one in self._providers.items()]

    # --- the three steps ----------------------------------------------------------------------------------------------

    async def begin(self, name: str, back: str, challenge: str) -> str:
        """Where the browser goes. `bad_request` if `back` is no page of ours; `unavailable` if the provider is away."""
        provider = self._provider(name)
        if not _CHALLENGE.fullmatch(challenge):
            raise bad_request("challenge: the base64url of a SHA-256, 43 characters")
        self._check_back(back)
        nonce, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        described = await provider.described()
        about = {"provider": name, "nonce": nonce, "verifier": verifier, "back": back, "challenge": challenge}
        state = await self._tokens.issue("oidc state", BACK_WITHIN, about=about)
        return provider.authorization_url(described, state, nonce, verifier)

    async def come_back(self, name: str, state: str, *, code: str | None, issuer: str | None, error: str | None) -> str:
        """Where the browser goes next: back to the page, with a code or with what went wrong. `unauthenticated` if it
        does not come from something that was begun here."""
        provider = self._provider(name)
        redeemed = await self._tokens.redeem("oidc state", state)
        if redeemed is None or redeemed.about["provider"] != name:
            raise Error("unauthenticated", "state: not one of a sign-in that was begun here, or not any more")
        about = redeemed.about
        try:
            if error is not None or code is None:
                why = "it was refused there" if error == "access_denied" else "no code came"
                raise Error("permission_denied", f"{name}: {why}")
            if issuer is not None and issuer != provider.options.issuer:
                raise Error("unauthenticated", f"{name}: iss is another one's")
            claims = await provider.identify(code, about["nonce"], about["verifier"])
            account = await self._account(name, provider.options, claims)
        except Error as refusal:
            logger.info("sign-in by %s refused: %s", name, refusal.told)
            return f"{about['back']}#sign-in-refused={quote(refusal.reason)}"
        own = await self._tokens.issue(
            "oidc code", FINISH_WITHIN, account.id, {"challenge": about["challenge"], "provider": name}
        )
        return f"{about['back']}#sign-in={own}"

    async def finish(self, code: str, verifier: str, visit: Visit) -> Tokens:
        """`unauthenticated` if the code is not good, or another browser's."""
        redeemed = await self._tokens.redeem("oidc code", code)
        refusal = Error("unauthenticated", "code, verifier: not those of a sign-in that was begun here")
        if redeemed is None or redeemed.user is None:
            raise refusal
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=")
        if not hmac.compare_digest(challenge, redeemed.about["challenge"].encode()):
            raise refusal
        account = await self._store.find(redeemed.user)
        if account is None:
            raise refusal
        return await self._log_in(account, visit, redeemed.about["provider"])

    # --- parts --------------------------------------------------------------------------------------------------------

    def _provider(self, name: str) -> _Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise Error("not_found", f"provider: {name[:64]} is not under auth.oidc")
        return provider

    def _check_back(self, back: str) -> None:
        """A path of the server's own, or a page of an origin that is listed: nobody sends a code anywhere else."""
        own = back.startswith("/") and not back.startswith(("//", "/\\"))
        if back.isascii() and back.isprintable() and "#" not in back and "\\" not in back and " " not in back:
            with suppress(ValueError):  # such as a [ in its host
                parts = urlsplit(back)
                if own or f"{parts.scheme}://{parts.netloc}" in self._origins:
                    return
        raise bad_request("return: a path of this server, or a page of one of the `origins`, in ASCII and without #")

    async def _account(self, provider: str, options: Options, claims: Mapping[str, Any]) -> Account:
        """Whose identity that is, or a new account."""
        identity = f"{provider} {claims['sub']}"
        account = await self._store.with_identity(identity)
        if account is not None:
            return account
        if not options.registers:
            raise Error("permission_denied", f"{provider}: nobody here has this identity")
        email, verified = _email(claims), claims.get("email_verified") is True
        shown = claims.get("name")
        new = Account(
            id="",
            user="",
            info=as_info({"name": shown[:200]}) if isinstance(shown, str) and shown else "null",
            email=email,
            verified=verified and email is not None,
            created=self._clock.now_ms(),
            identities=[identity],
        )
        for user in _names(provider, claims):
            try:
                self._check_free(user, user.lower())
                return await self._insert(new, user)
            except Error as error:
                if error.code != "conflict" or not error.reason.startswith("user:"):
                    raise
        raise Error("conflict", f"{provider}: no name is free")

    async def _insert(self, new: Account, user: str) -> Account:
        account = structs.replace(new, id=user.lower(), user=user)
        try:
            await self._store.insert(account)
        except Error as error:
            if not error.reason.startswith("email:"):
                raise
            # Another account has proved to read it: this one has a claim only.
            account = structs.replace(account, verified=False)
            await self._store.insert(account)
        logger.info("account registered by %s", account.identities[0].partition(" ")[0], extra={"user": user})
        return account

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()


class _Provider:
    """One provider, what it says of itself, and its keys."""

    def __init__(self, name: str, options: Options, redirect_uri: str, clock: Clock) -> None:
        self.options = options
        self._name = name
        self._clock = clock
        self._redirect_uri = redirect_uri
        self._method = "client_secret_basic" if options.client_secret else "none"
        self._http = HTTPClient()
        self._described: dict[str, Any] = {}
        self._described_at = -KNOWN_FOR
        self._keys: dict[str, Any] = {}
        self._keys_at = -KEYS_AGAIN

    async def described(self) -> dict[str, Any]:
        """Its metadata (OpenID Connect Discovery), whose issuer has to be the one that is configured."""
        if time.monotonic() > self._described_at + KNOWN_FOR:
            issuer = self.options.issuer
            found = await self._json("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise self._away("it says that its issuer is another one")
            for endpoint in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not is_safe(found.get(endpoint)):
                    raise self._away(f"{endpoint}: no https, and not on loopback")
            methods = found.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
            if self.options.client_secret and "client_secret_basic" not in methods and "client_secret_post" in methods:
                self._method = "client_secret_post"
            self._described, self._described_at = found, time.monotonic()
        return self._described

    def authorization_url(self, described: Mapping[str, Any], state: str, nonce: str, verifier: str) -> str:
        options = self.options
        url: str = prepare_grant_uri(
            described["authorization_endpoint"],
            options.client_id,
            "code",
            self._redirect_uri,
            options.scopes,
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return url

    async def identify(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """The claims of who has signed in there; `unauthenticated` if the code or the token is not good."""
        described = await self.described()
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        auth = ClientAuth(self.options.client_id, self.options.client_secret, self._method)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        uri, headers, body = auth.prepare("POST", described["token_endpoint"], headers, body)
        token = await self._json("POST", uri, headers, body, refusable=True)
        claims = await self._claims(described, token, nonce)
        if (
            not claims.get("email")
            and not claims.get("preferred_username")
            and is_safe(described.get("userinfo_endpoint"))
        ):
            headers = {"Authorization": f"Bearer {token.get('access_token')}"}
            more = await self._json("GET", described["userinfo_endpoint"], headers)
            if more.get("sub") == claims["sub"]:
                claims = {**more, **claims}
        return claims

    async def _claims(self, described: Mapping[str, Any], token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        raw = token.get("id_token")
        if not isinstance(raw, str):
            raise self._bad("there is no ID token")
        try:
            decoded = None
            for again in (False, True):
                keys = KeySet.import_key_set(await self._key_set(described["jwks_uri"], again))
                try:
                    decoded = jwt.decode(raw, keys, algorithms=self.options.algorithms)
                    break
                except (JoseError, ValueError):
                    if again:
                        raise
            assert decoded is not None
            wanted = {"iss": {"essential": True, "value": self.options.issuer}}
            params = {"nonce": nonce, "client_id": self.options.client_id, "access_token": token.get("access_token")}
            claims = CodeIDToken(decoded.claims, decoded.header, wanted, params)
            claims.validate(now=int(self._clock.time()), leeway=LEEWAY)
        except (AuthlibBaseError, JoseError, ValueError, KeyError, TypeError) as error:
            raise self._bad(f"the ID token is not good ({type(error).__name__})") from None
        audience = claims.get("aud")
        if self.options.client_id not in (audience if isinstance(audience, list) else [audience]):
            raise self._bad("the ID token is for somebody else")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise self._bad("sub: expected 1 to 255 characters")
        return dict(claims)

    async def _key_set(self, url: str, again: bool) -> Any:
        """`again`: those that are known will not do. Asked for every so often at most."""
        if not self._keys or (again and time.monotonic() > self._keys_at + KEYS_AGAIN):
            self._keys, self._keys_at = await self._json("GET", url), time.monotonic()
        return self._keys

    async def _json(
        self, method: str, url: str, headers: Mapping[str, str] = ACCEPT, body: str = "", *, refusable: bool = False
    ) -> dict[str, Any]:
        """`refusable`: a status of 400 to 499 is the provider's no, to who has asked."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                answer = await self._http.ask(
                    method, url, {**ACCEPT, **headers}, body.encode() or None, most=ANSWER_BYTES
                )
        except NoAnswer as error:
            raise self._away(str(error)) from None
        except TimeoutError:
            raise self._away("no whole answer in time") from None
        if refusable and 400 <= answer.status < 500:
            raise self._bad("the code was not taken")
        try:
            found = JSON.decode(answer.body) if answer.status == 200 else None
        except Error:
            found = None
        if not isinstance(found, dict):
            raise self._away(f"answered {answer.status}, and no JSON object")
        return found

    def _away(self, why: str) -> Error:
        logger.warning("auth.oidc.%s: %s", self._name, why)
        return Error("unavailable", f"{self._name}: the provider cannot be asked", retry_after=5.0)

    def _bad(self, why: str) -> Error:
        return Error("unauthenticated", f"{self._name}: {why}")

    async def close(self) -> None:
        await self._http.close()


def _email(claims: Mapping[str, Any]) -> str | None:
    email = claims.get("email")
    if not isinstance(email, str) or len(email) > EMAIL_BYTES:
        return None
    try:
        return as_email(email)
    except Error:
        return None


def _names(provider: str, claims: Mapping[str, Any]) -> list[str]:
    """Names for a new account, the nicest first."""
    names: list[str] = []
    email = str(claims.get("email") or "").partition("@")[0]
    for wish in (claims.get("preferred_username"), email, claims.get("name"), provider):
        cleaned = _FOREIGN.sub("-", str(wish or "").partition("@")[0]).strip("-._")[:48]
        if cleaned:
            names += [cleaned, *(f"{cleaned}{number}" for number in range(2, 6)), f"{cleaned}-{secrets.token_hex(4)}"]
            break
    return [as_user(name) for name in names]
