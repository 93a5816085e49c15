"""REST: the consumers, for operators."""

from __future__ import annotations

from handlers.base import BaseHandler
from handlers.operations import operation
from server.wire.rest import ConsumerDetails, ConsumerReset, ConsumerRow, ConsumersList, PauseRequest, ResetRequest


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
