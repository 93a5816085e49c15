"""What a channel can do, and what somebody may do there: for pages that show no button that would be refused.

Said of the configuration and of who asks, never of what is stored: a channel that nobody has used yet looks like any
other. Hooks are not asked, so what they refuse is found out by trying.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from server.access.admission import Admission
from server.access.memberships import Memberships
from server.access.rights import Rights
from server.core.config import Namespace
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.names import DOCUMENTS, collection_of, namespace_of, parent_of
from server.core.principals import Principal
from server.wire.rest import ChannelCapabilities

SHOWN: Final = (
    "durable",
    "presence",
    "ephemeral",
    "members",
    "receipts",
    "direct",
    "reactions",
    "search",
    "threads",
    "patterns",
)
"""Options of a namespace that a client can make use of."""
_REFUSED: Final = ("permission_denied", "bad_request", "unknown_channel", "not_found")


class Capabilities:
    def __init__(
        self,
        namespaces: Mapping[str, Namespace],
        *,
        rights: Rights,
        memberships: Memberships,
        admission: Admission,
        lifecycle: Lifecycle,
    ) -> None:
        self._namespaces = namespaces
        self._rights = rights
        self._memberships = memberships
        self._admission = admission
        self._lifecycle = lifecycle

    async def of(self, principal: Principal, channel: str, *, address: str = "") -> ChannelCapabilities:
        """Nothing, where no namespace is declared for it. `unauthenticated` or `unavailable` as for any right."""
        self._admission.spend(principal, address)
        self._lifecycle.check()
        name = namespace_of(channel)
        namespace = self._namespaces.get(name)
        member = namespace is not None and namespace.members and principal.user is not None and not principal.server
        room = parent_of(channel)
        role = await self._role(principal.user or "", room) if member else None
        may = [
            may
            for may, ask in (
                ("subscribe", lambda: self._rights.check_reading(principal, channel)),
                ("publish", lambda: self._rights.to_publish(principal, channel).settle()),
                ("amend_own", lambda: self._rights.to_amend(principal, channel).settle()),
                ("amend", lambda: self._rights.to_amend(principal, channel, own=False).settle()),
                ("react", lambda: self._rights.to_react(principal, channel).settle()),
                ("write", lambda: self._rights.to_write(principal, collection_of(channel)).settle()),
            )
            if (may != "write" or name == DOCUMENTS) and await _allowed(ask)
        ]
        if member and namespace is not None:
            follows = room is not channel and namespace.threads and role is not None  # or may do so
            if follows or (room is channel and role is None and namespace.join == "anyone"):
                may.append("join")
        has = [option for option in SHOWN if namespace is not None and getattr(namespace, option)]
        return {"channel": channel, "role": role, "may": may, "has": has}

    async def _role(self, user: str, channel: str) -> str | None:
        role, fresh = self._memberships.role(user, channel)
        if not fresh:
            await self._memberships.load(user, channel)
            role, _ = self._memberships.role(user, channel)
        return role


async def _allowed(ask: Callable[[], Awaitable[None]]) -> bool:
    try:
        await ask()
    except Error as error:
        if error.code not in _REFUSED:
            raise
        return False
    return True
