"""A password that is forgotten, and e-mail addresses that are to be verified: what is mailed, and what it is good for.

Nobody learns from an answer who has an account: it is the same, and comes as fast, whatever is found afterwards.
A password is reset by way of a verified address only. One that somebody mistyped is a stranger's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from server.access.accounts.mail import Mail
from server.access.accounts.one_time import OneTimeTokens
from server.access.accounts.passwords import Passwords, as_password
from server.access.accounts.store import Account, AccountStore, as_email, as_user
from server.access.throttle import Throttle
from server.core.addresses import address_key
from server.core.errors import Error, bad_request
from server.core.tasks import Keeper

logger = logging.getLogger(__name__)

RESET_SECONDS: Final = 30 * 60
INVITE_SECONDS: Final = 7 * 86400
VERIFY_SECONDS: Final = 86400
FREE_MAILS: Final = 3
"""To one account or address before the first wait, which then doubles, up to five minutes."""
FREE_ADDRESS: Final = 20
"""The same from one address of the network."""


class Recovery:
    """`end(account)` ends all that the account has open: its sign-ins and tokens."""

    def __init__(
        self,
        store: AccountStore,
        passwords: Passwords,
        tokens: OneTimeTokens,
        mail: Mail,
        keeper: Keeper,
        end: Callable[[Account], Awaitable[None]],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._tokens = tokens
        self._mail = mail
        self._keeper = keeper
        self._end = end
        self._mails = Throttle(FREE_MAILS)
        self._addresses = Throttle(FREE_ADDRESS)

    # --- a forgotten password -----------------------------------------------------------------------------------------

    def forgot(self, user: str | None, email: str | None, address: str) -> None:
        """Mail a token that sets a new password, if there is such an account and its address is verified. `not_found`:
        nobody sends mails here, whoever asks."""
        if not self._mail.goes:
            raise Error("not_found", "auth.mail is not set: nobody sends mails here; ask an operator")
        if (user is None) == (email is None):
            raise bad_request("user, email: one of them")
        wanted = as_user(user).lower() if user is not None else as_email(email or "").lower()
        self._addresses.attempt(address_key(address))
        self._mails.attempt(wanted)
        logger.info("a password reset was asked for", extra={"ip": address})
        self._keeper.spawn("a mail", self._send_reset(user, email))

    async def _send_reset(self, user: str | None, email: str | None) -> None:
        try:
            account = await self._store.find(user) if user is not None else await self._store.with_email(email or "")
            if account is None or account.disabled or not account.verified or account.email is None:
                return
            token = await self._tokens.issue("reset", RESET_SECONDS, account.id, {"email": account.email})
            await self._mail.send("reset", account, account.email, token, RESET_SECONDS)
        except Error as error:
            logger.warning("a reset was not mailed: %s", error.told)

    async def invite(self, account: Account, seconds: float = INVITE_SECONDS) -> tuple[str, str]:
        """A token that sets a password, and its link, for an operator to hand over."""
        token = await self._tokens.issue("reset", seconds, account.id)
        return token, self._mail.link("reset", token)

    async def reset(self, token: str, password: str) -> None:
        """The password is the new one from now on, and whoever was signed in is so no longer. `unauthenticated`: the
        token is not good, or was used."""
        password = as_password(password)
        refusal = Error("unauthenticated", "token: not valid, or not any more; ask for another one")
        if not await self._tokens.holds("reset", token):
            raise refusal  # before the work, which would be anybody's to cause
        hashed = await self._passwords.hash(password)  # first, so that one that cannot be hashed now costs no token
        redeemed = await self._tokens.redeem("reset", token)
        values: dict[str, object] = {"password": hashed, "example": False}
        account = None
        if redeemed is not None and redeemed.user is not None:
            account = await self._store.find(redeemed.user)
        if redeemed is None or account is None or account.disabled:
            raise refusal
        await self._store.change(account.id, values)
        await self._tokens.withdraw(account.id)
        await self._end(account)
        logger.info("password reset", extra={"user": account.user})

    # --- e-mail addresses ---------------------------------------------------------------------------------------------

    def ask_to_verify(self, account: Account, email: str, address: str) -> None:
        """Mail a token that proves who gets it reads that address; where nobody sends mails, nothing. `rate_limited`:
        too many were asked for, for this account or mailbox, or from this `address` of the network."""
        if not self._mail.goes:
            return
        self._addresses.attempt(address_key(address))
        self._mails.attempt(account.id)
        self._mails.attempt(email.lower())
        self._keeper.spawn("a mail", self._send_verification(account, email))

    async def _send_verification(self, account: Account, email: str) -> None:
        try:
            token = await self._tokens.issue("verify", VERIFY_SECONDS, account.id, {"email": email})
            await self._mail.send("verify", account, email, token, VERIFY_SECONDS)
        except Error as error:
            logger.warning("a verification was not mailed: %s", error.told)

    async def verify(self, token: str) -> Account:
        """The account has the address now, verified. `unauthenticated`: the token is not good, or was used; `conflict`:
        another account was faster."""
        redeemed = await self._tokens.redeem("verify", token)
        account = None
        if redeemed is not None and redeemed.user is not None:
            account = await self._store.change(redeemed.user, {"email": redeemed.about["email"], "verified": True})
        if account is None:
            raise Error("unauthenticated", "token: not valid, or not any more; ask for another one")
        await self._tokens.withdraw_mailed(account.id)
        return account
