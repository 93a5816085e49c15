"""Calls: a client names a method and gives it data, the user's back end answers, and the client gets the answer.

    the client:     {"method": "orders.place", "data": …, "key": "k1"}
    the back end:   {"method": "orders.place", "data": …, "user": "ann", "key": "k1", "session": "s1a2b3"}
                    → 200 {"data": …}; or 4xx with problem+json, which refuses

With a `key` the back end is asked once: whoever calls again gets the same answer, and if there was none it is asked
again, with the same key.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from server.access.admission import Admission, counted
from server.access.quotas import Quotas
from server.access.rights import Rights
from server.calls.answers import Answer
from server.calls.kept import KeptAnswers, Reservation, conflict, digest
from server.calls.pattern import TURN_WITHIN, Pattern, Unanswered
from server.core.clock import Clock
from server.core.config import MAX_STORED, Config
from server.core.errors import Error
from server.core.lifecycle import Lifecycle
from server.core.names import fits
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.mongo.databases import Database
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

DRAIN_WITHIN: Final = 5.0
"""Seconds that a node which leaves waits for the calls under way."""


class _Flight:
    """One question to the back end, and how many calls wait for what comes of it."""

    __slots__ = ("task", "data", "waiting")

    def __init__(self, task: asyncio.Task[tuple[Answer, bool]], data: str) -> None:
        self.task = task
        self.data = data
        """Its digest."""
        self.waiting = 0


class _Question(NamedTuple):
    principal: Principal
    method: str
    data: Any
    key: str | None
    session: str | None
    address: str

    def wire(self) -> dict[str, Any]:
        """As the back end gets it."""
        principal = self.principal
        asked = {
            "method": self.method, "data": self.data, "user": principal.user, "key": self.key, "session": self.session,
        }  # fmt: skip
        return asked | {"server": True} if principal.server else asked

    def identifier(self) -> str:
        """What its answer is kept under: keys are each user's own, for each method."""
        user, address = counted(self.principal, self.address)
        return digest(["server" if self.principal.server else "user", user, address, self.method, self.key])


