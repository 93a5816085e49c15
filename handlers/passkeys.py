"""REST: signing in with a passkey, and one's own passkeys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from handlers.auth import AccountHandler, OwnHandler
from handlers.base import BaseHandler
from handlers.operations import operation
from server.access.accounts.credentials import Passkey
from server.access.accounts.service import Accounts
from server.core.errors import Error
from server.wire.accounts import (
    NewPasskeyRequest,
    PasskeyProof,
    PasskeyQuestion,
    PasskeyRequest,
    PasskeyRow,
    PasskeyRows,
    Tokens,
)

if TYPE_CHECKING:
    from server.access.accounts.passkeys import Passkeys


class BeginPasskey(AccountHandler):
    @operation("Begin to sign in with a passkey", {200: PasskeyQuestion})
    async def post(self) -> None:
        """What `navigator.credentials.get` is asked; good once, for five minutes."""
        self.answer(await on(self.accounts).begin(self.visit()))


class FinishPasskey(AccountHandler):
    @operation("Sign in with a passkey", {200: Tokens})
    async def post(self, body: PasskeyRequest) -> None:
        """With what the browser has found."""
        self.answer(await on(self.accounts).finish(body.state, body.credential, self.visit()))


class NewPasskey(OwnHandler):
    @operation("Begin to add a passkey", {200: PasskeyQuestion})
    async def post(self, body: PasskeyProof) -> None:
        """What `navigator.credentials.create` is asked; good once, for five minutes, in this session. It takes the
        password, or where there is none a sign-in of the last ten minutes."""
        on(self.accounts)
        self.answer(await self.accounts.begin_passkey(self.principal, body.password, self.visit()))


class OwnPasskeys(OwnHandler):
    @operation("One's own passkeys", {200: PasskeyRows})
    async def get(self) -> None:
        """The oldest first."""
        self.answer(listed(await self.accounts.list_passkeys(self.principal)))

    @operation("Add a passkey", {201: PasskeyRow})
    async def post(self, body: NewPasskeyRequest) -> None:
        """What the browser has made; 20 at most."""
        on(self.accounts)
        added = await self.accounts.add_passkey(self.principal, body.state, body.name, body.credential)
        self.answer(row(added), 201)


class OwnPasskey(OwnHandler):
    @operation("Remove a passkey", {204: None})
    async def delete(self, passkey: str) -> None:
        """What it has signed in ends, but the session that asks."""
        await self.accounts.remove_own_passkey(self.principal, passkey)
        self.set_status(204)


def on(accounts: Accounts) -> Passkeys:
    if accounts.passkeys is None:
        raise Error("not_found", "auth.passkeys is off")
    return accounts.passkeys


def row(passkey: Passkey) -> PasskeyRow:
    """Without its key."""
    return {
        "passkey": passkey.id,
        "name": passkey.name,
        "created": passkey.created,
        "used": passkey.used,
        "synced": passkey.synced,
    }


def listed(passkeys: Iterable[Passkey]) -> PasskeyRows:
    return {"passkeys": [row(one) for one in passkeys]}


ROUTES: Final[dict[str, type[BaseHandler]]] = {
    "/v1/auth/passkey": FinishPasskey,
    "/v1/auth/passkey/begin": BeginPasskey,
    "/v1/auth/passkey/new": NewPasskey,
    "/v1/auth/passkeys": OwnPasskeys,
    "/v1/auth/passkeys/{passkey}": OwnPasskey,
}
