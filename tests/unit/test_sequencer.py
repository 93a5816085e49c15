"""The sequencer: whatever the broker does, what comes out is 1, 2, 3… or says what is missing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.core.cursors import MAX_OFFSET, Position
from server.core.errors import Error
from server.core.tasks import Keeper
from server.delivery.sequencer import EARLY_MESSAGES, Sequencer
from server.wire.messages import Message, Page
from tests.unit.virtual_time import run

CHANNEL = "c:1"
PAGE = 7


def messages(first: int, last: int, epoch: str = "e") -> list[Message]:
    return [Message(CHANNEL, epoch, offset, f"k{offset}", None, 0, offset) for offset in range(first, last + 1)]


class Noting(Sequencer):
    """It knows from where it began."""

    def start(self, head: Position) -> None:
        self.began = [*getattr(self, "began", ()), head.offset]
        super().start(head)


class World:
    """A log that has everything up to `head` but what is trimmed (≤ `floor`), a sequencer, and what it delivered."""

    def __init__(self, head: int = 0, floor: int = 0, epoch: str = "e") -> None:
        self.head, self.floor, self.epoch = head, floor, epoch
        self.failures = 0
        self.reads = 0
        self.out: list[Any] = []
        """Offsets delivered, and (first, last) for what was lost."""
        self.on_deliver: Callable[[], None] = lambda: None
        self.repairs: Counter[str] = Counter()
        self.sequencer = Noting(
            CHANNEL, read=self.read, confirmed_head=self.confirmed_head, deliver=self.deliver, lost=self.lost,
            repairs=self.repairs, keeper=Keeper(),
        )  # fmt: skip

    async def read(self, channel: str, after: Position, upto: int = MAX_OFFSET) -> Page:
        self.reads += 1
        await asyncio.sleep(0.001)
        if self.failures:
            self.failures -= 1
            raise Error("unavailable", "MongoDB: away")
        if after.epoch != self.epoch:
            return Page([], None)
        gap = (after.offset + 1, self.floor) if self.floor > after.offset else None
        first = max(after.offset, self.floor) + 1
        return Page(messages(first, min(self.head, upto, first + PAGE - 1), self.epoch), gap)

    async def confirmed_head(self, channel: str) -> int:
        await asyncio.sleep(0.001)
        return self.head

    def deliver(self, batch: list[Message]) -> None:
        assert all(message.epoch == self.sequencer.position.epoch for message in batch)
        self.out.extend(message.offset for message in batch)
        self.on_deliver()

    def lost(self, channel: str, epoch: str, first: int | None, last: int | None) -> None:
        self.out.append((first, last))

    async def settled(self) -> None:
        """Return when the sequencer has nothing more to do by itself."""
        me = asyncio.current_task()
        while others := asyncio.all_tasks() - {me}:
            await asyncio.wait(others)

    def at(self, offset: int) -> Position:
        return Position(self.epoch, offset)


def offsets(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# What the broker carries: runs of messages (first, length) in any order, any number of times, and pauses in between.
carried = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 6)) | st.sampled_from([0.0, 0.001, 0.03, 0.06, 1.0]), max_size=60
)


async def carry(world: World, actions: list[Any], last: int, start: int) -> None:
    """Play it. A message is carried only once the log has it; the sequencer starts after `start` actions."""
    for index, action in enumerate(actions):
        if index == start:
            world.sequencer.start(world.at(world.head))
        if isinstance(action, float):
            await asyncio.sleep(action)
            continue
        first, length = action
        end = min(first + length - 1, last)
        if first <= end:
            world.head = max(world.head, end)
            world.sequencer.offer(messages(first, end))
    if start >= len(actions):
        world.sequencer.start(world.at(world.head))
    world.head = last
    world.sequencer.note_head(world.at(last))
    await world.sequencer.wait_until_delivered(last)


@given(carried, st.integers(1, 40), st.integers(0, 10), st.integers(0, 3))
def test_everything_comes_once_and_in_order(actions: list[Any], last: int, start: int, failures: int) -> None:
    """Whatever is lost, doubled or reordered on the way, and whenever the log is away: 1…n, each once, in order."""

    async def main() -> None:
        world = World()
        world.failures = failures
        await carry(world, actions, last, start)
        assert world.out == offsets(world.sequencer.began[0] + 1, last)
        await world.settled()
        assert world.out == offsets(world.sequencer.began[0] + 1, last)

    run(main())


@given(carried, st.integers(10, 40), st.integers(1, 39))
def test_what_is_trimmed_is_an_explicit_gap(actions: list[Any], last: int, floor: int) -> None:
    """Every offset is delivered or told to be lost, once and in order; what was not trimmed is delivered."""

    async def main() -> None:
        world = World(floor=min(floor, last - 1))
        world.sequencer.start(world.at(0))
        await carry(world, actions, last, start=-1)
        await world.settled()
        covered: list[int] = []
        for item in world.out:
            covered += offsets(*item) if isinstance(item, tuple) else [item]
            assert not isinstance(item, tuple) or item[1] <= world.floor
        assert covered == offsets(1, last)

    run(main())


def test_what_is_in_order_needs_no_log() -> None:
    """Messages that come as they should are delivered at once, without a read or a task."""

    async def main() -> None:
        world = World(head=100)
        world.sequencer.start(world.at(10))
        for offset in offsets(11, 20):
            world.sequencer.offer(messages(offset, offset))
            assert world.out[-1] == offset
        assert world.reads == 0
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_moment_of_disorder_needs_no_log() -> None:
    """Two messages that overtake each other are put right without a read of the log."""

    async def main() -> None:
        world = World(head=3)
        world.sequencer.start(world.at(0))
        world.sequencer.offer(messages(2, 3))
        assert world.out == []
        await asyncio.sleep(0.01)
        world.sequencer.offer(messages(1, 1))
        assert world.out == [1, 2, 3]
        await world.settled()
        assert world.reads == 0

    run(main())


def test_a_lost_tail_is_fetched_once_somebody_tells() -> None:
    """How far the log reaches is enough to find what never came."""

    async def main() -> None:
        world = World(head=30)
        world.sequencer.start(world.at(5))
        world.sequencer.note_head(Position("other", 99))
        await world.settled()
        assert world.out == []
        world.sequencer.note_head(world.at(30))
        await world.sequencer.wait_until_delivered(30)
        assert world.out == offsets(6, 30)

    run(main())


def test_a_hole_is_filled_in_one_task() -> None:
    """However many messages come beyond a hole, one task reads, and holds back no more than it may."""

    async def main() -> None:
        count = 3 * EARLY_MESSAGES
        world = World(head=count)
        world.sequencer.start(world.at(0))
        for offset in offsets(2, count):
            world.sequencer.offer(messages(offset, offset))
        assert len(asyncio.all_tasks()) == 2
        await world.sequencer.wait_until_delivered(count)
        assert world.out == offsets(1, count)

    run(main())


def test_a_hole_found_while_a_repair_ends_is_repaired_too() -> None:
    """A hole that shows in the very turn in which a repair ends is not left to the next message."""

    async def main() -> None:
        world = World(head=3)
        loop = asyncio.get_running_loop()

        def more() -> None:
            world.head = 5
            world.sequencer.offer(messages(5, 5))

        world.on_deliver = lambda: loop.call_soon(more) and None if world.head == 3 else None
        world.sequencer.start(world.at(0))
        world.sequencer.note_head(world.at(3))
        await world.settled()
        await asyncio.sleep(10)
        assert world.out == [1, 2, 3, 4, 5]

    run(main())


def test_a_phantom_head_is_forgotten() -> None:
    """A head that the log does not have is not waited for for ever, and does not stop what comes."""

    async def main() -> None:
        world = World(head=5)
        world.sequencer.start(world.at(3))
        world.sequencer.note_head(world.at(1000))
        await world.settled()
        assert world.out == [4, 5]
        reads = world.reads
        await asyncio.sleep(100)
        assert world.reads == reads
        world.head = 7
        world.sequencer.offer(messages(6, 7))
        assert world.out == [4, 5, 6, 7]

    run(main())


def test_a_phantom_message_is_forgotten() -> None:
    """So is a message beyond the log's end; when the log gets there, its own message counts."""

    async def main() -> None:
        world = World(head=5)
        world.sequencer.start(world.at(5))
        world.sequencer.offer(messages(9, 9))
        await world.settled()
        assert world.out == []
        world.head = 9
        world.sequencer.offer(messages(6, 8))
        assert world.out == [6, 7, 8]
        world.sequencer.note_head(world.at(9))
        await world.sequencer.wait_until_delivered(9)
        assert world.out == [6, 7, 8, 9]

    run(main())


