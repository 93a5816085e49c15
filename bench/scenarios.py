"""What is measured, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.dialects import Waterspout
from bench.fanout import Fanout, Shape
from bench.load import Measurement, Publishes, connect_many
from bench.servers import Server

PEERS = ("tornado", "websockets", "picows", "python-socketio", "fastapi", "socketify", "ws", "socket.io")


@dataclass(frozen=True)
class Effort:
    """How long, how often and how many."""

    seconds: float = 2.0
    warm_up: float = 1.0
    repetitions: int = 3
    channels: int = 2000
    connections: int = 9000

    @classmethod
    def quick(cls) -> Effort:
        return cls(seconds=0.5, warm_up=0.2, repetitions=1, channels=200, connections=1000)


@dataclass(frozen=True)
class Column:
    """A figure in the results. `ratio`: 1 if more is better, -1 if less is, 0 if it is not compared."""

    key: str
    title: str
    format: str
    ratio: int = 0


@dataclass
class Scenario:
    """`measure` runs the load against one server and returns the figures named by `columns`. `work` is what it has
    decided to do for each contestant: the first repetition decides, the others do the same."""

    name: str
    title: str
    contestants: tuple[str, ...]
    columns: tuple[Column, ...]
    measure: Callable[[Scenario, Server, Effort], dict[str, float]]
    work: dict[str, int] = field(default_factory=dict)


def _shares(measured: Measurement) -> dict[str, float]:
    return {
        "server_cpu": measured.server_cpu / measured.seconds,
        "generator_cpu": measured.generator_cpu / measured.seconds,
        "other_cpu": measured.other_cpu / measured.seconds,
    }


FANOUT = (
    Column("rate", "deliveries/s", ",.0f", 1),
    Column("per_cpu_second", "per CPU second", ",.0f", 1),
    Column("p50_ms", "p50 ms", ",.1f"),
    Column("p99_ms", "p99 ms", ",.1f"),
    Column("server_cpu", "CPU: server", ".0%"),
    Column("generator_cpu", "load", ".0%"),
    Column("other_cpu", "others", ".0%"),
)


def _fanout(window: int, shape: Callable[[Effort], Shape]) -> Callable[[Scenario, Server, Effort], dict[str, float]]:
    def measure(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
        who = server.contestant
        with Fanout(server.port, who.dialect, server.cpu, shape(effort)) as load:
            load.connect()
            # Warmed up by ever longer runs (compilers and socket buffers need a while) until one is long enough to tell
            # how many messages the measured one needs.
            messages = max(window, 10)
            while (warm := load.run(messages, window)).seconds < effort.warm_up:
                messages = int(messages * min(4.0, 1.5 * effort.warm_up / warm.seconds)) + 1
            work = scenario.work.setdefault(who.name, max(3 * window, int(messages * effort.seconds / warm.seconds)))
            measured = load.run(work, window)
        return {
            "messages": work,
            "rate": measured.rate,
            "per_cpu_second": measured.per_cpu_second,
            "p50_ms": measured.p50 * 1e3,
            "p99_ms": measured.p99 * 1e3,
            **_shares(measured),
        }

    return measure


def _one_channel(effort: Effort) -> Shape:
    return Shape(channels=1, groups=1, subscribers=500)


def _many_channels(effort: Effort) -> Shape:
    """Ten thousand clients with one channel each."""
    return Shape(effort.channels, groups=effort.channels, subscribers=5)


def _shared_clients(effort: Effort) -> Shape:
    """As many subscriptions, twenty to a client."""
    return Shape(effort.channels, groups=effort.channels // 20, subscribers=5)


def _publish(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    dialect = server.contestant.dialect
    assert isinstance(dialect, Waterspout)
    with Publishes(server.port, dialect, server.cpu) as load:
        messages = 500
        while (warm := load.saturate(messages, 500)).seconds < effort.warm_up:
            messages = int(messages * min(4.0, 1.5 * effort.warm_up / warm.seconds)) + 1
        work = scenario.work.setdefault(server.contestant.name, max(500, int(messages * effort.seconds / warm.seconds)))
        database = server.children_cpu()
        saturated = load.saturate(work, 500)
        database = server.children_cpu() - database
        paced = load.pace(int(500 * effort.seconds), 500)
        single = load.saturate(int(300 * effort.seconds), 1)
    return {
        "messages": work,
        "rate": saturated.rate,
        "per_cpu_second": saturated.per_cpu_second,
        "p50_ms": saturated.p50 * 1e3,
        "paced_p50_ms": paced.p50 * 1e3,
        "paced_p99_ms": paced.p99 * 1e3,
        "single_p50_ms": single.p50 * 1e3,
        "database_cpu": database / saturated.seconds,
        **_shares(saturated),
    }


def _idle(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    before = server.resident()
    clients, measured = connect_many(server.port, server.contestant.dialect, server.cpu, effort.connections)
    clients.quiet(1.0)
    after = server.resident()
    clients.close()
    return {
        "connections": effort.connections,
        "rate": measured.rate,
        "per_cpu_second": measured.per_cpu_second,
        "kib": (after - before) / effort.connections / 1024,
        **_shares(measured),
    }


def scenarios() -> list[Scenario]:
    return [
        Scenario(
            "fanout",
            "1 channel × 500 subscribers, 128 bytes, 32 in flight",
            ("waterspout", *PEERS),
            FANOUT,
            _fanout(32, _one_channel),
        ),
        Scenario(
            "durable",
            "1 channel × 500 subscribers, 128 bytes, 32 in flight, every message stored in MongoDB first",
            ("waterspout-durable", "waterspout", "tornado"),
            FANOUT,
            _fanout(32, _one_channel),
        ),
        Scenario(
            "single",
            "1 channel × 500 subscribers, 128 bytes, 1 in flight",
            ("waterspout", *PEERS),
            FANOUT,
            _fanout(1, _one_channel),
        ),
        Scenario(
            "channels",
            "{channels:,} channels × 5 subscribers, 128 bytes, 32 in flight",
            ("waterspout", *PEERS),
            FANOUT,
            _fanout(32, _many_channels),
        ),
        Scenario(
            "shared",
            "{channels:,} channels × 5 subscribers, 20 channels to a client, 128 bytes, 512 in flight",
            ("waterspout", *PEERS),
            FANOUT,
            _fanout(512, _shared_clients),
        ),
        Scenario(
            "publish",
            "durable publishes over one WebSocket, 500 in flight; then 500 a second; then 1 in flight",
            ("waterspout-durable", "motor"),
            (
                Column("rate", "acknowledged/s", ",.0f", 1),
                Column("per_cpu_second", "per CPU second", ",.0f", 1),
                Column("p50_ms", "p50 ms", ",.1f"),
                Column("paced_p50_ms", "p50 at 500/s", ",.2f", -1),
                Column("paced_p99_ms", "p99 at 500/s", ",.2f"),
                Column("single_p50_ms", "p50, 1 in flight", ",.2f", -1),
                Column("server_cpu", "CPU: server", ".0%"),
                Column("database_cpu", "mongod", ".0%"),
                Column("generator_cpu", "load", ".0%"),
                Column("other_cpu", "others", ".0%"),
            ),
            _publish,
        ),
        Scenario(
            "idle",
            "{connections:,} clients connected, subscribed and silent",
            ("waterspout", "tornado"),
            (
                Column("kib", "KiB a connection", ",.1f", -1),
                Column("rate", "connections/s", ",.0f", 1),
                Column("per_cpu_second", "per CPU second", ",.0f", 1),
                Column("server_cpu", "CPU: server", ".0%"),
                Column("generator_cpu", "load", ".0%"),
                Column("other_cpu", "others", ".0%"),
            ),
            _idle,
        ),
    ]
