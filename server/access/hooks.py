"""Hooks: the user's own rules, asked before a publish, a subscription or a write of a document is accepted.

A hook is a URL of the user's back end, or a Python function. Both get the same question and give the same answer:

    {"action": "publish", "channel": "chat:lobby", "user": "ann", "server": false, "claims": {…}, "data": …}
    → nothing, or {"allow": true}; {"allow": false, "reason": "…"}; {"data": …} changes what is published

To say no it may as well answer as to a call: with a status of 400 to 499 and problem+json (a function raises
`Refused`).

A request is signed: see `server/backend/signing.py`.

A hook has CONCURRENT questions at a time; the others wait for their turn, and their time runs from when they are asked.
A hook that fails again and again is left alone for a while. Only its own failures count: of what waits too long because
there are too many questions, or because this process is busy, nothing is known, so it is refused, never passed over.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct

from server.backend.answers import Busy, Failed, reason_of
from server.backend.backend import BackEnd
from server.backend.turns import Turns
from server.core.clock import Clock
from server.core.config import Hook
from server.core.errors import Error
from server.core.principals import Principal
from server.wire.commands import convert

logger = logging.getLogger(__name__)

FAILURES: Final = 5
"""In a row, after which a hook is not asked for RESTS seconds."""
RESTS: Final = 5.0
CONCURRENT: Final = 64
"""Questions that one hook is asked at a time: connections to its URL, or threads of a function that is not `async`."""
WAITING: Final = 5000
"""Questions that wait for their turn at one hook; more are refused at once."""
TURN_WITHIN: Final = 10.0
"""Seconds after which a question that has not had its turn is refused: about as long as a publish may take."""

Question = dict[str, Any]
Answer = Mapping[str, Any]
Kind = TypeVar("Kind", bound=Struct)


class Hooks:
    """`clock` dates the requests. StartError if a function cannot be imported."""

    def __init__(self, hooks: Mapping[str, Hook], clock: Clock | None = None) -> None:
        clock = clock or Clock()
        self._hooks = {name: _Asked(name, hook, clock) for name, hook in hooks.items()}

    def wanted(self, name: str | None, action: str) -> bool:
        """Whether the hook is to be asked about this."""
        return name is not None and action in self._hooks[name].options.actions

    async def ask(self, name: str | None, action: str, principal: Principal, about: Question) -> Answer:
        """What the hook says: maybe with `data`; nothing if it is not wanted. `permission_denied` with its reason if it
        refuses; `unavailable` if it does not answer, unless it is to be passed over then, and if it could not be asked
        for lack of time."""
        if name is None or not self.wanted(name, action):
            return {}
        return (await self._ask(name, action, principal, about, None))[0]

    async def ask_for(
        self, kind: type[Kind], name: str | None, action: str, principal: Principal, about: Question
    ) -> Kind:
        """The same, with an answer of this kind; another one is a failure of the hook. Whoever is passed over gets one
        with nothing in it."""
        understood = None if name is None else (await self._ask(name, action, principal, about, kind))[1]
        return understood or kind()

    async def _ask(
        self, name: str, action: str, principal: Principal, about: Question, kind: type[Kind] | None
    ) -> tuple[Answer, Kind | None]:
        question = {
            "action": action, "user": principal.user, "server": principal.server, "claims": dict(principal.claims),
        } | about  # fmt: skip
        answer, understood = await self._hooks[name].ask(question, kind)
        if answer.get("allow", True) is not True:
            told = f"refused by {name}"  # its own reason may quote what was to be published
            raise Error("permission_denied", str(answer.get("reason") or told)[:1000], told=told)
        return answer, understood

    async def close(self) -> None:
        for hook in self._hooks.values():
            await hook.close()


class _Asked:
    """One hook, and how it has been doing."""

    def __init__(self, name: str, options: Hook, clock: Clock) -> None:
        self.name = name
        self.options = options
        self._backend = BackEnd(f"hooks.{name}", options, concurrency=CONCURRENT, clock=clock)
        self._turns = Turns(CONCURRENT)
        self._failures = 0
        self._rests_until = 0.0

    async def close(self) -> None:
        await self._backend.close()

    async def ask(self, question: Question, kind: type[Kind] | None) -> tuple[Answer, Kind | None]:
        try:
            async with self._turns.take(WAITING, TURN_WITHIN):
                return await self._ask(question, kind)
        except Busy as busy:
            raise Error("unavailable", f"hook {self.name}: {busy}", retry_after=1.0) from None

    async def _ask(self, question: Question, kind: type[Kind] | None) -> tuple[Answer, Kind | None]:
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until:
            return self._without("does not answer", self._rests_until - loop.time())
        if self._failures >= FAILURES:
            self._rests_until = loop.time() + RESTS  # this one tries; the others wait for what comes of it
        # A copy, so that a function changes only what it says it does.
        own = question if self.options.function is None else copy.deepcopy(question)
        try:
            reply = await self._backend.ask(own, timeout=self.options.timeout)
            if (problem := reply.problem()) is not None:
                answer = {"allow": False, "reason": reason_of(problem)}
            elif reply.ok:
                answer = reply.value()
            else:
                raise Failed(f"answered {reply.status}")
            if not isinstance(answer, Mapping | None):
                raise Failed("answered neither an object nor nothing")
            understood = None if kind is None else _understood(answer or {}, kind)
        except Failed as failure:
            self._failures += 1
            if self._failures >= FAILURES:
                self._rests_until = loop.time() + RESTS
            logger.warning("hook %s: %s", self.name, failure)
            return self._without(str(failure), 1.0)
        self._failures = 0
        self._rests_until = 0.0
        return answer or {}, understood

    def _without(self, why: str, retry_after: float) -> tuple[Answer, None]:
        if self.options.on_failure == "allow":
            return {}, None
        raise Error("unavailable", f"hook {self.name}: {why}", retry_after=retry_after)


def _understood(answer: Answer, kind: type[Kind]) -> Kind:
    if answer.get("allow", True) is not True:
        return kind()
    try:
        understood: Kind = convert(answer, kind)
    except Error as error:
        raise Failed(f"answered what is not understood: {error.reason}") from None
    return understood
