"""Group reading: many questions, few reads, and every answer as fresh as if it had been read alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from server.core.errors import Error
from server.core.loop_share import SLICE, TASK, LoopShare
from server.core.tasks import Keeper
from server.log.groups import LOT, GroupReader
from tests.unit.virtual_time import run

MOST = 10


class World:
    """A value that rises with time, read in 1 s; an answer has the value of the moment in which its read began."""

    def __init__(self, most: int = MOST, loop_share: LoopShare | None = None) -> None:
        self.keeper = Keeper()
        self.group = GroupReader(self.keeper, "values", self.read, most, loop_share)
        self.value = 0
        self.batches: list[list[str]] = []
        self.room = most
        """Questions that are answered at most."""
        self.failing = False

    async def read(self, questions: Sequence[str]) -> dict[str, int]:
        self.batches.append(list(questions))
        value, failing = self.value, self.failing
        await asyncio.sleep(1)
        if failing:
            raise Error("unavailable", "MongoDB: away")
        return dict.fromkeys(questions[: self.room], value)

    def ask(self, question: str) -> asyncio.Task[int]:
        return asyncio.ensure_future(self.group.ask(question))


def test_what_is_asked_in_one_turn_is_read_together() -> None:
    async def go() -> None:
        world = World()
        assert await asyncio.gather(*(world.ask(name) for name in "abcab")) == [0] * 5
        assert world.batches == [["a", "b", "c"]]

    run(go())


def test_a_read_begins_after_what_it_answers_was_asked() -> None:
    """Even if the same is being read at the moment, and whoever else waits for it."""

    async def go() -> None:
        world = World()
        early = world.ask("a")
        await asyncio.sleep(0.5)
        world.value = 1
        late = [world.ask("a"), world.ask("b")]
        assert await early == 0
        assert await asyncio.gather(*late) == [1, 1]
        assert world.batches == [["a"], ["a", "b"]]

    run(go())


def test_more_than_one_read_may_have_are_carried_on() -> None:
    """What a read has no room for is in front of the next one, and is answered in the end."""

    async def go() -> None:
        world = World()
        world.room = 4
        names = [f"{number:02}" for number in range(25)]
        assert len(await asyncio.gather(*map(world.ask, names))) == 25
        assert all(len(batch) <= MOST for batch in world.batches)
        assert world.batches[1][:6] == names[4:10]

    run(go())


def test_what_is_carried_on_may_be_asked_again() -> None:
    """Both askers get the answer of the read that begins after the second question."""

    async def go() -> None:
        world = World()
        world.room = 1
        asked = [world.ask("a"), world.ask("b")]
        await asyncio.sleep(0.5)
        asked.append(world.ask("b"))
        world.value = 1
        assert await asyncio.gather(*asked) == [0, 1, 1]
        assert world.batches == [["a", "b"], ["b"]]

    run(go())


def test_a_failed_read_concerns_its_own_batch_only() -> None:
    async def go() -> None:
        world = World()
        world.failing = True
        failed = [world.ask("a"), world.ask("b")]
        await asyncio.sleep(0.5)
        world.failing = False
        later = world.ask("a")
        for one in failed:
            with pytest.raises(Error, match="away"):
                await one
        assert await later == 0

    run(go())


def test_who_gives_up_takes_nobody_along() -> None:
    """Before its read and during it; what nobody waits for any more is not read."""

    async def go() -> None:
        world = World()
        first = [world.ask("a"), world.ask("a")]
        await asyncio.sleep(0.5)
        second = [world.ask("b"), world.ask("b"), world.ask("c")]
        await asyncio.sleep(0)
        for one in (first[0], second[0], second[2]):
            one.cancel()
        assert (await first[1], await second[1]) == (0, 0)
        assert world.batches == [["a"], ["b"]]

    run(go())


def test_nobody_waits_for_ever_when_the_server_leaves() -> None:
    async def go() -> None:
        world = World()
        asked = [world.ask("a")]
        await asyncio.sleep(0.5)
        asked.append(world.ask("b"))
        await asyncio.sleep(0)
        await world.keeper.close()
        for one in asked:
            with pytest.raises(Error, match="leaving"):
                await one

    run(go())


def test_what_is_asked_of_a_closed_keeper_is_refused() -> None:
    """A read that may not even begin any more leaves nobody waiting, at once or in the same turn."""

    async def go() -> None:
        world = World()
        before = world.ask("a")
        await asyncio.sleep(0.5)
        await world.keeper.close()
        for asked in (before, world.ask("a"), world.ask("b")):
            with pytest.raises(Error, match="unavailable: the server is leaving"):
                await asked

    run(go())


def test_many_answers_take_several_turns_and_what_is_asked_next_does_not_wait_for_them() -> None:
    """So that what the askers do with them does not hold everybody else up."""

    async def go() -> None:
        world = World(1000, LoopShare())
        turn = 0

        async def asker(name: str) -> int:
            await world.group.ask(name)
            return turn

        asked = [asyncio.ensure_future(asker(f"a{number}")) for number in range(1000)]
        await asyncio.sleep(0.5)
        later = world.ask("b")
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        while not all(one.done() for one in asked):
            turn += 1
            await asyncio.sleep(0)
        assert len(world.batches) == 2  # the other one is being read already
        assert not later.done()
        answered_in = Counter(one.result() for one in asked)
        del answered_in[0]  # those before we counted
        assert max(answered_in.values()) <= SLICE / TASK + LOT
        assert await later == 0

    run(go())
