"""What is measured, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench import comeback, fleet, herd, slow
from bench.centrifuge import CentrifugeJson
from bench.dialects import Acknowledging, Waterspout
from bench.fanout import Fanout, Shape
from bench.load import Measurement, Publishes, connect_many
from bench.servers import Server

# The ones with a channel to a client take long to connect; the slower half of the peers is left out there.
FEW = ("tornado", "socketify", "ws")
BROADCASTERS = ("tornado", "websockets", "picows", "python-socketio", "fastapi", "socketify", "ws", "socket.io")
PEERS = (*BROADCASTERS, "centrifugo", "centrifugo-protobuf")


@dataclass(frozen=True)
class Effort:
    """How long, how often and how many."""

    seconds: float = 1.0
    warm_up: float = 0.5
    repetitions: int = 3
    channels: int = 2000
    connections: int = 9000
    herd: int = 2000
    fleet: int = 1000
    comeback: int = 1000

    @classmethod
    def quick(cls) -> Effort:
        return cls(
            seconds=0.5, warm_up=0.2, repetitions=1, channels=200, connections=1000, herd=300, fleet=50, comeback=100
        )


@dataclass(frozen=True)
class Column:
    """A figure in the results. `ratio`: 1 if more is better, -1 if less is, 0 if it is not compared."""

    key: str
    title: str
    format: str
    ratio: int = 0


@dataclass(frozen=True)
class Target:
    """What the figure `key` of ours has to be: `least` or `most`. With `than` it is the ratio to that contestant's."""

    key: str
    least: float | None = None
    most: float | None = None
    than: str | None = None


@dataclass
class Scenario:
    """`measure` runs the load against one server and returns the figures named by `columns`. The first contestant is
    ours. `headlines` are the figures that go into the table of everything. `work` is what a load has decided to do for
    each contestant: the first repetition decides, the others do the same. `once`: `measure` repeats by itself."""

    name: str
    title: str
    contestants: tuple[str, ...]
    columns: tuple[Column, ...]
    measure: Callable[[Scenario, Server, Effort], dict[str, float]]
    headlines: tuple[str, ...] = ("per_cpu_second",)
    targets: tuple[Target, ...] = ()
    once: bool = False
    work: dict[str, int] = field(default_factory=dict)


DURABLE = Waterspout("benchd")


def _shares(measured: Measurement) -> dict[str, float]:
    return {
        "server_cpu": measured.server_cpu / measured.seconds,
        "generator_cpu": measured.generator_cpu / measured.seconds,
        "other_cpu": measured.other_cpu / measured.seconds,
    }


SHARES = (
    Column("server_cpu", "CPU: server", ".0%"),
    Column("generator_cpu", "load", ".0%"),
    Column("other_cpu", "others", ".0%"),
)
FANOUT = (
    Column("rate", "deliveries/s", ",.0f", 1),
    Column("per_cpu_second", "deliveries/CPU s", ",.0f", 1),
    Column("p50_ms", "p50 ms", ",.1f"),
    Column("p99_ms", "p99 ms", ",.1f"),
    *SHARES,
)


