"""The use cases of documents: reading, listing, writing, and what somebody sees of their changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from server.access.admission import Admission
from server.access.quotas import Charge, Quotas
from server.access.rights import Right, Rights
from server.core.config import Collection
from server.core.cursors import Position
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import DOCUMENTS, without_label
from server.core.principals import Principal
from server.core.rules import satisfies
from server.documents.store import Documents, Written
from server.documents.tailer import Tailer
from server.documents.views import Owner, View
from server.documents.where import parse as parse_where
from server.log.log import Log
from server.mongo.client import mapped
from server.wire.codec import JSON
from server.wire.commands import Find, Write
from server.wire.pushes import Fields


class DocumentService:
    def __init__(
        self,
        *,
        collections: Mapping[str, Collection],
        store: Documents,
        tailer: Tailer,
        log: Log,
        rights: Rights,
        admission: Admission,
        quotas: Quotas,
        lifecycle: Lifecycle,
    ) -> None:
        self._collections = collections
        self._store = store
        self._tailer = tailer
        self._log = log
        self._rights = rights
        self._admission = admission
        self._quotas = quotas
        self._lifecycle = lifecycle

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, collection: str, identifier: str, *, address: str = "") -> Fields:
        """The document, with its `_id` and `_rev`; `not_found`."""
        self._admission.spend(principal, address)
        async with self._rights.reading_documents(principal, collection) as declared:
            self._lifecycle.check()
            return await self._store.get(collection, identifier, _owner(principal, collection, declared, "read"))

    async def find(self, principal: Principal, query: Find, *, address: str = "") -> Fields:
        """A page of a list: {"documents", "page", "count"?}."""
        self._admission.spend(principal, address)
        async with self._rights.reading_documents(principal, query.collection) as declared:
            self._lifecycle.check()
            owner = _owner(principal, query.collection, declared, "read")
            return await self._store.find(query.collection, query, owner)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, principal: Principal, collection: str, write: Write, *, address: str = "") -> Written:
        right = self._to_write(principal, collection, address)
        await self._ask_about(right, collection, write)
        owner = _owner(principal, collection, right.options, "write")
        charge = self._charge(principal, collection, [write], address)
        result: Written | Error | None = None
        try:
            result = written = await self._store.write(collection, write, principal.user, owner, right.again)
        except Error as error:
            result = error
            raise
        finally:
            _settle(charge, [write], [result])
        return written

    async def write_many(
        self, principal: Principal, collection: str, writes: list[Write], *, address: str = ""
    ) -> list[Written | Error]:
        """Each with its own outcome, in their order."""
        right = self._to_write(principal, collection, address)
        refused: dict[int, Error] = {}

        async def ask(index: int) -> None:
            try:
                await self._ask_about(right, collection, writes[index])
            except Error as error:
                refused[index] = error

        await asyncio.gather(*map(ask, range(len(writes))))
        right.again()  # the first was asked about when the last was still waiting
        owner = _owner(principal, collection, right.options, "write")
        allowed = [write for index, write in enumerate(writes) if index not in refused]
        charge = self._charge(principal, collection, allowed, address)
        done: Sequence[Written | Error | None] = [None] * len(allowed)
        try:
            done = results = await self._store.write_many(collection, allowed, principal.user, owner, right.again)
        finally:
            _settle(charge, allowed, done)
        following = iter(results)
        return [refused[index] if index in refused else next(following) for index in range(len(writes))]

    def _charge(self, principal: Principal, collection: str, writes: Sequence[Write], address: str) -> Charge | None:
        """Take the writes from the quotas. Whether a put makes a document is known afterwards: until then it does."""
        if principal.server or not self._quotas.limited:
            return None
        size, new = sum(map(_size, writes)), sum(map(_may_create, writes))
        return self._quotas.charge(principal, address, f"{DOCUMENTS}:{collection}", size=size, new_documents=new)

    def _to_write(self, principal: Principal, collection: str, address: str) -> Right[Collection]:
        self._admission.spend(principal, address)
        right = self._rights.to_write(principal, collection)
        self._lifecycle.check()
        return right

    async def _ask_about(self, right: Right[Collection], name: str, write: Write) -> None:
        """The hook's answer may have other fields for the document."""
        about = {"collection": name, "op": write.op, "document_id": write.document_id, "document": write.document}
        answer = await right.ask("write", about)
        if isinstance(answer.get("data"), dict):
            write.document = answer["data"]

    # --- watching -----------------------------------------------------------------------------------------------------

    def view(self, principal: Principal, channel: str, where: Any, conflate: float = 0.0) -> View | None:
        """What a principal sees of the changes of documents; None for other channels. The right is checked already."""
        if not channel.startswith(f"{DOCUMENTS}:"):
            if where is not None:
                raise bad_request(f"where: {channel} has no documents")
            return None
        rest = without_label(channel).partition(":")[2]
        name, slash, identifier = rest.partition("/")
        if slash and not identifier:
            raise bad_request("channel: docs:collection/id, the id is missing")
        wanted = parse_where(where) if where else None
        owner = _owner(principal, name, self._collections[name], "read")
        return View(channel, name, identifier if slash else None, wanted, owner, conflate)

    def check_view(self, principal: Principal, channel: str, owner: Owner | None) -> None:
        """`permission_denied` if the principal, with another token than before, sees no longer all that a subscription
        shows: that of an `owner`, or everything."""
        namespace, _, rest = without_label(channel).partition(":")
        if namespace != DOCUMENTS or owner is not None:
            return
        name = rest.partition("/")[0]
        if _owner(principal, name, self._collections[name], "read") is not None:
            raise Error("permission_denied", f"{principal.name} does not see all documents of {name} any more")

    async def settled(self, view: View, log_channel: str) -> tuple[Position | None, Any]:
        """A moment up to which the log has every change of the collection: the position behind the last of them, and
        the moment, for `snapshot`. None: the log's history has just begun anew."""
        with mapped():
            at = await self._tailer.position(view.collection)
        return await self._log.changes.position_at(log_channel, at), at

    def snapshot(self, view: View, at: Any) -> AsyncGenerator[tuple[list[Any], bool], None]:
        """The pages of what there was at that moment: (documents, whether there are more)."""
        return self._store.snapshot(view, at)


def _size(write: Write) -> int:
    return 0 if write.document is None else len(JSON.encode(write.document))


def _may_create(write: Write) -> bool:
    return write.op == "put" and write.if_rev is None


def _settle(charge: Charge | None, writes: Sequence[Write], results: Sequence[Written | Error | None]) -> None:
    """Give back what was taken for documents that were not made, and for what was not stored."""
    if charge is None:
        return
    unmade = size = 0
    for write, result in zip(writes, results, strict=True):
        if result is None or (isinstance(result, Error) and result.code == "outcome_unknown"):
            continue  # nobody knows what has become of it
        stored = isinstance(result, Written) and not result.duplicate
        unmade += _may_create(write) and not (isinstance(result, Written) and result.created)
        size += 0 if stored else _size(write)
    charge.give_back("new_documents", unmade)
    charge.give_back("bytes", size)


def _owner(principal: Principal, name: str, collection: Collection, action: Literal["read", "write"]) -> Owner | None:
    """Where rows have owners, everybody sees their own; a server sees all, and whoever a rule lets."""
    if collection.owner is None or principal.server:
        return None
    if satisfies(principal, collection.read_all if action == "read" else collection.write_all):
        return None
    if principal.user is None:
        raise Error("permission_denied", f"a guest owns no documents of {name}")
    return Owner(collection.owner, principal.user)
