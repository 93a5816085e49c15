"""The channels that somebody on this node listens to: opened with the first subscription, closed after the last."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from server.brokers.base import Broker
from server.core.config import Namespace
from server.core.cursors import Position
from server.core.loop_share import LoopShare
from server.core.tasks import Keeper
from server.delivery.amended import deliver_amended
from server.delivery.hub import Hub
from server.delivery.sequencer import Sequencer
from server.log.endings import Ending, Near
from server.log.log import Log
from server.wire.messages import Message, Notice
from server.wire.pushes import GapPush

LINGER: Final = 1.0
"""Seconds a channel without subscribers stays subscribed at the broker: people reload pages."""


_NO_FLOOR: Final = Position("", 0)


class Copy(Protocol):
    """A subscription whose subscriber keeps a copy of what the channel tells of."""

    def copy_again(self) -> None:
        """Messages are gone, so the copy is worth nothing any more."""


class Stream:
    """A channel somebody on this node listens to. Ephemeral channels need no sequencer."""

    __slots__ = (
        "channel", "conflate", "keeper", "sequencer", "holders", "received", "counted", "rate", "ephemeral", "copies",
        "open", "opening", "opened", "floor",
    )  # fmt: skip

    def __init__(self, channel: str, conflate: float, sequencer: Sequencer | None, keeper: Keeper) -> None:
        self.channel = channel
        self.conflate = conflate
        """Seconds, see `Hub.add`."""
        self.keeper = keeper
        """Of the tasks of its subscriptions."""
        self.sequencer = sequencer
        self.holders = 0
        """Subscriptions to it here, made or in the making; with the last of them it is closed."""
        self.received = 0
        """Messages from the broker; `counted` of them when the `rate` (per second) was last computed."""
        self.counted = 0
        self.rate = 0.0
        self.ephemeral = 0
        """Ephemeral messages so far: a subscription that is not live never gets them, and tells how many it missed."""
        self.copies: set[Copy] | None = None
        """To be told when messages are gone (`_lost`); None: there were none so far."""
        self.open = False
        self.opening = False
        """Somebody opens it just now."""
        self.opened: asyncio.Future[None] | None = None
        """Where others wait for that: done when it is over, so that they look again."""
        self.floor = _NO_FLOOR
        """Up to here at least the log has nothing any more, in this history."""

    def close(self) -> None:
        if self.sequencer is not None:
            self.sequencer.close()


class Streams:
    def __init__(self, node: str, *, broker: Broker, log: Log, hub: Hub, keeper: Keeper, loop_share: LoopShare) -> None:
        """`node`: this node's id."""
        self.repairs: Counter[str] = Counter()
        """Reads of the log for what the broker had lost, by what showed it."""
        self._node = node
        self._broker = broker
        self._log = log
        self._hub = hub
        self._keeper = keeper
        self._loop_share = loop_share
        self._streams: dict[str, Stream] = {}
        self._closed = False
        # A method that is asked for is an object: what all sequencers are given are the same ones.
        self._read = log.read
        self._confirmed_head = log.confirmed_head
        self._deliver = hub.deliver
        self._deliver_amended = partial(deliver_amended, hub)
        self._tell_lost = self._lost

    def __contains__(self, channel: str) -> bool:
        return channel in self._streams

    def counts(self) -> tuple[int, int]:
        """(channels somebody here is subscribed to, subscriptions to them, live or not)"""
        return len(self._streams), sum(stream.holders for stream in self._streams.values())

    def listened(self, prefix: str, after: str, limit: int) -> dict[str, tuple[int, float]]:
        """The first `limit` channels with subscribers here whose names begin with `prefix` and come behind `after`:
        (subscriptions, messages per second)."""
        names = (
            channel
            for channel, stream in self._streams.items()
            if stream.holders and channel > after and channel.startswith(prefix)
        )
        streams = ((name, self._streams[name]) for name in heapq.nsmallest(limit, names))
        return {name: (stream.holders, stream.rate) for name, stream in streams}

    def compute_rates(self, seconds: float) -> None:
        """The messages per second of each channel since the last time, `seconds` ago."""
        for stream in self._streams.values():
            stream.rate = round((stream.received - stream.counted) / seconds, 1)
            stream.counted = stream.received

    def close(self) -> None:
        self._closed = True
        for stream in self._streams.values():
            stream.close()

    # --- opening and closing ------------------------------------------------------------------------------------------

    async def acquire(
        self, channel: str, namespace: Namespace, near: Near | None = None
    ) -> tuple[Stream, Ending | None]:
        """The channel's stream, open. It stays so until each who acquired it has released it. Who opens it is given
        the end of the log that it was opened with, and what of that is `near` the head."""
        stream = self.take(channel, namespace)
        ending: Ending | None = None
        try:
            while not stream.open:
                if stream.opening:
                    if stream.opened is None:
                        stream.opened = asyncio.get_running_loop().create_future()
                    await asyncio.shield(stream.opened)
                    await self._loop_share.turn()  # many may have waited for this
                else:
                    if (asked := self.open_soon(stream, near)) is not None:
                        try:
                            await asked
                        finally:
                            ending = self.opened(stream, asked)
                    if ending is None:  # else the log has answered many in lots
                        await self._loop_share.turn()
        except BaseException:
            self.release(stream)
            raise
        return stream, ending

    def take(self, channel: str, namespace: Namespace) -> Stream:
        """The channel's stream, open or not. It is there until each who has taken it has released it."""
        stream = self._streams.get(channel)
        if stream is None:
            sequencer = None
            if namespace.durable:
                sequencer = Sequencer(
                    channel,
                    read=self._read,
                    confirmed_head=self._confirmed_head,
                    deliver=self._deliver_amended if namespace.amends else self._deliver,
                    lost=self._tell_lost,
                    repairs=self.repairs,
                    keeper=self._keeper,
                )
            stream = self._streams[channel] = Stream(channel, float(namespace.conflate), sequencer, self._keeper)
        stream.holders += 1
        return stream

    def release(self, stream: Stream) -> None:
        stream.holders -= 1
        if not stream.holders:
            close = partial(self._close_unused, stream)
            asyncio.get_running_loop().call_later(LINGER, self._loop_share.do, close)

    def open_soon(self, stream: Stream, near: Near | None) -> asyncio.Future[Ending] | asyncio.Future[None] | None:
        """Open what nobody opens yet. First the broker, then the log's head: what comes in between is held back by the
        sequencer. When what is returned is done, it is to be given to `opened`, whatever has come of it; None: the
        stream is open now."""
        confirmed = self._broker.subscribe(stream.channel)
        stream.open = stream.sequencer is None and confirmed is None
        stream.opening = not stream.open
        if stream.sequencer is None:
            return confirmed
        if confirmed is None:
            return self._log.ending(stream.channel, near)
        work = self._ending_after(confirmed, stream.channel, near)
        return self._keeper.spawn(f"open {stream.channel}", work, awaited=True)

    async def _ending_after(self, confirmed: asyncio.Future[None], channel: str, near: Near | None) -> Ending:
        await confirmed
        return await self._log.ending(channel, near)

    def opened(self, stream: Stream, asked: asyncio.Future[Ending] | asyncio.Future[None]) -> Ending | None:
        """What it was opened with, for all who wait; or raise why it is not open. If nobody waits for `asked` any more,
        another one opens it."""
        try:
            ending = asked.result()
            if ending is not None and stream.sequencer is not None:
                head = ending.head
                if head.floor:
                    stream.floor = Position(head.position.epoch, head.floor)
                stream.sequencer.start(head.position)
            stream.open = True
            return ending
        except Exception as error:
            self._drop(stream)
            if stream.opened is not None:
                stream.opened.set_exception(error)
                stream.opened.exception()  # seen, if nobody waits any more
            raise
        finally:
            stream.opening = False
            waiting, stream.opened = stream.opened, None
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _close_unused(self, stream: Stream) -> None:
        if not stream.holders and self._streams.get(stream.channel) is stream and not self._closed:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        if self._streams.get(stream.channel) is stream:
            del self._streams[stream.channel]
            self._keeper.spawn(f"unsubscribe {stream.channel}", self._broker.unsubscribe(stream.channel))
        stream.close()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def receive(self, messages: list[Message], node: str) -> None:
        """Messages of one channel from `node`, as the broker carried them."""
        stream = self._streams.get(messages[0].channel)
        if stream is not None:
            stream.received += len(messages)
            if stream.sequencer is not None and messages[0].offset:
                stream.sequencer.offer(messages)
            else:
                stream.ephemeral += len(messages)
                self._hub.deliver(messages)
        if node != self._node and messages[-1].offset:
            self._log.learn(messages[-1].channel, messages[-1].position, node, messages[-1].tally)

    def notify(self, notices: list[Notice]) -> None:
        """Send pushes of one channel to its subscribers, such as joins."""
        stream = self._streams.get(notices[0].channel)
        if stream is not None:
            stream.ephemeral += len(notices)
            self._hub.notify(notices)

    def note_head(self, channel: str, head: Position) -> bool:
        """Somebody says that the channel's log reaches `head`; fetch what is missing up to there. True: that is
        another history than ours, which is not believed before the log says so itself."""
        stream = self._streams.get(channel)
        if stream is None or stream.sequencer is None:
            return False
        stream.sequencer.note_head(head)
        return stream.sequencer.position.epoch not in ("", head.epoch)

    # --- comparing with the log ---------------------------------------------------------------------------------------

    def durable(self) -> list[str]:
        """The channels that are in the log; the others are ephemeral."""
        return [stream.channel for stream in self._streams.values() if stream.sequencer is not None]

    def compare(self, heads: Mapping[str, Position]) -> None:
        """The log itself says how far it reaches: fetch what is missing, or start over where the history is new."""
        for channel, head in heads.items():
            stream = self._streams.get(channel)
            if stream is None or stream.sequencer is None or stream.sequencer.position.offset < 0:
                continue
            if stream.sequencer.position.epoch != head.epoch:
                stream.sequencer.restart(head)
            else:
                stream.sequencer.note_head(head, "sweep")

    def _lost(self, channel: str, epoch: str, first: int | None, last: int | None) -> None:
        if first is None or last is None:
            self._hub.tell(channel, GapPush.reset(channel, epoch), 0, 0)
        else:
            self._hub.tell(channel, GapPush.trimmed(channel, epoch, first, last), first, last)
        stream = self._streams.get(channel)
        for subscription in tuple(stream.copies or ()) if stream is not None else ():
            subscription.copy_again()
