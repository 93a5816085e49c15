"""Accounts as operators look after them: who may is asked here, whichever door they come by.

What is taken (an account that is disabled, a role that is gone, a password) is stored first, then the sign-ins end, and
then the tokens that were issued until now are revoked: what is signed in to in between is looked at again by
`Accounts.log_in`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import UNSET, UnsetType

from server.access.accounts.credentials import Passkey, PasskeyStore
from server.access.accounts.families import Families
from server.access.accounts.one_time import OneTimeTokens
from server.access.accounts.passwords import Passwords, as_password
from server.access.accounts.recovery import INVITE_SECONDS, Recovery
from server.access.accounts.store import Account, AccountStore, as_email, as_info, as_roles, as_user
from server.access.rights import must_be_admin
from server.core.clock import Clock
from server.core.errors import Error
from server.core.principals import Principal
from server.wire.accounts import Invitation, SessionRow

logger = logging.getLogger(__name__)


class Administration:
    """`check_free(name, …)` raises `conflict` for names that are not to be given; `end(account)` and `end_one(account,
    session)` end what the account has open, `remove_passkey(account, passkey)` what that has begun as well;
    `end_tokens(account)` its access tokens only, so that it refreshes them."""

    def __init__(
        self,
        *,
        store: AccountStore,
        families: Families,
        credentials: PasskeyStore,
        passwords: Passwords,
        tokens: OneTimeTokens,
        recovery: Recovery,
        check_free: Callable[..., None],
        end: Callable[[Account], Awaitable[None]],
        end_one: Callable[[Account, str], Awaitable[None]],
        remove_passkey: Callable[[Account, str], Awaitable[None]],
        end_tokens: Callable[[Account], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._families = families
        self._credentials = credentials
        self._passwords = passwords
        self._tokens = tokens
        self._recovery = recovery
        self._check_free = check_free
        self._end = end
        self._end_one = end_one
        self._remove_passkey = remove_passkey
        self._end_tokens = end_tokens
        self._clock = clock

    # --- looking ------------------------------------------------------------------------------------------------------

    async def page(
        self,
        principal: Principal,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = 100,
        role: str | None = None,
        disabled: bool | None = None,
    ) -> tuple[list[Account], str | None]:
        """By name, and the `after` of the next page, if there is one."""
        must_be_admin(principal)
        found = await self._store.page(prefix, after, limit + 1, role=role, disabled=disabled)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def get(self, principal: Principal, user: str) -> Account:
        """`not_found` if there is none."""
        must_be_admin(principal)
        return _there(await self._store.find(user), user)

    async def sessions(self, principal: Principal, user: str) -> list[SessionRow]:
        account = await self.get(principal, user)
        return await self._families.sessions(account.id, None)

    async def passkeys(self, principal: Principal, user: str) -> list[Passkey]:
        return await self._credentials.of((await self.get(principal, user)).id)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def create(
        self,
        principal: Principal,
        user: str,
        *,
        password: str | None = None,
        email: str | None = None,
        verified: bool = False,
        roles: list[str] | None = None,
        info: Any = None,
    ) -> tuple[Account, Invitation | None]:
        """The account, and without a password an invitation to set one. `conflict` if the name is taken."""
        must_be_admin(principal)
        name = as_user(user).lower()
        self._check_free(name, user)
        account = Account(
            id=name,
            user=user,
            password=None if password is None else await self._passwords.hash(as_password(password)),
            email=None if email is None else as_email(email),
            verified=verified and email is not None,
            roles=as_roles(roles or []),
            info=as_info(info),
            created=self._clock.now_ms(),
        )
        await self._store.insert(account)
        self._say("created", account, principal)
        return account, await self._invite(account) if password is None else None

    async def change(
        self,
        principal: Principal,
        user: str,
        *,
        disabled: bool | UnsetType = UNSET,
        roles: list[str] | UnsetType = UNSET,
        email: str | UnsetType | None = UNSET,
        verified: bool | UnsetType = UNSET,
        info: Any = UNSET,
    ) -> Account:
        """What is given. Who is disabled is signed out everywhere; with other roles, tokens have to be refreshed."""
        before = await self.get(principal, user)
        values: dict[str, Any] = {}
        if disabled is not UNSET:
            values["disabled"] = disabled
        if roles is not UNSET:
            values["roles"] = as_roles(roles)
        if email is not UNSET:
            values["email"] = None if email is None else as_email(email)
            values["verified"] = False
        if verified is not UNSET:
            values["verified"] = verified and values.get("email", before.email) is not None
        if info is not UNSET:
            values["info"] = as_info(info)
        if not values:
            return before
        account = _there(await self._store.change(before.id, values), user)
        if email is not UNSET:
            await self._tokens.withdraw_mailed(account.id)
        if account.disabled:
            await self._tokens.withdraw(account.id)
            await self._end(account)
        elif set(before.roles) != set(account.roles):
            await self._end_tokens(account)
        self._say("changed", account, principal)
        return account

    async def delete(self, principal: Principal, user: str) -> None:
        """The account, its sign-ins, passkeys and tokens. What the user has written elsewhere stays, and belongs to
        whoever takes the name next."""
        must_be_admin(principal)
        account = _there(await self._store.delete(user), user)
        await self._credentials.remove_all(account.id)
        await self._tokens.withdraw(account.id)
        await self._end(account)
        self._say("deleted", account, principal)

    async def reset(self, principal: Principal, user: str) -> Invitation:
        """What sets a new password, to be handed over. The old one is good until then."""
        return await self._invite(await self.get(principal, user))

    async def end_session(self, principal: Principal, user: str, session: str) -> None:
        await self._end_one(await self.get(principal, user), session)

    async def end_sessions(self, principal: Principal, user: str) -> None:
        await self._end(await self.get(principal, user))

    async def remove_passkey(self, principal: Principal, user: str, passkey: str) -> None:
        """And end what it has signed in; `not_found`."""
        account = await self.get(principal, user)
        await self._remove_passkey(account, passkey)
        self._say("rid of a passkey", account, principal)

    async def _invite(self, account: Account) -> Invitation:
        token, link = await self._recovery.invite(account)
        return {"token": token, "link": link, "expires": self._clock.now_ms() + INVITE_SECONDS * 1000}

    def _say(self, what: str, account: Account, principal: Principal) -> None:
        logger.info("account %s by %s", what, principal.name, extra={"user": account.user})


def _there(account: Account | None, user: str) -> Account:
    if account is None:
        raise Error("not_found", f"user: {user[:64]} has no account")
    return account
