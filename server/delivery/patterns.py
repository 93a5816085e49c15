"""Fan-out by pattern: who on this node gets whatever is published in the channels of a namespace that match.

It stands beside the hub, and ordinary deliveries do not know of it: the broker brings all of a namespace here as long
as somebody wants it, once more than to whoever is subscribed to a channel of it. Nothing is put in order or made up
for. Who may read which channel is asked once for each reader and channel, until something is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from server.access.permissions import Permissions
from server.brokers.base import Broker
from server.core.errors import Error
from server.core.names import fits, namespace_of
from server.core.principals import GUEST, Principal
from server.core.tasks import Keeper
from server.delivery.hub import Delivery, Hub, Sink
from server.delivery.streams import Stream
from server.documents.views import View
from server.wire.codec import Codec
from server.wire.messages import Message, Notice
from server.wire.pushes import EphemeralPush, MatchPush, MessagePush

KNOWN: Final = 10_000
"""Channels of which a reader's rights, or a pattern's match, are remembered; beyond that it is forgotten and asked
again."""

Who = Callable[[], Principal]


class Reader:
    """What one principal may read, as far as it was asked."""

    __slots__ = ("_who", "_permissions", "_may")

    def __init__(self, who: Who, permissions: Permissions) -> None:
        self._who = who
        self._permissions = permissions
        self._may: dict[str, bool] = {}

    def may(self, channel: str) -> bool:
        known = self._may.get(channel)
        return self._ask(channel) if known is None else known

    def forget(self) -> None:
        self._may.clear()

    def _ask(self, channel: str) -> bool:
        if len(self._may) >= KNOWN:
            self._may.clear()
        try:
            self._permissions.check(self._who(), "subscribe", channel)
        except Error as error:
            # Nobody knows at the moment; or that is taken back, which a ban is until it ends by itself.
            if error.retry or self._permissions.is_taken(self._who(), channel):
                return False
            self._may[channel] = False
            return False
        self._may[channel] = True
        return True


class _Pattern:
    """One pattern, and who listens to it here."""

    __slots__ = ("stream", "sinks", "_rest", "_matches")

    def __init__(self, pattern: str, keeper: Keeper) -> None:
        self.stream = Stream(pattern, 0.0, None, keeper)
        self.sinks: dict[Sink, Reader] = {}
        self._rest = pattern.partition(":")[2]
        self._matches: dict[str, bool] = {}

    def matches(self, channel: str) -> bool:
        known = self._matches.get(channel)
        if known is None:
            if len(self._matches) >= KNOWN:
                self._matches.clear()
            known = self._matches[channel] = fits(self._rest, channel.partition(":")[2])
        return known


class Patterns:
    """A hub for subscriptions by pattern: `add` and `remove` are called by them."""

    def __init__(self, broker: Broker, hub: Hub, keeper: Keeper, permissions: Permissions) -> None:
        self._broker = broker
        self._hub = hub
        self._keeper = keeper
        self._permissions = permissions
        self._namespaces: dict[str, dict[str, _Pattern]] = {}
        self._readers: dict[tuple[str, Sink], Reader] = {}
        self._guests = Reader(lambda: GUEST, permissions)
        """One for all guests, who may all do the same."""
        self.dropped = self.fallen_behind = self.messages = self.bytes = 0
        """What subscriptions count at a hub; `dropped`: messages that were held back from who may have lost a right."""
        broker.on_all = self.receive

    @property
    def count(self) -> int:
        """Subscriptions by pattern on this node."""
        return len(self._readers)

    # --- opening and closing ------------------------------------------------------------------------------------------

    async def acquire(self, pattern: str, sink: Sink, who: Who) -> Stream:
        """The pattern's stream, once all of its namespace arrives here; `unavailable` if it does not. `who`: the sink's
        principal at any time. It stays open until `release`."""
        namespace = namespace_of(pattern)
        patterns = self._namespaces.setdefault(namespace, {})
        one = patterns.get(pattern)
        if one is None:
            one = patterns[pattern] = _Pattern(pattern, self._keeper)
        one.stream.holders += 1
        self._readers[pattern, sink] = self._guests if who() is GUEST else Reader(who, self._permissions)
        try:
            await self._broker.follow(namespace)
        except BaseException:
            self.release(sink, one.stream)
            raise
        return one.stream

    def release(self, sink: Sink, stream: Stream) -> None:
        pattern, namespace = stream.channel, namespace_of(stream.channel)
        self._readers.pop((pattern, sink), None)
        stream.holders -= 1
        patterns = self._namespaces.get(namespace, {})
        if not stream.holders and pattern in patterns and patterns[pattern].stream is stream:
            del patterns[pattern]
            if not patterns:
                del self._namespaces[namespace]
                self._keeper.spawn(f"unfollow {namespace}", self._unfollow(namespace))

    async def _unfollow(self, namespace: str) -> None:
        if namespace not in self._namespaces:  # nobody has come meanwhile
            await self._broker.unfollow(namespace)

    # --- what a subscription asks of a hub ----------------------------------------------------------------------------

    def add(self, channel: str, sink: Sink, conflate: float = 0.0, view: View | None = None) -> None:
        self._namespaces[namespace_of(channel)][channel].sinks[sink] = self._readers[channel, sink]

    def remove(self, channel: str, sink: Sink, view: View | None = None) -> None:
        """Twice is fine."""
        one = self._namespaces.get(namespace_of(channel), {}).get(channel)
        if one is not None:
            one.sinks.pop(sink, None)

    def send_held_back(self, channel: str, view: View | None) -> None:
        """Nothing is."""

    # --- rights -------------------------------------------------------------------------------------------------------

    def forget(self, sink: Sink) -> None:
        """Its principal has changed."""
        for (_, one), reader in self._readers.items():
            if one is sink:
                reader.forget()

    def forget_all(self) -> None:
        """Something was taken back from somebody."""
        for reader in self._readers.values():
            reader.forget()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def receive(self, messages: list[Message]) -> None:
        """Messages of one channel, as the broker carried them."""
        channel = messages[0].channel
        for one in tuple(self._namespaces.get(channel.partition(":")[0], {}).values()):
            if one.matches(channel):
                self._deliver(one, channel, messages)

    def _deliver(self, one: _Pattern, channel: str, messages: list[Message]) -> None:
        pattern = one.stream.channel
        notices = [notice for message in messages if (notice := _matched(pattern, message)) is not None]
        if not notices:
            return
        one.stream.ephemeral += len(notices)
        skipped = {notice.skip for notice in notices} - {None}
        frames: dict[Codec, bytes] = {}
        hub = self._hub
        for sink, reader in tuple(one.sinks.items()):
            if not reader.may(channel):
                continue
            codec, size = sink.codec, len(notices)
            data = frames.get(codec)
            if data is None:
                data = frames[codec] = b"".join([notice.frame(codec) for notice in notices])
                hub.encodes += size
            if sink.id in skipped:
                others = [notice.frame(codec) for notice in notices if notice.skip != sink.id]
                data, size = b"".join(others), len(others)
            if size:
                hub.sends += 1
                hub.messages += size
                hub.bytes += len(data)
                sink.send(Delivery(pattern, data, 0, 0, size))


def _matched(pattern: str, message: Message) -> Notice | None:
    """What is sent of a message to whoever has the pattern; None: nothing, as it is about another message."""
    push: Any = message.push()
    if message.hidden or not isinstance(push, MessagePush | EphemeralPush):
        return None
    tag = UNSET if message.tag is None or message.offset else message.tag
    matched = MatchPush(message.channel, pattern, message.user, message.time, push.data, tag)
    return Notice(pattern, matched, message.skip)


def releasing(patterns: Patterns, sink: Sink) -> Callable[[Stream], None]:
    """What gives a stream back that was acquired for `sink`."""
    return partial(patterns.release, sink)
