"""REST: who belongs to a channel, and with which role."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseHandler
from handlers.operations import operation
from server.core.errors import Error
from server.rooms.members import Seat, checked
from server.wire.commands import chosen, convert
from server.wire.rest import problem
from server.wire.rooms import (
    MemberItem,
    MemberResults,
    MemberSet,
    MembersPage,
    MembersQuery,
    MembersRequest,
    Preferred,
    PreferRequest,
    RoleRequest,
)


class ChannelMembers(BaseHandler):
    @operation("Read who the members of a channel are", {200: MembersPage, 304: None})
    async def get(self, channel: str, query: MembersQuery) -> None:
        """By name. For who may read the channel, and for API keys that are `admin`."""
        page = await self.node.rooms.of(channel).page(
            self.principal, channel, query.after, query.limit, address=self.client_address()
        )
        self.answer(page)

    @operation("Change many members", {200: MemberResults})
    async def post(self, channel: str, body: MembersRequest) -> None:
        """Each is changed or refused by itself. A role of `null` takes the membership away."""
        wanted: list[Seat | Error] = []
        for item in body.members:
            try:
                one = convert(item, MemberItem)
                wanted.append(checked(one.user, one.role))
            except Error as error:
                wanted.append(error)
        done = await self.node.rooms.of(channel).set_roles(
            self.principal, channel, wanted, address=self.client_address()
        )
        self.answer(MemberResults(results=[self._result(channel, one) for one in done]))

    def _result(self, channel: str, outcome: Seat | Error) -> Any:
        if isinstance(outcome, Seat):
            return {"channel": channel, "user": outcome.user, "role": outcome.role}
        self.node.incidents.refused(outcome, self.principal, self.client_address())
        return {"error": problem(outcome)}


class Joining(BaseHandler):
    @operation("Become a member", {200: MemberSet})
    async def post(self, channel: str) -> None:
        """Where anyone may. Who is one already keeps the role."""
        principal = self.principal
        role = await self.node.rooms.of(channel).join(principal, channel, address=self.client_address())
        self.answer(MemberSet(channel=channel, user=principal.user or "", role=role))


class ChannelMember(BaseHandler):
    @operation("Make a user a member, or change its role", {200: MemberSet})
    async def put(self, channel: str, user: str, body: RoleRequest) -> None:
        """For API keys that are `admin`, for owners, for moderators among plain members; and for oneself, where anyone
        may join."""
        role = await self.node.rooms.of(channel).set_role(
            self.principal, channel, user, body.role, address=self.client_address()
        )
        self.answer(MemberSet(channel=channel, user=user, role=role))

    @operation("Mute a room, or pin it", {200: Preferred})
    async def patch(self, channel: str, user: str, body: PreferRequest) -> None:
        """For oneself: how the room is shown among one's own. What is not given stays as it is."""
        wanted = chosen(mute=body.mute, pin=body.pin)
        self.answer(
            await self.node.rooms.of(channel).prefer(
                self.principal, channel, user, wanted, address=self.client_address()
            )
        )

    @operation("Take a membership away", {204: None})
    async def delete(self, channel: str, user: str) -> None:
        """On every node within a second. For the same, and always for oneself."""
        await self.node.rooms.of(channel).set_role(self.principal, channel, user, None, address=self.client_address())
        self.set_status(204)
