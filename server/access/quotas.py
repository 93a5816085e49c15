"""How much may be stored in an hour: by guests of one address, by one user, in one namespace. Back ends are exempt.

Counted in memory, by each node for itself. What is used is given back steadily, a full quota within an hour, so that
who has used it up need not wait for the full hour to end.
"""

from __future__ import annotations

import asyncio
from typing import Final

from server.core.addresses import address_key
from server.core.config import Quota
from server.core.config import Quotas as Options
from server.core.errors import Error
from server.core.principals import Principal

HOUR: Final = 3600.0
KEPT: Final = 10_000
"""Holders of one kind, before those that use nothing any more are looked for."""
KINDS: Final = ("new_channels", "messages", "bytes", "new_documents")

Amounts = tuple[int, int, int, int]
"""Of each of KINDS."""


class _Used:
    """What one holder has used: an amount for each of KINDS, as of the time `at`."""

    __slots__ = ("at", "amounts")

    def __init__(self, at: float) -> None:
        self.at = at
        self.amounts = [0.0] * len(KINDS)


class _Holders:
    """All holders of one kind: `guest`, `user` or `namespace`."""

    def __init__(self, name: str, quota: Quota) -> None:
        self._limits = tuple(getattr(quota, kind) for kind in KINDS)
        self._names = tuple(f"quotas.{name}.{kind}" for kind in KINDS)
        self._used: dict[str, _Used] = {}
        self._room = KEPT
        self.limited = any(self._limits)

    def look(self, key: str, wanted: Amounts, now: float) -> _Used:
        """What the holder has used, if there is room for all that is wanted; else `limit_exceeded`."""
        used = self._used.get(key)
        if used is None:
            if len(self._used) >= self._room:
                self._used = {key: used for key, used in self._used.items() if now - used.at < HOUR}
                self._room = max(KEPT, 2 * len(self._used))
            used = self._used[key] = _Used(now)
        passed = (now - used.at) / HOUR
        used.at = now
        for index, limit in enumerate(self._limits):
            if limit:
                amount = used.amounts[index] = max(used.amounts[index] - passed * limit, 0.0)
                if wanted[index] and amount + wanted[index] > limit:
                    wait = (amount + wanted[index] - limit) / limit * HOUR
                    name = self._names[index]
                    raise Error(
                        "limit_exceeded", f"{name} is {limit} in an hour", limit=name, retry_after=min(wait, HOUR)
                    )
        return used


class Charge:
    """What was taken from the quotas for one thing that is to be stored."""

    __slots__ = ("_used",)

    def __init__(self, *used: _Used) -> None:
        self._used = used

    def give_back(self, kind: str, amount: int = 1) -> None:
        """It was not needed after all: nothing new was made."""
        index = KINDS.index(kind)
        for used in self._used:
            used.amounts[index] = max(used.amounts[index] - amount, 0.0)


class Quotas:
    def __init__(self, options: Options) -> None:
        self._guests = _Holders("guest", options.guest)
        self._users = _Holders("user", options.user)
        self._namespaces = _Holders("namespace", options.namespace)
        self.limited = any(holders.limited for holders in (self._guests, self._users, self._namespaces))
        """Whether there is anything to count."""

    def charge(
        self,
        principal: Principal,
        address: str,
        namespace: str,
        *,
        new_channels: int = 0,
        messages: int = 0,
        size: int = 0,
        new_documents: int = 0,
    ) -> Charge | None:
        """Take all of it, or nothing: `limit_exceeded` names the first quota that has no room. None: whoever stores
        something here is not counted."""
        if principal.server or not self.limited:
            return None
        wanted = (new_channels, messages, size, new_documents)
        now = asyncio.get_running_loop().time()
        if principal.user is None:
            own = self._guests.look(address_key(address), wanted, now)
        else:
            own = self._users.look(principal.user, wanted, now)
        common = self._namespaces.look(namespace, wanted, now)
        for used in (own, common):
            amounts = used.amounts
            for index, amount in enumerate(wanted):
                if amount:
                    amounts[index] += amount
        return Charge(own, common)
