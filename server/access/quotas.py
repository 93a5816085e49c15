"""How much may be stored in an hour: by guests of one address, by one user, in one namespace. Back ends are exempt.

Counted in memory, by each node for itself. What is used is given back steadily, a full quota within an hour, so that
who has used it up need not wait for the full hour to end.
"""

from __future__ import annotations

import asyncio
from math import inf
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


class _Account:
    """What one holder may still have stored, for each of KINDS. The clock is looked at only when something has run
    out: what has come back until then is added at once."""

    __slots__ = ("left", "_holders", "filled_at")

    def __init__(self, holders: _Holders, now: float) -> None:
        self.left = list(holders.full)
        self.filled_at = now
        self._holders = holders

    def fill(self) -> None:
        """Never beyond full, also after something was given back."""
        now = asyncio.get_running_loop().time()
        share = (now - self.filled_at) / HOUR
        self.filled_at = now
        self.left = [min(left + share * full, full) for left, full in zip(self.left, self._holders.full, strict=True)]

    def check(self, wanted: Amounts) -> None:
        """`limit_exceeded` if something of it is not left, not even now."""
        self.fill()
        for name, full, left, amount in zip(self._holders.names, self._holders.full, self.left, wanted, strict=True):
            if amount > left:
                wait = min((amount - left) / full, 1.0) * HOUR
                raise Error("limit_exceeded", f"{name} is {full:.0f} in an hour", limit=name, retry_after=wait)

    def take(self, wanted: Amounts) -> None:
        left = self.left
        left[0] -= wanted[0]
        left[1] -= wanted[1]
        left[2] -= wanted[2]
        left[3] -= wanted[3]


class _Holders:
    """All holders of one kind: `guest`, `user` or `namespace`."""

    def __init__(self, name: str, quota: Quota) -> None:
        self.full = tuple(float(getattr(quota, kind)) or inf for kind in KINDS)
        self.names = tuple(f"quotas.{name}.{kind}" for kind in KINDS)
        self.limited = min(self.full) < inf
        self._accounts: dict[str, _Account] = {}
        self._room = KEPT

    def account(self, key: str, wanted: Amounts) -> _Account:
        """The holder's, if all that is wanted is left in it; else `limit_exceeded`."""
        account = self._accounts.get(key)
        if account is None:
            account = self._open(key)
        left = account.left
        if left[0] < wanted[0] or left[1] < wanted[1] or left[2] < wanted[2] or left[3] < wanted[3]:
            account.check(wanted)
        return account

    def _open(self, key: str) -> _Account:
        now = asyncio.get_running_loop().time()
        if len(self._accounts) >= self._room:  # after an hour all has come back
            self._accounts = {key: one for key, one in self._accounts.items() if now - one.filled_at < HOUR}
            self._room = max(KEPT, 2 * len(self._accounts))
        account = self._accounts[key] = _Account(self, now)
        return account


class Charge:
    """What was taken from the quotas for something that is to be stored."""

    __slots__ = ("_accounts", "_taken")

    def __init__(self, taken: Amounts, *accounts: _Account) -> None:
        self._taken = taken
        self._accounts = accounts

    def give_back(self, kind: str, amount: int) -> None:
        """Of `kind`, one of KINDS, so much less was stored than was taken."""
        for account in self._accounts:
            account.left[KINDS.index(kind)] += amount

    def take_more(self, kind: str, amount: int) -> None:
        """Of `kind` so much more was stored, which could not be known before; it may be more than is left."""
        self.give_back(kind, -amount)

    def give_all_back(self) -> None:
        """Nothing was stored."""
        for kind, amount in zip(KINDS, self._taken, strict=True):
            self.give_back(kind, amount)


class Quotas:
    """`enforced`: whether anything of it counts; False: nobody is refused."""

    def __init__(self, options: Options, *, enforced: bool = True) -> None:
        self._guests = _Holders("guest", options.guest)
        self._users = _Holders("user", options.user)
        self._namespaces = _Holders("namespace", options.namespace)
        self.limited = enforced and any(holders.limited for holders in (self._guests, self._users, self._namespaces))
        """Whether there is anything to count."""

    def charge(
        self,
        principal: Principal,
        address: str,
        namespace: str | None,
        *,
        new_channels: int = 0,
        messages: int = 0,
        size: int = 0,
        new_documents: int = 0,
    ) -> Charge | None:
        """Take all of it, or nothing: `limit_exceeded` names the first quota that has no room. `namespace`: None where
        it is stored in none. None: whoever stores something here is not counted."""
        if principal.server or not self.limited:
            return None
        wanted = (new_channels, messages, size, new_documents)
        if principal.user is None:
            own = self._guests.account(address_key(address), wanted)
        else:
            own = self._users.account(principal.user, wanted)
        accounts = [own] if namespace is None else [own, self._namespaces.account(namespace, wanted)]
        for one in accounts:
            one.take(wanted)
        return Charge(wanted, *accounts)
