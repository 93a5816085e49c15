"""Amending: editing, appending to, erasing and pinning messages that are there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

from server.access.admission import Admission
from server.access.hooks import Hooks
from server.access.permissions import owns
from server.access.quotas import Quotas
from server.access.rights import Right, Rights
from server.core.config import Namespace
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import DOCUMENTS, namespace_of
from server.core.principals import Principal
from server.log.appends import check_text
from server.log.log import Log, Receipt
from server.wire.amendments import AmendedMessage, Op
from server.wire.commands import Amending
from server.wire.pushes import MessagePush

TEXTS: Final = ("edit", "append")
"""What people are shown something new by."""


class Amender:
    """`size_of(data)`: its bytes, or `too_large`; `limit`: how many there may be. `check_nodes` raises `unavailable`
    while there is a node that knows nothing of amendments."""

    def __init__(
        self,
        *,
        rights: Rights,
        hooks: Hooks,
        admission: Admission,
        quotas: Quotas,
        log: Log,
        lifecycle: Lifecycle,
        size_of: Callable[[Any], int],
        limit: int,
        check_nodes: Callable[[], None],
    ) -> None:
        self.amended = 0
        """Amendments that were accepted."""
        self._rights = rights
        self._hooks = hooks
        self._admission = admission
        self._quotas = quotas
        self._log = log
        self._lifecycle = lifecycle
        self._size_of = size_of
        self._limit = limit
        self._check_nodes = check_nodes

    async def get(self, principal: Principal, channel: str, offset: int, *, address: str = "") -> MessagePush:
        """The message at `offset` as it is now, for who may read the channel; `not_found` if there is none."""
        if namespace_of(channel) == DOCUMENTS:  # who may read a collection need not see all of its documents
            raise bad_request(f"channel: {channel} has changes of documents, which are read as its history")
        self._admission.spend(principal, address)
        async with self._rights.reading(principal, channel) as namespace:
            if not namespace.durable:
                raise bad_request(f"channel: {channel} is ephemeral, it has no history")
            self._lifecycle.check()
            message = await self._log.amendments.original(channel, offset)
            if message is None:
                raise _not_found(channel, offset)
            return message.push()

    async def amend(
        self, principal: Principal, channel: str, of: int, amending: Amending, *, key: str | None = None,
        address: str = "",
    ) -> Receipt:  # fmt: skip
        """Store what becomes of the message at `of`, and fold it in. `not_found` if there is none (any more), or if it
        is erased; a retry with the same key is none the less answered with what it has done."""
        right = self._rights.to_amend(principal, channel)
        op, data = amending.operation()
        size = self._size_of(data) if op in TEXTS else 0
        self._admission.spend(principal, address, channel)
        self._lifecycle.check()
        self._check_nodes()
        await right.settle()
        if right.options.direct and op != "delete":  # what it would say then may be unwanted
            await self._rights.to_publish(principal, channel).settle()
        original = self._log.appends.original(channel, of) if op == "append" else None
        original = original or await self._log.amendments.original(channel, of)
        if original is None or original.deleted is not None:
            return await self._again(right, principal, channel, of, op, amending.part, key)
        right = self._rights.to_amend(principal, channel, owns(principal, original))
        if op == "append":
            check_text(original)
        # What is to be shown is asked about as that: else it would be the way past a filter.
        action = "publish" if op in TEXTS and self._hooks.wanted(right.options.hook, "publish") else "amend"
        about = {"channel": channel, "op": op, "of": of, "key": key}
        answer = await right.ask(action, about if op == "delete" else about | {"data": data})
        if op in TEXTS and "data" in answer:
            data = answer["data"]
            size = self._size_of(data)
        if right.options.threads and op in ("edit", "delete"):
            await self._amend_twin(right, principal, original, op, data, size, key)
        if op != "append":
            store: Callable[[], Awaitable[Receipt]] = partial(
                self._log.amendments.append,
                original, op, data, user=principal.user, key=key or secrets.token_urlsafe(12), size=size,
                again=right.again,
            )  # fmt: skip
        elif isinstance(data, str):
            twin = await self._log.appends.twin(original) if right.options.threads else None
            append = partial(
                self._log.appends.append,
                text=data, user=principal.user, part=amending.part, key=key, done=amending.done, limit=self._limit,
                again=right.again,
            )  # fmt: skip
            store = partial(_append_to_both, append, original, twin)
        else:
            raise Error("internal", "the hook has made something else of a text that was to be appended")
        try:
            return await self._store(principal, original.channel, store, size, address)
        except Error as error:
            if op != "append" or error.code != "not_found":
                raise
        return await self._again(right, principal, channel, of, op, amending.part, key)

    async def _amend_twin(
        self, right: Right[Namespace], principal: Principal, original: AmendedMessage, op: Op, data: Any, size: int,
        key: str | None,
    ) -> None:  # fmt: skip
        """What was published in a thread and in its parent is one message to who reads it, so what becomes of the one
        becomes of the other. First, because who gets no answer tries again, and then has both done. (What is appended:
        `_append_to_both`.)"""
        twin = await self._log.amendments.twin(original)
        if twin is not None and twin.deleted is None:
            await right.ask_again()
            await self._log.amendments.append(
                twin, op, data, user=principal.user, key=key or secrets.token_urlsafe(12), size=size, again=right.again
            )

    async def _store(
        self, principal: Principal, channel: str, store: Callable[[], Awaitable[Receipt]], size: int, address: str
    ) -> Receipt:
        charge = None
        if self._quotas.limited:
            name = namespace_of(channel)
            charge = self._quotas.charge(principal, address, name, new_channels=0, messages=1, size=size)
        try:
            receipt = await store()
        except Error as error:
            if charge is not None and error.code != "outcome_unknown":
                charge.give_all_back()
            raise
        if charge is not None and receipt.duplicate:
            charge.give_all_back()
        self.amended += 1
        return receipt

    async def _again(
        self,
        right: Right[Namespace],
        principal: Principal,
        channel: str,
        of: int,
        op: Op,
        part: int | None,
        key: str | None,
    ) -> Receipt:
        """Perhaps it is this very amendment that has erased it, or it was made before, and its answer was lost."""
        receipt = None
        if op == "append" and (part is not None or key is not None):
            receipt = await self._log.appends.stored(channel, of, principal.user, part, key)
        elif key is not None:
            receipt = await self._log.amendments.stored(channel, of, op, principal.user, key)
        if receipt is not None:
            await right.ask_again()
            return receipt
        raise _not_found(channel, of)


async def _append_to_both(
    append: Callable[[AmendedMessage], asyncio.Future[Receipt]], original: AmendedMessage, twin: AmendedMessage | None
) -> Receipt:
    """At the same time, as what streams in does not wait; a retry with the same part or key makes up for either."""
    appending = append(original)
    if twin is None or twin.deleted is not None:
        return await appending
    appended, copied = await asyncio.gather(appending, append(twin), return_exceptions=True)
    for outcome in (appended, copied):
        if isinstance(outcome, BaseException) and not (outcome is copied and _is_gone(outcome)):
            raise outcome
    return cast(Receipt, appended)


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, Error) and error.code == "not_found"


def _not_found(channel: str, offset: int) -> Error:
    return Error("not_found", f"offset: there is no message {offset} in {channel} (any more)")
