"""REST: accounts. Who asks is what the body says; an Authorization header is not looked at."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseHandler
from server.accounts import Accounts
from server.errors import Error
from server.principals import GUEST, Principal
from server.protocol import LoginRequest, RefreshRequest, RegisterRequest, convert


class AccountHandler(BaseHandler):
    accounts: Accounts

    async def authenticate(self) -> Principal:
        self.set_header("Cache-Control", "no-store")
        self.accounts = self.node.usable_accounts()
        return GUEST

    def request_of(self, kind: Any) -> Any:
        value = self.body()
        if not isinstance(value, dict):
            raise Error("bad_request", f"the body is an object with {', '.join(kind.__struct_fields__)}")
        return convert(value, kind)


class Register(AccountHandler):
    """POST /v1/auth/register"""

    async def post(self) -> None:
        request: RegisterRequest = self.request_of(RegisterRequest)
        tokens = await self.accounts.register(request.user, request.password, request.info, self.client_address())
        self.answer(tokens, 201)


class Login(AccountHandler):
    """POST /v1/auth/login"""

    async def post(self) -> None:
        request: LoginRequest = self.request_of(LoginRequest)
        self.answer(await self.accounts.login(request.user, request.password, self.client_address()))


class Refresh(AccountHandler):
    """POST /v1/auth/refresh"""

    async def post(self) -> None:
        request: RefreshRequest = self.request_of(RefreshRequest)
        self.answer(await self.accounts.refresh(request.refresh_token))


class Logout(AccountHandler):
    """POST /v1/auth/logout"""

    async def post(self) -> None:
        request: RefreshRequest = self.request_of(RefreshRequest)
        await self.accounts.logout(request.refresh_token)
        self.set_status(204)
