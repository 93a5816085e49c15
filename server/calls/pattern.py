"""The methods of one pattern: where they are answered, how many at a time, and what became of the calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from server.access.admission import counted
from server.backend.answers import Busy, Failed
from server.backend.backend import BackEnd
from server.backend.turns import Turns
from server.calls.answers import Answer
from server.core.clock import Clock
from server.core.config import Call, UserRate
from server.core.errors import Error
from server.core.histogram import Histogram
from server.core.principals import Principal
from server.core.rates import Buckets
from server.core.seats import Seats

logger = logging.getLogger(__name__)

WAITING: Final = 1000
"""Calls that wait for their turn at one pattern; more are refused at once."""
TURN_WITHIN: Final = 10.0
"""Seconds after which a call that has not had its turn is refused."""
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Unanswered(Exception):
    """It was asked, and there is no answer that can be understood: what it has done is not known."""


class Pattern:
    def __init__(self, name: str, options: Call, clock: Clock) -> None:
        self.name = f"calls.{name}"
        """As in the configuration."""
        self.options = options
        self.seconds: dict[str, Histogram] = {}
        """How long the calls took, by what became of them: `answered`, `refused` (by the back end), `kept` (the answer
        of an earlier call with the same key), `cancelled`, or the code of the error."""
        rate = options.rate
        self._rates = Buckets(rate.per_user, rate.burst) if isinstance(rate, UserRate) else Buckets(rate)
        self._limited = bool(rate.per_user if isinstance(rate, UserRate) else rate)
        self._seats = Seats("calls.*.concurrency_per_user", options.concurrency_per_user, retry_after=1.0)
        self._turns = Turns(options.concurrency)
        self._backend = BackEnd(self.name, options, concurrency=options.concurrency, clock=clock)

    @contextmanager
    def seat(self, principal: Principal, address: str) -> Iterator[None]:
        """Around a call: `rate_limited` or `limit_exceeded` if it is one too many for the user (a guest: for the
        address). API keys are not counted."""
        if principal.server:
            yield
            return
        who = counted(principal, address)
        wait = self._rates.take(who, asyncio.get_running_loop().time()) if self._limited else 0.0
        if wait:
            raise Error("rate_limited", f"rate of {self.name}: too many calls", limit="calls.*.rate", retry_after=wait)
        with self._seats.take(who):
            yield

    async def ask(self, question: dict[str, Any], message_id: str | None, may: Callable[[], None]) -> Answer:
        """`may` raises if the call is not to be made any more, after it had to wait. `unavailable` if it could not be
        asked; `Unanswered`."""
        try:
            async with self._turns.take(WAITING, TURN_WITHIN):
                may()
                asked = self._backend.ask(
                    question, timeout=self.options.timeout, message_id=message_id, most=self.options.answer_bytes
                )
                try:
                    return Answer.read(await asked, self.options.answer_bytes)
                except (Failed, Busy) as failure:
                    logger.warning("%s: %s", self.name, failure)
                    raise Unanswered(str(failure)) from None
        except Busy as busy:
            raise Error("unavailable", f"{self.name}: {busy}", retry_after=1.0) from None

    def note(self, outcome: str, seconds: float) -> None:
        """A call is over."""
        if outcome not in self.seconds:
            self.seconds[outcome] = Histogram(*BOUNDS)
        self.seconds[outcome].observe(seconds)

    async def close(self) -> None:
        await self._backend.close()
