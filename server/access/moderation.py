"""What operators take back, and what that does to who is connected here: end sessions, subscriptions and rights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from server.access.accounts.service import Accounts
from server.access.admission import Admission, Client
from server.access.bans import BAN, UNBAN, Ban
from server.access.memberships import Memberships
from server.access.permissions import Permissions
from server.access.revocations import Revocation, Revocations
from server.access.rights import must_be_admin
from server.core.errors import DISCONNECTED, REVOKED, SHUT_OUT, Disconnect, Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import DOCUMENTS, is_pattern, namespace_of, without_label
from server.core.principals import Principal

logger = logging.getLogger(__name__)


class Moderation:
    """`tell_peers` makes the other nodes look for new revocations at once, instead of within half a second. `note`
    tells operators of an event, with its fields."""

    def __init__(
        self,
        *,
        namespaces: Collection[str],
        admission: Admission,
        permissions: Permissions,
        revocations: Revocations,
        memberships: Memberships,
        accounts: Accounts | None,
        lifecycle: Lifecycle,
        tell_peers: Callable[[], None],
        note: Callable[..., None],
    ) -> None:
        self._namespaces = namespaces
        self._admission = admission
        self._permissions = permissions
        self._revocations = revocations
        self._memberships = memberships
        self._accounts = accounts
        self._lifecycle = lifecycle
        self._tell_peers = tell_peers
        self._note = note
        self.on_member: Callable[[str, Sequence[str]], None] = lambda user, channels: None
        """Called when somebody's role in these channels has changed: set by the rooms."""
        self.on_unban: Callable[[], None] = lambda: None
        """Called when somebody may read again what it might not."""

    # --- what an operator asks for ------------------------------------------------------------------------------------

    async def disconnect(
        self,
        principal: Principal,
        user: str,
        reason: str,
        reconnect: bool,
        *,
        code: int | None = None,
        session: str | None = None,
        spared: Sequence[str] = (),
    ) -> None:
        """End the user's sessions, on every node within a second: all of them, or that `session`, but none of those
        that are `spared`. `code`: a close code for clients whose protocol lets a back end choose it."""
        what = Revocation("disconnect", user, reason=reason, reconnect=reconnect, code=code)
        await self._add(principal, what._replace(session=session, spared=spared))

    async def revoke(
        self, principal: Principal, user: str, token: str | None = None, channels: Sequence[str] = ()
    ) -> None:
        """Take back, for good: all tokens of the user issued until now, or the one with this `jti`, or what they
        all allow in the channels of these patterns."""
        if token is not None and channels:
            raise bad_request("token, channels: one of them")
        patterns = _patterns(channels)
        must_be_admin(principal)
        if self._accounts is not None and token is None and not channels:
            await self._accounts.log_out(user)  # first: what its refresh tokens are exchanged for is older than now
        await self._add(principal, Revocation("revoke", user, token=token, channels=patterns))

    async def ban(
        self, principal: Principal, user: str, channels: Sequence[str], lasts: float | None, reason: str
    ) -> list[Ban]:
        """From everything, or from the channels of these patterns, for `lasts` seconds (None: until it is lifted),
        whatever tokens the user has or will have. One of the same patterns takes the place of the former. The user's
        bans as they are then."""
        must_be_admin(principal)
        patterns = _patterns(channels)
        what = Revocation(BAN, user, reason=reason, by=principal.name, lasts=lasts or 0.0)
        await self.take_back(*(what._replace(channels=scope) for scope in [[one] for one in patterns] or [[]]))
        self._say("banned", principal, user, patterns)
        return self._revocations.bans.of(user)

    async def unban(self, principal: Principal, user: str, channels: Sequence[str]) -> list[Ban]:
        """Lift the user's bans, those of these patterns or all: what is left of them. `not_found` if there are none."""
        must_be_admin(principal)
        patterns = _patterns(channels)
        self._lifecycle.check()
        await self._revocations.catch_up()  # another node may have banned the user just now
        there = [one.channel for one in self._revocations.bans.of(user)]
        lifted = [one for one in there if not patterns or one in patterns]
        if not lifted:
            raise Error("not_found", f"user: {user} is not banned{' there' if there else ''}")
        what = Revocation(UNBAN, user, by=principal.name)
        await self.take_back(*(what._replace(channels=[] if scope is None else [scope]) for scope in lifted))
        self._say("unbanned", principal, user, patterns)
        return self._revocations.bans.of(user)

    def bans(self, principal: Principal, prefix: str, after: str, limit: int) -> tuple[list[Ban], str | None]:
        """Those of the next so many users by name; and behind whom the next page begins."""
        must_be_admin(principal)
        return self._revocations.bans.page(prefix, after, limit)

    async def bans_of(self, principal: Principal, user: str, limit: int) -> tuple[list[Ban], list[dict[str, Any]]]:
        """Those that hold, and who has banned the user and lifted that, the newest first."""
        must_be_admin(principal)
        self._lifecycle.check()
        return self._revocations.bans.of(user), await self._revocations.said_of(user, limit)

    def _say(self, event: str, principal: Principal, user: str, patterns: Sequence[str]) -> None:
        """For who looks after the server: the reason is for the user, and may be anything."""
        logger.info("a user is %s", event, extra={"user": user, "by": principal.name, "channels": list(patterns)})
        self._note(event, user=user, by=principal.name, channels=", ".join(patterns)[:200])

    async def unsubscribe(
        self, principal: Principal, channel: str, user: str, reason: str, *, session: str | None = None
    ) -> None:
        """End the user's subscriptions to the channel, on every node within a second: all of them, or that of one
        `session`. It may subscribe again."""
        if namespace_of(channel) not in self._namespaces and namespace_of(channel) != DOCUMENTS:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        await self._add(principal, Revocation("unsubscribe", user, channels=[channel], reason=reason, session=session))

    async def _add(self, principal: Principal, revocation: Revocation) -> None:
        must_be_admin(principal)
        await self.take_back(revocation)

    async def take_back(self, *revocations: Revocation) -> None:
        """What the server itself takes back, such as the tokens of an account whose password is changed."""
        self._lifecycle.check()
        await asyncio.gather(*(self._revocations.add(one) for one in revocations))
        self._tell_peers()

    # --- what it does here --------------------------------------------------------------------------------------------

    def carry_out(self, revocation: Revocation) -> None:
        """Whichever node it was written by."""
        if revocation.kind == "member":
            for channel in revocation.channels:
                self._memberships.forget(revocation.user, channel)
            self.check_subscriptions(revocation.user)
            self.on_member(revocation.user, revocation.channels)
            return
        if revocation.kind == UNBAN:
            self.on_unban()
            return
        clients = tuple(self._admission.users.get(revocation.user, ()))
        if revocation.token is not None:  # which may be one that names no user
            clients += tuple(self._admission.bearers)
        for client in clients:
            principal = client.principal
            assert principal is not None
            if not revocation.means(client.id):
                continue
            if revocation.kind == "disconnect":
                code = DISCONNECTED if revocation.reconnect else SHUT_OUT
                reason = revocation.reason or "disconnected by the server"
                client.disconnect(Disconnect(code, reason, named=revocation.code))
            elif revocation.kind == BAN and not revocation.channels:
                ban = self._revocations.bans.whole(revocation.user)
                client.disconnect(Disconnect(SHUT_OUT, ban.words if ban is not None else "banned"))
            elif revocation.kind == "unsubscribe":
                client.end(revocation.names, "unsubscribed", revocation.reason or "by the server")
            elif not revocation.concerns(principal):
                client.lose(revocation)
            elif revocation.channels:
                why = "the right was revoked" if revocation.kind != BAN else f"banned: {revocation.reason}".rstrip(": ")
                client.end(revocation.covers, "permission_denied", why)
            else:
                client.disconnect(Disconnect(REVOKED, "the token has been revoked"))

    def check_subscriptions(self, user: str) -> None:
        """End those that the user has no right to any more."""
        for client in tuple(self._admission.users.get(user, ())):
            client.check_subscriptions()

    def confirm(self, confirmed: bool) -> None:
        """While revocations cannot be confirmed, nothing that may have been revoked is delivered."""
        if not confirmed:
            logger.warning("revocations cannot be confirmed: what needs a right is not delivered")
        for clients in (*self._admission.users.values(), self._admission.bearers):
            for client in tuple(clients):
                if confirmed:
                    client.unsuspend()
                elif client.principal is not None:
                    client.suspend(partial(self._deliveries_wait, client))

    def _deliveries_wait(self, client: Client, channel: str) -> bool:
        return self._permissions.deliveries_wait(client.principal_in(channel), channel)


def _patterns(channels: Sequence[str]) -> list[str]:
    for pattern in channels:
        if not is_pattern(pattern):
            raise bad_request(f"channels: {pattern} has no namespace, as chat:* has")
    return list(dict.fromkeys(without_label(pattern) for pattern in channels))
