"""Amendments against a model in Python: any interleaving of publishing, editing, appending, erasing, pinning, reacting,
trimming and clearing on two nodes, of which some die between storing an amendment and folding it, or between marking a
message and counting its reactions.

What is compared at any moment: every way to read a channel with what the model says. At the end: whoever has listened
from the beginning, and whoever was there up to some moment and resumes then, come to the same state; and nothing that
was erased can be read anywhere, not even in the database itself. The model is a dict of messages and a rule for each
operation; it knows nothing of entries, pages or folding.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from operator import itemgetter
from typing import Any

import pytest
from bson import Timestamp

from server.core.clock import Clock
from server.core.config import MongoDB, Retention, Seconds
from server.core.cursors import MAX_OFFSET, Position
from server.core.errors import Error
from server.core.tasks import Keeper
from server.log import appends
from server.log.log import Log, Receipt
from server.log.marks import Marks
from server.log.summaries import Summaries
from server.mongo.client import connect
from server.mongo.databases import Database
from server.reactions.rows import Change, Reaction, ReactionRows
from server.wire.amendments import AmendedMessagePush, Amendment, AmendPush, Op
from server.wire.messages import Message
from server.wire.pushes import MessagePush, Push
from tests.chaos.world import span
from tests.support.logs import fresh, opened, raw
from tests.support.processes import Mongod

SECONDS = span(3, 600)
STEPS = 40

pytestmark = pytest.mark.gen_test(timeout=SECONDS + 120)


class State:
    """What somebody knows of a channel's messages: offset → (data, version, erased, pinned). `apply` is all that a
    client has to do."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[Any, int, bool, bool]] = {}
        self.reactions: dict[int, tuple[int, Any]] = {}
        """By offset: (at, how many of which kind)"""

    def apply(self, push: Push) -> None:
        if isinstance(push, AmendedMessagePush):
            self.reactions[push.offset] = 0, push.reactions or []
            erased = isinstance(push.deleted, dict)
            version = push.version if isinstance(push.version, int) and not erased else 0
            self.messages[push.offset] = push.data, version, erased, push.pinned is True
        elif isinstance(push, MessagePush):
            self.messages[push.offset] = push.data, 0, False, False
        elif isinstance(push, AmendPush) and push.of in self.messages:
            data, version, erased, pinned = self.messages[push.of]
            if erased:
                return
            if push.op == "delete":
                self.messages[push.of] = None, 0, True, False
                self.reactions.pop(push.of, None)
            elif isinstance(push.at, int):
                self.reactions[push.of] = max(
                    self.reactions.get(push.of, (0, [])), (push.at, push.reactions), key=itemgetter(0)
                )
            elif push.op == "pin":
                self.messages[push.of] = data, version, erased, push.data
            elif push.op == "append" and push.version > version:
                self.messages[push.of] = data + push.data, push.version, erased, pinned
            elif push.version > version:
                self.messages[push.of] = push.data, push.version, erased, pinned

    def above(self, floor: int = 0) -> dict[int, tuple[Any, ...]]:
        return {
            offset: (*message, self.reactions.get(offset, (0, []))[1])
            for offset, message in self.messages.items()
            if offset > floor
        }


class Node:
    """A log, and what counts reactions there."""

    op: Op = "reactions"

    def __init__(self, log: Log, database: Database, clock: Clock, keeper: Keeper) -> None:
        self.log = log
        self.database = database
        self.rows = ReactionRows(database, clock)
        self.marks = Marks(database, clock, "reactions")
        self.summaries = Summaries(database, log.amendments, clock, keeper, self, every=0.01)
        log.trimmer.on_trimmed.append(self.rows.forget_up_to)

    async def count(self, channel: str, offset: int, since: Timestamp) -> Any:
        return await self.rows.count(channel, offset, since)

    async def forget(self, channel: str, offset: int) -> None:
        await self.rows.forget(channel, offset)


