"""Server-sent events: the pushes of a WebSocket as a response that does not end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handlers.base import BaseHandler
from handlers.operations import operation
from handlers.sockets import EventSocket, adopt
from server.core.cursors import split_cursor
from server.core.errors import bad_request
from server.core.principals import Principal, Start
from server.sessions.event_stream import EventStream, JoinedEventStream
from server.wire.rest import (
    EventsQuery,
    EventsRequest,
    JoinedEventsQuery,
    LastEventId,
    Place,
    Ticket,
    TicketRequest,
)
from server.wire.sse import EVENT_STREAM

MEDIA_TYPES = (EVENT_STREAM.media_type,)


def wanted_channels(channels: Sequence[str], after: Sequence[str]) -> dict[str, str | None]:
    """Channel → cursor. `after`: a cursor or "" for each of the first channels, or one joined cursor for all."""
    if len(set(channels)) < len(channels):
        raise bad_request("channel: the same one twice")
    if len(after) == 1 and after[0].startswith("~"):
        return split_cursor(after[0], channels)
    if len(after) > len(channels):
        raise bad_request("after: more cursors than channels")
    cursors = [cursor or None for cursor in after]
    return dict(zip(channels, cursors + [None] * (len(channels) - len(cursors)), strict=True))


def wanted_places(places: Sequence[Place], after: str | None) -> dict[str, str | None]:
    """As `wanted_channels`, of a list in a body."""
    cursors = [after] if after else [place.after or "" for place in places]
    return wanted_channels([place.channel for place in places], cursors)


def channels_of(principal: Principal) -> Mapping[str, Start]:
    """Those that the token subscribes to, for who names none."""
    if not principal.subscribe:
        raise bad_request("channel: required, as the token subscribes to none")
    return principal.subscribe


class Streaming(BaseHandler):
    async def authenticate(self) -> Principal:
        """A ticket stands for a token: an EventSource cannot send headers. It names its channels, and a body's are not
        known yet; nor does an EventSource send a body."""
        ticket = self.get_query_argument("ticket", None)
        if ticket is None or "Authorization" in self.request.headers or self.request.method == "POST":
            return await super().authenticate()
        return self.node.identities.redeem(ticket, self.channels(), self.client_address())

    def channels(self) -> list[str]:
        return [*self.path_args, *self.get_query_arguments("channel")]

    async def stream(
        self, wanted: Mapping[str, str | None] | None, last: int | None, after: Sequence[str] = (), *,
        threads: bool = False,
    ) -> None:  # fmt: skip
        """`wanted`: channel → cursor; None: those that the token subscribes to, `after` these cursors. `threads`: in
        `$rooms` also those that the user follows."""
        with self.entering(self.principal) as seats:
            principal, starts = self.principal, None
            if self.node.arrivals.wanted:
                principal = await self.node.arrivals.admit(principal, self.client_address(), "sse")
            if wanted is None:
                starts = channels_of(principal)
                wanted = wanted_channels(list(starts), after)
            socket = EventSocket(self.node, seats, self.head_of_response())
            kind = EventStream if len(wanted) == 1 else JoinedEventStream
            stream = socket.client = kind(self.node, socket, principal, seats)
            try:
                await stream.subscribe(wanted, last, starts, threads=threads)
                if self.request.method == "HEAD":
                    self.set_header("Content-Type", EVENT_STREAM.media_type)
                    return
                await adopt(self.detach(), socket)
            finally:
                if not socket.connected:
                    stream.closed()


class ChannelEvents(Streaming):
    @operation("Listen to a channel", {200: str}, media_types=MEDIA_TYPES)
    async def get(self, channel: str, query: EventsQuery, headers: LastEventId) -> None:
        """Server-sent events: `event` is a push's type, `data` the push, `id` the cursor behind it. An ephemeral
        channel has no ids."""
        place = headers.cursor or query.after or None
        await self.stream({channel: place}, query.last, threads=query.threads)


class JoinedEvents(Streaming):
    @operation("Listen to several channels", {200: str}, media_types=MEDIA_TYPES)
    async def get(self, query: JoinedEventsQuery, headers: LastEventId) -> None:
        """As of one channel; each `id` is one cursor for all of them. Without a channel: those that the token
        subscribes to."""
        after = [headers.cursor] if headers.cursor else query.after
        wanted = wanted_channels(query.channels, after) if query.channels else None
        await self.stream(wanted, query.last, after, threads=query.threads)

    @operation("Listen to more channels than a URL can hold", {200: str}, media_types=MEDIA_TYPES)
    async def post(self, body: EventsRequest, headers: LastEventId) -> None:
        """As `GET`, but with the channels in the body, for long names; there are no tickets for it."""
        await self.stream(wanted_places(body.channels, headers.cursor or body.after), body.last)


class Tickets(BaseHandler):
    @operation("Get a ticket for an EventSource", {201: Ticket})
    async def post(self, body: TicketRequest) -> None:
        """It stands in the URL instead of a token, and is good for listening to these channels, for a short while. What
        is opened with it lasts as long as the token that it was got with."""
        ticket, seconds = await self.node.subscriptions.ticket(self.principal, body.channels)
        self.set_header("Cache-Control", "no-store")
        self.answer(Ticket(ticket, body.channels, round(seconds, 3)), 201)
