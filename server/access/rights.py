"""Rights, asked for before something is done and again after everything that waited.

A hook, a read, a lock or a queue takes time, and in that time a right may be revoked. Whoever was told that it is
revoked must see nothing done with it afterwards. Permissions decides. Whoever waits for something between asking and
doing takes the right from here; who does not wait asks `Permissions.check`. There are two ways to take one:

    async with rights.reading(principal, channel) as namespace:    asks again when the block ends, before its result
        …                                                          is given to anybody

    right = rights.to_write(principal, collection)                 what changes something asks again before it does
    answer = await right.ask("write", about)                       (`ask` does so itself when the hook has answered)
    right.again()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from server.access.hooks import Answer, Hooks
from server.access.memberships import Unloaded
from server.access.permissions import Permissions
from server.core.config import Collection, Namespace
from server.core.errors import Error
from server.core.names import DOCUMENTS, parent_of, without_label
from server.core.principals import Principal
from server.core.rules import Rule

Options = TypeVar("Options", Namespace, Collection)


class Right(Generic[Options]):
    """That a principal may do something, as of when it was last asked."""

    __slots__ = ("options", "_check", "_hooks", "_principal", "_known")

    def __init__(self, hooks: Hooks, principal: Principal, check: Callable[[], Options]) -> None:
        """`check` raises if there is no such right."""
        self._known = True
        try:
            self.options: Options = check()
            """Of what it is a right to."""
        except Unloaded as missing:
            self.options = missing.options  # type: ignore[assignment]  # there are none of others
            self._known = False
        self._check: Callable[[], Options] = check
        self._hooks = hooks
        self._principal = principal

    def again(self) -> None:
        """Raise what says why, if the right is gone."""
        self._check()

    def settled(self, action: str) -> bool:
        """Whether nothing has to be waited for to know it: it is read already, and there is no hook to ask."""
        return self._known and not self._hooks.wanted(self.options.hook, action)

    async def ask(self, action: str, about: dict[str, Any]) -> Answer:
        """Ask the hook as well, if there is one: its answer, or `permission_denied`."""
        await self.settle()
        if self.settled(action):
            return {}
        answer = await self._hooks.ask(self.options.hook, action, self._principal, about)
        await self.ask_again()
        return answer

    async def settle(self) -> None:
        """Return when it is known that there is such a right, which may have to be read first; else raise."""
        if not self._known:
            await self.ask_again()
            self._known = True

    async def ask_again(self) -> None:
        """As `again`, for who can wait until it is known."""
        while True:
            try:
                self._check()
                return
            except Unloaded as missing:
                await missing.load()


class Reading(Right[Options]):
    """Around what only those may read who may subscribe to `channel`: the hook is asked before the block, and the right
    again behind it. Gives the options of what is read."""

    __slots__ = ("_channel",)

    def __init__(self, hooks: Hooks, principal: Principal, check: Callable[[], Options], channel: str) -> None:
        super().__init__(hooks, principal, check)  # type: ignore[arg-type]  # which of the two it is, mypy forgets here
        self._channel = channel

    async def __aenter__(self) -> Options:
        if not self.settled("subscribe"):
            await self.ask("subscribe", {"channel": without_label(self._channel)})
        return self.options

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._check()
            except Unloaded:
                await self.ask_again()


class Rights:
    """The rules of the configuration, what tokens carry, what was revoked, and what hooks say."""

    def __init__(self, permissions: Permissions, hooks: Hooks) -> None:
        self._permissions = permissions
        self._hooks = hooks

    def reading(self, principal: Principal, channel: str) -> Reading[Namespace]:
        """Around what is read of a channel. Raises at once if there is no right to it."""
        check = partial(self._permissions.check, principal, "subscribe", channel)
        return Reading(self._hooks, principal, check, channel)

    def to_read(self, principal: Principal, channel: str) -> Namespace | None:
        """The options of a channel that may be read, as of now, for who asks once more instead of a block; raises if
        there is no right to it. None: to know it, something has to be waited for."""
        try:
            namespace = self._permissions.check(principal, "subscribe", channel)
        except Unloaded:
            return None
        return None if self._hooks.wanted(namespace.hook, "subscribe") else namespace

    def reading_documents(self, principal: Principal, name: str) -> Reading[Collection]:
        """The same around what is read of the documents of a collection."""
        check = partial(self._permissions.check_documents, principal, "read", name)
        return Reading(self._hooks, principal, check, f"{DOCUMENTS}:{name}")

    def to_publish(self, principal: Principal, channel: str) -> Right[Namespace]:
        """The right to publish in the channel; the hook is not asked yet."""
        return Right(self._hooks, principal, partial(self._permissions.check, principal, "publish", channel))

    def to_broadcast(self, principal: Principal, thread: str) -> Right[Namespace]:
        """The right to publish in the thread and in its parent; the hook is not asked yet."""

        def check() -> Namespace:
            self._permissions.check(principal, "publish", parent_of(thread))
            return self._permissions.check(principal, "publish", thread)

        return Right(self._hooks, principal, check)

    def to_room(self, principal: Principal, channel: str) -> Right[Namespace]:
        """To have something to do with the members of the channel; what, is for others to say."""
        return Right(self._hooks, principal, partial(self._permissions.check_room, principal, channel))

    async def check_reading(self, principal: Principal, channel: str) -> None:
        """Raise what says why, if there is no right to read the channel; hooks are not asked."""
        await Right(self._hooks, principal, partial(self._permissions.check, principal, "subscribe", channel)).settle()

    def to_amend(self, principal: Principal, channel: str, own: bool = True) -> Right[Namespace]:
        """The right to amend a message of the channel, which is or is not the principal's `own`; the hook is not asked
        yet."""
        return Right(self._hooks, principal, partial(self._permissions.check_amend, principal, channel, own))

    def to_react(self, principal: Principal, channel: str, on: bool = True) -> Right[Namespace]:
        """The right to react to messages of the channel, or to take that back; the hook is not asked yet."""
        return Right(self._hooks, principal, partial(self._permissions.check_react, principal, channel, on))

    def to_write(self, principal: Principal, name: str) -> Right[Collection]:
        """The right to write documents of a collection; the hook is not asked yet."""
        return Right(self._hooks, principal, partial(self._permissions.check_documents, principal, "write", name))

    def to_call(self, principal: Principal, method: str, rule: Rule, name: str) -> Callable[[], None]:
        """The right to call a method of the user's back end, as of now: what asks for it again, behind what has waited.
        `name`: of what it is declared under."""
        again = partial(self._permissions.check_call, principal, method, rule, name)
        again()
        return again

    def to_follow(self, who: Callable[[], Principal], pattern: str) -> Callable[[], None]:
        """The right to subscribe to a pattern, as of now, of who that is at any time: what asks for it again."""

        def again() -> None:
            self._permissions.check_pattern(who(), pattern)

        again()
        return again


def must_be_admin(principal: Principal) -> None:
    """`permission_denied` for whoever has no API key that is `admin`, and is no operator."""
    if not principal.admin:
        raise Error("permission_denied", f"{principal.name} is no API key with admin")
