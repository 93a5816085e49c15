"""The hub: who on this node listens to what, and the fan-out to them.

It holds sinks and never sees a session or a socket. A message is encoded and framed once per encoding (messages.py);
the frames of a channel collect during one turn of the event loop, and then each sink gets one `send` of the joined
bytes. A sink may collect what it gets in a turn from several channels, and write it once (`wake`). Nothing awaits here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Final, Protocol

from msgspec import Struct, structs

from server.documents.views import View
from server.presence.clients import is_channel
from server.wire.amendments import AmendPush
from server.wire.codec import Codec
from server.wire.messages import Message, Notice
from server.wire.pushes import GapPush, ProgressPush, Push

logger = logging.getLogger(__name__)


DELIVERY_MESSAGES: Final = 64
"""Messages joined for one `send`: more saves nothing, and a sink that is full drops whole deliveries."""
SLICE: Final = 0.005
"""Seconds of one turn of the loop in which views show what has come: there may be as many as there are watchers."""
UNSHOWN: Final = 1000
"""Messages that may wait for views at a time; more are shown at once, which holds up whoever brings them."""
PROGRESS_MESSAGES: Final = 1000
PROGRESS_SECONDS: Final = 10.0
"""Messages that a view does not show, or seconds of them, before its subscribers are told how far it is."""


class Delivery(Struct, frozen=True, gc=False):
    """Whole frames of one channel: the messages `first`…`last` (0: ephemeral), or a push that takes their place."""

    channel: str
    data: bytes
    first: int
    last: int
    size: int
    """Messages in it."""

    @property
    def ephemeral(self) -> bool:
        """Of ephemeral messages: in no log, so it is taken now or never."""
        return self.last == 0 and self.size > 0


class Sink(Protocol):
    """Where deliveries go. `send` never blocks and never raises; a sink that cannot keep up decides for itself."""

    id: str
    codec: Codec
    direct_write: Callable[[bytes], None] | None
    """Writes frames at once; None where they have to go by `send`, as something waits that goes out before."""
    topics: int
    """How many topics the hub sends to it, counted by the hub. A sink with one topic has nothing to merge, so it is
    written to directly."""

    def send(self, delivery: Delivery) -> None: ...

    def tell(self, push: Push, delivery: Delivery) -> None:
        """`push` is no message, but stands in its place among them; `delivery` is the same, as it travels."""

    def flush(self) -> None:
        """Called at the end of a turn in which the sink asked for it (`Hub.wake`)."""


class _Topic:
    """One channel's sinks by encoding, and the messages of this turn; or those of one view of a channel."""

    __slots__ = (
        "channel", "view", "unshown", "sinks", "snapshot", "pending", "interval", "newest", "sent_at", "timer",
        "hidden", "hidden_count", "hidden_since",
    )  # fmt: skip

    def __init__(self, channel: str, interval: float, view: View | None = None) -> None:
        self.channel = channel if view is None else view.channel
        self.view = view
        self.unshown: list[Message]
        """Of the channel, which the view has still to show; there is none without a view."""
        if view is not None:
            self.unshown = []
        self.hidden: Message | None = None
        """The newest message that the view has not shown since it last showed one, how many these are, and since when
        there are any."""
        self.hidden_count = 0
        self.hidden_since = 0.0
        self.sinks: dict[Codec, dict[Sink, None]] = {}
        self.snapshot: dict[Codec, tuple[Sink, ...]] = {}
        """What `sinks` was when it last changed: a send may remove its sink while we go through them."""
        self.pending: list[Message] = []
        self.interval = interval
        self.newest: dict[str | None, Message]
        """By tag, where it conflates."""
        if view is not None or interval:
            self.newest = {}
        self.sent_at = float("-inf")
        self.timer: asyncio.TimerHandle | None = None


