"""Measure several Waterspout instances on one MongoDB and one Redis: `python bench/cluster.py --help`.

Publishes acknowledged by 1, 2 and 4 instances, the delay from one instance to another, and what an idle node costs
MongoDB. Everything is started here, on loopback and unpinned, and shares the machine's cores with the load: what more
instances do to each other is seen here, not what more machines would add.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import report
from bench.clients import BenchError, Client, Clients, frame
from bench.dialects import Waterspout
from bench.load import machine_cpu
from bench.servers import CONTESTANTS, ROOT, process_cpu
from tests.support.processes import Mongod, Redis, Server

RESULTS = ROOT / "bench" / "results"
PARTS = ("publish", "latency", "idle")
DURABLE, EPHEMERAL = Waterspout("benchd"), Waterspout("bench")
SETTINGS: dict[str, Any] = {
    "limits.messages_per_second": 0,
    "limits.burst": 0,
    "limits.channels_per_connection": 0,
    "limits.connections": 0,
    "limits.connections_per_user": 0,
    "limits.connections_per_ip": 0,
    "namespaces.bench": {"durable": False, "publish": "anyone", "subscribe": "anyone"},
    "namespaces.benchd": {"durable": True, "publish": "anyone", "subscribe": "anyone"},
}
SIZE = 128
IN_FLIGHT = 250
PACE = 1000
# Longer than a publish may take (10 s): what is unanswered by then never will be.
ANSWERED_WITHIN = 15.0
IDLE_CHANNELS, IDLE_CLIENTS, IDLE_MESSAGES = 1000, 10, 20
# The driver's watch over the server, and our own question: not what a node asks.
WATCHING = {"hello", "isMaster", "serverStatus", "endSessions"}

Figures = dict[str, Any]
Rows = list[tuple[str, Figures]]
decode: Callable[[str], dict[str, Any]] = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Effort:
    repetitions: int = 3
    seconds: float = 5.0
    warm_up: float = 1.5
    idle: float = 35.0  # holds one sweep of every subscribed channel (each 30 s)


@dataclass(frozen=True)
class Pattern:
    """How many channels the publishers share, and whether each instance has a subscriber to all of them, too: only
    then does it hear of the others' offsets at once."""

    name: str
    channels: int
    subscribed: bool = False


PATTERNS = (
    Pattern("1 channel", 1),
    Pattern("1 channel, subscribed", 1, True),
    Pattern("100 channels", 100),
    Pattern("100 channels, subscribed", 100, True),
)


def filled(*marks: int) -> str:
    """Data that says what it is, of the usual size."""
    return (".".join(map(str, marks)) + ".").ljust(SIZE, "x")


@dataclass(eq=False)
class Publisher:
    """One connection that keeps its publishes in flight, and what became of them."""

    instance: int
    client: Client
    channels: int
    number: int = 0
    counted: int = 0
    waiting: dict[int, float] = field(default_factory=dict)
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)  # number, offset, whether a duplicate
    delays: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def channel(self, number: int) -> int:
        return (number * 7 + self.instance) % self.channels

    def fill(self, clients: Clients, now: float) -> None:
        numbers = range(self.number, self.number + IN_FLIGHT - len(self.waiting))
        if numbers:
            texts = (DURABLE.acknowledged_publish(n, self.channel(n), filled(self.instance, n)) for n in numbers)
            clients.send(self.client, b"".join(frame(text.encode()) for text in texts))
            self.waiting.update(dict.fromkeys(numbers, now))
            self.number = numbers.stop


