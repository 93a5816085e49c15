"""All shards, and which of them a message goes with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from server.core.cursors import Position, Tally
from server.log.pending import PendingPublish
from server.log.shard import IDLE_LANES, Lane, Lanes, Shard

SHARED: Final = 64
"""Messages, waiting and in flight, for which one shard is enough."""


class Shards:
    """A commit costs as much for one message as for thirty, so the first shard takes them all until it has SHARED of
    them. Beyond that, a channel goes with whichever shard has the least to do, and stays there until all of it is
    stored: its messages keep their order. Who comes alone never waits."""

    def __init__(self, count: int, make: Callable[[Lanes], Shard]) -> None:
        self._lanes = Lanes(IDLE_LANES * count)
        self._shards = [make(self._lanes) for _ in range(count)]

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def put(self, channel: str, entry: PendingPublish) -> None:
        """Queue an entry; its future says what becomes of it."""
        lane = self._lanes.by_channel.get(channel)
        if lane is None:
            lane = self._lanes.by_channel[channel] = Lane(channel, self._least_busy())
        elif self._lanes.idle.pop(channel, None) is not None:
            lane.shard = self._least_busy()
        lane.shard.put(lane, entry)

    def _least_busy(self) -> Shard:
        first = self._shards[0]
        return first if first.load < SHARED else min(self._shards, key=lambda shard: shard.load)

    def head(self, channel: str) -> Position | None:
        """What this node has last had acknowledged or heard of; None if it has not written to the channel lately."""
        lane = self._lanes.by_channel.get(channel)
        return None if lane is None else lane.head

    def knows(self, channel: str) -> bool:
        """Whether the channel is known to have messages."""
        lane = self._lanes.by_channel.get(channel)
        return lane is not None and lane.used

    def learn(self, channel: str, position: Position, node: str, tally: Tally) -> None:
        """`node` has had `position` acknowledged: number on from there, and expect it to write again."""
        lane = self._lanes.by_channel.get(channel)
        if lane is None:
            return
        now = asyncio.get_running_loop().time()
        lane.turns.heard_of(node, now)
        head = lane.head
        newer = head is not None and head.epoch == position.epoch and position.offset > head.offset
        if newer and tally.amendments >= lane.tally.amendments:  # else it is of a node that does not count
            lane.head, lane.tally, lane.known_at = position, tally, now

    def contend(self, channel: str, node: str) -> None:
        """`node` cannot get its messages in: from now on, take turns with it."""
        lane = self._lanes.by_channel.get(channel)
        if lane is not None:
            now = asyncio.get_running_loop().time()
            lane.turns.wanted_by(node, now)
            lane.shard.take_turns(lane, now)

    def forget_heads(self) -> None:
        """They are to be read anew: of those that are idle at once, as they may go to a shard that has done so."""
        for lane in self._lanes.idle.values():
            lane.head = None
        for shard in self._shards:
            shard.forget_heads()

    @property
    def conflicts(self) -> int:
        """Offsets that another node has taken."""
        return sum(shard.conflicts for shard in self._shards)
