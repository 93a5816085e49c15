"""The checker: what publishers were promised, what subscribers saw, and what a majority of MongoDB holds in the end.

Three accounts that know nothing of each other are compared, so a fault has to be wrong in all three in the same way to
stay hidden. Every fault that `check` can name has a unit test that makes it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

MIB = 1024 * 1024


def fingerprint(data: Any) -> int:
    """Stands for the payload in a ledger: a million receipts must not hold a million payloads."""
    return hash(json.dumps(data, sort_keys=True))


def offset_of(cursor: str) -> int:
    """The offset in `epoch:offset`; 0 for the beginning."""
    return int(cursor.rpartition(":")[2])


# --- the publishers' account ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Publication:
    """One message as its publisher knows it."""

    key: str
    channel: str
    data: int  # fingerprint
    link: int  # which of the publisher's connections it was first sent on
    sent_at: float
    attempts: int = 0
    outcome: Literal["pending", "acknowledged", "refused", "unknown"] = "pending"
    offsets: list[int] = field(default_factory=list)  # every one it was ever acknowledged with
    settled_at: float | None = None
    code: str | None = None
    doubtful: bool = False  # some attempt ended without an answer


class PublisherLedger:
    """Write down every attempt *before* it is sent and every answer as it comes."""

    def __init__(self, name: str = "publisher") -> None:
        self.name = name
        self.publications: dict[str, Publication] = {}  # by key, in the order of their first sending

    def highest(self, channel: str) -> int:
        """The highest offset that was acknowledged in `channel`; 0 for none."""
        of_channel = (one for one in self.publications.values() if one.channel == channel)
        return max((offset for one in of_channel for offset in one.offsets), default=0)

    def sent(self, key: str, channel: str, data: Any, link: int = 0) -> None:
        one = self.publications.get(key)
        if one is None:
            one = Publication(key, channel, fingerprint(data), link, time.monotonic())
            self.publications[key] = one
        one.attempts += 1

    def acknowledged(self, key: str, offset: int) -> None:
        self._settle(key, "acknowledged").offsets.append(offset)

    def refused(self, key: str, code: str) -> None:
        """A definite no. It settles the message only if no earlier attempt may have been stored."""
        one = self._settle(key, "unknown" if self.publications[key].doubtful else "refused")
        one.code = code

    def unknown(self, key: str) -> None:
        """No answer, or `outcome_unknown`."""
        one = self._settle(key, "unknown")
        one.doubtful = True

    def _settle(self, key: str, outcome: Literal["acknowledged", "refused", "unknown"]) -> Publication:
        one = self.publications[key]
        if one.outcome != "acknowledged":  # an acknowledgement cannot be taken back
            one.outcome = outcome
            one.settled_at = time.monotonic()
        return one


# --- the subscribers' account ---------------------------------------------------------------------------------------


class Receipt(NamedTuple):
    offset: int
    key: str
    data: int  # fingerprint
    at: float


class SubscriberLedger:
    """One subscriber of one channel. `take` goes to `Client.subscribe(on_push=…)`.

    `start`     it is owed everything behind this offset
    `end`       and nothing behind that one (None: up to the head)
    `control`   a bystander that must not notice anything
    `punctual`  False for one that is held up on purpose, which says nothing about recovery
    """

    def __init__(
        self, name: str, channel: str, *, start: int = 0, control: bool = False, punctual: bool = True
    ) -> None:
        self.name = name
        self.channel = channel
        self.start = start
        self.end: int | None = None
        self.control = control
        self.punctual = punctual
        self.began = time.monotonic()
        self.receipts: list[Receipt] = []
        self.gaps: list[Mapping[str, Any]] = []
        self.disturbances: list[str] = []  # what a user would have noticed: losses of connection, `unsubscribed`…

    @property
    def last(self) -> int:
        return self.receipts[-1].offset if self.receipts else self.start

    def take(self, push: Mapping[str, Any]) -> None:
        if push["type"] == "message":
            self.receipts.append(Receipt(push["offset"], push["key"], fingerprint(push["data"]), time.monotonic()))
        elif push["type"] == "gap":
            self.gaps.append(dict(push))
            self.disturbances.append(f"gap {push.get('from')}–{push.get('to')}")
        elif push["type"] in ("unsubscribed", "dropped", "error"):
            self.disturbances.append(str(push))


# --- the log's account ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """What MongoDB holds: `(offset, key)` per channel in the order of offsets, and the floors of trimmed channels."""

    entries: Mapping[str, Sequence[tuple[int, str]]]
    floors: Mapping[str, int] = field(default_factory=dict)

    def head(self, channel: str) -> int:
        entries = self.entries.get(channel)
        return entries[-1][0] if entries else self.floors.get(channel, 0)


async def read_log(uri: str, database: str = "waterspout", channels: Iterable[str] | None = None) -> Log:
    """Read the log itself, past the server, as a majority of the replica set has it."""

    def read() -> Log:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=30_000) as client:
            found = client.get_database(database, read_concern=ReadConcern("majority"))
            wanted = list(channels) if channels is not None else None
            # Only keys are read: how the payload is stored is the server's business.
            messages = found["waterspout.messages"].find(
                {"_id.c": {"$in": wanted}} if wanted is not None else {}, {"_id": 1, "k": 1}, batch_size=10_000
            )
            entries: dict[str, list[tuple[int, str]]] = defaultdict(list)
            for message in messages:
                entries[message["_id"]["c"]].append((message["_id"]["o"], message["k"]))
            floors = {
                one["_id"]: int(one.get("floor") or 0)
                for one in found["waterspout.channels"].find({"_id": {"$in": wanted}} if wanted is not None else {})
            }
            return Log({channel: sorted(of_one) for channel, of_one in entries.items()}, floors)

    return await asyncio.to_thread(read)


# --- the verdict ----------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """The figures of one case. Everything between `lost` and `unanswered` has to be 0."""

    case: str
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    delivered: int = 0
    lost: int = 0  # acknowledged, but the log does not have it there
    missed: int = 0  # in the log, owed to a subscriber, never received by it
    duplicates: int = 0  # a key with two offsets, or received twice
    out_of_order: int = 0  # at a subscriber, or two messages of one connection stored the other way round
    holes: int = 0  # offsets missing in the log
    phantoms: int = 0  # received but not in the log there, or in the log but never sent
    altered: int = 0  # received with other data than was sent
    false_refusals: int = 0  # refused for good, and yet in the log
    unanswered: int = 0  # publications that ended without any answer at all
    recovery: float = 0.0  # s; the longest an acknowledged message took from its sending to its last subscriber
    growth: int = 0  # bytes of resident memory
    growth_limit: int = 64 * MIB
    controls: int = 0
    hurt: int = 0
    problems: list[str] = field(default_factory=list)  # a few examples, in words

    FAULTS = (
        "lost", "missed", "duplicates", "out_of_order", "holes", "phantoms", "altered", "false_refusals", "unanswered",
    )  # fmt: skip

    @property
    def ok(self) -> bool:
        """No fault, nobody hurt, memory flat; and something was really sent and received."""
        return (
            not any(getattr(self, fault) for fault in self.FAULTS)
            and not self.hurt
            and self.growth <= self.growth_limit
            and self.acknowledged > 0
            and self.delivered > 0
        )

    @staticmethod
    def header() -> str:
        return _ROW.format(
            "case", "sent", "acked", "delivered", "lost", "missed", "dup", "disorder", "holes", "other",
            "recovery", "memory", "hurt", "",
        )  # fmt: skip

    def line(self) -> str:
        other = self.phantoms + self.altered + self.false_refusals + self.unanswered
        return _ROW.format(
            self.case, self.sent, self.acknowledged, self.delivered, self.lost, self.missed, self.duplicates,
            self.out_of_order, self.holes, other, f"{self.recovery:.2f} s", f"{self.growth / MIB:+.0f} MiB",
            f"{self.hurt}/{self.controls}", "ok" if self.ok else "FAILED",
        )  # fmt: skip

    def __str__(self) -> str:
        return "\n".join([self.header(), self.line(), *self.problems])


_ROW = "{:<44} {:>7} {:>7} {:>9} {:>5} {:>6} {:>4} {:>8} {:>5} {:>5} {:>9} {:>8} {:>6} {}"


class _Faults:
    """Counts, and keeps a few examples of each kind."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def add(self, kind: str, text: str, count: int = 1) -> None:
        self.counts[kind] += count
        if self.counts[kind] - count < self.EXAMPLES:
            self.problems.append(f"{kind}: {text}")