class Saturation:
    """A publisher for each instance, all at once, as fast as they are acknowledged."""

    def __init__(self, servers: Sequence[Server], pattern: Pattern) -> None:
        self.clients = Clients(servers[0].port, DURABLE)
        self.clients.spins = 0  # the servers have this core too
        self.publishers: dict[Client, Publisher] = {}
        self.heard: dict[Client, dict[int, list[int]]] = {}  # offsets by channel
        self._window = (0.0, 0.0)
        for instance, server in enumerate(servers):
            self.clients.port = server.port
            client = self.clients.open([()])[0]
            self.publishers[client] = Publisher(instance, client, pattern.channels)
            if pattern.subscribed:
                self.heard[self.clients.open([range(pattern.channels)])[0]] = defaultdict(list)
        self.clients.on_text = self._on_text

    def _on_text(self, client: Client, text: str, size: int) -> None:
        message = decode(text)
        if client in self.heard:
            if message["type"] != "message":
                raise BenchError(f"a subscriber got {text[:300]}")
            self.heard[client][int(message["channel"].partition(":")[2])].append(message["offset"])
            return
        publisher = self.publishers[client]
        if message["type"] not in ("reply", "error") or message.get("id") not in publisher.waiting:
            raise BenchError(f"not an answer: {text[:300]}")
        now = time.perf_counter()
        delay = now - publisher.waiting.pop(message["id"])
        if message["type"] == "error":
            publisher.refused[message["code"]] += 1
            return
        publisher.acknowledged.append((message["id"], message["offset"], message["duplicate"]))
        if self._window[0] <= now < self._window[1]:
            publisher.counted += 1
            publisher.delays.append(delay)

    def run(self, effort: Effort, at_start: Callable[[], None], at_end: Callable[[], None]) -> None:
        """Publish for the warm-up and the window (which calls its two ends), then wait for every answer."""
        publishers = self.publishers.values()
        start = time.perf_counter() + effort.warm_up
        self._window = (start, start + effort.seconds)
        marks = [(self._window[1], at_end), (start, at_start)]
        while True:
            now = time.perf_counter()
            while marks and now >= marks[-1][0]:
                marks.pop()[1]()
            if now < self._window[1]:
                for publisher in publishers:
                    publisher.fill(self.clients, now)
            elif not any(publisher.waiting for publisher in publishers) or now > self._window[1] + ANSWERED_WITHIN:
                break
            self._receive(0.05)
        # Everything was acknowledged, so this many have to come; if an outcome is unknown, at least these.
        most = sum(len(publisher.acknowledged) for publisher in publishers)
        until = time.perf_counter() + ANSWERED_WITHIN
        while time.perf_counter() < until and any(
            sum(map(len, heard.values())) < most for heard in self.heard.values()
        ):
            self._receive(0.05)

    def _receive(self, within: float) -> None:
        for client in self.clients.ready(within):
            self.clients.receive(client)

    def faults(self, stored: Mapping[int, Sequence[tuple[int, str]]]) -> list[str]:
        """What is wrong with the log, given every (offset, data) of each channel in order, and with the answers."""
        found: list[str] = []
        for channel, rows in stored.items():
            offsets = [offset for offset, _ in rows]
            if offsets != list(range(1, len(rows) + 1)):
                found.append(f"channel {channel}: {len(rows)} offsets from {offsets[0]} to {offsets[-1]}")
            if twice := len(rows) - len({data for _, data in rows}):
                found.append(f"channel {channel}: {twice} messages stored twice")
        at = {(channel, offset): data for channel, rows in stored.items() for offset, data in rows}
        for publisher in self.publishers.values():
            who = f"instance {publisher.instance}"
            lost = misordered = doubled = 0
            newest: dict[int, int] = {}
            for number, offset, duplicate in sorted(publisher.acknowledged):
                channel = publisher.channel(number)
                lost += at.get((channel, offset)) != filled(publisher.instance, number)
                misordered += offset <= newest.get(channel, 0)
                doubled += duplicate
                newest[channel] = offset
            counts = {
                "acknowledged but not there": lost,
                "out of order": misordered,
                "called duplicates": doubled,
                "never answered": len(publisher.waiting),
                **publisher.refused,
            }
            found += [f"{who}: {count} {what}" for what, count in counts.items() if count]
        for instance, heard in enumerate(self.heard.values()):
            wrong = [c for c, rows in stored.items() if heard[c] != list(range(1, len(rows) + 1))]
            if wrong:
                found.append(
                    f"subscriber on instance {instance}: not every message once, in order, of channels {wrong}"
                )
        return found