class Run:
    """One channel, from its first message to the verdict."""

    def __init__(self, seed: str, channel: str, nodes: list[Node], mongod: Mongod, options: MongoDB) -> None:
        self.random = random.Random(seed)
        self.channel = channel
        self.nodes = nodes
        self.logs = [node.log for node in nodes]
        self.reactions: set[tuple[int, str, str]] = set()
        """(offset, kind, user)"""
        self.mongod = mongod
        self.options = options
        self.model = State()
        self.retained = self.random.randint(3, 12)
        self.floor = 0
        self.trims = self.random.random() < 0.5
        self.trimming = False
        self.cleared = 0
        """All up to there was cleared, or may just have been."""
        self.entries: dict[int, Message] = {}
        """As they went to subscribers."""
        self.said = 0
        self.erased: set[str] = set()
        self.texts: dict[int, set[str]] = {}
        """All that a message has ever said."""
        self.parts: dict[int, int] = {}
        """How many numbered parts were sent for a message."""
        self.left_pending = 0

    def text(self) -> str:
        self.said += 1
        return f"{self.channel} says {self.said}."

    # --- what is done -------------------------------------------------------------------------------------------------

    async def publish(self, log: Log) -> None:
        text = self.text()
        receipt = await log.append(self.channel, "ann", text, text, 20)
        self.texts.setdefault(receipt.position.offset, set()).add(text)

    async def amend(self, log: Log, op: Op) -> None:
        if not self.texts:
            return
        of = self.random.choice(list(self.texts)[-self.random.choice([1, 3, 100]) :])
        data = {"edit": self.text(), "pin": self.random.random() < 0.5, "delete": None}[op]
        original = await log.amendments.original(self.channel, of)
        if original is None:
            assert of <= self.floor or self.trimming
            return
        if original.deleted is not None:
            self.settle()
            assert self.model.messages[of][2]
            return
        if op == "edit":
            self.texts[of].add(data)
        await self.store(log, original, op, data)
        if op == "delete":
            self.erased |= self.texts[of]

    async def store(self, log: Log, original: Any, op: Op, data: Any) -> Receipt:
        return await log.amendments.append(original, op, data, user="ann", key=f"{op} {self.text()}", size=20)

    async def append(self, log: Log) -> None:
        """With a number, with a key, or with neither; what is sent twice, perhaps to another node, is appended once."""
        if not self.texts:
            return
        of = self.random.choice(list(self.texts)[-self.random.choice([1, 2, 100]) :])
        original = await log.amendments.original(self.channel, of)
        if original is None or original.deleted is not None:
            return
        numbered, text, done = self.random.random() < 0.5, self.text(), self.random.random() < 0.2
        part = self.parts[of] = self.parts.get(of, 0) + 1 if numbered else self.parts.get(of, 0)
        twice = self.random.random() < 0.3
        self.texts[of].add(text)
        sent = [
            one.appends.append(
                original, text, user="ann", part=part if numbered else None, key=text if twice else None, done=done,
                limit=1 << 20,
            )
            for one in ((log, self.random.choice(self.logs)) if twice else (log,))
        ]  # fmt: skip
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len({receipt.position.offset for receipt in stored}) <= 1
        assert len([receipt for receipt in stored if not receipt.duplicate]) <= 1
        if not refused:
            assert len(stored) == 1 or sorted(receipt.duplicate for receipt in stored) == [False, True]
        for error in refused:  # erased or trimmed meanwhile, also before the parts that this one comes behind
            assert isinstance(error, Error), error
            assert error.code in ("not_found", "conflict"), error
            now = await log.amendments.original(self.channel, of)
            assert now is None or now.deleted is not None, error
            if now is not None:
                self.erased |= self.texts[of]

    async def react(self, node: Node) -> None:
        """A new reaction, or one less; now and then the node dies between the mark and the count."""
        taken = self.random.choice(sorted(self.reactions)) if self.reactions and self.random.random() < 0.3 else None
        if taken is not None:
            self.reactions.remove(taken)  # so that nobody else takes it as well
        elif not self.texts:
            return
        of, kind, user = taken or (self.random.choice(list(self.texts)[-4:]), self.random.choice("abc"), self.text())
        change = Change(Reaction(self.channel, of, kind, user, False), taken is None)
        try:
            if self.random.random() < 0.1:
                written = await node.marks.add(self.channel, of) is not None
                if written:
                    await node.rows.write([change])
            else:
                async with node.summaries.changing(self.channel, of) as round:
                    round.changed((await node.rows.write([change]))[change].at)
                written = True
        except Error as error:
            if error.code not in ("not_found", "unavailable"):
                raise
            written = False
        if written == (taken is None):
            self.reactions.add((of, kind, user))

    async def everything_is_counted(self) -> None:
        """By the one or the other node, of what is still there."""
        for node in self.nodes:
            await node.summaries.drain()
        for node in self.nodes:
            await node.summaries.finish(0.0)
            assert await node.marks.left(0.0) == []
        if self.floor:
            floor = await self.logs[0].trimmer.trim(self.channel, Retention(size=self.retained, ttl=Seconds(0)))
            self.floor = max(self.floor, floor)
        self.settle()
        for offset, (*_, erased, _, shown) in self.model.above(self.floor).items():
            there = sorted((kind, user) for of, kind, user in self.reactions if of == offset and not erased)
            assert {one["k"]: one["n"] for one in shown} == Counter(kind for kind, _ in there), offset
            assert sorted((one["k"], user) for one in shown for user in one["u"]) == there

    async def step(self) -> None:
        node = self.random.choice(self.nodes)
        log = node.log
        kind = self.random.choices(
            ["publish", "edit", "append", "delete", "pin", "trim", "clear", "read", "react"],
            [10, 12, 20, 3, 4, self.trims, 0.3 * self.trims, 8, 20],
        )[0]
        if kind == "publish":
            await self.publish(log)
        elif kind == "react":
            await self.react(node)
        elif kind == "append":
            await self.append(log)
        elif kind == "trim":
            self.trimming = True
            size = self.retained
            floor = await log.trimmer.trim(self.channel, Retention(size=size, ttl=Seconds(0)))
            self.settle()
            kept, every = len(self.model.above(floor)), len(self.model.above(self.cleared))
            assert kept >= min(size, every), "amendments have pushed messages out"
            self.floor = max(self.floor, floor)
        elif kind == "clear":
            self.trimming, self.cleared = True, MAX_OFFSET
            await log.clear(self.channel)
            self.floor = self.cleared = max(self.floor, await log.floor(self.channel))
        elif kind == "read":
            await self.read_meanwhile(log)
        else:
            await self.amend(log, kind)  # type: ignore[arg-type]

    async def die_before_folding(self) -> None:
        """The next fold does not happen, as if the node had been killed before it."""
        namespace = f"{self.options.database}.{self.options.prefix}messages"
        failing = {"failCommands": ["update"], "errorCode": 8000, "namespace": namespace}
        await self.mongod.fail_command(failing, {"times": 1})
        self.left_pending += 1

    def committed(self, messages: list[Message]) -> None:
        """What the nodes hear of each other, mostly. (Who does not know that messages have come must not find their
        places free, so before anything is trimmed they hear everything; a dedupe window is far longer otherwise.)"""
        self.entries.update({message.offset: message for message in messages})
        if self.trims or self.random.random() < 0.5:
            for log in self.logs:
                log.learn(self.channel, messages[-1].position, "the other", messages[-1].tally)
        for message in messages:
            if isinstance(message, Amendment):
                for log in self.logs:
                    log.has_amended(self.channel)

    def settle(self) -> None:
        """The model knows all that was committed, in the order of the offsets."""
        self.model = State()
        for offset in sorted(self.entries):
            self.model.apply(self.entries[offset].push())

    # --- what is read -------------------------------------------------------------------------------------------------

    async def compare(self, log: Log) -> None:
        """Every way to read, against the model."""
        self.settle()
        expected = self.model.above(self.floor)
        back = State()
        before = MAX_OFFSET
        while True:
            messages, floor = await log.read_back(self.channel, before, self.random.choice([2, 5, 100]))
            for message in messages:
                back.apply(message.push())
            if not messages:
                break
            before = messages[0].offset
        assert back.above() == {offset: one for offset, one in expected.items() if offset > floor}
        for offset in self.random.sample(sorted(expected), min(3, len(expected))):
            original = await log.amendments.original(self.channel, offset)
            assert original is not None
            one = State()
            one.apply(original.push())
            assert one.above()[offset] == expected[offset]
        number = self.random.randint(1, 5)
        newest = sorted(expected)[-number:]
        head = max(self.entries, default=0)
        if len(newest) == number:
            assert await log.before_last(self.channel, head, number) == newest[0] - 1
        for log in self.logs:
            await self.resume(log, self.random.randint(0, head))

    async def read_meanwhile(self, log: Log) -> None:
        """While others write: what was stored before the read began is in it."""
        self.settle()
        before = dict(self.model.messages)
        read = State()
        if self.random.random() < 0.5:
            page = await log.read(self.channel, Position(log.epoch, 0), limit=self.random.choice([30, 500]))
            messages = [message for message in page.messages if not message.hidden]
        else:
            messages, _ = await log.read_back(self.channel, MAX_OFFSET, 500)
        for message in messages:
            read.apply(message.push())
        for offset, (_, version, erased, _) in read.messages.items():
            _, known_version, known_erased, _ = before.get(offset, (None, 0, False, False))
            assert erased or not known_erased, f"{offset} was erased before"
            assert erased or version >= known_version, f"{offset} was edited before"
            if known_version and version == known_version and not erased and not known_erased:
                assert read.messages[offset][0] == before[offset][0], f"{offset} says something else"

    async def resume(self, log: Log, since: int) -> None:
        """Somebody who has heard all up to `since` goes on from there."""
        client = State()
        for offset in range(1, since + 1):
            client.apply(self.entries[offset].push())
        head = max(self.entries, default=0)
        position = Position(log.epoch, since)
        while position.offset < head:
            page = await log.read(self.channel, position, limit=self.random.choice([1, 3, 50, 500]))
            if page.gap is not None:
                position = Position(position.epoch, page.gap[1])
            kinds: set[tuple[int, str]] = set()
            for message in page.messages:
                if message.hidden:
                    continue
                push = message.push()
                if isinstance(push, AmendPush):
                    kind = push.of, push.op if push.op in ("pin", "reactions") else "content"
                    assert kind not in kinds, "twice in a page"
                    kinds.add(kind)
                client.apply(push)
                position = message.position
            if page.messages:
                position = page.messages[-1].position
        assert client.above(self.floor) == self.model.above(self.floor), f"resumed behind {since}"

    async def nothing_erased_is_left(self) -> None:
        for log in self.logs:
            await log.amendments.refold(0.0)
            await log.appends.refold(0.0)
        gone = {offset for offset, message in self.model.messages.items() if message[2] or offset <= self.floor}
        reactions = self.nodes[0].database.own("reactions")
        assert not {*await reactions.distinct("_id.o", {"_id.c": self.channel})} & gone
        rows = raw(self.mongod.uri, self.options, self.channel)
        assert not [row for row in rows if "p" in row]
        for row in rows:
            said = f"{row.get('d')} {row.get('j')}"
            assert not [text for text in self.erased if text in said], row
            assert not ("z" in row and ("d" in row or "j" in row)), "data stands in two places"
            assert row["_id"]["o"] > self.floor or not ("d" in row or "j" in row), "it is hidden"
        amendments = 0
        for row in rows:
            offset = row["_id"]["o"]
            amendments = sum(isinstance(self.entries[one], Amendment) for one in range(1, offset + 1))
            newest = max(
                (one for one in range(1, offset + 1) if not isinstance(self.entries[one], Amendment)), default=0
            )
            assert (row.get("m", 0), row.get("l", offset)) == (amendments, newest if "l" in row else offset)
        for log in self.logs:
            page = await log.read(self.channel, Position(log.epoch, 0))
            texts = [message.data for message in page.messages if not message.hidden]
            assert not [one for one in self.erased for text in texts if one in str(text)]


