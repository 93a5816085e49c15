"""REST: publish to channels, read their history, wait for what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgspec import UNSET

from handlers.base import BaseHandler
from handlers.events import channels_of, wanted_channels, wanted_places
from handlers.operations import operation
from handlers.sockets import PollSocket, adopt
from server.core.cursors import MAX_OFFSET
from server.core.errors import Error, bad_request
from server.log.log import Receipt
from server.sessions.poll import Poll
from server.wire.amendments import AmendedMessagePush
from server.wire.commands import Amending, At, convert
from server.wire.rest import (
    MAX_BATCH,
    Accepted,
    AmendRequest,
    BatchRequest,
    BatchResults,
    HistoryPage,
    HistoryQuery,
    IdempotencyHeader,
    PollPage,
    PollQuery,
    PollRequest,
    Published,
    PublishItem,
    PublishRequest,
    Result,
    problem,
)

Publishing = asyncio.Future[Receipt | None] | Error | None


class Waiting(BaseHandler):
    async def poll(
        self, wanted: Mapping[str, str | None] | None, limit: int, wait: int, *, joined: bool = False,
        after: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Answer at once if there is something behind the cursors, or else leave the connection to a `Poll`. `wanted`:
        channel → cursor; None: those that the token subscribes to, `after` these cursors. `joined`: they share the
        limit."""
        with self.entering(self.principal) as seats:
            socket = PollSocket(self.node, seats, self.head_of_response())
            principal = self.principal
            if self.node.arrivals.wanted:
                principal = await self.node.arrivals.admit_poll(principal, self.client_address())
            if wanted is None:
                wanted = wanted_channels(list(channels_of(principal)), after)
            if joined:
                limit = max(1, limit // len(wanted))
            poll = Poll(self.node, socket, self.codec, principal, seats, limit=limit, joined=joined)
            socket.client = poll
            try:
                if not (await poll.idle(wanted) and wait) or self.request.method == "HEAD":
                    self.answer(await poll.page())
                    return
                poll.wait(wait)
                await adopt(self.detach(), socket)
            finally:
                if not socket.connected:
                    poll.closed()


class Messages(Waiting):
    @operation("Publish a message", {201: Published, 200: Published, 202: Accepted})
    async def post(self, channel: str, body: PublishRequest, headers: IdempotencyHeader) -> None:
        """Answered when the message is durable. 200: it was stored by an earlier publish with the same key. 202: it is
        ephemeral, or waits until `at`."""
        if body.at is not None:
            if body.broadcast:
                raise bad_request("broadcast: not together with at")
            await self._publish_at(channel, body, body.at, body.key or headers.key)
            return
        publishing = self.node.publisher.publish(
            self.principal,
            channel,
            body.data,
            body.key or headers.key,
            tag=body.tag,
            ephemeral=body.ephemeral,
            broadcast=body.broadcast,
            address=self.client_address(),
            mentions=body.mentions,
        )
        receipt = None if publishing is None else await publishing
        if receipt is None:
            self.answer(Accepted(channel), 202)
            return
        self.answer(Published(channel, **receipt.fields()), 200 if receipt.duplicate else 201)

    async def _publish_at(self, channel: str, body: PublishRequest, at: At, key: str | None) -> None:
        done = await self.node.scheduler.publish(
            self.principal, channel, body.data, at, key, body.mentions, address=self.client_address()
        )
        if isinstance(done, Receipt):
            self.answer(Published(channel, **done.fields()), 200 if done.duplicate else 201)
        else:
            self.answer(Accepted(channel, *(done or ())), 202)

    @operation("Read the history, or wait for messages", {200: HistoryPage, 304: None})
    async def get(self, channel: str, query: HistoryQuery) -> None:
        """Bounds are exclusive; with neither, the newest. With `wait` it is a long poll: answered at once when there is
        something after the cursor, otherwise as soon as there is, or after that time with an empty page and the same
        cursor."""
        if query.wait:
            if query.before is not None:
                raise bad_request("wait: what is before a cursor is there already")
            await self.poll({channel: query.after}, query.limit, query.wait)
            return
        page = await self.node.history.page(
            self.principal,
            channel,
            after=query.after,
            before=query.before,
            limit=query.limit,
            address=self.client_address(),
        )
        self.answer(page)


class Message(BaseHandler):
    @operation("Read one message", {200: AmendedMessagePush, 304: None})
    async def get(self, channel: str, offset: str) -> None:
        """As it is now. Of one that was erased only that, by whom and when."""
        self.answer(
            await self.node.amender.get(self.principal, channel, offset_of(offset), address=self.client_address())
        )

    @operation("Edit a message, append to it, or pin it", {200: Published})
    async def patch(self, channel: str, offset: str, body: AmendRequest, headers: IdempotencyHeader) -> None:
        """Where the namespace lets you. The answer says where that is in the channel; a retry with the same key is done
        once."""
        amending = Amending(data=body.data, append=body.append, pin=body.pin, part=body.part, done=body.done)
        await self._amend(channel, offset, amending, body.key or headers.key)

    @operation("Erase a message", {200: Published})
    async def delete(self, channel: str, offset: str, headers: IdempotencyHeader) -> None:
        """Its data is gone for good; that it was there, and who has erased it, stays in the history."""
        await self._amend(channel, offset, Amending(delete=True), headers.key)

    async def _amend(self, channel: str, offset: str, amending: Amending, key: str | None) -> None:
        receipt = await self.node.amender.amend(
            self.principal, channel, offset_of(offset), amending, key=key, address=self.client_address()
        )
        self.answer(Published(channel, **receipt.fields()))


def offset_of(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= len(text) <= 19 or not 1 <= int(text) <= MAX_OFFSET:
        raise bad_request("offset: a number from 1 on")
    return int(text)


class Polls(Waiting):
    @operation("Read from several channels, or wait for messages", {200: PollPage, 304: None})
    async def get(self, query: PollQuery) -> None:
        """As the long poll of one channel, with one cursor for all of them; they share `limit`. Without a channel:
        those that the token subscribes to."""
        wanted = wanted_channels(query.channels, query.after) if query.channels else None
        await self.poll(wanted, query.limit, query.wait, joined=True, after=query.after)

    @operation("Read from more channels than a URL can hold", {200: PollPage})
    async def post(self, body: PollRequest) -> None:
        """As `GET`, but with the channels in the body, for long names."""
        await self.poll(wanted_places(body.channels, body.after), body.limit, body.wait, joined=True)


class Batch(BaseHandler):
    @operation("Publish many messages", {200: BatchResults})
    async def post(self, body: BatchRequest, headers: IdempotencyHeader) -> None:
        """Each is stored or refused by itself. With `channels` instead of `messages` one datum goes to all of them,
        with the same key in each."""
        if bool(body.messages) == bool(body.channels):
            raise bad_request(f"messages, channels: one of them, with 1 to {MAX_BATCH} entries")
        items: list[Any] = body.messages
        if body.channels:
            if body.data is UNSET:
                raise bad_request("data: required with channels")
            key = body.key or headers.key
            items = [
                PublishItem(
                    data=body.data,
                    key=key,
                    tag=body.tag,
                    ephemeral=body.ephemeral,
                    mentions=body.mentions,
                    channel=channel,
                )
                for channel in body.channels
            ]
        # All are under way, in order, before one is waited for.
        started = [self._start(item) for item in items]
        self.answer(BatchResults([await self._outcome(*one) for one in started]))

    def _start(self, value: Any) -> tuple[str, Publishing]:
        """The channel, and what will be known of its message; None: the channel is ephemeral."""
        channel = ""
        try:
            item = value if isinstance(value, PublishItem) else convert(value, PublishItem)
            channel = item.channel
            if item.at is not None:
                raise bad_request("at: messages for later go by themselves, to /v1/channels/{channel}/messages")
            return channel, self.node.publisher.publish(
                self.principal,
                channel,
                item.data,
                item.key,
                tag=item.tag,
                ephemeral=item.ephemeral,
                broadcast=item.broadcast,
                session=self.request_id,
                address=self.client_address(),
                mentions=item.mentions,
            )
        except Error as error:
            return channel, error

    async def _outcome(self, channel: str, publishing: Publishing) -> Result:
        try:
            if isinstance(publishing, Error):
                raise publishing
            receipt = None if publishing is None else await publishing
        except Error as error:
            self.node.incidents.refused(error, self.principal, self.client_address())
            return {"error": problem(error)}
        return cast(Result, {"channel": channel, **(receipt.fields() if receipt else {})})
