"""Who is told of the coming and going of a channel's other clients, beside the channel's messages."""

from __future__ import annotations

from collections.abc import Callable

from server.delivery.hub import Hub, Sink
from server.presence.clients import clients_topic


class Watching:
    """Of one client, whose `sink` gets the joins and leaves."""

    __slots__ = ("_hub", "_sink", "_channels")

    def __init__(self, hub: Hub, sink: Sink) -> None:
        self._hub = hub
        self._sink = sink
        self._channels: set[str] = set()

    def begin(self, channel: str) -> None:
        self._channels.add(channel)
        self._hub.add(clients_topic(channel), self._sink)

    def end(self, channel: str) -> None:
        """Twice is fine."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._hub.remove(clients_topic(channel), self._sink)

    def end_all(self) -> None:
        for channel in tuple(self._channels):
            self.end(channel)

    def suspend(self, concerned: Callable[[str], bool]) -> None:
        """Tell nothing of the channels that are `concerned` until `unsuspend`: what is missed is missed."""
        for channel in filter(concerned, self._channels):
            self._hub.remove(clients_topic(channel), self._sink)

    def unsuspend(self) -> None:
        for channel in self._channels:
            self._hub.add(clients_topic(channel), self._sink)