def test_a_log_that_is_away_is_asked_again() -> None:
    """Errors of the log delay a repair and never end it."""

    async def main() -> None:
        world = World(head=4)
        world.failures = 50
        world.sequencer.start(world.at(0))
        world.sequencer.note_head(world.at(4), at_once=True)
        await world.sequencer.wait_until_delivered(4)
        assert world.out == [1, 2, 3, 4]

    run(main())


def test_another_history_is_told_and_delivered_from_its_beginning() -> None:
    """After a restart everybody knows of it first, then gets all that is retained, whatever the old history sends."""

    async def main() -> None:
        world = World(head=20)
        world.sequencer.start(world.at(20))
        world.sequencer.offer(messages(25, 26))
        world.epoch, world.head, world.floor = "f", 6, 2
        world.sequencer.restart(world.at(6))
        world.sequencer.offer(messages(27, 27, "e"))
        world.sequencer.offer(messages(1, 1, "e"))
        await world.sequencer.wait_until_delivered(6)
        await world.settled()
        assert world.out == [(None, None), 3, 4, 5, 6]
        assert world.sequencer.position == Position("f", 6)

    run(main())


def test_what_came_before_the_start_is_kept_if_it_is_of_this_history() -> None:
    """Between subscribing and knowing the head, messages wait; those of another history do not count."""

    async def main() -> None:
        world = World(head=12)
        world.sequencer.offer(messages(11, 11, "old"))
        world.sequencer.offer(messages(12, 12))
        world.sequencer.start(world.at(10))
        await world.sequencer.wait_until_delivered(12)
        await world.settled()
        assert world.out == [11, 12]

    run(main())


def test_nobody_waits_for_a_history_that_is_gone() -> None:
    """Who waits for an offset when the history is replaced by a shorter one is answered, not left waiting."""

    async def main() -> None:
        world = World(head=20)
        world.sequencer.start(world.at(20))
        waiting = asyncio.ensure_future(world.sequencer.wait_until_delivered(30))
        await asyncio.sleep(0)
        world.epoch, world.head = "f", 3
        world.sequencer.restart(world.at(3))
        done, _ = await asyncio.wait({waiting}, timeout=60)
        assert done

    run(main())


def test_a_closed_sequencer_has_no_task_left() -> None:
    """Closing ends a repair."""

    async def main() -> None:
        world = World(head=5)
        world.sequencer.start(world.at(0))
        world.sequencer.note_head(world.at(5))
        world.sequencer.close()
        await world.settled()
        assert world.out == []

    run(main())