class Calls:
    def __init__(
        self, config: Config, database: Database, *, rights: Rights, admission: Admission, quotas: Quotas,
        lifecycle: Lifecycle, keeper: Keeper, clock: Clock,
    ) -> None:  # fmt: skip
        made = {name: Pattern(name, options, clock) for name, options in config.calls.items()}
        self.patterns: Mapping[str, Pattern] = dict(sorted(made.items(), key=lambda one: -len(one[0])))
        """By name, the longest first."""
        self._rights = rights
        self._admission = admission
        self._quotas = quotas
        self._lifecycle = lifecycle
        self._keeper = keeper
        self._kept = KeptAnswers(database, config.mongodb.dedupe_window, clock)
        self._data_bytes = config.limits.message_bytes or MAX_STORED
        self._flights: dict[str, _Flight] = {}
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        if self.patterns:
            await self._kept.open()

    async def drain(self) -> None:
        """Return when the calls under way are answered, or DRAIN_WITHIN has passed."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=DRAIN_WITHIN)

    async def close(self) -> None:
        for pattern in self.patterns.values():
            await pattern.close()

    async def call(
        self, principal: Principal, method: str, data: Any, key: str | None = None, *, session: str | None = None,
        address: str = "",
    ) -> Any:  # fmt: skip
        """The data that the back end answers.

        `not_found`: there is no such method. `refused`, with the back end's reason and details. `unavailable`: there is
        no answer, or none that can be understood; with a key that is `outcome_unknown`, unless it was not even asked.
        Cancelled, it lets go of the back end, unless others wait for the same key.
        """
        pattern = self._find(method)
        may = self._rights.to_call(principal, method, pattern.options.allow, pattern.name)
        self._check_size(data)
        self._lifecycle.check()
        self._admission.spend(principal, address)
        question = _Question(principal, method, data, key, session, address)
        with pattern.seat(principal, address):
            answer = await self._noted(pattern, question, may)
        may()
        if answer.refusal is not None:
            raise answer.refusal.error(pattern.name)
        return answer.data

    def _find(self, method: str) -> Pattern:
        found = self.patterns.get(method) if "*" not in method else None
        if found is None:
            found = next((one for name, one in self.patterns.items() if fits(name, method)), None)
        if found is None:
            told = "method: there is none of that name"
            raise Error("not_found", f"method: there is no {method[:100]}", told=told)
        return found

    def _check_size(self, data: Any) -> None:
        size = len(JSON.encode(data))
        if size > self._data_bytes:
            raise Error("too_large", f"data: {size} bytes; message_bytes is {self._data_bytes}")

    async def _noted(self, pattern: Pattern, question: _Question, may: Any) -> Answer:
        """The answer, and a note of what became of the call."""
        loop = asyncio.get_running_loop()
        began, outcome = loop.time(), "cancelled"
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            if question.key is None:
                answer, kept = await self._asked(pattern, question, may), False
            else:
                answer, kept = await self._once(pattern, question, may)
            outcome = "kept" if kept else "refused" if answer.refusal is not None else "answered"
            return answer
        except Error as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            self._under_way.discard(task)
            pattern.note(outcome, loop.time() - began)

    async def _asked(self, pattern: Pattern, question: _Question, may: Any, identifier: str | None = None) -> Answer:
        try:
            return await pattern.ask(question.wire(), identifier and f"msg_{identifier[:32]}", may)
        except Unanswered as failure:
            code = "unavailable" if question.key is None else "outcome_unknown"
            raise Error(code, f"{pattern.name}: {failure}", retry_after=1.0) from None

    # --- with a key ---------------------------------------------------------------------------------------------------

    async def _once(self, pattern: Pattern, question: _Question, may: Any) -> tuple[Answer, bool]:
        """The answer, and whether it is an earlier call's. Of those that come at the same time one asks, and it goes on
        as long as somebody waits for it."""
        identifier, data = question.identifier(), digest(question.data)
        flight = self._flights.get(identifier)
        joined = flight is not None
        if flight is None:
            user = None if question.principal.server else question.principal.user
            wanted = Reservation(identifier, data, secrets.token_hex(8), user)
            asking = self._reserved(pattern, question, may, wanted)
            flight = _Flight(self._keeper.spawn(f"call of {pattern.name}", asking, awaited=True), data)
            self._flights[identifier] = flight
        elif flight.data != data:
            raise conflict()
        flight.waiting += 1
        try:
            answer, kept = await asyncio.shield(flight.task)
            return answer, kept or joined
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()
                if self._flights.get(identifier) is flight:
                    del self._flights[identifier]

    async def _reserved(
        self, pattern: Pattern, question: _Question, may: Any, wanted: Reservation
    ) -> tuple[Answer, bool]:
        try:
            found = await self._kept.reserve(wanted, TURN_WITHIN + pattern.options.timeout)
            if found is not None:
                return Answer.decode(found), True
            charge = self._quotas.charge(question.principal, question.address, None, messages=1)
            renewing = self._keeper.spawn("lease of a key", self._kept.renew(wanted))
            try:
                answer = await self._asked(pattern, question, may, wanted.identifier)
            except BaseException:
                if charge is not None:
                    charge.give_all_back()
                raise
            finally:
                renewing.cancel()
        except BaseException as error:
            # Also where it is not known whether the row was made. Whoever is told may call again at once.
            releasing = self._keeper.spawn("release of a key", self._release(wanted))
            if isinstance(error, Error):
                await asyncio.shield(releasing)
            raise
        kept = answer.encode()
        if charge is not None:
            charge.take_more("bytes", len(kept))
        try:
            if not await self._kept.keep(wanted, kept):
                logger.warning("%s: an answer came after its key had been given to another call", pattern.name)
        except Error as error:
            logger.warning("%s: an answer is not kept: %s", pattern.name, error.reason)
        return answer, False

    async def _release(self, wanted: Reservation) -> None:
        try:
            await self._kept.release(wanted)
        except Error as error:
            logger.warning("a key is not released, it runs out by itself: %s", error.reason)