class Hub:
    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._views: dict[str, dict[View, _Topic]] = {}
        self._behind: deque[tuple[Message, Iterator[_Topic]]] = deque()
        """Messages that views have still to show, and which views those are."""
        self._dirty: list[_Topic] = []
        self._woken: list[Sink] = []
        self._scheduled = False
        self._lone = False
        """The delivery being sent is the turn's only one: there is nothing to collect it with."""
        self.encodes = 0
        """Encodings of messages: one per message and encoding, however many sinks get it."""
        self.sends = 0
        """Deliveries handed to sinks."""
        self.messages = 0
        """Handed to sinks; so are `bytes`. Whoever sends to a client past the hub counts here as well."""
        self.bytes = 0
        self.dropped = 0
        """Ephemeral messages that sinks could not take."""
        self.fallen_behind = 0
        """Times that a subscription could not keep up, and went back to the log."""

    def add(self, channel: str, sink: Sink, conflate: float = 0.0, view: View | None = None) -> None:
        """From now on `sink` gets the channel. `conflate`: seconds, the channel's own; only the newest message per
        tag goes out in each such interval. `view`: only what it shows, as it shows it."""
        topics: dict[Any, _Topic] = self._topics if view is None else self._views.setdefault(channel, {})
        key: Any = channel if view is None else view
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = _Topic(channel, conflate, view)
        else:  # what came before is not for the newcomer
            self.send_held_back(channel, view)
            self._flush_topic(topic)
        sinks = topic.sinks.setdefault(sink.codec, {})
        sink.topics += sink not in sinks
        sinks[sink] = None
        topic.snapshot.pop(sink.codec, None)

    def remove(self, channel: str, sink: Sink, view: View | None = None) -> None:
        """`sink` has got all that came before, and gets nothing more. Removing twice is fine."""
        topics: dict[Any, _Topic] = self._topics if view is None else self._views.get(channel, {})
        key: Any = channel if view is None else view
        topic = topics.get(key)
        if topic is None or sink not in topic.sinks.get(sink.codec, ()):
            return
        self._flush_topic(topic)
        sinks = topic.sinks.get(sink.codec, {})
        if sink in sinks:
            sink.topics -= 1
            del sinks[sink]
        topic.snapshot.pop(sink.codec, None)
        if not sinks:
            topic.sinks.pop(sink.codec, None)
        if not topic.sinks:
            if topic.timer is not None:
                topic.timer.cancel()
            topics.pop(key, None)
            if view is not None and not topics:
                self._views.pop(channel, None)

    def send_held_back(self, channel: str, view: View | None) -> None:
        """Show now what a view has not shown yet, and send what one that conflates holds back: whoever is given a
        position in the channel has then been sent all that comes before it."""
        topic = self._views.get(channel, {}).get(view) if view is not None else None
        if topic is None:
            return
        self._catch_up(topic)
        if topic.newest:
            if topic.timer is not None:
                topic.timer.cancel()
            self._send_newest(topic)

    def count(self, channel: str) -> int:
        """Sinks of the channel, those of its views too."""
        topics = [*filter(None, (self._topics.get(channel),)), *self._views.get(channel, {}).values()]
        return sum(len(sinks) for topic in topics for sinks in topic.sinks.values())

    def subscriptions(self) -> int:
        """Sinks of all channels, each counted once per channel or view that it gets. (Who hears of the others' coming
        and going in a channel is among its sinks anyhow.)"""
        return sum(self.count(topic) for topic in self._topics | self._views if is_channel(topic))

    def deliver(self, messages: list[Message]) -> None:
        """Send messages of one channel to its sinks, at the end of this turn of the loop."""
        channel = messages[0].channel
        topic = self._topics.get(channel)
        if topic is not None:
            if topic.interval and not messages[0].offset:
                self._conflate(topic, messages)
            else:
                self._collect(topic, messages)
        if self._views and (views := self._views.get(channel)):
            waiting, topics = bool(self._behind), tuple(views.values())
            for topic in topics:
                topic.unshown += messages
            self._behind.extend((message, iter(topics)) for message in messages)
            if not waiting or len(self._behind) > UNSHOWN:
                self._show_behind()

    def _show_behind(self) -> None:
        """Have views show what they have not shown yet, as long as there is time; the rest in turns to come."""
        until = perf_counter() + SLICE
        while self._behind:
            message, topics = self._behind[0]
            for topic in topics:
                if topic.unshown and topic.unshown[0] is message:
                    del topic.unshown[0]
                    self._try(topic, message)
                if perf_counter() >= until and len(self._behind) <= UNSHOWN:
                    asyncio.get_running_loop().call_soon(self._show_behind)
                    return
            message.facts = None
            self._behind.popleft()

    def _catch_up(self, topic: _Topic) -> None:
        messages, topic.unshown = topic.unshown, []
        for message in messages:
            self._try(topic, message)

    def _try(self, topic: _Topic, message: Message) -> None:
        try:
            self._show(topic, message)
        except Exception:
            # A bug, but one view's alone: the others, and the sequencer, go on.
            logger.exception("%s: a view could not be shown", topic.channel)

    def _show(self, topic: _Topic, message: Message) -> None:
        """Once per view, whoever watches it."""
        view = topic.view
        assert view is not None
        shown = view.show(message)
        if shown is None:
            if topic.hidden is None:
                topic.hidden_since = asyncio.get_running_loop().time()
            topic.hidden = message
            topic.hidden_count += 1
            if topic.hidden_count >= PROGRESS_MESSAGES:
                self._tell_progress(topic)
            return
        topic.hidden, topic.hidden_count = None, 0
        if view.conflate:
            self._conflate(topic, [shown])
        else:
            self._collect(topic, [shown])

    def tick(self, now: float) -> None:
        """Once a second: views that have shown nothing for long say how far they are."""
        for topics in tuple(self._views.values()):
            for topic in tuple(topics.values()):
                if topic.hidden is not None and now - topic.hidden_since >= PROGRESS_SECONDS:
                    self._tell_progress(topic)

    def _tell_progress(self, topic: _Topic) -> None:
        last = topic.hidden
        if last is None or topic.newest:  # behind what is held back
            return
        topic.hidden, topic.hidden_count = None, 0
        self._flush_topic(topic)
        self._tell(topic, ProgressPush(topic.channel, str(last.position)), last.offset, last.offset)

    def notify(self, notices: list[Notice]) -> None:
        """Send pushes of one channel as ephemeral messages are sent, but every one of them."""
        topic = self._topics.get(notices[0].channel)
        if topic is not None:
            self._collect(topic, notices)

    def tell(self, channel: str, push: GapPush | AmendPush, first: int, last: int) -> None:
        """Send a push to the channel's sinks in its place among the messages: it stands for `first`…`last`."""
        views = self._views.get(channel, {})
        for view in tuple(views):
            self.send_held_back(channel, view)
        for topic in (*filter(None, (self._topics.get(channel),)), *views.values()):
            self._flush_topic(topic)
            self._tell(topic, structs.replace(push, channel=topic.channel), first, last)

    def _tell(self, topic: _Topic, push: Push, first: int, last: int) -> None:
        for codec, sinks in list(topic.sinks.items()):
            delivery = Delivery(topic.channel, codec.frame(push), first, last, 0)
            for sink in tuple(sinks):
                self.sends += 1
                self.bytes += len(delivery.data)
                sink.tell(push, delivery)

    def _collect(self, topic: _Topic, messages: Sequence[Message]) -> None:
        if topic.pending and (topic.pending[-1].offset > 0) != (messages[0].offset > 0):
            self._flush_topic(topic)  # a delivery has either offsets or none
        if not topic.pending:
            self._dirty.append(topic)
            if not self._scheduled:
                self._schedule()
        topic.pending += messages

    def wake(self, sink: Sink) -> None:
        """Have `sink.flush` called at the end of this turn, behind everything that is sent in it."""
        self._woken.append(sink)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        self._lone = len(dirty) == 1 and len(dirty[0].pending) <= DELIVERY_MESSAGES
        for topic in dirty:
            try:
                self._flush_topic(topic)
            except Exception:
                # Such as data that cannot be encoded: a bug, but one channel's alone.
                logger.exception("%s: messages could not be sent", topic.channel)
        self._lone = False
        woken, self._woken = self._woken, []
        for sink in woken:
            try:
                sink.flush()
            except Exception:
                logger.exception("%r: cannot be written to", sink)
        self._scheduled = False
        if self._dirty or self._woken:  # brought about by what was sent just now
            self._schedule()

    def _flush_topic(self, topic: _Topic) -> None:
        pending = topic.pending
        if not pending:
            return
        topic.pending = []
        if len(pending) <= DELIVERY_MESSAGES:
            self._send_messages(topic, pending)
            return
        for index in range(0, len(pending), DELIVERY_MESSAGES):
            self._send_messages(topic, pending[index : index + DELIVERY_MESSAGES])

    def _send_messages(self, topic: _Topic, messages: list[Message]) -> None:
        first, count = messages[0], len(messages)
        if count == 1:  # most of them, where there are many channels
            skipping = {first.skip} if first.skip is not None else None
        else:
            skipping = {message.skip for message in messages if message.skip is not None}
        for codec in tuple(topic.sinks):
            data = first.frame(codec) if count == 1 else b"".join([message.frame(codec) for message in messages])
            self.encodes += count
            delivery = Delivery(topic.channel, data, first.offset, messages[-1].offset, count)
            if skipping:
                self._send_skipping(topic, codec, delivery, messages, skipping)
            else:
                self._send(topic, codec, delivery)

    def _send(self, topic: _Topic, codec: Codec, delivery: Delivery) -> None:
        sinks = topic.snapshot.get(codec)
        if sinks is None:
            sinks = topic.snapshot[codec] = tuple(topic.sinks.get(codec, ()))
        count = len(sinks)
        self.sends += count
        self.messages += count * delivery.size
        self.bytes += count * len(delivery.data)
        data, lone = delivery.data, self._lone
        for sink in sinks:
            write = sink.direct_write if lone or sink.topics == 1 else None
            if write is None:
                sink.send(delivery)
                continue
            try:
                write(data)
            except Exception:  # a bug, but this one's alone
                logger.exception("%r: cannot be written to", sink)

    def _send_skipping(
        self, topic: _Topic, codec: Codec, delivery: Delivery, messages: list[Message], skipping: set[str]
    ) -> None:
        for sink in tuple(topic.sinks.get(codec, ())):
            if sink.id not in skipping:
                one = delivery
            else:
                wanted = [message.frame(codec) for message in messages if message.skip != sink.id]
                if not wanted and not delivery.last:
                    continue
                one = structs.replace(delivery, data=b"".join(wanted), size=len(wanted))
            self.sends += 1
            self.messages += one.size
            self.bytes += len(one.data)
            sink.send(one)

    # --- conflation: the first message goes at once, then at most one batch of the newest per tag an interval ---------

    def _conflate(self, topic: _Topic, messages: list[Message]) -> None:
        for message in messages:
            # Out and in again: the newest stands last, so that the order is the order of arrival.
            topic.newest.pop(message.tag, None)
            topic.newest[message.tag] = message
        if topic.timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait = topic.sent_at + topic.interval - loop.time()
        if wait <= 0:
            self._send_newest(topic)
        else:
            topic.timer = loop.call_later(wait, self._send_newest, topic)

    def _send_newest(self, topic: _Topic) -> None:
        topic.timer = None
        topic.sent_at = asyncio.get_running_loop().time()
        newest = list(topic.newest.values())
        topic.newest.clear()
        if newest:
            self._collect(topic, newest)
