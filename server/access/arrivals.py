"""The hook that is asked about who connects: it may refuse, and give a connection more than its token does.

{"action": "connect", "user": "ann", "server": false, "claims": {…}, "address": "192.0.2.7", "transport": "websocket",
 "name": "shop", "version": "2.1"}
→ nothing, or {"allow": true}; {"allow": false, "reason": "…"};
  {"info": …, "channels": {"chat:*": ["subscribe"]}, "subscribe": {"news:all": {"last": 10}}}
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, field, structs

from server.access.auth import served_by, with_rights
from server.access.hooks import Hooks
from server.access.identities import Identities
from server.core.config import Hook
from server.core.errors import Error
from server.core.names import is_pattern
from server.core.principals import Principal, Start
from server.core.tasks import Keeper

REMEMBERED: Final = 60.0
"""Seconds for which what the hook has said counts for the polls of one token from one address, which come all the
time."""
KNOWN: Final = 10_000
"""Pollers that are remembered; more are asked about each time."""


class Welcome(Struct):
    """What the hook gives a connection."""

    info: Any | UnsetType = UNSET
    channels: dict[str, list[str]] = field(default_factory=dict)
    subscribe: list[str] | dict[str, Start | None] | None = None
    starts: dict[str, Start] = field(default_factory=dict)
    """`subscribe`, understood."""

    def __post_init__(self) -> None:
        for pattern in self.channels:
            if not is_pattern(pattern):
                raise ValueError("channels: a pattern has a namespace, as chat:* has")
        try:
            self.starts = served_by(self.subscribe)
        except Error as error:
            raise ValueError(f"subscribe: {error.reason}") from None

    def to(self, principal: Principal) -> Principal:
        """The principal with it, on this connection."""
        rights = {pattern: list(actions) for pattern, actions in principal.channels.items()}
        for pattern, actions in self.channels.items():
            rights[pattern] = [*rights.get(pattern, ()), *actions]
        return structs.replace(
            principal,
            info=principal.info if self.info is UNSET else self.info,
            channels=with_rights(rights, self.starts),
            subscribe={**principal.subscribe, **self.starts},
        )


class Arrivals:
    """`hooks`: the configuration's, one of which may be asked about `connect`."""

    def __init__(self, configured: Mapping[str, Hook], hooks: Hooks, identities: Identities, keeper: Keeper) -> None:
        self._name = next((name for name, hook in configured.items() if "connect" in hook.actions), None)
        self._hooks = hooks
        self._identities = identities
        self._keeper = keeper
        self._polls: dict[tuple[str | None, str | None, str], asyncio.Task[Welcome]] = {}

    @property
    def wanted(self) -> bool:
        """Whether anybody is asked."""
        return self._name is not None

    async def ask(
        self, principal: Principal, address: str, transport: str, name: str = "", version: str = ""
    ) -> Welcome:
        """What a new connection gets; `permission_denied`, `unavailable`, or what became of its token meanwhile. `name`
        and `version`: of the client's program, as it says itself."""
        about = {"address": address, "transport": transport, "name": name, "version": version}
        welcome = await self._hooks.ask_for(Welcome, self._name, "connect", principal, about)
        self._identities.recognize(principal)
        return welcome

    async def admit(self, principal: Principal, address: str, transport: str) -> Principal:
        """The principal of a request that is to stay, with what the hook gives it."""
        if self._name is None:
            return principal
        return (await self.ask(principal, address, transport)).to(principal)

    async def admit_poll(self, principal: Principal, address: str) -> Principal:
        """The same for a poll: the hook is asked about the first of them, and again after REMEMBERED seconds. Of guests
        nobody knows which polls are the same one's, so it is asked about each."""
        if self._name is None:
            return principal
        if principal.user is None and principal.token is None:
            return await self.admit(principal, address, "poll")
        key = (principal.user, principal.token, address)
        asking = self._polls.get(key)
        if asking is None:
            asking = self._keeper.spawn("connect hook", self.ask(principal, address, "poll"), awaited=True)
            if len(self._polls) < KNOWN:
                self._polls[key] = asking
                asyncio.get_running_loop().call_later(REMEMBERED, self._forget, key, asking)
        try:
            welcome = await asyncio.shield(asking)
        except Error as error:
            if error.retry:
                self._forget(key, asking)
            raise Error(error.code, error.reason, retry_after=error.retry_after, told=error.told) from None
        self._identities.recognize(principal)
        return welcome.to(principal)

    def _forget(self, key: tuple[str | None, str | None, str], asking: asyncio.Task[Welcome]) -> None:
        if self._polls.get(key) is asking:
            del self._polls[key]


class Arrival:
    """One connection about which the hook is being asked, or has been."""

    __slots__ = ("_asking",)

    def __init__(
        self, arrivals: Arrivals, keeper: Keeper, principal: Principal, address: str, transport: str, name: str,
        version: str,
    ) -> None:  # fmt: skip
        asking = arrivals.ask(principal, address, transport, name, version)
        self._asking = keeper.spawn("connect hook", asking, awaited=True)

    async def over(self) -> None:
        """Return when the hook has answered, or nobody wants to know any more. Never raises."""
        await asyncio.wait((self._asking,))

    def admit(self, principal: Principal) -> Principal:
        """The principal with what the hook gives it; Error if it does not let it in. Once it is over."""
        return self._asking.result().to(principal)

    def cancel(self) -> None:
        """The client is gone."""
        self._asking.cancel()
