"""REST: accounts. Who asks is what the body says; an Authorization header is not looked at."""

from __future__ import annotations

from typing import Final

from handlers.base import BaseHandler
from handlers.operations import operation
from server.access.accounts.families import Visit
from server.access.accounts.service import Accounts
from server.core.config import is_loopback
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.wire.rest import ExampleRequest, LoginRequest, RefreshRequest, RegisterRequest, Tokens, WaysIn

_FORWARDED: Final = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")


class Ways(BaseHandler):
    async def authenticate(self) -> Principal:
        self.set_header("Cache-Control", "no-store")
        return GUEST

    @operation("How one gets in", {200: WaysIn})
    async def get(self) -> None:
        """For pages, before anybody has signed in."""
        accounts, config = self.node.accounts, self.node.config.auth
        examples = await accounts.examples() if accounts is not None and self.node.lifecycle.opened else []
        self.answer({"guests": config.guests, "accounts": accounts is not None, "examples": examples})


class AccountHandler(BaseHandler):
    accounts: Accounts

    async def authenticate(self) -> Principal:
        self.set_header("Cache-Control", "no-store")
        if self.node.accounts is None:
            raise Error("not_found", "auth.accounts is off")
        self.node.lifecycle.check()
        self.accounts = self.node.accounts
        return GUEST

    def visit(self) -> Visit:
        return Visit(self.client_address(), self.request.headers.get("User-Agent", ""))


class Register(AccountHandler):
    @operation("Make an account", {201: Tokens})
    async def post(self, body: RegisterRequest) -> None:
        """And log in. Where accounts are switched on."""
        self.answer(await self.accounts.register(body.user, body.password, body.info, self.visit()), 201)


class Login(AccountHandler):
    @operation("Log in", {200: Tokens})
    async def post(self, body: LoginRequest) -> None:
        """A token for 15 minutes, and one to get the next with."""
        self.answer(await self.accounts.login(body.user, body.password, self.visit()))


class Example(AccountHandler):
    @operation("Log in as an example user", {200: Tokens})
    async def post(self, body: ExampleRequest) -> None:
        """Without a password, so only where `auth.development` is on, and only from the server's own machine."""
        if not is_loopback(self.client_address()) or any(name in self.request.headers for name in _FORWARDED):
            raise Error("not_found", "user: no example user")
        self.answer(await self.accounts.log_in_as(body.user, self.visit()))


class Refresh(AccountHandler):
    @operation("Get the next token", {200: Tokens})
    async def post(self, body: RefreshRequest) -> None:
        """The refresh token is used up by it; the answer has a new one."""
        self.answer(await self.accounts.refresh(body.refresh_token, self.visit()))


class Logout(AccountHandler):
    @operation("Log out", {204: None})
    async def post(self, body: RefreshRequest) -> None:
        """The login of this refresh token is over."""
        await self.accounts.logout(body.refresh_token)
        self.set_status(204)
