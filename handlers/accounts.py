"""REST for operators: accounts. With an `admin` API key, or as one of `auth.operators`."""

from __future__ import annotations

from typing import Any, Final

from handlers.auth import OwnHandler, shown
from handlers.base import BaseHandler
from handlers.operations import operation
from handlers.passkeys import listed
from server.access.accounts.administration import Administration
from server.access.accounts.store import Account
from server.wire.accounts import (
    AccountRow,
    AccountsPage,
    AccountsQuery,
    ChangeAccount,
    CreateAccount,
    CreatedAccount,
    Invitation,
    PasskeyRows,
    SessionRows,
)


class OperatorHandler(OwnHandler):
    @property
    def administration(self) -> Administration:
        return self.accounts.administration


class Accounts(OperatorHandler):
    @operation("List accounts", {200: AccountsPage})
    async def get(self, query: AccountsQuery) -> None:
        """By name, of those that begin with `prefix`, have a role, are disabled or not. For operators."""
        found, following = await self.administration.page(
            self.principal,
            prefix=query.prefix,
            after=query.after,
            limit=query.limit,
            role=query.role,
            disabled=query.disabled,
        )
        self.answer({"accounts": [row(account) for account in found], "next": following})

    @operation("Make an account", {201: CreatedAccount})
    async def post(self, body: CreateAccount) -> None:
        """For operators. Without a password the answer has an invitation, to be handed over to the user."""
        account, invitation = await self.administration.create(
            self.principal,
            body.user,
            password=body.password,
            email=body.email,
            verified=body.verified,
            roles=body.roles,
            info=body.info,
        )
        self.answer(row(account) | ({"invitation": invitation} if invitation else {}), 201)


class OneAccount(OperatorHandler):
    @operation("Look at an account", {200: AccountRow})
    async def get(self, user: str) -> None:
        """For operators."""
        self.answer(row(await self.administration.get(self.principal, user)))

    @operation("Change an account", {200: AccountRow})
    async def patch(self, user: str, body: ChangeAccount) -> None:
        """Disable it, which ends its sessions; change its roles, which its tokens have after the next refresh, at once.
        For operators."""
        account = await self.administration.change(
            self.principal,
            user,
            disabled=body.disabled,
            roles=body.roles,
            email=body.email,
            verified=body.verified,
            info=body.info,
        )
        self.answer(row(account))

    @operation("Delete an account", {204: None})
    async def delete(self, user: str) -> None:
        """What the user has written elsewhere stays, and belongs to whoever takes the name next: mostly, disabling is
        better. For operators."""
        await self.administration.delete(self.principal, user)
        self.set_status(204)


class ResetAccount(OperatorHandler):
    @operation("Let a user set a new password", {200: Invitation})
    async def post(self, user: str) -> None:
        """A link to hand over, good once, for a week. For operators."""
        self.answer(await self.administration.reset(self.principal, user))


class AccountSessions(OperatorHandler):
    @operation("A user's sign-ins", {200: SessionRows})
    async def get(self, user: str) -> None:
        """For operators."""
        self.answer({"sessions": await self.administration.sessions(self.principal, user)})

    @operation("Sign a user out everywhere", {204: None})
    async def delete(self, user: str) -> None:
        """Tokens are revoked and connections closed. For operators."""
        await self.administration.end_sessions(self.principal, user)
        self.set_status(204)


class AccountSession(OperatorHandler):
    @operation("Sign a user out somewhere", {204: None})
    async def delete(self, user: str, session: str) -> None:
        """The tokens of this session are revoked, its connections closed. For operators."""
        await self.administration.end_session(self.principal, user, session)
        self.set_status(204)


class AccountPasskeys(OperatorHandler):
    @operation("A user's passkeys", {200: PasskeyRows})
    async def get(self, user: str) -> None:
        """For operators."""
        self.answer(listed(await self.administration.passkeys(self.principal, user)))


class AccountPasskey(OperatorHandler):
    @operation("Remove a user's passkey", {204: None})
    async def delete(self, user: str, passkey: str) -> None:
        """What it has signed in ends. For operators."""
        await self.administration.remove_passkey(self.principal, user, passkey)
        self.set_status(204)


def row(account: Account) -> dict[str, Any]:
    return shown(account) | {
        "disabled": account.disabled,
        "signed_in": account.signed_in,
        "identities": [identity.partition(" ")[0] for identity in account.identities],
    }


ROUTES: Final[dict[str, type[BaseHandler]]] = {
    "/v1/accounts": Accounts,
    "/v1/accounts/{user}": OneAccount,
    "/v1/accounts/{user}/reset": ResetAccount,
    "/v1/accounts/{user}/passkeys": AccountPasskeys,
    "/v1/accounts/{user}/passkeys/{passkey}": AccountPasskey,
    "/v1/accounts/{user}/sessions": AccountSessions,
    "/v1/accounts/{user}/sessions/{session}": AccountSession,
}
