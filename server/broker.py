"""The broker carries messages between nodes. This docstring is its contract; tests/conformance holds all to it.

- At most once: what is published may be lost, doubled or reordered, and nobody is told. Order is normally kept.
- `publish` and `announce` never block, never await and never raise; what cannot be sent is dropped and counted.
- A node receives what it publishes itself, by the same path, if it is subscribed.
- `subscribe` returns once messages published from now on arrive, or at once if the link is down (`problem` says so):
  it is then made up for on reconnecting, after which `on_reconnect` is called.
- Callbacks run on the event loop, never inside `subscribe`; what they raise is logged.
- Foreign or tampered payloads are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from server.messages import Message


class Announcement(Struct, frozen=True):
    """What a node tells all the others, and itself."""

    node: str
    beat: bool = False
    """Sent once a second by every node: the canary it must hear itself."""
    heads: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The channels it has committed to since the last beat: (epoch, offset)."""
    want: str | None = None
    """A channel it cannot get its messages into, because others are faster."""


OnMessages = Callable[[list[Message], str], None]
"""(contiguous messages of one channel, id of the node they come from)"""
OnAnnouncement = Callable[[Announcement], None]
OnReconnect = Callable[[], None]


class Broker(Protocol):
    dropped: int
    """Publications that could not be sent."""
    refused: int
    """Payloads that were not ours."""

    async def start(
        self, node: str, on_messages: OnMessages, on_announcement: OnAnnouncement, on_reconnect: OnReconnect
    ) -> None: ...

    async def close(self) -> None: ...

    def publish(self, messages: list[Message]) -> None:
        """Messages of one channel: contiguous offsets, or all ephemeral."""

    def announce(self, announcement: Announcement) -> None: ...

    async def subscribe(self, channel: str) -> None: ...

    async def unsubscribe(self, channel: str) -> None: ...

    def suspect(self) -> None:
        """The node has not heard itself for too long: the link is to be made anew."""

    def problem(self) -> str | None:
        """Why messages do not get through at the moment, or None."""
