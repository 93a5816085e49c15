"""The broker of a single node: what is published arrives at once."""

from __future__ import annotations

from server.brokers.base import Announcement, OnAll, OnAnnouncement, OnMessages, OnReconnect
from server.wire.messages import Message


class MemoryBroker:
    """Fulfils the contract in broker.py, and never loses anything."""

    def __init__(self) -> None:
        self.dropped = 0
        self.refused = 0
        self.on_all: OnAll = lambda messages: None
        self._subscribed: set[str] = set()
        self._followed: set[str] = set()
        self._node = ""
        self._on_messages: OnMessages | None = None
        self._on_announcement: OnAnnouncement | None = None

    async def start(
        self, node: str, on_messages: OnMessages, on_announcement: OnAnnouncement, on_reconnect: OnReconnect
    ) -> None:
        self._node = node
        self._on_messages = on_messages
        self._on_announcement = on_announcement

    async def close(self) -> None:
        self._on_messages = self._on_announcement = None

    def publish(self, messages: list[Message]) -> None:
        if self._on_messages is not None and messages[0].channel in self._subscribed:
            self._on_messages(messages, self._node)
        if self._followed and messages[0].channel.partition(":")[0] in self._followed:
            self.on_all(messages)

    def announce(self, announcement: Announcement) -> None:
        if self._on_announcement is not None:
            self._on_announcement(announcement)

    def subscribe(self, channel: str) -> None:
        self._subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.discard(channel)

    async def follow(self, namespace: str) -> None:
        self._followed.add(namespace)

    async def unfollow(self, namespace: str) -> None:
        self._followed.discard(namespace)

    def suspect(self) -> None:
        pass

    def problem(self) -> str | None:
        return None
