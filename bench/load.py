"""Measured loads: acknowledged publishes and idle connections here, fan-out in its own file.

*Not the bottleneck.* Every result has the CPU use of the server and of the generator (without its waiting) over the
same stretch of time. A server that filled its core was not waiting for the generator; one that did not was waiting for
it, or for a core that others used too, and its count per CPU second is the figure to read.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Acknowledging, Dialect, Waterspout

FILLING = 500
"""Publishes under way while a log is filled."""


@dataclass(frozen=True)
class Measurement:
    """One measured stretch. `count` is deliveries, acknowledgements or connections; CPU is in seconds of one core.
    `other_cpu` is what everything else on the machine used meanwhile: the database, and whatever spoils the figures."""

    count: int
    seconds: float
    server_cpu: float
    generator_cpu: float
    other_cpu: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.count / max(self.server_cpu, 1e-9)


def machine_cpu() -> float:
    """CPU seconds all cores have spent on anything, and that the hypervisor kept from them (proc(5): /proc/stat)."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waiting, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Wall time and CPU time, of the server and of this process, from its making to `stop()`."""

    def __init__(self, server_cpu: Callable[[], float], clients: Clients) -> None:
        self._server_cpu = server_cpu
        self._clients = clients
        gc.collect()
        gc.disable()  # a collection would be a pause in which nothing is read
        self._machine = machine_cpu()
        self._server = server_cpu()
        self._all_own = time.process_time()
        self._own = self._all_own - clients.waited
        self._started = time.perf_counter()

    def stop(self, count: int, delays: list[float]) -> Measurement:
        seconds = time.perf_counter() - self._started
        own = time.process_time() - self._clients.waited - self._own
        server = self._server_cpu() - self._server
        others = max(0.0, machine_cpu() - self._machine - server - (time.process_time() - self._all_own))
        gc.enable()
        delays.sort()
        p50, p99 = (delays[int(len(delays) * share)] if delays else 0.0 for share in (0.5, 0.99))
        return Measurement(count, seconds, server, own, others, p50, p99)


class Publishes:
    """One client that publishes and waits for acknowledgements. Nobody is subscribed."""

    def __init__(self, port: int, dialect: Acknowledging, server_cpu: Callable[[], float], size: int = 128) -> None:
        self.dialect = dialect
        self.server_cpu = server_cpu
        self.size = size
        self.clients = Clients(port, dialect)
        self.clients.spins = 0  # the database has this core too
        self.publisher = self.clients.open([()])[0]
        self.clients.on_text = self._on_reply
        self._number = 0
        self._sent_at: dict[int, float] = {}
        self._delays: list[float] = []
        self._offsets: set[int] = set()

    def __enter__(self) -> Publishes:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clients.close()

    def _on_reply(self, client: Client, text: str, size: int) -> None:
        if (acknowledged := self.dialect.acknowledgement(text)) is None:
            raise BenchError(f"not an acknowledgement: {text[:300]}")
        number, offset = acknowledged
        self._delays.append(time.perf_counter() - self._sent_at.pop(number))
        if offset is not None:
            self._offsets.add(offset)

    def _publish(self, count: int) -> None:
        frames = []
        now = time.perf_counter()
        for number in range(self._number, self._number + count):
            frames.append(frame(self.dialect.acknowledged_publish(number, 0, "x" * self.size).encode()))
            self._sent_at[number] = now
        self._number += count
        self.clients.send(self.publisher, b"".join(frames))

    def _receive(self, within: float | None = None) -> None:
        for client in self.clients.ready(within):
            self.clients.receive(client)

    def saturate(self, messages: int, in_flight: int) -> Measurement:
        """As fast as they are acknowledged, with `in_flight` always waiting for it."""
        self._delays, left = [], messages
        watch = Stopwatch(self.server_cpu, self.clients)
        while left or self._sent_at:
            if room := min(in_flight - len(self._sent_at), left):
                self._publish(room)
                left -= room
            self._receive()
        return self._checked(watch.stop(messages, self._delays))

    def pace(self, messages: int, rate: float) -> Measurement:
        """`rate` a second, whatever the acknowledgements do: the delay a busy but not overloaded server gives."""
        self._delays, sent = [], 0
        watch = Stopwatch(self.server_cpu, self.clients)
        started = time.perf_counter()
        while sent < messages or self._sent_at:
            due = started + sent / rate - time.perf_counter()
            if sent < messages and due <= 0:
                self._publish(1)
                sent += 1
            elif sent < messages:
                self._receive(due)
            else:
                self._receive()
        return self._checked(watch.stop(messages, self._delays))

    def _checked(self, measured: Measurement) -> Measurement:
        if self._offsets and self._offsets != set(range(min(self._offsets), min(self._offsets) + self._number)):
            raise BenchError("acknowledged offsets have holes or come twice")
        return measured


def fill(port: int, dialect: Waterspout, channels: int, messages: int, behind: int, data: str) -> list[str]:
    """Store so many messages in each channel; for each the cursor `behind` messages before its head."""
    cursors = [""] * channels
    clients = Clients(port, dialect)
    clients.spins = 0  # the database has this core too
    waiting = 0

    def on_text(client: Client, text: str, size: int) -> None:
        nonlocal waiting
        reply = json.loads(text)
        if reply["type"] != "reply":
            raise BenchError(f"not an acknowledgement: {text[:300]}")
        waiting -= 1
        if reply["offset"] == messages - behind:
            cursors[reply["id"] % channels] = reply["cursor"]

    try:
        writer = clients.open([()])[0]
        clients.on_text = on_text
        number, total = 0, channels * messages
        while number < total or waiting:
            if room := min(FILLING - waiting, total - number):
                texts = (
                    dialect.acknowledged_publish(one, one % channels, data) for one in range(number, number + room)
                )
                clients.send(writer, b"".join(frame(text.encode()) for text in texts))
                number += room
                waiting += room
            for client in clients.ready():
                clients.receive(client)
    finally:
        clients.close()
    return cursors


def connect_many(
    port: int, dialect: Dialect, server_cpu: Callable[[], float], count: int
) -> tuple[Clients, Measurement]:
    """`count` clients, each subscribed to one channel, 100 to a channel; the caller closes them."""
    clients = Clients(port, dialect)
    watch = Stopwatch(server_cpu, clients)
    clients.open((number // 100,) for number in range(count))
    return clients, watch.stop(count, [])
