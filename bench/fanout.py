"""The load of one publisher, or of everybody, on many subscribers.

*In flight.* A message is in flight from its publish until **every** subscriber of its channel has it; at most `window`
messages are. The publisher is one connection, which refills the window as soon as a message has left it. The same
definition holds for every server. A paced load has no window: it publishes when the next message is due.

*Exact.* A run ends when every subscriber has had every message of its channels, and fails if any gets one more. Some
subscribers' bytes are kept and parsed afterwards: every message once, each channel's in order.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from bench.clients import TEXT, BenchError, Client, Clients
from bench.dialects import Dialect
from bench.load import Measurement, Stopwatch

# One subscriber in so many is timed: the delay of each of its deliveries, the generator's own included.
TIMED = 16
WITNESSES = 100  # one in so many
# A delivery grows with the digits of its offset, never beyond this.
GROWTH = 60
DIGITS = 10


@dataclass(frozen=True)
class Shape:
    """`channels` channels with `subscribers` clients each. The clients come in `groups`, each client of a group
    subscribed to all its channels: as many groups as channels give every client one channel, fewer groups give fewer
    clients more channels each. `everybody_talks`: the members of a channel publish in it, one after another, instead
    of a publisher of its own for all of them."""

    channels: int
    groups: int
    subscribers: int
    everybody_talks: bool = False


class Fanout:
    """The clients of a shape, and one publisher."""

    def __init__(
        self,
        port: int,
        dialect: Dialect,
        server_cpu: Callable[[], float],
        shape: Shape,
        size: int = 128,
    ) -> None:
        self.dialect = dialect
        self.server_cpu = server_cpu
        self.channels, self.groups, self.subscribers = shape.channels, shape.groups, shape.subscribers
        self.everybody_talks = shape.everybody_talks
        self.size = size
        self.clients = Clients(port, dialect)

    def __enter__(self) -> Fanout:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clients.close()

    def connect(self) -> None:
        groups = list(range(self.groups)) * self.subscribers
        clients = self.clients.open(range(group, self.channels, self.groups) for group in groups)
        for place, client in enumerate(clients):
            client.group = groups[place]
            client.timed = place % TIMED == 0
        self._members = [[client for client in clients if client.group == group] for group in range(self.groups)]
        self.publisher = self.clients.open([()])[0]
        self._learn()

    def data(self, number: int) -> str:
        return f"{number:0{DIGITS}d}".ljust(self.size, "x")

    def _learn(self) -> None:
        """Publish one message to each channel, read every delivery properly, and learn how long deliveries are."""
        wanted = self.channels * self.subscribers
        sizes: Counter[int] = Counter()

        def on_text(client: Client, text: str, size: int) -> None:
            data = self.dialect.delivered(text)
            if not data or data != self.data(int(data[:DIGITS])) or int(data[:DIGITS]) % self.groups != client.group:
                raise BenchError(f"not what was published: {text[:300]}")
            sizes[size] += 1

        self.clients.on_text = on_text
        for channel in range(self.channels):
            self.clients.send(self.publisher, self.clients.framed(self.dialect.publish(channel, self.data(channel))))
            while sizes.total() < (channel + 1) * self.subscribers:
                for client in self.clients.ready():
                    self.clients.receive(client)
        self.clients.quiet(0.1)
        if sizes.total() != wanted:
            raise BenchError(f"{sizes.total()} deliveries of {wanted}")
        self.clients.count(range(min(sizes), max(sizes) + GROWTH))
        self.clients.on_text = self.clients.unexpected

    def run(self, messages: int, window: int = 0, rate: float = 0.0) -> Measurement:
        """Publish `messages`, spread evenly over the channels, with `window` in flight or `rate` a second."""
        order = [number % self.channels for number in range(messages)]
        random.Random(1).shuffle(order)
        frames = [
            self.clients.framed(self.dialect.publish(channel, self.data(number)))
            for number, channel in enumerate(order)
        ]
        sent_at = [0.0] * messages
        numbers: list[list[int]] = [[] for _ in range(self.groups)]  # of the messages each group gets
        for number, channel in enumerate(order):
            numbers[channel % self.groups].append(number)
        # How many clients of a group have had how many messages; `everyone` in it has had the lowest.
        members = Counter(client.group for client in self.subscribed())
        standing = [{0: members[group]} for group in range(self.groups)]
        everyone = [0] * self.groups
        witnesses = self._witnesses()
        delays: list[float] = []

        published = complete = 0
        ready, receive, clock = self.clients.ready, self.clients.receive, time.perf_counter
        watch = Stopwatch(self.server_cpu, self.clients)
        started = clock()
        try:
            while complete < messages:
                within = None
                if published < messages:
                    upto = min(messages, int((clock() - started) * rate) + 1 if rate else complete + window)
                    if upto > published:
                        sent_at[published:upto] = [clock()] * (upto - published)
                        for publisher, numbers_of in self._publishers(order, range(published, upto)).items():
                            self.clients.send(publisher, b"".join([frames[number] for number in numbers_of]))
                        published = upto
                    if rate and published < messages:
                        within = max(0.0, started + published / rate - clock())
                for client in ready(within):
                    if not (got := receive(client)):
                        continue
                    had, group = client.count, client.group
                    client.count = has = had + got
                    if client.timed:
                        now = clock()
                        for number in numbers[group][had:has]:
                            delays.append(now - sent_at[number])
                    stands = standing[group]
                    stands[has] = stands.get(has, 0) + 1
                    stands[had] -= 1
                    if not stands[had]:
                        del stands[had]
                        if had == everyone[group]:
                            everyone[group] = lowest = min(stands)
                            complete += lowest - had
        except BenchError as error:
            raise BenchError(f"{error}; {complete} of {messages} messages had reached everyone") from error
        measured = watch.stop(sum(len(numbers[group]) * members[group] for group in members), delays)
        self.clients.quiet(0.1)
        for client in self.subscribed():
            if client.count != len(numbers[client.group]):
                raise BenchError(f"a subscriber had {client.count} of {len(numbers[client.group])} messages")
        for client in witnesses:
            seen = self.testimony(client)
            # No server promises an order between channels, or publishers; a stable sort keeps the one within each.
            one = self._publisher_of if self.everybody_talks else order.__getitem__
            if sorted(seen, key=one) != sorted(numbers[client.group], key=one):
                raise BenchError("a subscriber's messages are not the published ones in order")
        return measured

    def _publisher_of(self, number: int) -> int:
        """The place in its room of who publishes the message."""
        return number % self.subscribers

    def _publishers(self, order: list[int], numbers: range) -> dict[Client, Iterable[int]]:
        """Who publishes which of these messages."""
        if not self.everybody_talks:
            return {self.publisher: numbers}
        shares: dict[Client, list[int]] = {}
        for number in numbers:
            members = self._members[order[number] % self.groups]
            shares.setdefault(members[self._publisher_of(number)], []).append(number)
        return dict(shares)

    def subscribed(self) -> list[Client]:
        """The clients of the shape: neither the publisher nor who else has been let in."""
        return [client for client in self.clients.all if client.group >= 0]

    def _witnesses(self) -> list[Client]:
        """Start the count again, and keep what a few subscribers get."""
        for client in self.subscribed():
            client.count = 0
            client.record = None
        witnesses = self.subscribed()[::WITNESSES]
        for client in witnesses:
            client.record = []
        return witnesses

    def testimony(self, client: Client) -> list[int]:
        """The numbers of the messages `client` got, its bytes read word for word."""
        assert client.record is not None
        stream, seen = b"".join(client.record), []
        client.record = None
        frames = texts(stream, self.dialect.first, self.dialect.charset)
        for text in chain.from_iterable(map(self.dialect.messages, frames)):
            if data := self.dialect.delivered(text):
                seen.append(int(data[:DIGITS]))
                if data != self.data(seen[-1]):
                    raise BenchError(f"not what was published: {data}")
        return seen


def texts(stream: bytes, first: int = TEXT, charset: str = "utf-8") -> Iterator[str]:
    """The payloads of the frames that begin with `first`, in all that a client has read; not of one cut short."""
    at = 0
    while at + 4 <= len(stream):
        length, header = stream[at + 1], 2
        if length == 126:
            length, header = int.from_bytes(stream[at + 2 : at + 4], "big"), 4
        elif length == 127:
            length, header = int.from_bytes(stream[at + 2 : at + 10], "big"), 10
        if stream[at] == first and at + header + length <= len(stream):
            yield stream[at + header : at + header + length].decode(charset)
        at += header + length
