"""Members of channels: who becomes one, with which role, and who may make it so.

Giving is a row, and a hint to the other nodes: who is turned away for being no member is looked for anew anyway. Taking
is the row as well, and then a revocation with a number, which every node acts on within a second; a row says that it is
to be told until it is, so that whoever tries again after a failure has it told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from server.access.admission import Admission
from server.access.memberships import READ_TOGETHER, Membership
from server.access.revocations import Revocation, Revocations
from server.access.rights import Right, Rights
from server.core.clock import Clock
from server.core.config import Limits, Namespace
from server.core.cursors import Position
from server.core.errors import Error, bad_request
from server.core.in_turn import InTurn
from server.core.lifecycle import Lifecycle
from server.core.names import is_thread
from server.core.principals import Principal
from server.core.rules import MEMBER, MODERATOR, OWNER, is_role
from server.core.tasks import Keeper
from server.log.groups import GroupReader
from server.log.log import Log
from server.rooms.doubts import Doubts
from server.rooms.rows import STRANGER, Change, Marker, Member, MemberRows, Row, Standing, new_row
from server.wire.rooms import MemberRow, MembersPage, Preferred

MAX_USER: Final = 255
"""Bytes of a user's name."""
_TRIES: Final = 10
"""At a row that others change as well."""


class Seat(NamedTuple):
    """What somebody wants of whom."""

    user: str
    role: str | None