def check(
    case: str,
    publishers: Iterable[PublisherLedger],
    subscribers: Iterable[SubscriberLedger],
    log: Log,
    *,
    growth: int = 0,
    growth_limit: int = 64 * MIB,
    patience: float = 5.0,
) -> Verdict:
    """Compare the three accounts. `patience`: a control client notices a message that comes so many seconds after its
    acknowledgement. Call it when all is quiet: what is still on its way counts as missed."""
    publishers, subscribers = list(publishers), list(subscribers)
    faults = _Faults()
    sent = {one.key: one for publisher in publishers for one in publisher.publications.values()}
    outcomes = Counter(one.outcome for one in sent.values())

    _check_log(log, sent, faults)
    for publisher in publishers:
        _check_publisher(publisher, log, faults)
    hurt = 0
    for subscriber in subscribers:
        before = faults.counts.total()
        _check_subscriber(subscriber, log, sent, faults)
        if subscriber.control and _noticed(subscriber, sent, patience, faults, faults.counts.total() - before):
            hurt += 1
    return Verdict(
        case=case,
        sent=len(sent),
        acknowledged=outcomes["acknowledged"],
        refused=outcomes["refused"],
        unknown=outcomes["unknown"],
        delivered=sum(len(subscriber.receipts) for subscriber in subscribers),
        recovery=_recovery(subscribers, sent),
        growth=growth,
        growth_limit=growth_limit,
        controls=sum(subscriber.control for subscriber in subscribers),
        hurt=hurt,
        problems=faults.problems,
        **{fault: faults.counts[fault] for fault in Verdict.FAULTS},
    )


