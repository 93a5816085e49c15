"""REST: accounts. To sign in, who asks is what the body says, and an Authorization header is not looked at; for one's
own account it is who the token says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from handlers.base import BaseHandler
from handlers.operations import operation
from server.access.accounts.families import Visit
from server.access.accounts.service import Accounts
from server.access.accounts.store import Account
from server.core.config import is_loopback
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from server.wire.accounts import (
    BackQuery,
    Elsewhere,
    ElsewhereRequest,
    EmailRequest,
    ExampleRequest,
    FinishRequest,
    ForgotRequest,
    LoginRequest,
    OwnAccount,
    PasswordRequest,
    PasswordResetRequest,
    ProfileRequest,
    RefreshRequest,
    RegisterRequest,
    SessionRows,
    Tokens,
    VerifyRequest,
    WaysIn,
)

if TYPE_CHECKING:
    from server.access.accounts.openid import OpenID

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
        self.answer(
            {
                "guests": config.guests,
                "accounts": accounts is not None,
                "mail": accounts is not None and accounts.mail.goes,
                "providers": [] if accounts is None or accounts.openid is None else accounts.openid.shown(),
                "passkeys": None if accounts is None or accounts.passkeys is None else accounts.passkeys.domain,
                "examples": examples,
            }
        )


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
        self.answer(await self.accounts.register(body.user, body.password, body.info, body.email, self.visit()), 201)


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


class Forgot(AccountHandler):
    @operation("Ask for a mail that resets the password", {202: None})
    async def post(self, body: ForgotRequest) -> None:
        """By the name or the address. The answer is the same whether there is such an account or not. Only a verified
        address gets a mail."""
        self.accounts.recovery.forgot(body.user, body.email, self.client_address())
        self.set_status(202)


class Reset(AccountHandler):
    @operation("Set a new password with a token", {204: None})
    async def post(self, body: PasswordResetRequest) -> None:
        """Ends all sessions of the account. The token is good once, for half an hour."""
        await self.accounts.recovery.reset(body.token, body.password)
        self.set_status(204)


class Verify(AccountHandler):
    @operation("Prove an address with a token", {200: OwnAccount})
    async def post(self, body: VerifyRequest) -> None:
        """The token that was mailed to it is good once, for a day."""
        self.answer(shown(await self.accounts.recovery.verify(body.token)))


class ElsewhereHandler(AccountHandler):
    openid: OpenID

    async def authenticate(self) -> Principal:
        guest = await super().authenticate()
        if self.accounts.openid is None:
            raise Error("not_found", "auth.oidc has no providers")
        self.openid = self.accounts.openid
        return guest


class BeginElsewhere(ElsewhereHandler):
    @operation("Begin to sign in elsewhere", {200: Elsewhere})
    async def post(self, provider: str, body: ElsewhereRequest) -> None:
        """Answers where the browser has to go. It comes back to the page `return` with `#sign-in=CODE`, or with
        `#sign-in-refused=REASON`."""
        self.answer({"url": await self.openid.begin(provider, body.back, body.challenge)})


class BackFromElsewhere(ElsewhereHandler):
    @operation("Come back from where one has signed in", {303: None})
    async def get(self, provider: str, query: BackQuery) -> None:
        """For the provider: the browser goes on to the page that has begun it."""
        back = await self.openid.come_back(provider, query.state, code=query.code, issuer=query.iss, error=query.error)
        self.set_status(303)
        self.set_header("Location", back)
        self.set_header("Referrer-Policy", "no-referrer")


class FinishElsewhere(ElsewhereHandler):
    @operation("Finish signing in elsewhere", {200: Tokens})
    async def post(self, body: FinishRequest) -> None:
        """With the code that has come back, and the verifier of the challenge: once, within a minute."""
        self.answer(await self.openid.finish(body.code, body.verifier, self.visit()))


class OwnHandler(AccountHandler):
    """Who asks is who the token says."""

    async def authenticate(self) -> Principal:
        await super().authenticate()
        return await BaseHandler.authenticate(self)


class Me(OwnHandler):
    @operation("One's own account", {200: OwnAccount})
    async def get(self) -> None:
        """With the token of an account."""
        self.answer(shown(await self.accounts.own(self.principal)))

    @operation("Change what others are shown", {200: OwnAccount})
    async def patch(self, body: ProfileRequest) -> None:
        """From the next token on."""
        self.answer(shown(await self.accounts.set_info(self.principal, body.info)))


class Password(OwnHandler):
    @operation("Change the password", {200: Tokens})
    async def post(self, body: PasswordRequest) -> None:
        """All sessions end; the answer is a new one."""
        self.answer(await self.accounts.change_password(self.principal, body.old, body.password, self.visit()))


class OwnEmail(OwnHandler):
    @operation("Claim an address", {202: OwnAccount})
    async def post(self, body: EmailRequest) -> None:
        """A mail goes there; what it brings is for `/v1/auth/verify`. An address that is verified stays until the new
        one is. Without a change it is sent again."""
        account = await self.accounts.set_email(self.principal, body.email, body.password, self.visit())
        self.answer(shown(account), 202)


class Sessions(OwnHandler):
    @operation("One's own sign-ins", {200: SessionRows})
    async def get(self) -> None:
        """The latest used first, 100 at most."""
        self.answer({"sessions": await self.accounts.sessions(self.principal)})

    @operation("Sign out everywhere", {204: None})
    async def delete(self) -> None:
        """Tokens are revoked and connections closed, those of the session that asks as well."""
        await self.accounts.end_sessions(self.principal)
        self.set_status(204)


class Session(OwnHandler):
    @operation("Sign out elsewhere", {204: None})
    async def delete(self, session: str) -> None:
        """The tokens of this session are revoked, its connections closed."""
        await self.accounts.end_session(self.principal, session)
        self.set_status(204)


def shown(account: Account) -> dict[str, Any]:
    """An account, to who has it."""
    return {
        "user": account.user,
        "info": account.shown,
        "email": account.email,
        "verified": account.verified,
        "roles": account.roles,
        "created": account.created,
        "password": account.password is not None,
    }


ROUTES: Final[dict[str, type[BaseHandler]]] = {
    "/v1/auth": Ways,
    "/v1/auth/register": Register,
    "/v1/auth/login": Login,
    "/v1/auth/example": Example,
    "/v1/auth/refresh": Refresh,
    "/v1/auth/logout": Logout,
    "/v1/auth/oidc": FinishElsewhere,
    "/v1/auth/oidc/{provider}": BeginElsewhere,
    "/v1/auth/oidc/{provider}/callback": BackFromElsewhere,
    "/v1/auth/forgot": Forgot,
    "/v1/auth/reset": Reset,
    "/v1/auth/verify": Verify,
    "/v1/auth/me": Me,
    "/v1/auth/password": Password,
    "/v1/auth/email": OwnEmail,
    "/v1/auth/sessions": Sessions,
    "/v1/auth/sessions/{session}": Session,
}