class Members:
    """`tell(changes)`: what has changed, for all nodes, this one too."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        rows: MemberRows,
        rights: Rights,
        revocations: Revocations,
        admission: Admission,
        log: Log,
        lifecycle: Lifecycle,
        limits: Limits,
        clock: Clock,
        doubts: Doubts,
        tell: Callable[[Sequence[Change]], None],
    ) -> None:
        self._rows = rows
        self._doubts = doubts
        self._rights = rights
        self._revocations = revocations
        self._admission = admission
        self._log = log
        self._lifecycle = lifecycle
        self._limits = limits
        self._clock = clock
        self._tell = tell
        self.on_left: Callable[[str, str], Awaitable[None]] | None = None
        """Awaited with a user and a channel that it is no member of any more. Set by the rooms."""
        self._joining = InTurn()
        self._reader: GroupReader[Membership, Standing] = GroupReader(keeper, "members", self._standings, READ_TOGETHER)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def page(
        self, principal: Principal, channel: str, after: str | None, limit: int, *, address: str = ""
    ) -> MembersPage:
        """The members by name, for who may read the channel, and for API keys that are `admin`."""
        self._admission.spend(principal, address)
        self._lifecycle.check()
        receipts = self._rights.to_room(principal, channel).options.receipts
        if principal.admin:
            return await self._page(channel, after or "", limit, receipts)
        async with self._rights.reading(principal, channel):
            return await self._page(channel, after or "", limit, receipts)

    async def _page(self, channel: str, after: str, limit: int, receipts: bool) -> MembersPage:
        found, more = await self._rows.page(channel, after, limit)
        return {"members": await self.shown(channel, found, receipts), "more": more}

    async def shown(self, channel: str, members: Sequence[Member], receipts: bool) -> list[MemberRow]:
        """What others may know of these; `receipts`: also how far they have read."""
        rows = [MemberRow(one.user, one.role, one.joined) for one in members]
        if receipts:
            head = (await self._log.counts.of(channel)).head
            for row, one in zip(rows, members, strict=True):  # also of a history that is over
                row.read = str(Position(head.epoch, min(one.read, head.offset)))
        return rows

    # --- changing -----------------------------------------------------------------------------------------------------

    async def join(self, principal: Principal, channel: str, *, address: str = "") -> str:
        """Become a member, where anyone may; the role that the user has there now."""
        right = self.begin(principal, address, channel)
        _must_have_roles(right, channel)
        user = user_of(principal)
        standing = await self._standing(user, channel)
        if standing.role is not None and not standing.untold:
            return standing.role
        role = await self._set(right, principal, channel, Seat(user, standing.role or MEMBER))
        assert role is not None
        return role

    async def leave(self, principal: Principal, channel: str, *, address: str = "") -> None:
        """Be a member no more, which everybody may."""
        await self.set_role(principal, channel, user_of(principal), None, address=address)

    async def set_role(
        self, principal: Principal, channel: str, user: str, role: str | None, *, address: str = ""
    ) -> str | None:
        """Make the user a member with this role, or none any more (None: also by oneself). Answers the role."""
        right = self.begin(principal, address, channel)
        if role is not None:
            _must_have_roles(right, channel)
        return await self._set(right, principal, channel, checked(user, role))

    async def set_roles(
        self, principal: Principal, channel: str, wanted: Sequence[Seat | Error], *, address: str = ""
    ) -> list[Seat | Error]:
        """The same for many, each by itself: what has become of it. The new ones are written together."""
        right = self.begin(principal, address, channel)
        _must_have_roles(right, channel)
        seats = [one for one in wanted if isinstance(one, Seat)]
        standings = await self._rows.standings({(seat.user, channel) for seat in seats})
        new: dict[str, Seat] = {}
        own = await self._own(principal, channel)
        for seat in seats:
            unknown = seat.user not in new and (seat.user, channel) not in standings
            if unknown and seat.role is not None and _may(principal, right.options, own, seat, None):
                new[seat.user] = seat
        refusal: Error | None = None
        added: set[Membership] = set()
        try:
            async with self._joining.take(("channel", channel)):
                added = await self._add(right, principal, channel, list(new.values()))
        except Error as error:
            refusal = error

        async def change(seat: Seat) -> Seat | Error:
            if new.get(seat.user) == seat and (refusal is not None or (seat.user, channel) in added):
                return refusal or seat
            return Seat(seat.user, await self._set(right, principal, channel, seat))

        return await each(wanted, change)

    async def prefer(
        self, principal: Principal, channel: str, user: str | None, wanted: Mapping[str, bool], *, address: str = ""
    ) -> Preferred:
        """How the user wants to see its own membership: `mute`, `pin`. Nobody but the user itself may say so."""
        self.begin(principal, address, channel)
        own = user_of(principal)
        if user not in (None, own):
            raise Error("permission_denied", f"{principal.name} may not say how {user} sees {channel}")
        if not wanted:
            raise bad_request("mute, pin: one of them")
        with self._doubts.about([(own, channel)]):
            row = await self._rows.prefer(own, channel, wanted)
        if row is None:
            raise Error("permission_denied", f"{principal.name} {is_none_of(channel)}")
        self._tell([(own, channel, row["role"])])
        return {
            "channel": channel,
            "user": own,
            "role": row["role"],
            "mute": row.get("mute", False),
            "pin": row.get("pin", False),
        }

    # --- how ----------------------------------------------------------------------------------------------------------

    def begin(self, principal: Principal, address: str, channel: str) -> Right[Namespace]:
        """What a request about who belongs to the channel has to be allowed, before anything is asked."""
        right = self._rights.to_room(principal, channel)
        self._admission.spend(principal, address)
        self._lifecycle.check()
        return right

    async def _standing(self, user: str, channel: str) -> Standing:
        return await self._reader.ask((user, channel))

    async def _standings(self, memberships: Sequence[Membership]) -> dict[Membership, Standing]:
        return dict.fromkeys(memberships, STRANGER) | await self._rows.standings(memberships)

    async def _own(self, principal: Principal, channel: str) -> str | None:
        if principal.server or principal.user is None:
            return None
        return (await self._standing(principal.user, channel)).role

    async def _set(self, right: Right[Namespace], principal: Principal, channel: str, seat: Seat) -> str | None:
        for _ in range(_TRIES):
            own = await self._own(principal, channel)
            standing = await self._standing(seat.user, channel)
            right.again()
            if not _may(principal, right.options, own, seat, standing.role):
                what = "nobody" if seat.role is None else seat.role
                raise Error("permission_denied", f"{principal.name} may not make {seat.user} {what} of {channel}")
            with self._doubts.about([(seat.user, channel)]):
                if await self._carry_out(right, principal, channel, seat, standing):
                    return seat.role
        raise Error("conflict", f"members: others change {seat.user}'s role in {channel} all the time")

    async def _carry_out(
        self, right: Right[Namespace], principal: Principal, channel: str, seat: Seat, standing: Standing
    ) -> bool:
        """False: the row is another one by now."""
        if standing.role is None and seat.role is not None:
            async with self._joining.take(("channel", channel)), self._joining.take(("user", seat.user)):
                if not standing.there:
                    return bool(await self._add(right, principal, channel, [seat]))
                row = (await self._made(principal, channel, [seat]))[0]
                right.again()
                return await self._rows.replace(row) and await self._admitted(channel, [seat])
        if standing.role != seat.role:
            assert standing.role is not None
            if not await self._rows.change(seat.user, channel, standing.role, seat.role, principal.user):
                return False
        elif not standing.untold:
            return True
        await self._revocations.add(Revocation("member", seat.user, channels=(channel,)))
        self._tell([(seat.user, channel, seat.role)])
        if seat.role is None and self.on_left is not None:
            await self.on_left(seat.user, channel)
        await self._rows.told(seat.user, channel, seat.role)
        return True

    async def _add(
        self, right: Right[Namespace], principal: Principal, channel: str, seats: Sequence[Seat]
    ) -> set[Membership]:
        """Those that are new members now."""
        if not seats:
            return set()
        refusal = await self._too_many(channel, seats, len(seats))
        if refusal is not None:
            raise refusal
        rows = await self._made(principal, channel, seats)
        right.again()
        with self._doubts.about([(seat.user, channel) for seat in seats]):
            added = await self._rows.add(rows)
            if added:
                await self._admitted(channel, [seat for seat in seats if (seat.user, channel) in added])
        return added

    async def _made(self, principal: Principal, channel: str, seats: Sequence[Seat]) -> list[Row]:
        """Rows of new members. They have read what there was before them."""
        count = await self._log.counts.of(channel)
        read, now = Marker(count.head.epoch, count.head.offset, count.amendments), self._clock.now_ms()
        return [new_row(seat.user, channel, seat.role, read, now, principal.user) for seat in seats]

    async def _admitted(self, channel: str, seats: Sequence[Seat]) -> bool:
        """They are counted once more when they are there: others may come through another node, and too many are none.
        Then they are taken back, and who may have taken them for members hears of it."""
        refusal = await self._too_many(channel, seats, 0)
        if refusal is not None:
            await self._rows.remove([(seat.user, channel) for seat in seats])
            taken = [Revocation("member", seat.user, channels=(channel,)) for seat in seats]
            await asyncio.gather(*(self._revocations.add(one) for one in taken))
            raise refusal
        self._tell([(seat.user, channel, seat.role) for seat in seats])
        return True

    async def _too_many(self, channel: str, seats: Sequence[Seat], more: int) -> Error | None:
        """Why there may not be so many `more` than there are; of one user's channels only if it is about one user."""
        most = self._limits.members_per_channel
        if most and await self._rows.members_of(channel, most + 1) + more > most:
            return _too_many(f"members of {channel}", "members_per_channel", most)
        most = self._limits.memberships_per_user
        if most and len(seats) == 1 and await self._rows.rooms_of(seats[0].user, most + 1) + min(more, 1) > most:
            return _too_many(f"channels of {seats[0].user}", "memberships_per_user", most)
        return None


