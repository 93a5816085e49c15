"""REST: the consumers, for operators; and their messages, for workers that fetch them."""

from __future__ import annotations

from typing import Final

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest_consumers import (
    AckRequest,
    ConsumerDetails,
    ConsumerReset,
    ConsumerRow,
    ConsumersList,
    FetchRequest,
    Jobs,
    NackRequest,
    Nothing,
    PauseRequest,
    ResetRequest,
)


class ConsumerList(BaseHandler):
    @operation("List the consumers", {200: ConsumersList, 304: None})
    async def get(self) -> None:
        """How far each is behind, over all nodes, as of two seconds ago at most. For API keys that are `admin`."""
        self.answer(await self.node.consumer_operators.every(self.principal))


class OneConsumer(BaseHandler):
    @operation("Look at a consumer", {200: ConsumerDetails, 304: None})
    async def get(self, consumer: str) -> None:
        """With the channels whose last attempt has failed, 100 at most, the latest first. For API keys that are
        `admin`."""
        self.answer(await self.node.consumer_operators.one(self.principal, consumer))


class PauseConsumer(BaseHandler):
    @operation("Pause a consumer", {200: ConsumerRow})
    async def post(self, consumer: str, body: PauseRequest) -> None:
        """Nothing is delivered until it is resumed; nothing is lost while it is retained. For API keys that are
        `admin`."""
        self.answer(await self.node.consumer_operators.pause(self.principal, consumer, body.paused))


class ResumeConsumer(BaseHandler):
    @operation("Let a consumer run again", {200: ConsumerRow})
    async def post(self, consumer: str) -> None:
        """Also one that was stopped by its back end's 410. What waits for its next attempt has it at once. For API keys
        that are `admin`."""
        self.answer(await self.node.consumer_operators.pause(self.principal, consumer, False))


class ResetConsumer(BaseHandler):
    @operation("Have a consumer go on from another place", {200: ConsumerReset})
    async def post(self, consumer: str, body: ResetRequest) -> None:
        """In one channel, or in all. For API keys that are `admin`."""
        self.answer(await self.node.consumer_operators.reset(self.principal, consumer, body.channel, body.to))


class FetchJobs(BaseHandler):
    @operation("Fetch messages of a consumer", {200: Jobs})
    async def post(self, consumer: str, body: FetchRequest) -> None:
        """They are this worker's for the consumer's `lease`; what is not acknowledged by then is another one's. With
        `wait` it is answered as soon as there is something. For API keys that are `admin` or name the consumer."""
        stream = self.request.connection.stream
        there = lambda: not stream.closed()  # noqa: E731
        self.answer(await self.node.workers.fetch(self.principal, consumer, body.limit, body.wait, there))


class AckJobs(BaseHandler):
    @operation("Acknowledge messages", {200: Nothing})
    async def post(self, consumer: str, body: AckRequest) -> None:
        """They are done. An id whose lease is over changes nothing: the message is somebody else's. For API keys as
        with `fetch`."""
        self.answer(await self.node.workers.ack(self.principal, consumer, body.ids))


class NackJobs(BaseHandler):
    @operation("Give messages back", {200: Nothing})
    async def post(self, consumer: str, body: NackRequest) -> None:
        """They are handed out again, after `delay` seconds. For API keys as with `fetch`."""
        self.answer(await self.node.workers.nack(self.principal, consumer, body.ids, body.delay))


ROUTES: Final[dict[str, type[BaseHandler]]] = {
    "/v1/consumers": ConsumerList,
    "/v1/consumers/{consumer}": OneConsumer,
    "/v1/consumers/{consumer}/pause": PauseConsumer,
    "/v1/consumers/{consumer}/resume": ResumeConsumer,
    "/v1/consumers/{consumer}/reset": ResetConsumer,
    "/v1/consumers/{consumer}/fetch": FetchJobs,
    "/v1/consumers/{consumer}/ack": AckJobs,
    "/v1/consumers/{consumer}/nack": NackJobs,
}
