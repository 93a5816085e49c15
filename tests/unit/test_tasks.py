"""Background tasks end, even those that lose a cancellation."""

from __future__ import annotations

import asyncio

from server.core.tasks import end


async def _forever(losing: int) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not losing:
                raise
            losing -= 1


async def _failing() -> None:
    raise ValueError


def test_tasks_end() -> None:
    """What is cancelled, what has lost a cancellation, what has failed, and what never was."""

    async def run() -> None:
        tasks = [asyncio.create_task(_forever(0)), asyncio.create_task(_forever(2)), asyncio.create_task(_failing())]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await end([*tasks, None])
        assert all(task.done() for task in tasks)

    asyncio.run(run())
