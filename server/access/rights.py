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

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from server.access.hooks import Answer, Hooks
from server.access.permissions import Permissions
from server.core.config import Collection, Namespace
from server.core.errors import Error
from server.core.names import DOCUMENTS, without_label
from server.core.principals import Principal

Options = TypeVar("Options", Namespace, Collection)


class Right(Generic[Options]):
    """That a principal may do something, as of when it was last asked."""

    __slots__ = ("options", "_check", "_hooks", "_principal")

    def __init__(self, hooks: Hooks, principal: Principal, check: Callable[[], Options]) -> None:
        """`check` raises if there is no such right."""
        self.options: Options = check()
        """Of what it is a right to."""
        self._check: Callable[[], Options] = check
        self._hooks = hooks
        self._principal = principal

    def again(self) -> None:
        """Raise what says why, if the right is gone."""
        self._check()

    async def ask(self, action: str, about: dict[str, Any]) -> Answer:
        """Ask the hook as well, if there is one: its answer, or `permission_denied`."""
        answer = await self._hooks.ask(self.options.hook, action, self._principal, about)
        self.again()
        return answer


class Rights:
    """The rules of the configuration, what tokens carry, what was revoked, and what hooks say."""

    def __init__(self, permissions: Permissions, hooks: Hooks) -> None:
        self._permissions = permissions
        self._hooks = hooks

    @asynccontextmanager
    async def reading(self, principal: Principal, channel: str) -> AsyncIterator[Namespace]:
        """Around what only those may read who may subscribe to the channel: the right and the hook are asked for before
        the block, and the right again behind it. Gives the channel's options."""
        check = partial(self._permissions.check, principal, "subscribe", channel)
        right: Right[Namespace] = Right(self._hooks, principal, check)
        await right.ask("subscribe", {"channel": without_label(channel)})
        yield right.options
        right.again()

    @asynccontextmanager
    async def reading_documents(self, principal: Principal, name: str) -> AsyncIterator[Collection]:
        """The same around what only those may read who may read the documents of a collection."""
        right = self._to_documents(principal, "read", name)
        await right.ask("subscribe", {"channel": f"{DOCUMENTS}:{name}"})
        yield right.options
        right.again()

    def to_publish(self, principal: Principal, channel: str) -> Right[Namespace]:
        """The right to publish in the channel; the hook is not asked yet."""
        return Right(self._hooks, principal, partial(self._permissions.check, principal, "publish", channel))

    def to_write(self, principal: Principal, name: str) -> Right[Collection]:
        """The right to write documents of a collection; the hook is not asked yet."""
        return self._to_documents(principal, "write", name)

    def _to_documents(self, principal: Principal, action: Literal["read", "write"], name: str) -> Right[Collection]:
        check = partial(self._permissions.check_documents, principal, action, name)
        return Right(self._hooks, principal, check)


def must_be_admin(principal: Principal) -> None:
    """`permission_denied` for whoever has no API key that is `admin`."""
    if not principal.admin:
        raise Error("permission_denied", f"{principal.name} is no API key with admin")