async def play(run: Run) -> None:
    """Alone or several at a time; now and then a node dies before it has folded."""
    for _ in range(STEPS):
        if run.random.random() < 0.1 and run.entries:
            await run.die_before_folding()
        together = run.random.choice([1, 1, 1, 2, 6])
        run.trimming = False
        outcomes = await asyncio.gather(*(run.step() for _ in range(together)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Error):  # a trim that met the failing command
                assert outcome.code == "unavailable", outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        if run.random.random() < 0.3:
            for node in run.nodes:
                await node.summaries.drain()
            await run.compare(run.random.choice(run.logs))
    await run.mongod.disarm()
    await run.everything_is_counted()
    for log in run.logs:
        await run.compare(log)
    await run.nothing_erased_is_left()
    for log in run.logs:
        await run.compare(log)


async def test_whatever_is_amended_reads_as_the_model_says(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two nodes that hear of each other's amendments, and number against each other."""
    monkeypatch.setattr(appends, "EARLY_SECONDS", 5.0)  # the part before it may be slow where the machine is
    options = fresh(dedupe_window=Seconds(0))
    first = os.environ.get("WATERSPOUT_SEED") or str(time.time_ns())
    until = time.monotonic() + SECONDS
    async with AsyncExitStack() as stack:
        runs: dict[str, Run] = {}

        def committed(messages: list[Message]) -> None:
            runs[messages[0].channel].committed(messages)

        database, clock, keeper = connect(options, mongod.uri), Clock(), Keeper()
        stack.callback(database.client.close)
        nodes = [
            Node(
                await stack.enter_async_context(
                    opened(mongod.uri, options, node=node, on_commit=committed, amends=True)
                ),
                database, clock, keeper,
            )
            for node in ("a", "b")
        ]  # fmt: skip
        stack.push_async_callback(keeper.close)
        number = 0
        while number < 3 or time.monotonic() < until:
            number += 1
            seed, channel = f"{first}/{number}", f"room:{number}"
            run = runs[channel] = Run(seed, channel, nodes, mongod, options)
            try:
                await play(run)
            except BaseException:
                print(f"WATERSPOUT_SEED={first}, run {number}")
                raise
            del runs[channel]
