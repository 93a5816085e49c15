"""Reading for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

from server.core.errors import Error
from server.core.loop_share import LoopShare
from server.core.tasks import Keeper

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

LOT: Final = 16
"""Answers that are handed out at once."""


class GroupReader(Generic[Q, A]):
    """Answers questions that are asked at about the same time with one read of MongoDB.

    One batch is in flight. What is asked meanwhile waits for the *next* one, even if the same is being read just now:
    so every read begins after the requests that it answers, and an answer is as fresh as if each request had a read of
    its own. While nothing is in flight a batch begins with the next turn of the event loop, with all that was asked in
    this one. So n requests at once cost one read, a lone request waits for nobody, and the more is asked the larger the
    batches become, as with the commits of a shard.

    - `read(questions)` gets at most `most` different ones, and answers as many as it can bound by bytes, but at least
      one. The others go to the front of the next batch, which begins later still. So all are answered in the end.
    - If a read fails, all in its batch fail with its error; those who wait for the next one are not concerned.
    - Each asker has a future of its own. One that is cancelled cancels nothing for the others, and what nobody waits
      for any more is not read.
    - With a `loop_share` the answers are handed out in lots, in as many turns of the event loop as they need, while the
      next batch is read: else all askers would go on in one.
    """

    def __init__(
        self,
        keeper: Keeper,
        name: str,
        read: Callable[[Sequence[Q]], Awaitable[Mapping[Q, A]]],
        most: int,
        loop_share: LoopShare | None = None,
    ) -> None:
        self._keeper = keeper
        self._name = name
        self._read = read
        self._most = most
        self._loop_share = loop_share
        self._asked: dict[Q, list[asyncio.Future[A]]] = {}
        self._running = False

    def ask(self, question: Q) -> asyncio.Future[A]:
        """The answer to come, which is the asker's alone; or what `read` raises."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(question, []).append(answer)
        if not self._running:
            self._running = True
            self._keeper.spawn(self._name, self._run()).add_done_callback(self._ended)
        return answer

    async def _run(self) -> None:
        batch: dict[Q, list[asyncio.Future[A]]] = {}
        try:
            while self._asked:
                batch = {question: self._asked.pop(question) for question in list(islice(self._asked, self._most))}
                await self._answer(batch)
        finally:
            self._stop(batch)

    def _ended(self, running: asyncio.Task[None]) -> None:
        if running.cancelled():  # by a keeper that is closed: then it may not even have begun
            self._stop({})

    def _stop(self, batch: Mapping[Q, Sequence[asyncio.Future[A]]]) -> None:
        """Whoever still waits, for the batch in flight or the next one, waits in vain."""
        self._running = False
        leaving = Error("unavailable", "the server is leaving", retry_after=1.0)
        for answers in (*batch.values(), *self._asked.values()):
            _fail(answers, leaving)
        self._asked.clear()

    async def _answer(self, batch: dict[Q, list[asyncio.Future[A]]]) -> None:
        for question in [question for question, answers in batch.items() if answers[0].done()]:
            if all(one.done() for one in batch[question]):
                del batch[question]
        if not batch:
            return
        try:
            found = await self._read(list(batch))
            if not found:
                raise Error("internal", f"{self._name}: no answer")
        except Exception as error:
            for answers in batch.values():
                _fail(answers, error)
            return
        answered = [(answer, value) for question, value in found.items() for answer in batch.pop(question)]
        if self._loop_share is None:
            _hand_out(answered)
        else:
            for start in range(0, len(answered), LOT):
                self._loop_share.do(partial(_hand_out, answered[start : start + LOT], self._loop_share))
        for question, answers in batch.items():
            answers += self._asked.pop(question, [])
        self._asked = batch | self._asked


def _hand_out(answered: Sequence[tuple[asyncio.Future[A], A]], loop_share: LoopShare | None = None) -> None:
    if loop_share is not None:
        loop_share.expect(len(answered))
    for answer, value in answered:
        if not answer.done():
            answer.set_result(value)


def _fail(answers: Sequence[asyncio.Future[A]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
