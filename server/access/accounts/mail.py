"""What is to be mailed to who has an account. The server sends no mail: a back end of the user's own does
(`auth.mail`), and in development a link in the log will do.

    {"action": "mail", "kind": "reset", "user": "ann", "email": "ann@example.com", "token": "…", "expires": ms,
     "link": "https://rt.example.com/account/#reset=…"}

The token stands behind `#`, which no browser sends to anybody.
"""

from __future__ import annotations

import logging
from typing import Final, Literal
from urllib.parse import quote

from server.access.accounts.store import Account
from server.backend.answers import Busy, Failed
from server.backend.backend import BackEnd
from server.backend.turns import Turns
from server.core.clock import Clock
from server.core.config import Auth

logger = logging.getLogger(__name__)

Kind = Literal["reset", "verify"]
CONCURRENT: Final = 8
WAITING: Final = 1000
TURN_WITHIN: Final = 60.0


class Mail:
    """`url`: what users call the server, in front of a path. StartError if a function cannot be imported."""

    def __init__(self, config: Auth, url: str, clock: Clock) -> None:
        self._development = config.development
        self._url = url
        self._clock = clock
        self._turns = Turns(CONCURRENT)
        self._timeout = config.mail.timeout
        self._backend: BackEnd | None = None
        if config.mail.sends:
            self._backend = BackEnd("auth.mail", config.mail, concurrency=CONCURRENT, clock=clock)

    @property
    def goes(self) -> bool:
        """Whether anybody would get any."""
        return self._backend is not None or self._development

    def link(self, kind: Kind, token: str) -> str:
        return f"{self._url}/account/#{kind}={quote(token)}"

    async def send(self, kind: Kind, account: Account, email: str, token: str, expires_in: float) -> None:
        """Hand it over to whoever sends it. What fails is logged: whoever waits for a mail asks for another one."""
        if self._backend is None:
            if self._development:
                logger.warning("to be mailed to %s, %s: %s", account.user, kind, self.link(kind, token))
            return
        letter = {
            "action": "mail",
            "kind": kind,
            "user": account.user,
            "email": email,
            "token": token,
            "link": self.link(kind, token),
            "expires": self._clock.now_ms() + int(expires_in * 1000),
        }
        try:
            async with self._turns.take(WAITING, TURN_WITHIN):
                reply = await self._backend.ask(letter, timeout=self._timeout, most=None)
            if not reply.ok:
                raise Failed(f"answered {reply.status}")
        except (Failed, Busy) as failure:
            logger.warning("auth.mail: %s; a mail was not sent", failure, extra={"user": account.user})

    async def close(self) -> None:
        if self._backend is not None:
            await self._backend.close()
