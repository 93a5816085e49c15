"""REST: accounts. Who asks is what the body says; an Authorization header is not looked at."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.access.accounts import Accounts
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.wire.rest import LoginRequest, RefreshRequest, RegisterRequest, Tokens


class AccountHandler(BaseHandler):
    accounts: Accounts

    async def authenticate(self) -> Principal:
        self.set_header("Cache-Control", "no-store")
        if self.node.accounts is None:
            raise Error("not_found", "auth.accounts is off")
        self.node.lifecycle.check()
        self.accounts = self.node.accounts
        return GUEST


class Register(AccountHandler):
    @operation("Make an account", {201: Tokens})
    async def post(self, body: RegisterRequest) -> None:
        """And log in. Where accounts are switched on."""
        self.answer(await self.accounts.register(body.user, body.password, body.info, self.client_address()), 201)


class Login(AccountHandler):
    @operation("Log in", {200: Tokens})
    async def post(self, body: LoginRequest) -> None:
        """A token for 15 minutes, and one to get the next with."""
        self.answer(await self.accounts.login(body.user, body.password, self.client_address()))


class Refresh(AccountHandler):
    @operation("Get the next token", {200: Tokens})
    async def post(self, body: RefreshRequest) -> None:
        """The refresh token is used up by it; the answer has a new one."""
        self.answer(await self.accounts.refresh(body.refresh_token))


class Logout(AccountHandler):
    @operation("Log out", {204: None})
    async def post(self, body: RefreshRequest) -> None:
        """The login of this refresh token is over."""
        await self.accounts.logout(body.refresh_token)
        self.set_status(204)
