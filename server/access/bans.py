"""Bans: what a user may not do whatever token it has, until that is lifted or over.

They are entries of the log of revocations, `ban` and `unban`, so each node knows all of them, and a node that cannot
ask for new ones says so. Here is what follows from these entries in their order: of each user and each pattern of
channels (None: of everything) the newest says what holds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from server.core.clock import Clock
from server.core.errors import Error
from server.core.names import covers

BAN: Final = "ban"
UNBAN: Final = "unban"


class Ban(NamedTuple):
    user: str
    channel: str | None
    """A pattern of channels, such as `chat:*`; None: the user is shut out."""
    at: float
    """Seconds since 1970, as `ends`."""
    ends: float
    """0: when it is lifted."""
    reason: str
    by: str

    @property
    def words(self) -> str:
        """For who is banned."""
        until = f" until {datetime.fromtimestamp(self.ends, UTC):%Y-%m-%dT%H:%M:%SZ}" if self.ends else ""
        return f"banned{until}{f': {self.reason}' if self.reason else ''}"


class Bans:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: dict[str, dict[str | None, Ban]] = {}

    def set(self, ban: Ban) -> None:
        """In the place of what was said of the same scope before."""
        self._users.setdefault(ban.user, {})[ban.channel] = ban

    def lift(self, user: str, channel: str | None) -> None:
        """If there is one."""
        known = self._users.get(user, {})
        known.pop(channel, None)
        if not known:
            self._users.pop(user, None)

    def of(self, user: str) -> list[Ban]:
        """Those that hold now, that of everything first."""
        known = self._users.get(user)
        if known is None:
            return []
        now = self._clock.time()
        return sorted((one for one in known.values() if _holds(one, now)), key=lambda one: one.channel or "")

    def whole(self, user: str) -> Ban | None:
        """The one that shuts the user out."""
        one = self._users[user].get(None) if user in self._users else None
        return one if one is not None and _holds(one, self._clock.time()) else None

    def in_channel(self, user: str, channel: str) -> Ban | None:
        """One that takes the user's rights in the channel."""
        if user not in self._users:
            return None
        return next((one for one in self.of(user) if one.channel is not None and covers([one.channel], channel)), None)

    def check(self, user: str) -> None:
        """`permission_denied` if the user is shut out."""
        if (one := self.whole(user)) is not None:
            raise Error("permission_denied", f"{user} is {one.words}")

    def page(self, prefix: str, after: str, limit: int) -> tuple[list[Ban], str | None]:
        """Those of the next so many users by name; and behind whom the page after it begins, if there is one."""
        users = sorted(user for user in self._users if user > after and user.startswith(prefix) and self.of(user))
        rows = [one for user in users[:limit] for one in self.of(user)]
        return rows, users[limit - 1] if len(users) > limit else None

    def forget_ended(self) -> None:
        """What is over takes no room."""
        now = self._clock.time()
        for user, known in tuple(self._users.items()):
            self._users[user] = {scope: one for scope, one in known.items() if _holds(one, now)}
            if not self._users[user]:
                del self._users[user]


def _holds(ban: Ban, now: float) -> bool:
    return not ban.ends or now < ban.ends
