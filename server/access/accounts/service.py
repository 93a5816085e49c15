"""The use cases of who has an account: making one, signing in and out, the password, the sessions.

What signs in is asked for again after everything that waited: a password that is changed, or an account that is
disabled, while its old password is being looked at, signs nobody in.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Container
from typing import Any, Final

from server.access.accounts.attempts import FREE_ADDRESS, Attempts
from server.access.accounts.families import Families, Family, Visit
from server.access.accounts.passwords import Passwords, as_password
from server.access.accounts.store import Account, AccountStore, as_info, as_user
from server.access.auth import Authenticator
from server.access.revocations import Revocation, Revocations
from server.access.throttle import Throttle
from server.core.addresses import address_key
from server.core.clock import Clock
from server.core.config import Auth
from server.core.errors import Error
from server.mongo.client import agreed
from server.mongo.databases import Database
from server.wire.rest import Tokens

logger = logging.getLogger(__name__)

ACCESS_SECONDS: Final = 15 * 60
EXAMPLES: Final = 20


class Accounts:
    """`take_back` carries a revocation out, on every node."""

    def __init__(
        self,
        config: Auth,
        database: Database,
        authenticator: Authenticator,
        revocations: Revocations,
        take_back: Callable[[Revocation], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._config = config
        self._database = database
        self._authenticator = authenticator
        self._revocations = revocations
        self._take_back = take_back
        self._clock = clock
        self._reserved: Container[str] = config.api_keys
        self.store = AccountStore(database)
        self.families = Families(database, clock)
        self.passwords = Passwords()
        self._attempts = Attempts()
        self._registrations = Throttle(FREE_ADDRESS)

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        await self.store.open()
        await self.families.open()
        await self.passwords.open()

    async def kept_secret(self) -> str:
        """A secret to sign with, made at the first start and the same for all nodes."""
        return await agreed(self._database, "secret", "secret", secrets.token_urlsafe(48))

    def close(self) -> None:
        self.passwords.close()

    # --- in and out: each answers {"user", "token", "expires", "refresh_token"} ---------------------------------------

    async def register(self, user: str, password: str, info: Any, visit: Visit) -> Tokens:
        """A new account, logged in; `conflict` if the name is taken, in whatever case."""
        name, password, info = as_user(user).lower(), as_password(password), as_info(info)
        self._registrations.attempt(address_key(visit.address))
        self.check_free(name, user)
        account = Account(
            id=name,
            user=user,
            password=await self.passwords.hash(password),
            info=info,
            created=self._clock.now_ms(),
        )
        await self.store.insert(account)
        logger.info("account registered", extra={"user": user, "ip": visit.address})
        return await self.log_in(account, visit, "password")

    def check_free(self, *names: str) -> None:
        """`conflict` for the names of API keys."""
        if any(name in self._reserved for name in names):
            raise Error("conflict", "user: this name is taken")

    async def login(self, user: str, password: str, visit: Visit) -> Tokens:
        """`unauthenticated`, after the same work, whether the account or the password is the wrong one;
        `permission_denied` for who has the right password of an account that is disabled."""
        name, password = as_user(user).lower(), as_password(password)
        account = await self._verified(name, password, visit, "user, password: they do not belong together")
        return await self.log_in(account, visit, "password")

    async def _verified(self, name: str, password: str, visit: Visit, refusal: str) -> Account:
        with self._attempts.attempt(name, visit.address) as attempt:
            account = await self.store.find(name)
            hashed = None if account is None else account.password
            attempt.good = await self.passwords.verify(hashed, password)
        if account is None or not attempt.good:
            logger.info("login refused", extra={"user": name, "ip": visit.address})
            raise Error("unauthenticated", refusal)
        return account

    async def log_in(self, account: Account, visit: Visit, way: str) -> Tokens:
        """Whoever has just proved to be the account's: by its password, or otherwise (`way`)."""
        family = await self.families.begin(account.id, visit, way)
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
            account.user, ACCESS_SECONDS, info=account.shown, issued=issued, token_id=family.session
        )
        return {"user": account.user, "token": token, "expires": expires, "refresh_token": family.refresh_token}

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
