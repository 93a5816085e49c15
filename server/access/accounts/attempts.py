"""Waits between wrong passwords: for one name from one address, for an address, and for a name from everywhere; and how
often a right one may be shown, since each takes as much work to look at."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from server.access.throttle import Throttle
from server.core.addresses import address_key
from server.core.errors import Error
from server.core.rates import Buckets

FREE_ATTEMPTS: Final = 5
"""Wrong passwords for one name from one address before the first wait, which then doubles."""
FREE_ADDRESS: Final = 100
"""The same for all names, and for new accounts: many people may share an address."""
FREE_ACCOUNT: Final = 50
"""The same for one name from everywhere: whoever has many addresses can guess slowly only."""
LONGEST_ACCOUNT_WAIT: Final = 60.0
"""Seconds. Shorter than the others, since the owner has to wait as well."""
FORGET_ACCOUNT_AFTER: Final = 86400.0
"""Seconds. Longer than the others, or a pause would be worth 50 guesses more."""
KNOWN: Final = 10_000
"""(account, address) pairs that have logged in, and need not wait for the mistakes of others."""
SIGN_INS: Final = 30
"""Looks at a password for one name from one address, right ones too; and then one in SIGN_IN_EVERY seconds."""
SIGN_IN_EVERY: Final = 10.0
ADDRESS_SIGN_INS: Final = 300
"""The same from one address for all names, and then one a second."""


class Attempt:
    """Counts as a failure unless it is said to be `good`."""

    __slots__ = ("good",)

    def __init__(self) -> None:
        self.good = False


class Attempts:
    def __init__(self) -> None:
        self._logins = Throttle(FREE_ATTEMPTS)
        self._addresses = Throttle(FREE_ADDRESS)
        self._names = Throttle(FREE_ACCOUNT, LONGEST_ACCOUNT_WAIT, FORGET_ACCOUNT_AFTER)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._sign_ins = Buckets(1 / SIGN_IN_EVERY, SIGN_INS)
        self._address_sign_ins = Buckets(1.0, ADDRESS_SIGN_INS)

    def spend(self, address: str) -> None:
        """For what begins a sign-in, and has nothing to look at yet."""
        self._spend(None, address_key(address))

    def _spend(self, name: str | None, key: str) -> None:
        now = time.monotonic()
        of_name = 0.0 if name is None else self._sign_ins.take((name, key), now)
        wait = of_name or self._address_sign_ins.take(key, now)
        if wait:
            raise Error("rate_limited", "too many attempts", retry_after=wait)

    @contextmanager
    def attempt(self, name: str | None, address: str) -> Iterator[Attempt]:
        """Around the look at a password; `rate_limited` while there is a wait. An Error from within, such as a MongoDB
        that is away, counts for nothing: nobody has looked at the password. Without a name, as of a passkey, whose
        account is found by it, only the address has to wait."""
        key = address_key(address)
        self._spend(name, key)
        throttles: list[tuple[Throttle, Hashable]] = [(self._addresses, key)]
        if name is not None:
            throttles.append((self._logins, (name, key)))
            if (name, key) not in self._known:
                throttles.append((self._names, name))
        attempt, taken = Attempt(), []
        try:
            for throttle, who in throttles:
                throttle.attempt(who)
                taken.append((throttle, who))
            yield attempt
        except Error:
            for throttle, who in taken:
                throttle.give_back(who)
            raise
        if attempt.good:
            for throttle, who in taken:
                throttle.give_back(who)
            if name is not None:
                self._logins.forget((name, key))
                self._remember(name, key)

    def _remember(self, name: str, key: str) -> None:
        self._known[name, key] = None
        self._known.move_to_end((name, key))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
