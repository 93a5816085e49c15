"""The use cases of who has an account: making one, signing in and out, the password, the sessions.

What signs in is asked for again after everything that waited: a password that is changed, or an account that is
disabled, while its old password is being looked at, signs nobody in.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from server.access.accounts.administration import Administration
from server.access.accounts.attempts import FREE_ADDRESS, Attempts
from server.access.accounts.credentials import Passkey, PasskeyStore
from server.access.accounts.families import FRESH_MINUTES, Families, Family, Visit
from server.access.accounts.mail import Mail
from server.access.accounts.one_time import OneTimeTokens
from server.access.accounts.passwords import Passwords, as_password
from server.access.accounts.recovery import Recovery
from server.access.accounts.store import Account, AccountStore, as_email, as_info, as_user
from server.access.auth import Authenticator
from server.access.revocations import Revocation, Revocations
from server.access.throttle import Throttle
from server.core.addresses import address_key
from server.core.clock import Clock
from server.core.config import Auth
from server.core.errors import Error, StartError
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.mongo.client import agreed
from server.mongo.databases import Database
from server.wire.accounts import NewCredential, PasskeyQuestion, SessionRow, Tokens

if TYPE_CHECKING:
    from server.access.accounts.openid import OpenID
    from server.access.accounts.passkeys import Passkeys

logger = logging.getLogger(__name__)

ACCESS_SECONDS: Final = 15 * 60
EXAMPLES: Final = 20
_OUTLIVED: Final = ACCESS_SECONDS + 60.0
"""Seconds after which no token is good any more that an account has now; clocks may differ by a few."""


class Accounts:
    """`url`: what users call the server; `origins`: of pages besides its own. `take_back` carries a revocation out, on
    every node."""

    def __init__(
        self,
        config: Auth,
        url: str,
        origins: Sequence[str],
        database: Database,
        authenticator: Authenticator,
        revocations: Revocations,
        take_back: Callable[[Revocation], Awaitable[None]],
        keeper: Keeper,
        clock: Clock,
    ) -> None:
        self._config = config
        self._database = database
        self._authenticator = authenticator
        self._revocations = revocations
        self._take_back = take_back
        self._clock = clock
        self._reserved: Container[str] = config.api_keys
        # Else a back end may have given the same user a token that is good for longer.
        self._signs_alone = config.secret is None and config.public_key is None and config.jwks_url is None
        self.store = AccountStore(database)
        self.families = Families(database, clock)
        self.credentials = PasskeyStore(database)
        self.passwords = Passwords()
        self.tokens = OneTimeTokens(database, clock)
        self.mail = Mail(config, url, clock)
        self.recovery = Recovery(self.store, self.passwords, self.tokens, self.mail, keeper, self.end_all)
        self._attempts = Attempts()
        self._registrations = Throttle(FREE_ADDRESS)

        self.openid: OpenID | None = None
        if config.oidc:
            self.openid = _openid(config)(
                config,
                url,
                origins,
                store=self.store,
                tokens=self.tokens,
                log_in=self.log_in,
                check_free=self.check_free,
                clock=clock,
            )
        self.passkeys: Passkeys | None = None
        if config.passkeys:
            self.passkeys = _passkeys()(
                config.passkeys_domain(url),
                url,
                origins,
                accounts=self.store,
                passkeys=self.credentials,
                tokens=self.tokens,
                families=self.families,
                attempts=self._attempts,
                log_in=self.log_in,
                clock=clock,
            )
        self.administration = Administration(
            store=self.store,
            families=self.families,
            credentials=self.credentials,
            passwords=self.passwords,
            tokens=self.tokens,
            recovery=self.recovery,
            check_free=self.check_free,
            end=self.end_all,
            end_one=self.end_one,
            remove_passkey=self.remove_passkey,
            end_tokens=self.end_tokens,
            clock=clock,
        )

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        await self.store.open()
        await self.families.open()
        await self.credentials.open()
        await self.tokens.open()
        await self.passwords.open()

    async def kept_secret(self) -> str:
        """A secret to sign with, made at the first start and the same for all nodes."""
        return await agreed(self._database, "secret", "secret", secrets.token_urlsafe(48))

    async def close(self) -> None:
        self.passwords.close()
        await self.mail.close()
        if self.openid is not None:
            await self.openid.close()

    # --- in and out: each answers {"user", "token", "expires", "refresh_token"} ---------------------------------------

    async def register(self, user: str, password: str, info: Any, email: str | None, visit: Visit) -> Tokens:
        """A new account, logged in; `conflict` if the name is taken, in whatever case. The address of e-mail, if there
        is one, is a claim until it is verified."""
        name, password, info = as_user(user).lower(), as_password(password), as_info(info)
        email = None if email is None else as_email(email)
        self._registrations.attempt(address_key(visit.address))
        self.check_free(name, user)
        account = Account(
            id=name,
            user=user,
            password=await self.passwords.hash(password),
            info=info,
            email=email,
            created=self._clock.now_ms(),
        )
        await self.store.insert(account)
        logger.info("account registered", extra={"user": user, "ip": visit.address})
        if email is not None:
            with suppress(Error):  # too many mails went there: it can be asked for later
                self.recovery.ask_to_verify(account, email, visit.address)
        return await self.log_in(account, visit, "password")

    def check_free(self, *names: str) -> None:
        """`conflict` for the names of API keys."""
        if any(name in self._reserved for name in names):
            raise Error("conflict", "user: this name is taken")

    async def login(self, user: str, password: str, visit: Visit) -> Tokens:
        """`unauthenticated`, after the same work, whether the account or the password is the wrong one;
        `permission_denied` for who has the right password of an account that is disabled."""
        name, password = as_user(user).lower(), as_password(password)
        refusal = Error("unauthenticated", "user, password: they do not belong together")
        account = await self._verified(name, password, visit, refusal)
        return await self.log_in(account, visit, "password")

    async def _verified(self, name: str, password: str, visit: Visit, refusal: Error) -> Account:
        with self._attempts.attempt(name, visit.address) as attempt:
            account = await self.store.find(name)
            hashed = None if account is None else account.password
            attempt.good = await self.passwords.verify(hashed, password)
        if account is None or not attempt.good:
            logger.info("login refused", extra={"user": name, "ip": visit.address})
            raise refusal
        return account

    async def log_in(self, account: Account, visit: Visit, way: str, passkey: str | None = None) -> Tokens:
        """Whoever has just proved to be the account's: by its password, or otherwise (`way`), as with a passkey.
        `permission_denied` if the user is banned."""
        self._revocations.bans.check(account.user)
        family = await self.families.begin(account.id, visit, way, passkey)
        issued = self._moment(account.user)
        now = await self.store.note_sign_in(account, self._clock.now_ms())
        if now is None or now.password != account.password or now.disabled:
            await self.families.end(family.refresh_token)
        if now is not None and now.disabled:
            raise Error("permission_denied", "this account is disabled")
        if now is None or now.password != account.password:
            raise Error("unauthenticated", "the account has changed just now; log in")
        return self._tokens(now, family, issued)

    async def refresh(self, refresh_token: str, visit: Visit) -> Tokens:
        """New tokens for the newest refresh token of a family; `unauthenticated` ends the family."""
        began = self._clock.time()
        family = await self.families.rotate(refresh_token, visit)
        account = family and await self.store.find(family.user)
        if family is not None and account is not None and not account.disabled:
            # The family was there, so what has ended families since then has not been revoked before `began`.
            return self._tokens(account, family, self._moment(account.user, began))
        raise Error("unauthenticated", "refresh_token: not valid, or not any more; log in")

    async def logout(self, refresh_token: str) -> None:
        """End the family, if there is one. Access tokens live on for their minutes."""
        await self.families.end(refresh_token)

    async def log_out(self, user: str) -> None:
        """End all families of a user, who need not have an account."""
        await self.families.end_all(user)

    def _moment(self, user: str, at: float | None = None) -> float:
        """When a token is issued that begins now (or `at`), in whole seconds, unless the second is one in which the
        user's tokens were revoked: those issued in it are, too, and this one is not."""
        now = self._clock.time() if at is None else at
        revoked = self._revocations.revoked_at(user)
        return float(int(now)) if int(now) > revoked else now

    def _tokens(self, account: Account, family: Family, issued: float) -> Tokens:
        token, expires = self._authenticator.sign(
            account.user,
            ACCESS_SECONDS,
            info=account.shown,
            roles=account.roles,
            issued=issued,
            token_id=family.session,
        )
        return {"user": account.user, "token": token, "expires": expires, "refresh_token": family.refresh_token}

    # --- one's own account --------------------------------------------------------------------------------------------

    async def own(self, principal: Principal) -> Account:
        """The account of who asks; `not_found` for users who have none, as of a back end's token."""
        if principal.user is None or principal.server:
            raise Error("unauthenticated", "the token of an account is needed here")
        account = await self.store.find(principal.user)
        if account is None or account.user != principal.user:
            raise Error("not_found", f"{principal.user} has no account here")
        if account.disabled:
            raise Error("permission_denied", "this account is disabled")
        return account

    async def change_password(self, principal: Principal, old: str, new: str, visit: Visit) -> Tokens:
        """Whoever else is signed in is so no longer: these are the only tokens. `permission_denied` if `old` is not the
        password; who has none asks for a reset."""
        account = await self.own(principal)
        new = as_password(new)
        refusal = Error("permission_denied", "old: not the password")
        account = await self._verified(account.id, as_password(old, "old"), visit, refusal)
        hashed = await self.passwords.hash(new)
        changed = await self.store.change(account.id, {"password": hashed}, {"password": account.password})
        if changed is None:
            raise Error("conflict", "the account has changed just now; log in")
        await self.tokens.withdraw(account.id)
        await self.end_all(changed)
        logger.info("password changed", extra={"user": account.user, "ip": visit.address})
        return await self.log_in(changed, visit, "password")

    async def set_email(self, principal: Principal, email: str | None, password: str, visit: Visit) -> Account:
        """Claim an address, or none any more; what is verified stays until the new one is. It takes the password, since
        with the address the password can be reset; who has none has to have signed in a moment ago, so that no token
        that was lost is enough."""
        account = await self.own(principal)
        email = None if email is None else as_email(email)
        account = await self._proved(account, principal, password, visit)
        if email is None:
            account = await self.store.change(account.id, {"email": None, "verified": False}) or account
        elif not account.verified:
            account = await self.store.change(account.id, {"email": email}, {"verified": None}) or account
        await self.tokens.withdraw(account.id)
        if email is not None and not (account.verified and account.email == email):
            self.recovery.ask_to_verify(account, email, visit.address)
        return account

    async def _proved(self, account: Account, principal: Principal, password: str, visit: Visit) -> Account:
        """By the password, or where there is none by a sign-in of just now; else `permission_denied`."""
        if account.password is not None:
            refusal = Error("permission_denied", "password: not the one of this account")
            return await self._verified(account.id, as_password(password), visit, refusal)
        if not await self.families.is_fresh(account.id, principal.token):
            raise Error("permission_denied", f"sign in again: this takes a sign-in of the last {FRESH_MINUTES} minutes")
        return account

    async def begin_passkey(self, principal: Principal, password: str, visit: Visit) -> PasskeyQuestion:
        """What a device is asked for a new passkey. It takes a proof as another address of e-mail does: a token that
        was lost must not become a way in that stays."""
        assert self.passkeys is not None
        account = await self._proved(await self.own(principal), principal, password, visit)
        return await self.passkeys.begin_new(account, principal.token)

    async def add_passkey(self, principal: Principal, state: str, name: str, credential: NewCredential) -> Passkey:
        """As `Passkeys.add`; `conflict` if what allowed it has ended meanwhile, so that whoever else had the account
        leaves no way in behind."""
        assert self.passkeys is not None
        account = await self.own(principal)
        added = await self.passkeys.add(account, principal.token, state, name, credential)
        now = await self.store.find(account.id)
        same = now is not None and (now.handle, now.password) == (account.handle, account.password)
        if now is None or not same or now.disabled or self._revocations.token(principal):
            await self.credentials.remove(account.id, added.id)
            raise Error("conflict", "the account has changed just now; log in")
        return added

    async def list_passkeys(self, principal: Principal) -> list[Passkey]:
        return await self.credentials.of((await self.own(principal)).id)

    async def remove_own_passkey(self, principal: Principal, passkey: str) -> None:
        """What it has signed in ends, but the session that asks."""
        await self.remove_passkey(await self.own(principal), passkey, spared=principal.token)

    async def set_info(self, principal: Principal, info: Any) -> Account:
        """What others may be shown of the user, from the next token on."""
        account = await self.own(principal)
        return await self.store.change(account.id, {"info": as_info(info)}) or account

    async def sessions(self, principal: Principal) -> list[SessionRow]:
        return await self.families.sessions((await self.own(principal)).id, principal.token)

    async def end_session(self, principal: Principal, session: str) -> None:
        """Its refresh token is good no longer, its access tokens are revoked, its connections closed; `not_found`."""
        account = await self.own(principal)
        await self.end_one(account, session)

    async def end_sessions(self, principal: Principal) -> None:
        """All of them, the one that asks among them."""
        await self.end_all(await self.own(principal))

    # --- what ends, on every node -------------------------------------------------------------------------------------

    async def end_one(self, account: Account, session: str) -> None:
        if not await self.families.end_session(account.id, session):
            raise Error("not_found", "session: none of that name")
        await self._revoke(account, session)

    async def remove_passkey(self, account: Account, passkey: str, *, spared: str | None = None) -> None:
        """And end the sessions that it has begun, but the one that is `spared`: a device may be lost."""
        if not await self.credentials.remove(account.id, passkey):
            raise Error("not_found", "passkey: none of that name")
        for session in await self.families.end_begun_with(account.id, passkey, spared):
            await self._revoke(account, session)

    async def _revoke(self, account: Account, session: str) -> None:
        """The access tokens of a session whose refresh token is good no longer."""
        await self._take_back(Revocation("revoke", account.user, token=session, kept=_OUTLIVED))

    async def end_all(self, account: Account) -> None:
        """Who is signed in is so no longer: first the refresh tokens, since what they are exchanged for until then is
        older than now."""
        await self.families.end_all(account.id)
        await self.end_tokens(account)

    async def end_tokens(self, account: Account) -> None:
        """The access tokens that were issued until now; refresh tokens bring new ones, which say what is true now."""
        await self._take_back(Revocation("revoke", account.user, kept=_OUTLIVED if self._signs_alone else 0.0))

    # --- examples, in development -------------------------------------------------------------------------------------

    async def examples(self) -> list[str]:
        """Whom one click signs in as: nobody, but in development."""
        return await self.store.examples(EXAMPLES) if self._config.development else []

    async def log_in_as(self, example: str, visit: Visit) -> Tokens:
        """An example user, in development; `not_found` for anybody else, and anywhere else."""
        account = await self.store.find(as_user(example)) if self._config.development else None
        if account is None or not account.example:
            raise Error("not_found", "user: no example user")
        return await self.log_in(account, visit, "example")


def _openid(config: Auth) -> type[OpenID]:
    """Here, as it stands on a library that is not always installed, and is needed by who has providers only."""
    try:
        from server.access.accounts.openid import OpenID
    except ImportError as error:
        missing = f"auth.oidc.{next(iter(config.oidc))}: it needs Authlib: pip install 'waterspout[oidc]'"
        raise StartError(f"{missing} ({error.name} is missing)") from None
    return OpenID


def _passkeys() -> type[Passkeys]:
    """As above."""
    try:
        from server.access.accounts.passkeys import Passkeys
    except ImportError as error:
        missing = "auth.passkeys: it needs webauthn: pip install 'waterspout[passkeys]'"
        raise StartError(f"{missing} ({error.name} is missing)") from None
    return Passkeys
