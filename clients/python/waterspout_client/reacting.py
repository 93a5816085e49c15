"""Reacting to messages, and what a timeline shows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Message, Push, Reacted, Reaction

LATE = 3.0
"""Seconds that the push of what is stored may take."""

Send = Callable[[Push, Callable[[], bool]], Awaitable[Push]]


@dataclass(eq=False, slots=True)
class _Place:
    on: bool
    words: int = 0
    waiting: list[asyncio.Future[Reacted]] = field(default_factory=list)
    sending: asyncio.Task[None] | None = None


class Reacting:
    """What one client's reactions are to be: of what is asked for of the same one the last word counts, so what was
    lost before it is not sent again. `send(fields, wanted)` sends a command, until it is done or no longer wanted."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._places: dict[tuple[str, int, str], _Place] = {}

    async def set(self, channel: str, of: int, kind: str, on: bool) -> Reacted:
        """How it is when the last word is done."""
        key = channel, of, kind
        place = self._places.setdefault(key, _Place(on))
        place.on = on
        place.words += 1
        done: asyncio.Future[Reacted] = asyncio.get_running_loop().create_future()
        place.waiting.append(done)
        if place.sending is None:
            place.sending = asyncio.create_task(self._settle(key, place))
        return await done

    async def _settle(self, key: tuple[str, int, str], place: _Place) -> None:
        channel, of, kind = key
        while True:
            words = place.words
            fields: Push = {"channel": channel, "of": of, "kind": kind, "on": place.on}
            outcome: Reacted | WaterspoutError
            try:
                outcome = Reacted.of_reply(await self._send(fields, lambda words=words: place.words == words))  # type: ignore[misc]
            except WaterspoutError as error:
                outcome = error
            if place.words == words:
                break
        del self._places[key]
        for done in place.waiting:
            if done.done():
                continue
            if isinstance(outcome, Reacted):
                done.set_result(outcome)
            else:
                done.set_exception(outcome)


@dataclass(eq=False, slots=True)
class _Wish:
    on: bool
    at: int | None = None
    """Counts with this `at`, or a higher one, have it."""


class Reactions:
    """Those that a timeline shows: as they were counted, with what this client wants of them. `user()`: who that is."""

    def __init__(self, user: Callable[[], str | None]) -> None:
        self._user = user
        self._at: dict[int, int] = {}
        self._mine: dict[int, list[str]] = {}
        self._wishes: dict[int, dict[str, _Wish]] = {}

    def put(self, message: Message) -> bool:
        """A message has come; False: nobody can tell by the names which of its reactions are one's own."""
        assert message.offset is not None
        return self._note(message.offset, message.reactions)

    def learn(self, mine: Mapping[int, Sequence[str]] | None, messages: Sequence[Message]) -> None:
        """What a page says of its messages."""
        for message in messages if mine is not None else ():
            assert message.offset is not None
            self._mine[message.offset] = list((mine or {}).get(message.offset, ()))

    def counted(self, message: Message, at: int, reactions: Sequence[Reaction]) -> Message:
        """The message with what was counted."""
        offset = message.offset or 0
        if at < self._at.get(offset, 0):
            return message
        self._at[offset] = at
        self._note(offset, reactions)
        for kind, wish in list(self._wishes.get(offset, {}).items()):
            self._settle(offset, kind, wish)
        return replace(message, reactions=tuple(reactions))

    def forget(self, offset: int) -> None:
        for known in (self._at, self._mine, self._wishes):
            known.pop(offset, None)

    def shown(self, message: Message) -> tuple[Message, list[str]]:
        """The message as it is to be shown, and one's own reactions."""
        offset = message.offset or 0
        if message.deleted is not None:
            return message, []
        mine = self._mine.get(offset, [])
        for kind, wish in self._wishes.get(offset, {}).items():
            if (kind in mine) != wish.on:
                message = replace(message, reactions=self._reacted(message.reactions, kind, wish.on))
                mine = [*mine, kind] if wish.on else [one for one in mine if one != kind]
        return message, list(mine)

    async def want(self, offset: int, kind: str, on: bool, asked: Awaitable[Reacted]) -> Reacted:
        wish = _Wish(on)
        self._wishes.setdefault(offset, {})[kind] = wish
        try:
            reacted = await asked
        except BaseException:
            self._drop(offset, kind, wish)
            raise
        wish.at = reacted.at
        if not self._settle(offset, kind, wish):
            asyncio.get_running_loop().call_later(LATE, self._late, offset, kind, wish)
        return reacted

    def _late(self, offset: int, kind: str, wish: _Wish) -> None:
        wish.at = 0
        self._settle(offset, kind, wish)

    def _settle(self, offset: int, kind: str, wish: _Wish) -> bool:
        """Whether it is in what was counted: then that is shown, and known to be one's own."""
        if wish.at is None or wish.at > self._at.get(offset, 0) or not self._drop(offset, kind, wish):
            return False
        others = [one for one in self._mine.get(offset, []) if one != kind]
        self._mine[offset] = [*others, kind] if wish.on else others
        return True

    def _drop(self, offset: int, kind: str, wish: _Wish) -> bool:
        wishes = self._wishes.get(offset, {})
        if wishes.get(kind) is not wish:
            return False  # another word was said since
        del wishes[kind]
        if not wishes:
            del self._wishes[offset]
        return True

    def _note(self, offset: int, reactions: Sequence[Reaction]) -> bool:
        """Which are one's own, as far as names tell it; whether that is all."""
        user, known = self._user(), self._mine.get(offset)
        own: list[str] = []
        sure = True
        for one in reactions:
            if user is not None and user in one.users:
                own.append(one.kind)
            elif user is not None and one.count > len(one.users):
                sure = False
                if one.kind in (known or ()):
                    own.append(one.kind)
        self._mine[offset] = own
        return sure or known is not None

    def _reacted(self, reactions: Sequence[Reaction], kind: str, on: bool) -> tuple[Reaction, ...]:
        user = self._user()
        shown: list[Reaction] = []
        found = False
        for one in reactions:
            if one.kind == kind:
                found = True
                others = tuple(name for name in one.users if name != user)
                one = Reaction(kind, one.count + (1 if on else -1), (*others, user) if on and user else others)
            shown.append(one)
        if on and not found:
            shown.append(Reaction(kind, 1, (user,) if user else ()))
        return tuple(one for one in shown if one.count > 0)