class Paced:
    """A publisher on the first instance, `PACE` messages a second, and a subscriber on each; numbers say who is who."""

    def __init__(self, servers: Sequence[Server], dialect: Waterspout) -> None:
        self.dialect = dialect
        self.clients = Clients(servers[0].port, dialect)
        self.clients.spins = 0
        self.publisher = self.clients.open([()])[0]
        self.heard: dict[Client, list[tuple[int, float]]] = {}
        for server in servers:
            self.clients.port = server.port
            self.heard[self.clients.open([(0,)])[0]] = []
        self.clients.on_text = self._on_text

    def _on_text(self, client: Client, text: str, size: int) -> None:
        now = time.perf_counter()
        data = self.dialect.delivered(text)
        if data is None:
            raise BenchError(f"unexpected: {text[:300]}")
        self.heard[client].append((int(data.partition(".")[0]), now))

    def run(self, effort: Effort) -> list[Figures]:
        """The figures of each subscriber. A delay counts from the moment its message was sent."""
        skipped = int(PACE * effort.warm_up)
        total = skipped + int(PACE * effort.seconds)
        sent_at: list[float] = []
        started = time.perf_counter()
        while len(sent_at) < total:
            wait = started + len(sent_at) / PACE - time.perf_counter()
            if wait > 0:
                self._receive(wait)
                continue
            text = self.dialect.publish(0, filled(len(sent_at)))
            sent_at.append(time.perf_counter())
            self.clients.send(self.publisher, frame(text.encode()))
        took = time.perf_counter() - started
        until = time.perf_counter() + ANSWERED_WITHIN
        while any(len(heard) < total for heard in self.heard.values()) and time.perf_counter() < until:
            self._receive(0.05)
        results = []
        for heard in self.heard.values():
            numbers = [number for number, _ in heard]
            delays = [at - sent_at[number] for number, at in heard if number >= skipped]
            faults = [f"{total - len(set(numbers))} of {total} never came"] if len(set(numbers)) < total else []
            if numbers != sorted(set(numbers)):
                faults.append("out of order, or twice")
            results.append({**percentiles(delays), "rate": total / took, "faults": faults})
        return results

    def _receive(self, within: float) -> None:
        for client in self.clients.ready(within):
            self.clients.receive(client)


def percentiles(delays: Sequence[float]) -> Figures:
    ordered = sorted(delays) or [float("nan")]
    found = {f"p{share}_ms": ordered[int(len(ordered) * share / 100)] * 1e3 for share in (50, 99)}
    return found | {"max_ms": ordered[-1] * 1e3}


