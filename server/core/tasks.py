"""Background tasks, and who looks after them: nothing runs in the background without a keeper.

keep   for ever: an end is a bug; it is logged, the task is started again, and meanwhile `problem()` names it
every  the same for a step that is due again and again
spawn  short-lived work: its exception is logged, and it is cancelled at the close
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from server.core.errors import Error

logger = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN: Final = 0.5
FIRST_PAUSE: Final = 0.5
"""Seconds before a task that has ended is started again; doubled with every further end, up to LONGEST_PAUSE."""
LONGEST_PAUSE: Final = 30.0
STEADY: Final = 10.0
"""Seconds that a task which has ended repeatedly must run before it counts as well again."""


class Keeper:
    """Owns background tasks. Its methods need a running loop; after `close` nothing is started any more."""

    __slots__ = ("_kept", "_tasks", "_closed")

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Call and await `run` for ever: whenever it ends, however, it is called again after a pause. `name` is
        unique within this keeper, and public: it stands in `/readyz`."""
        kept = self._kept[name] = _Kept(name, run)
        self._start(name, kept.forever())

    def every(
        self,
        name: str,
        seconds: float,
        step: Callable[[], Awaitable[None]],
        late: Callable[[float], None] | None = None,
    ) -> None:
        """Call and await `step` again and again, `seconds` after it has ended. An `Error` of it (a back end is away) is
        logged and no more; any other exception is a bug, as with `keep`. `late` is told by how many seconds each call
        came too late, which is the event loop's doing."""
        loop = asyncio.get_running_loop()

        async def run() -> None:
            while True:
                due = loop.time() + seconds
                await asyncio.sleep(seconds)
                if late is not None:
                    late(max(loop.time() - due, 0.0))
                try:
                    await step()
                except Error as error:
                    logger.warning("%s: %s", name, error.reason)

        self.keep(name, run)

    def spawn(self, name: str, work: Coroutine[Any, Any, T], *, awaited: bool = False) -> asyncio.Task[T]:
        """Run `work` once. Its exception is logged; if the task is `awaited` by somebody it is theirs instead."""
        if awaited:
            task = self._start(name, _answered(work))
            task.add_done_callback(lambda _: work.close())  # it has not even begun, if the task was cancelled at once
        else:
            task = self._start(name, work, self._log_failure)
        return task

    def problem(self) -> str | None:
        """Which kept task has ended and is not well again; None: all run. Names only, never what an exception says."""
        return next((problem for kept in self._kept.values() if (problem := kept.problem()) is not None), None)

    async def close(self) -> None:
        """Cancel everything, and return when it has ended. Twice is fine."""
        self._closed = True
        own = asyncio.current_task()
        await end([task for task in self._tasks if task is not own])
        self._kept.clear()

    def _start(
        self, name: str, work: Coroutine[Any, Any, T], ended: Callable[[asyncio.Task[T]], None] | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(ended or self._tasks.discard)
        if self._closed:
            task.cancel()
        return task

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s has failed", task.get_name(), exc_info=error)


class _Kept:
    """One task that is to run for ever."""

    __slots__ = ("_name", "_run", "_ends", "_cause", "_running_since")

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._run = run
        self._ends = 0
        """How often in a row it has ended before it had run for STEADY seconds."""
        self._cause = ""
        self._running_since: float | None = None

    async def forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = self._running_since = loop.time()
            try:
                await self._run()
                self._cause = "it returned"
                logger.error("%s has ended by itself; it is started again", self._name)
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # else it was not this task that was cancelled, but something that it awaited
                self._cause = type(error).__name__
                logger.exception("%s has failed; it is started again", self._name)
            self._running_since = None
            self._ends = 1 if loop.time() - began >= STEADY else self._ends + 1
            pause = min(FIRST_PAUSE * 2 ** min(self._ends - 1, 16), LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))

    def problem(self) -> str | None:
        if self._running_since is None:
            return f"{self._name}: ended ({self._cause}), it is being started again" if self._ends else None
        if self._ends > 1 and asyncio.get_running_loop().time() - self._running_since < STEADY:
            return f"{self._name}: keeps ending ({self._cause})"
        return None


async def _answered(work: Coroutine[Any, Any, T]) -> T:
    """All who have asked may have gone before the answer comes. If it is an `Error`, that is nobody's concern then;
    of anything else asyncio tells the log."""
    try:
        return await work
    except Error:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel, and return when they have ended, however. Again and again: a cancellation that comes in the moment in
    which what is awaited ends can be lost (`asyncio.wait_for` before Python 3.12), and a loop goes on."""
    pending = {task for task in tasks if task is not None}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=AGAIN)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen, so that nobody warns of it