def _fanout(window: int, shape: Callable[[Effort], Shape]) -> Callable[[Scenario, Server, Effort], dict[str, float]]:
    def measure(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
        who = server.contestant
        key = f"{who.name}, {window} in flight"
        with Fanout(server.port, who.dialect, server.cpu, shape(effort)) as load:
            load.connect()
            # Warmed up by ever longer runs (compilers and socket buffers need a while) until one is long enough to tell
            # how many messages the measured one needs.
            messages = scenario.work.get(key, 2 * window + 10) // 2
            while (warm := load.run(messages, window)).seconds < effort.warm_up and key not in scenario.work:
                messages = int(messages * min(4.0, 1.5 * effort.warm_up / warm.seconds)) + 1
            work = scenario.work.setdefault(key, max(3 * window, int(messages * effort.seconds / warm.seconds)))
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


def _rooms(effort: Effort) -> Shape:
    """Three hundred people in rooms of ten, and everybody talks."""
    return Shape(channels=30, groups=30, subscribers=10, everybody_talks=True)


def _publish(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    dialect = server.contestant.dialect
    assert isinstance(dialect, Waterspout)
    return _publishes(dialect, scenario, server, effort)


def _publishes(dialect: Acknowledging, scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    with Publishes(server.port, dialect, server.cpu) as load:
        key = f"{server.contestant.name}, publishes"
        messages = scenario.work.get(key, 1000) // 2
        while (warm := load.saturate(messages, 500)).seconds < effort.warm_up and key not in scenario.work:
            messages = int(messages * min(4.0, 1.5 * effort.warm_up / warm.seconds)) + 1
        work = scenario.work.setdefault(key, max(500, int(messages * effort.seconds / warm.seconds)))
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


def _loops(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    """Three loads on one event loop."""
    saturated = _fanout(32, _one_channel)(scenario, server, effort)
    single = _fanout(1, _one_channel)(scenario, server, effort)
    publishes = _publishes(DURABLE, scenario, server, effort)
    return {
        "fanout": saturated["per_cpu_second"],
        "single": single["per_cpu_second"],
        "publish": publishes["per_cpu_second"],
        "single_p50_ms": single["p50_ms"],
        "paced_p50_ms": publishes["paced_p50_ms"],
        "generator_cpu": saturated["generator_cpu"],
        "other_cpu": saturated["other_cpu"],
    }


def _slow(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    dialect = server.contestant.dialect
    assert isinstance(dialect, Waterspout)
    # Longer than ten seconds, and a reader this slow would be closed as stalled.
    return slow.measure(server, dialect, 100, min(3 * effort.seconds, 6.0), 2 * effort.repetitions)


def _herd(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    return herd.measure(server, DURABLE, effort.herd, 200)


def _fleet(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    return fleet.measure(server, DURABLE, effort.fleet, 20)


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


def _centrifugo(scenario: Scenario, server: Server, effort: Effort) -> dict[str, float]:
    dialect = server.contestant.dialect
    assert isinstance(dialect, CentrifugeJson)
    idle = _idle(scenario, server, effort)
    server.kill()  # what so many connections have left is not for the next load
    server.restart()
    publishes = _publishes(dialect, scenario, server, effort)
    returns = comeback.measure(server, dialect, effort.comeback, 200)
    return {"kib": idle["kib"], "connections_rate": idle["rate"], **publishes, **returns}


def scenarios() -> list[Scenario]:
    return [
        Scenario(
            "fanout",
            "1 channel × 500 subscribers, 128 bytes, 32 in flight",
            ("waterspout", *BROADCASTERS),
            FANOUT,
            _fanout(32, _one_channel),
            targets=(
                Target("per_cpu_second", least=40, than="tornado"),
                Target("per_cpu_second", least=10, than="socket.io"),
                Target("per_cpu_second", least=0.6, than="socketify"),
            ),
        ),
        Scenario(
            "durable",
            "1 channel × 500 subscribers, 128 bytes, 32 in flight, every message stored in MongoDB first",
            ("waterspout-durable", "waterspout", "tornado"),
            FANOUT,
            _fanout(32, _one_channel),
            targets=(Target("per_cpu_second", least=0.5, than="waterspout"),),
        ),
        Scenario(
            "single",
            "1 channel × 500 subscribers, 128 bytes, 1 in flight",
            ("waterspout", *BROADCASTERS),
            FANOUT,
            _fanout(1, _one_channel),
            targets=(
                Target("per_cpu_second", least=3.5, than="tornado"),
                Target("per_cpu_second", least=1.3, than="ws"),
            ),
        ),
        Scenario(
            "centrifuge",
            "clients of Centrifugo's protocol: 1 channel × 500 subscribers, 128 bytes, 32 in flight",
            (
                "waterspout",
                "waterspout-centrifuge",
                "waterspout-protobuf",
                "waterspout-centrifuge-durable",
                "centrifugo",
                "centrifugo-protobuf",
            ),
            FANOUT,
            _fanout(32, _one_channel),
            targets=(
                Target("per_cpu_second", most=1.25, than="waterspout-centrifuge"),
                Target("per_cpu_second", most=1.25, than="waterspout-protobuf"),
            ),
        ),
        Scenario(
            "centrifugo",
            "clients of Centrifugo's protocol: publishes acknowledged over one connection, {connections:,} silent "
            "clients, and {comeback:,} that come back at once, 200 messages behind: after a cut, and after kill -9",
            ("waterspout-centrifuge-durable", "centrifugo"),
            (
                Column("rate", "acknowledged/s", ",.0f", 1),
                Column("per_cpu_second", "per CPU second", ",.0f", 1),
                Column("paced_p50_ms", "p50 ms at 500/s", ",.2f", -1),
                Column("single_p50_ms", "p50 ms, 1 in flight", ",.2f"),
                Column("kib", "KiB a connection", ",.1f", -1),
                Column("connections_rate", "connections/s", ",.0f", 1),
                Column("cut_p50_s", "cut: p50 s", ".2f"),
                Column("cut_max_s", "cut: all back, s", ".2f", -1),
                Column("cut_server_cpu_s", "server CPU s", ".2f"),
                Column("killed_max_s", "killed: all back, s", ".2f"),
                Column("killed_recovered", "recovered", ".0%"),
                Column("killed_lost", "killed: lost", ",.0f"),
                *SHARES,
            ),
            _centrifugo,
            headlines=("rate", "per_cpu_second", "kib", "cut_max_s", "killed_lost"),
        ),
        Scenario(
            "channels",
            "{channels:,} channels × 5 subscribers, 128 bytes, 32 in flight",
            ("waterspout", *FEW),
            FANOUT,
            _fanout(32, _many_channels),
            targets=(Target("per_cpu_second", least=5, than="tornado"),),
        ),
        Scenario(
            "shared",
            "{channels:,} channels × 5 subscribers, 20 channels to a client, 128 bytes, 512 in flight",
            ("waterspout", *FEW),
            FANOUT,
            _fanout(512, _shared_clients),
            targets=(Target("per_cpu_second", least=5, than="tornado"),),
        ),
        Scenario(
            "rooms",
            "300 clients in rooms of 10, everybody talks, 128 bytes, 64 in flight",
            ("waterspout", "waterspout-durable", "tornado", "fastapi", "ws", "socket.io"),
            FANOUT,
            _fanout(64, _rooms),
        ),
        Scenario(
            "publish",
            "durable publishes over one WebSocket, 500 in flight; then 500 a second; then 1 in flight",
            ("waterspout-durable", "motor"),
            (
                Column("rate", "acknowledged/s", ",.0f", 1),
                Column("per_cpu_second", "per CPU second", ",.0f", 1),
                Column("p50_ms", "p50 ms", ",.1f"),
                Column("paced_p50_ms", "p50 ms at 500/s", ",.2f", -1),
                Column("paced_p99_ms", "p99 at 500/s", ",.2f"),
                Column("single_p50_ms", "p50 ms, 1 in flight", ",.2f", -1),
                Column("database_cpu", "mongod", ".0%"),
                *SHARES,
            ),
            _publish,
            headlines=("rate", "paced_p50_ms"),
            targets=(Target("rate", least=10_000), Target("paced_p50_ms", most=5)),
        ),
        Scenario(
            "idle",
            "{connections:,} clients connected, subscribed and silent",
            ("waterspout", "tornado"),
            (
                Column("kib", "KiB a connection", ",.1f", -1),
                Column("rate", "connections/s", ",.0f", 1),
                Column("per_cpu_second", "per CPU second", ",.0f", 1),
                *SHARES,
            ),
            _idle,
            headlines=("kib", "rate"),
            targets=(Target("kib", most=12), Target("rate", least=1.3, than="tornado")),
        ),
        Scenario(
            "slow",
            "1 channel, 100 messages a second to 499 subscribers, without and with a slow reader; rounds alternate",
            ("waterspout-queue", "waterspout-durable-queue"),
            (
                Column("without_ms", "p99 ms without", ",.2f"),
                Column("with_ms", "p99 ms with", ",.2f"),
                Column("slowdown", "with / without", ".3f"),
                Column("spread", "without: most / least", ".2f"),
                Column("caught_up_s", "s to catch up", ".2f"),
                Column("server_cpu_without", "CPU: server without", ".1%"),
                Column("server_cpu_with", "with", ".1%"),
            ),
            _slow,
            headlines=("without_ms", "with_ms", "slowdown"),
            targets=(Target("slowdown", most=1.10),),
            once=True,
        ),
        Scenario(
            "loops",
            "uvloop and asyncio's own loop: the loads of fanout, single and publish",
            ("waterspout", "waterspout-asyncio"),
            (
                Column("fanout", "deliveries/CPU s, 32 in flight", ",.0f", 1),
                Column("single", "deliveries/CPU s, 1 in flight", ",.0f", 1),
                Column("publish", "publishes/CPU s", ",.0f", 1),
                Column("single_p50_ms", "p50 ms, 1 in flight", ",.2f", -1),
                Column("paced_p50_ms", "publish p50 ms at 500/s", ",.2f", -1),
                Column("generator_cpu", "load", ".0%"),
                Column("other_cpu", "others", ".0%"),
            ),
            _loops,
            headlines=("fanout", "single", "publish"),
        ),
        Scenario(
            "herd",
            "{herd:,} clients come back at once after kill -9, having missed 200 messages and more",
            ("waterspout-durable",),
            (
                Column("p50_s", "back: p50 s", ".2f"),
                Column("p99_s", "p99 s", ".2f"),
                Column("max_s", "max s", ".2f"),
                Column("positions", "cursors", ",.0f"),
                Column("reads", "queries of the log", ",.0f"),
                Column("server_cpu_s", "server CPU s", ".2f"),
                Column("database_cpu_s", "mongod CPU s", ".2f"),
                Column("lost", "lost", ",.0f"),
                Column("doubled", "doubled", ",.0f"),
                Column("delay_p50_s", "sent away for: p50 s", ".1f"),
                Column("delay_max_s", "max s", ".1f"),
                Column("busiest_second", "in the busiest second", ".0%"),
                *SHARES,
            ),
            _herd,
            headlines=("p99_s", "max_s", "reads", "server_cpu_s", "lost", "doubled", "busiest_second"),
            targets=(Target("lost", most=0), Target("doubled", most=0)),
        ),
        Scenario(
            "fleet",
            "{fleet:,} clients × 20 private channels come back at once after kill -9, 5 messages behind in each",
            ("waterspout-durable",),
            (
                Column("per_cpu_second", "resumes/CPU s", ",.0f", 1),
                Column("p50_s", "whole: p50 s", ".2f"),
                Column("max_s", "max s", ".2f"),
                Column("server_cpu_s", "server CPU s", ".2f"),
                Column("database_cpu_s", "mongod CPU s", ".2f"),
                Column("commands", "reads of MongoDB", ",.0f"),
                Column("doubled", "doubled", ",.0f"),
                *SHARES,
            ),
            _fleet,
            headlines=("per_cpu_second", "max_s", "server_cpu_s", "commands", "doubled"),
            targets=(Target("doubled", most=0),),
        ),
    ]
