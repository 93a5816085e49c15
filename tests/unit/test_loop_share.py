"""Whoever has much to do does it bit by bit, in turn with everybody else and with the rest of the loop."""

from __future__ import annotations

import asyncio

from server.core.loop_share import SLICE, TASK, LoopShare


def test_those_who_wait_go_in_turn() -> None:
    """Who is not done after its slice stands behind the others."""

    async def run() -> None:
        share = LoopShare()
        seen: list[str] = []

        def work(name: str, left: int) -> None:
            seen.append(name)
            if left:
                share.later(lambda: work(name, left - 1))

        for name in "abc":
            share.later(lambda name=name: work(name, 2))
        while len(seen) < 9:
            await asyncio.sleep(0)
        assert "".join(seen) == "abcabcabc"

    asyncio.run(run())


def test_what_was_begun_counts_in_the_turn_that_it_will_slow_down() -> None:
    """Commands that go on as tasks use up the slice before they have run; the next turn has a slice of its own."""

    async def run() -> None:
        share = LoopShare()
        assert share.now()
        share.expect(int(SLICE / TASK) + 1)
        assert not share.now()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert share.now()

    asyncio.run(run())


def test_who_is_alone_does_another_lot_while_there_is_time() -> None:
    """What came in one piece goes out in one piece: only somebody who waits, or the end of the slice, divides it."""

    async def run() -> None:
        share = LoopShare()
        assert share.now()
        assert share.goes_on()
        share.later(lambda: None)
        assert not share.goes_on()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert share.now()
        assert share.goes_on()
        share.expect(int(SLICE / TASK) + 1)
        assert not share.goes_on()

    asyncio.run(run())


def test_the_loop_goes_on_between_turns() -> None:
    """However much waits, whatever else is due runs in between."""

    async def run() -> None:
        share = LoopShare()
        rounds = 0

        def endless() -> None:
            nonlocal rounds
            rounds += 1
            share.later(endless)

        share.later(endless)
        for _ in range(10):
            await asyncio.sleep(0)
        assert 0 < rounds <= 10

    asyncio.run(run())


def test_a_bug_in_one_turn_stops_nobody_else() -> None:
    """Its exception is the loop's to tell; the others, and what comes later, have their turns."""

    async def run() -> None:
        share = LoopShare()
        told: list[object] = []
        seen: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

        def bug() -> None:
            raise RuntimeError("a bug")

        share.later(bug)
        share.later(lambda: seen.append("behind it"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert share.now()
        share.later(lambda: seen.append("later"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert seen == ["behind it", "later"]
        assert [str(error) for error in told] == ["a bug"]

    asyncio.run(run())