async def each(wanted: Sequence[Seat | Error], change: Callable[[Seat], Awaitable[Seat | Error]]) -> list[Seat | Error]:
    """What becomes of many, each by itself: of an Error nothing."""

    async def outcome(one: Seat | Error) -> Seat | Error:
        try:
            return one if isinstance(one, Error) else await change(one)
        except Error as error:
            return error

    return await asyncio.gather(*(outcome(one) for one in wanted))


def is_none_of(channel: str) -> str:
    """What to say of who has no row there."""
    return f"does not follow {channel}" if is_thread(channel) else f"is no member of {channel}"


def _too_many(what: str, limit: str, most: int) -> Error:
    return Error("limit_exceeded", f"{what}: {limit} is {most}", limit=limit)


def user_of(principal: Principal) -> str:
    """`permission_denied` for who is none."""
    if principal.server or principal.user is None:
        raise Error("permission_denied", f"{principal.name} is no user")
    return principal.user


def _may(principal: Principal, namespace: Namespace, own: str | None, seat: Seat, old: str | None) -> bool:
    """Whether the principal, whose role is `own`, may make of the member with the role `old` what is wanted. What the
    product's own roles may is not known here, so only owners and back ends deal with them."""
    if principal.server:
        return principal.admin
    if seat.user == principal.user and (
        seat.role is None or seat.role == old or (old is None and seat.role == MEMBER and namespace.join == "anyone")
    ):
        return True
    if own == MODERATOR:
        return {old, seat.role} <= {None, MEMBER}
    return own == OWNER


def _must_have_roles(right: Right[Namespace], channel: str) -> None:
    if right.options.direct:
        raise bad_request(f"channel: {channel} is direct, and has the two members that its name says")


def checked_user(user: str) -> str:
    """`bad_request` for what can be no user's name."""
    if not user or len(user.encode()) > MAX_USER:
        raise bad_request(f"user: 1 to {MAX_USER} bytes")
    return user


def checked(user: str, role: str | None) -> Seat:
    """`bad_request` for what can be no member's name or role."""
    checked_user(user)
    if role is not None and not is_role(role):
        raise bad_request("role: owner, moderator, member, or a name of your own ([a-z][a-z0-9_-]*, 32 characters)")
    return Seat(user, role)