def _check_log(log: Log, sent: Mapping[str, Publication], faults: _Faults) -> None:
    for channel, entries in log.entries.items():
        expected = log.floors.get(channel, 0) + 1
        for offset, key in entries:
            if offset > expected:
                faults.add("holes", f"{channel} has no {expected}…{offset - 1}", offset - expected)
            expected = max(expected, offset + 1)
            if key not in sent:
                faults.add("phantoms", f"{channel} {offset} holds {key}, which nobody sent")
        times = Counter(key for _, key in entries)
        for key, count in times.items():
            if count > 1:
                faults.add("duplicates", f"{channel} holds {key} {count} times", count - 1)


def _check_publisher(publisher: PublisherLedger, log: Log, faults: _Faults) -> None:
    stored = {channel: dict(entries) for channel, entries in log.entries.items()}
    keys = {channel: set(of_one.values()) for channel, of_one in stored.items()}
    in_order: dict[tuple[str, int], list[Publication]] = defaultdict(list)
    for one in publisher.publications.values():
        where = f"{publisher.name}'s {one.key} in {one.channel}"
        if one.outcome == "pending":
            faults.add("unanswered", where)
        elif one.outcome == "refused" and one.key in keys.get(one.channel, ()):
            faults.add("false_refusals", f"{where} was refused ({one.code}) and is stored")
        elif one.outcome == "acknowledged":
            if len(set(one.offsets)) > 1:
                faults.add("duplicates", f"{where} was acknowledged as {sorted(set(one.offsets))}")
            offset = one.offsets[0]
            if stored.get(one.channel, {}).get(offset) != one.key and offset > log.floors.get(one.channel, 0):
                faults.add("lost", f"{where} was acknowledged as {offset} and is not there")
            if one.attempts == 1:  # a retried message has no promised place
                in_order[one.channel, one.link].append(one)
    for of_one in in_order.values():
        for earlier, later in pairwise(of_one):
            if earlier.offsets[0] >= later.offsets[0]:
                faults.add("out_of_order", f"{publisher.name} sent {earlier.key} before {later.key}, stored after it")


def _check_subscriber(subscriber: SubscriberLedger, log: Log, sent: Mapping[str, Publication], faults: _Faults) -> None:
    stored = dict(log.entries.get(subscriber.channel, ()))
    floor = log.floors.get(subscriber.channel, 0)
    seen: set[int] = set()
    highest = subscriber.start
    for offset, key, data, _ in subscriber.receipts:
        where = f"{subscriber.name} got {subscriber.channel} {offset} ({key})"
        if offset in seen:
            faults.add("duplicates", f"{where} twice")
        elif offset <= highest:
            faults.add("out_of_order", f"{where} after {highest}")
        seen.add(offset)
        highest = max(highest, offset)
        if stored.get(offset) != key and offset > floor:
            faults.add("phantoms", f"{where}, where the log has {stored.get(offset)}")
        if key in sent and sent[key].data != data:
            faults.add("altered", where)
    end = log.head(subscriber.channel) if subscriber.end is None else subscriber.end
    # An explicit gap excuses nothing that is retained, so only the floor does.
    missed = [offset for offset in stored if max(subscriber.start, floor) < offset <= end and offset not in seen]
    if missed:
        faults.add("missed", f"{subscriber.name} never got {subscriber.channel} {missed[:5]}…", len(missed))


def _noticed(
    subscriber: SubscriberLedger, sent: Mapping[str, Publication], patience: float, faults: _Faults, wrong: int
) -> bool:
    for text in subscriber.disturbances:
        faults.add("hurt", f"{subscriber.name}: {text}")
    late = [
        receipt.at - settled_at
        for receipt in subscriber.receipts
        if receipt.key in sent and (settled_at := sent[receipt.key].settled_at) is not None
    ]
    slowest = max(late, default=0.0)
    if slowest > patience:
        faults.add("hurt", f"{subscriber.name} waited {slowest:.1f} s for a message")
    return bool(subscriber.disturbances) or slowest > patience or wrong > 0


def _recovery(subscribers: Iterable[SubscriberLedger], sent: Mapping[str, Publication]) -> float:
    return max(
        (
            receipt.at - max(sent[receipt.key].sent_at, subscriber.began)
            for subscriber in subscribers
            if subscriber.punctual
            for receipt in subscriber.receipts
            if receipt.key in sent and sent[receipt.key].outcome == "acknowledged"
        ),
        default=0.0,
    )
