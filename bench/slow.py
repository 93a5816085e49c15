"""Does one slow reader delay the others? A steady load, round about without and with it.

The slow reader is one more subscriber of the channel. Before its round it is sent more than all buffers on its way
hold, and it reads a few kilobytes a second: from the first measured message on the server has to keep, displace or
leave to the log what it cannot take. (The servers measured here have small queues, so that this begins at once.)
After the round it reads on, and has to get every message of a durable channel, and of an ephemeral one every message
that it is not told the loss of.
"""

from __future__ import annotations

import json
import threading
import time
from statistics import median

from bench.clients import BenchError, Client, frame
from bench.dialects import Waterspout
from bench.fanout import DIGITS, Fanout, Shape, texts
from bench.servers import Server

OTHERS = 499
CHANNEL, FILLER = 0, 1
# The kernel takes up to 4 MiB for one connection.
FILLERS, FILLER_BYTES = 140, 60_000
SIP, SIPS_A_SECOND = 1024, 4


class Sipping:
    """`with Sipping(client) as sipped`: a thread reads the client's socket slowly."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.bytes = b""

    def _run(self) -> None:
        while not self._stop.wait(1 / SIPS_A_SECOND):
            self.bytes += self._client.sock.recv(SIP)

    def __enter__(self) -> Sipping:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


class SlowReader:
    """One more subscriber of `load`'s channel, that can be slow."""

    def __init__(self, load: Fanout, dialect: Waterspout) -> None:
        self.load = load
        self.dialect = dialect
        self.clients = load.clients
        self.client = load.clients.open([(CHANNEL, FILLER)])[0]
        self._answers = 0
        self._dropped = 0
        self.clients.on_text = self._on_text

    def _on_text(self, client: Client, text: str, size: int) -> None:
        if client is self.load.publisher:
            self._answers += 1
        elif client is not self.client:
            raise BenchError(f"unexpected: {text[:300]}")
        else:
            push = json.loads(text)
            if push["type"] == "dropped" and push["channel"] == self.dialect.channel(CHANNEL):
                self._dropped += push["count"]

    def reads_on(self) -> None:
        """From here on it is a subscriber as any other."""
        self.client.group = 0

    def fill(self) -> None:
        """Let it read nothing, and send it more than its queue holds."""
        self.client.group = -1
        self.clients.mute(self.client)
        self._answers = 0
        for number in range(FILLERS):
            text = self.dialect.acknowledged_publish(number, FILLER, "x" * FILLER_BYTES)
            self.clients.send(self.load.publisher, frame(text.encode()))
            while self._answers <= number - 8:
                self._receive()
        while self._answers < FILLERS:
            self._receive()

    def _receive(self) -> int:
        return sum([self.clients.receive(client) for client in self.clients.ready()])

    def catch_up(self, sipped: bytes, messages: int) -> float:
        """Read all that has waited; the seconds until it has everything. It must be everything."""
        if self.dialect.channel(CHANNEL).encode() in sipped:
            raise BenchError("the slow reader was not behind")
        client, self._dropped = self.client, 0
        client.rest, client.record = sipped, [sipped]
        self.clients.unmute(client)
        started, got = time.perf_counter(), 0
        while got + self._dropped < messages:
            got += self._receive()
        took = time.perf_counter() - started
        self.clients.quiet(0.1)
        seen = [
            int(data[:DIGITS])
            for text in texts(b"".join(client.record))
            if (data := self.dialect.delivered(text)) and len(data) == self.load.size
        ]
        client.record = None
        if len(set(seen)) + self._dropped != messages or seen != sorted(set(seen)):
            raise BenchError(f"the slow reader got {len(seen)} of {messages} messages, {self._dropped} called dropped")
        return took


def measure(server: Server, dialect: Waterspout, rate: float, seconds: float, rounds: int) -> dict[str, float]:
    """The p99 of the delays of the other subscribers without and with a slow reader, and the median of the ratios;
    `spread`: how far apart the stretches without are, whose p99 should be one and the same."""
    messages = int(rate * seconds)
    pairs: list[dict[bool, float]] = []
    caught_up: list[float] = []
    cpu: dict[bool, list[float]] = {False: [], True: []}
    with Fanout(server.port, dialect, server.cpu, Shape(1, 1, OTHERS)) as load:
        load.connect()
        reader = SlowReader(load, dialect)
        reader.reads_on()
        load.run(messages, rate=rate)
        for number in range(rounds):
            pair: dict[bool, float] = {}
            # The other way round every other time: a machine that gets slower favours neither.
            for slow in (False, True) if number % 2 else (True, False):
                if not slow:
                    reader.reads_on()
                    measured = load.run(messages, rate=rate)
                else:
                    reader.fill()
                    with Sipping(reader.client) as sipping:
                        measured = load.run(messages, rate=rate)
                    caught_up.append(reader.catch_up(sipping.bytes, messages))
                pair[slow] = measured.p99
                cpu[slow].append(measured.server_cpu / measured.seconds)
            pairs.append(pair)
    alone = [pair[False] for pair in pairs]
    ratios = {f"ratio_{number}": pair[True] / pair[False] for number, pair in enumerate(pairs, 1)}
    return {
        "messages": messages,
        "without_ms": median(alone) * 1e3,
        "with_ms": median(pair[True] for pair in pairs) * 1e3,
        "slowdown": median(ratios.values()),
        "spread": max(alone) / min(alone),
        "caught_up_s": median(caught_up),
        "server_cpu_without": median(cpu[False]),
        "server_cpu_with": median(cpu[True]),
        **ratios,
    }
