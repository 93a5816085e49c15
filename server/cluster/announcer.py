"""What this node tells the others of itself."""

from __future__ import annotations

from typing import Any

from server.brokers.base import Announcement, Broker
from server.core.cursors import Position, Tally
from server.wire.messages import Message


class Announcer:
    def __init__(self, node: str, broker: Broker) -> None:
        self._node = node
        self._broker = broker
        self._heads: dict[str, tuple[Position, Tally]] = {}
        self._mentioned: set[str] = set()

    def announce(self, **fields: Any) -> None:
        """`fields` are those of an `Announcement`. The first that is heard of a node says already whether it amends."""
        self._broker.announce(Announcement(self._node, amends=True, **fields))

    def erased(self, channel: str) -> None:
        """Something was erased in place."""
        self.announce(erased=channel)

    def committed(self, messages: list[Message]) -> None:
        """Messages of one channel are stored for good: send them to the subscribers of every node."""
        last = messages[-1]
        self._heads[last.channel] = last.position, last.tally
        self._broker.publish(messages)

    def committed_where_members_are(self, messages: list[Message]) -> None:
        """The same, where they may mention somebody."""
        self.committed(messages)
        if any(message.mentions for message in messages):
            self._mentioned.add(messages[-1].channel)

    def note_head(self, channel: str, head: Position, tally: Tally) -> None:
        """This node knows that the channel's log reaches `head`, and how many amendments there are up to there; whether
        anybody is mentioned it does not know."""
        self._heads[channel] = head, tally
        self._mentioned.add(channel)

    def take_heads(self) -> dict[str, tuple[Position, Tally]]:
        """Those that are new since the last time: to be announced, as what was published may have been lost."""
        heads, self._heads = self._heads, {}
        return heads

    def take_mentioned(self) -> set[str]:
        """In which of them somebody may have been mentioned."""
        mentioned, self._mentioned = self._mentioned, set()
        return mentioned
