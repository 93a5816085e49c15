"""Background tasks are started again, named when they are not well, and end, even those that lose a cancellation."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from server.core.errors import Error
from server.core.tasks import FIRST_PAUSE, LONGEST_PAUSE, STEADY, Keeper, end
from tests.unit.virtual_time import run


async def _forever(losing: int) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not losing:
                raise
            losing -= 1


async def _failing() -> None:
    raise ValueError("a secret")


def test_tasks_end() -> None:
    """What is cancelled, what has lost a cancellation, what has failed, and what never was."""

    async def main() -> None:
        tasks = [asyncio.create_task(_forever(0)), asyncio.create_task(_forever(2)), asyncio.create_task(_failing())]
        await asyncio.sleep(0)
        await end([*tasks, None])
        assert all(task.done() for task in tasks)

    run(main())


def _counting(starts: list[float], work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def counted() -> None:
        starts.append(asyncio.get_running_loop().time())
        await work()

    return counted


async def _returning() -> None:
    return


async def _awaiting_what_was_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("work", [_failing, _returning, _awaiting_what_was_cancelled])
def test_a_kept_task_is_started_again(work: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    """However it ends: the log says so, and the pauses grow to a bound."""

    async def main() -> list[float]:
        starts: list[float] = []
        keeper = Keeper()
        keeper.keep("shard 3", _counting(starts, work))
        await asyncio.sleep(200)
        await keeper.close()
        return starts

    starts = run(main())
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert 0.8 * FIRST_PAUSE <= pauses[0] <= FIRST_PAUSE
    assert 0.8 * LONGEST_PAUSE <= pauses[-1] <= LONGEST_PAUSE
    assert all(later > earlier for earlier, later in pairwise(pauses[:4]))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == len(starts)
    assert "shard 3" in caplog.text


def test_a_task_that_has_run_for_long_is_started_again_soon() -> None:
    """The pause is for those that keep ending."""

    async def main() -> list[float]:
        starts: list[float] = []

        async def work() -> None:
            await asyncio.sleep(STEADY)
            raise ValueError

        keeper = Keeper()
        keeper.keep("poll", _counting(starts, work))
        await asyncio.sleep(10 * (STEADY + FIRST_PAUSE))
        await keeper.close()
        return starts

    assert len(run(main())) >= 10


def test_the_problem_names_the_task_and_quotes_nothing() -> None:
    """While it is down, and while one that keeps ending has not run for long; never the exception's own words."""

    async def main() -> None:
        failing = asyncio.Event()
        failing.set()

        async def work() -> None:
            if failing.is_set():
                await _failing()
            await asyncio.sleep(3600)

        keeper = Keeper()
        keeper.keep("well", lambda: _forever(0))
        assert keeper.problem() is None
        keeper.keep("shard 3", work)
        await asyncio.sleep(0.1)
        assert keeper.problem() == "shard 3: ended (ValueError), it is being started again"
        failing.clear()
        await asyncio.sleep(FIRST_PAUSE)
        assert keeper.problem() is None  # one end is none too many
        await keeper.close()

        failing.set()
        keeper = Keeper()
        keeper.keep("shard 3", work)
        await asyncio.sleep(2 * FIRST_PAUSE)
        failing.clear()
        await asyncio.sleep(2 * FIRST_PAUSE)
        assert keeper.problem() == "shard 3: keeps ending (ValueError)"
        await asyncio.sleep(STEADY)
        assert keeper.problem() is None
        await keeper.close()

    run(main())


def test_a_step_is_due_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """A back end that is away is logged and ends nothing; a bug is started again."""

    async def main() -> None:
        errors = [Error("unavailable", "MongoDB is away"), ValueError(), None, None]
        calls: list[float] = []
        late: list[float] = []

        async def step() -> None:
            calls.append(asyncio.get_running_loop().time())
            if error := errors.pop(0) if errors else None:
                raise error

        keeper = Keeper()
        keeper.every("tick", 1.0, step, late.append)
        await asyncio.sleep(2.1)
        assert keeper.problem() == "tick: ended (ValueError), it is being started again"
        await asyncio.sleep(4.0)
        assert keeper.problem() is None
        await keeper.close()
        assert len(calls) == len(late) == 5
        assert max(late) < 0.01
        await asyncio.sleep(10)
        assert len(calls) == 5

    run(main())
    assert "tick: MongoDB is away" in caplog.text


def test_the_exception_of_short_lived_work_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Unless somebody awaits it, who has it then."""

    async def main() -> None:
        keeper = Keeper()
        keeper.spawn("fill chat:a", _failing())
        awaited = keeper.spawn("fill chat:b", _failing(), awaited=True)
        with pytest.raises(ValueError, match="a secret"):
            await awaited
        await keeper.close()

    run(main())
    assert "fill chat:a has failed" in caplog.text
    assert "fill chat:b" not in caplog.text


def test_the_close_ends_everything() -> None:
    """What is kept, what was spawned, also by one that is being cancelled; and nothing begins afterwards."""

    async def main() -> None:
        keeper = Keeper()
        began: list[str] = []

        async def work(name: str) -> None:
            began.append(name)
            await asyncio.sleep(3600)

        async def parting() -> None:
            try:
                await work("parting")
            finally:
                keeper.spawn("child", work("child"))

        keeper.keep("poll", lambda: work("poll"))
        keeper.spawn("parting", parting())
        await asyncio.sleep(0)
        await keeper.close()
        await keeper.close()
        keeper.spawn("late", work("late"))
        keeper.keep("late", lambda: work("late"))
        await asyncio.sleep(100)
        assert sorted(began) == ["parting", "poll"]
        assert len(asyncio.all_tasks()) == 1

    run(main())


@pytest.mark.parametrize(("error", "expected"), [(Error("unavailable", "away"), 0), (ValueError("a bug"), 1)])
def test_an_answer_that_nobody_waits_for_any_more(
    error: Exception, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asked has gone: an `Error` was meant for them, so it is no news; anything else is a bug that is told."""

    async def fails() -> None:
        await asyncio.sleep(1)
        raise error

    async def main() -> None:
        keeper = Keeper()
        asking = keeper.spawn("asking", fails(), awaited=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.shield(asking)
        await asyncio.sleep(1)
        del asking
        gc.collect()
        keeper.spawn("never begun", fails(), awaited=True).cancel()
        await asyncio.sleep(1)
        await keeper.close()

    run(main())
    assert len(caplog.records) == expected


def test_an_error_is_theirs_who_wait_for_it() -> None:
    """Each of them gets it."""

    async def fails() -> None:
        raise Error("unavailable", "away")

    async def main() -> None:
        keeper = Keeper()
        asking = keeper.spawn("asking", fails(), awaited=True)
        for answer in await asyncio.gather(asyncio.shield(asking), asyncio.shield(asking), return_exceptions=True):
            assert isinstance(answer, Error)
        await keeper.close()

    run(main())