class Cluster:
    """The back ends, and instances on them, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mongod = Mongod(directory)
        self.redis = Redis(directory)
        self._runs = 0

    @contextlib.asynccontextmanager
    async def instances(self, count: int) -> AsyncIterator[list[Server]]:
        """So many instances on a database that is new, and gone afterwards."""
        self._runs += 1
        self.database = f"bench{self._runs}"
        settings = {**SETTINGS, "mongodb.database": self.database, "redis.prefix": self.database}
        async with AsyncExitStack() as stack:
            stack.callback(self._drop)
            yield [
                await stack.enter_async_context(
                    Server(self.directory, self.mongod.uri, self.redis.url, settings, name=f"{self.database}-{number}")
                )
                for number in range(count)
            ]

    def _drop(self) -> None:
        with self._mongo() as client:
            client.drop_database(self.database)

    def _mongo(self) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.mongod.uri)

    def stored(self) -> dict[int, list[tuple[int, str]]]:
        """By a majority read: every (offset, data) of each channel, in order."""
        channels: dict[int, list[tuple[int, str]]] = defaultdict(list)
        with self._mongo() as client:
            messages = client[self.database].get_collection("waterspout.messages", read_concern=ReadConcern("majority"))
            for row in messages.find({}, {"d": 1}, sort=[("_id", 1)]):
                channels[int(row["_id"]["c"].partition(":")[2])].append((row["_id"]["o"], row["d"]))
        return channels


def counters(status: Mapping[str, Any]) -> dict[str, float]:
    """The running totals of serverStatus that matter here, flat; commands as `command.<name>`."""
    metrics = status["metrics"]
    found = {f"command.{name}": float(c["total"]) for name, c in metrics["commands"].items() if isinstance(c, dict)}
    found |= {f"op.{name}": float(n) for name, n in status["opcounters"].items() if isinstance(n, int)}
    found["inserted"] = float(metrics["document"]["inserted"])
    found["keys"] = float(metrics["queryExecutor"]["scanned"])
    found["documents"] = float(metrics["queryExecutor"]["scannedObjects"])
    return found


def delta(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


class CpuWatch:
    """Shares of one core, in percent, that processes took between its making and `stop`."""

    def __init__(self, **pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        used = {name: sum(map(process_cpu, pids)) for name, pids in self._pids.items()}
        return {**used, "load": time.process_time(), "machine": machine_cpu(), "clock": time.perf_counter()}

    def stop(self) -> Figures:
        spent = delta(self._before, self._now())
        seconds, machine = spent.pop("clock"), spent.pop("machine")
        spent["others"] = max(0.0, machine - sum(spent.values()))
        return {f"{name}_cpu": 100 * used / seconds for name, used in spent.items()}


# --- the three parts --------------------------------------------------------------------------------------------------


async def measure_publish(cluster: Cluster, effort: Effort) -> Rows:
    results: Rows = []
    for count in (1, 2, 4):
        for pattern in PATTERNS:
            async with cluster.instances(count) as servers:
                results.append((f"{pattern.name}, {count}", await _publish(cluster, servers, pattern, effort)))
    return results


async def _publish(cluster: Cluster, servers: Sequence[Server], pattern: Pattern, effort: Effort) -> Figures:
    load = Saturation(servers, pattern)
    used: Figures = {}
    watch: list[CpuWatch] = []
    pids = {"instances": [s.pid for s in servers], "mongod": [cluster.mongod.pid], "redis": [cluster.redis.pid]}
    try:
        before = counters(await cluster.mongod.admin("serverStatus"))
        load.run(effort, lambda: watch.append(CpuWatch(**pids)), lambda: used.update(watch[0].stop()))
        asked = delta(before, counters(await cluster.mongod.admin("serverStatus")))
    finally:
        load.clients.close()
    publishers = sorted(load.publishers.values(), key=lambda publisher: publisher.instance)
    counts = [publisher.counted for publisher in publishers]
    stored = cluster.stored()
    return {
        "rate": sum(counts) / effort.seconds,
        "counts": counts,
        "fairness": min(counts) / (sum(counts) / len(counts)) if any(counts) else 0.0,
        **percentiles([delay for publisher in publishers for delay in publisher.delays]),
        "acknowledged": sum(len(publisher.acknowledged) for publisher in publishers),
        "stored": sum(map(len, stored.values())),
        # Of all that MongoDB was asked to insert, warm-up included.
        "batch": asked["inserted"] / max(1.0, asked["command.insert"]),
        "conflicts": max(0.0, asked["op.insert"] - asked["inserted"]) / max(1.0, asked["command.insert"]),
        **used,
        "mongodb": {key: value for key, value in asked.items() if value},
        "faults": load.faults(stored),
    }


async def measure_latency(cluster: Cluster, effort: Effort) -> Rows:
    results: Rows = []
    async with cluster.instances(2) as servers:
        for name, dialect in (("durable", DURABLE), ("ephemeral", EPHEMERAL)):
            load = Paced(servers, dialect)
            try:
                watch = CpuWatch(instances=[s.pid for s in servers], mongod=[cluster.mongod.pid])
                same, other = load.run(effort)
                used = watch.stop()
            finally:
                load.clients.close()
            results += [(f"{name}, A → B", other | used), (f"{name}, A → A", same | used)]
    return results


async def measure_idle(cluster: Cluster, effort: Effort) -> Rows:
    results: Rows = [("no node", await _idle(cluster, effort, lambda: time.sleep(effort.idle), []))]
    async with cluster.instances(1) as servers:
        (server,) = servers
        clients = Clients(server.port, DURABLE)
        clients.spins = 0
        try:
            _sow(clients)
            share = IDLE_CHANNELS // IDLE_CLIENTS
            clients.open(range(n * share, (n + 1) * share) for n in range(IDLE_CLIENTS))
            clients.quiet(3.0)
            there = await _idle(cluster, effort, lambda: clients.quiet(effort.idle), [server.pid])
            results.append(("Redis there", there))
            await cluster.redis.stop()
            try:
                await server.wait_status("degraded", 15)
                clients.quiet(5.0)
                away = await _idle(cluster, effort, lambda: clients.quiet(effort.idle), [server.pid])
                results.append(("Redis away", away))
            finally:
                await cluster.redis.start()
        finally:
            clients.close()
    return results


def _sow(clients: Clients) -> None:
    """A few messages in each channel: heads have to be found among others."""
    publisher = clients.open([()])[0]
    answered: list[str] = []
    clients.on_text = lambda client, text, size: answered.append(text)
    for start in range(0, IDLE_CHANNELS * IDLE_MESSAGES, IDLE_CHANNELS):
        numbers = range(start, start + IDLE_CHANNELS)
        texts = (DURABLE.acknowledged_publish(n, n % IDLE_CHANNELS, filled(n)) for n in numbers)
        clients.send(publisher, b"".join(frame(text.encode()) for text in texts))
        while len(answered) < numbers.stop:
            for client in clients.ready():
                clients.receive(client)
    clients.on_text = clients.unexpected
    if any('"reply"' not in text for text in answered):
        raise BenchError("not every message was stored")


async def _idle(cluster: Cluster, effort: Effort, wait: Callable[[], None], nodes: Sequence[int]) -> Figures:
    before = counters(await cluster.mongod.admin("serverStatus"))
    watch = CpuWatch(node=nodes, mongod=[cluster.mongod.pid])
    wait()
    used = watch.stop()
    asked = delta(before, counters(await cluster.mongod.admin("serverStatus")))
    commands = {key.removeprefix("command."): n for key, n in asked.items() if key.startswith("command.") and n}
    own = {name: n / effort.idle for name, n in commands.items() if name not in WATCHING}
    return {
        "commands": sum(own.values()),
        "watching": sum(commands.values()) / effort.idle - sum(own.values()),
        "keys": asked["keys"] / effort.idle,
        "documents": asked["documents"] / effort.idle,
        **used,
        "which": ", ".join(f"{name} {rate:.2f}" for name, rate in sorted(own.items(), key=lambda item: -item[1])[:4]),
        "mongodb": {key: value for key, value in asked.items() if value},
        "faults": [],
    }


# --- the results ------------------------------------------------------------------------------------------------------

TITLES = {
    "publish": f"durable publishes acknowledged a second; one publisher an instance, {IN_FLIGHT} in flight each",
    "latency": f"delay of {PACE:,} messages a second, from a publisher on instance A to subscribers on A and on B",
    "idle": f"what MongoDB has to do for one node with {IDLE_CHANNELS:,} subscribed channels and nothing going on",
}
# (figure, title, format). `counts` is of the last repetition, and so is `which`.
COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "publish": (
        ("rate", "acks/s", ",.0f"),
        ("p50_ms", "p50 ms", ".1f"),
        ("p99_ms", "p99 ms", ".1f"),
        ("fairness", "min/mean", ".2f"),
        ("batch", "stored/insert", ".1f"),
        ("conflicts", "refused/insert", ".2f"),
        ("instances_cpu", "instances CPU %", ".0f"),
        ("mongod_cpu", "mongod", ".0f"),
        ("load_cpu", "load", ".0f"),
        ("others_cpu", "others", ".0f"),
        ("counts", "each instance", ""),
    ),
    "latency": (
        ("p50_ms", "p50 ms", ".2f"),
        ("p99_ms", "p99 ms", ".2f"),
        ("max_ms", "max ms", ".1f"),
        ("rate", "sent/s", ",.0f"),
        ("instances_cpu", "instances CPU %", ".0f"),
        ("mongod_cpu", "mongod", ".0f"),
        ("others_cpu", "others", ".0f"),
    ),
    "idle": (
        ("commands", "commands/s", ".2f"),
        ("watching", "watching/s", ".2f"),
        ("keys", "keys/s", ",.0f"),
        ("documents", "documents/s", ",.0f"),
        ("mongod_cpu", "mongod CPU %", ".2f"),
        ("node_cpu", "node", ".2f"),
        ("others_cpu", "others", ".0f"),
        ("which", "of these", ""),
    ),
}


def summary(runs: Sequence[Figures]) -> Figures:
    """Medians of the numbers, the last of what is none, all faults."""
    figures = {
        key: median(run[key] for run in runs) if isinstance(value, (int, float)) else value
        for key, value in runs[-1].items()
    }
    return figures | {"faults": [fault for run in runs for fault in run["faults"]]}


def table(part: str, medians: Mapping[str, Figures]) -> str:
    columns = COLUMNS[part]
    rows = [["", *(title for _, title, _ in columns), "log"]]
    for name, figures in medians.items():
        cells = (
            " ".join(map(str, v)) if isinstance(v := figures[key], list) else format(v, f) for key, _, f in columns
        )
        rows.append([name, *cells, "FAULTS" if figures["faults"] else "whole"])
    if part != "publish":  # the only one that reads the log again
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


MEASURES = {"publish": measure_publish, "latency": measure_latency, "idle": measure_idle}


async def measure(parts: Sequence[str], effort: Effort) -> dict[str, dict[str, list[Figures]]]:
    """Every part once, then every one again; the runs by part and row."""
    runs: dict[str, dict[str, list[Figures]]] = {part: defaultdict(list) for part in parts}
    with tempfile.TemporaryDirectory(prefix="waterspout-cluster-") as directory:
        cluster = Cluster(Path(directory))
        async with cluster.mongod, cluster.redis:
            for repetition in range(effort.repetitions):
                for part in parts:
                    report.progress(f"{part} {repetition + 1}/{effort.repetitions}")
                    for name, figures in await MEASURES[part](cluster, effort):
                        runs[part][name].append(figures)
                        for fault in figures["faults"]:
                            report.progress(f"  {name}: {fault}")
    return runs


def main() -> None:
    # As an exception it passes every `with`, and so every process here is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--reps", type=int, metavar="N", help="repetitions; the medians are reported")
    parser.add_argument("--quick", action="store_true", help="once, short, and written nowhere unless --out is given")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: bench/results)")
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    effort = Effort(repetitions=1, seconds=2.0, warm_up=1.0, idle=10.0) if options.quick else Effort()
    effort = replace(effort, repetitions=options.reps or effort.repetitions)
    results = options.out or (None if options.quick else RESULTS)

    runs = asyncio.run(measure(parts, effort))
    medians = {part: {name: summary(rows) for name, rows in runs[part].items()} for part in parts}
    for part in parts:
        print(f"\n{part}: {TITLES[part]}; median of {effort.repetitions}")
        print(table(part, medians[part]), flush=True)
    if results:
        results.mkdir(parents=True, exist_ok=True)
        document = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": report.machine(),
            "effort": vars(effort),
            "versions": report.versions(CONTESTANTS[0]),
            "medians": medians,
            "runs": runs,
        }
        (results / "cluster.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    faults = [f"{part}, {name}: {f}" for part in parts for name, row in medians[part].items() for f in row["faults"]]
    if faults:
        sys.exit("faults:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
