"""Messages for later: accepted now, published when they are due, and until then to be cancelled.

They wait in the outbox. The right to publish is asked for when a message is accepted, by the hook as well, and again
when it is due; one whose user has lost it meanwhile is among the dead, as soon as that is known.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from server.access.admission import Admission
from server.access.permissions import Permissions
from server.access.quotas import Quotas
from server.access.rights import Rights
from server.channels.publisher import Publisher, named
from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import namespace_of
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.documents import document_json
from server.log.log import Receipt
from server.mongo.client import brief, mapped
from server.outbox.entries import entry_of, moment, name_of
from server.outbox.outbox import Outbox
from server.wire.codec import JSON
from server.wire.commands import At

logger = logging.getLogger(__name__)

AGAIN: Final = 1.0
AHEAD: Final = 366 * 86400
"""Seconds that a client may look ahead."""
_NOT_DUE: Final = {"at": {"$exists": True, "$ne": None}, "taken": {"$exists": False}}
_RIGHTS: Final = ("user", "server", "channels", "claims", "token", "issued", "admin")


class Scheduled(NamedTuple):
    """That a message waits. `at`: seconds since 1970."""

    id: str
    at: float

    def fields(self) -> dict[str, Any]:
        return {"scheduled": self.id, "at": self.at}


class Scheduler:
    def __init__(
        self,
        outbox: Outbox,
        *,
        permissions: Permissions,
        rights: Rights,
        admission: Admission,
        quotas: Quotas,
        publisher: Publisher,
        lifecycle: Lifecycle,
        keeper: Keeper,
        clock: Clock,
        most: int,
    ) -> None:
        """`most`: messages of one user that may wait; 0: any number."""
        self._outbox = outbox
        self._most = most
        self._permissions = permissions
        self._rights = rights
        self._admission = admission
        self._quotas = quotas
        self._publisher = publisher
        self._lifecycle = lifecycle
        self._keeper = keeper
        self._clock = clock
        outbox.on_lead = self.look_again

    async def publish(
        self,
        principal: Principal,
        channel: str,
        data: Any,
        at: At,
        key: str | None,
        mentions: Sequence[str] | None = None,
        *,
        address: str = "",
    ) -> Scheduled | Receipt | None:
        """Have it published at `at`, or at once if that is over. With a key it is one message however often it is asked
        for; `conflict` if that has other data or another time. The answer to a publish, if it is one."""
        due = self._when(at)
        if due > self._clock.time():
            return await self._schedule(principal, channel, data, due, key, mentions, address)
        publishing = self._publisher.publish(principal, channel, data, key, address=address, mentions=mentions)
        return None if publishing is None else await publishing

    async def _schedule(
        self,
        principal: Principal,
        channel: str,
        data: Any,
        due: float,
        key: str | None,
        mentions: Sequence[str] | None,
        address: str,
    ) -> Scheduled:
        right = self._rights.to_publish(principal, channel)
        if principal.user is None:
            raise Error("permission_denied", f"{principal.name} may not schedule messages")
        self._publisher.size_of(data)
        self._admission.spend(principal, address, channel)
        self._lifecycle.check()
        about = {"channel": channel, "data": data, "key": key}
        if mentions:
            about["mentions"] = list(named(mentions, right.options, channel, not right.options.durable))
        answer = await right.ask("publish", about)
        data = answer.get("data", data)
        size = self._publisher.size_of(data)
        await self._outbox.begin()
        await right.ask_again()
        charge = self._quotas.charge(principal, address, namespace_of(channel), messages=1, size=size)
        entry = {
            "_id": ObjectId() if key is None else _identifier(principal, channel, key),
            "channel": channel,
            "text": JSON.encode(data).decode(),
            "user": principal.user,
            "at": datetime.fromtimestamp(due, UTC),
            "by": {
                "user": principal.user,
                "server": principal.server,
                "rights": JSON.encode({name: getattr(principal, name) for name in _RIGHTS}).decode(),
            },
            **({} if key is None else {"key": key}),
            **({"mentions": about["mentions"]} if mentions else {}),
        }
        try:
            await self._outbox.entries.insert_one(entry)
            if self._most and not principal.server and await self._too_many(principal, entry):
                if charge is not None:
                    charge.give_all_back()
                limit = "limits.scheduled_per_user"
                raise Error("limit_exceeded", f"at: {limit} is {self._most}", limit=limit)
        except DuplicateKeyError:
            if charge is not None:
                charge.give_all_back()
            await self._compare(entry)
        except PyMongoError as error:
            reason = f"MongoDB: {brief(error)}; it may be scheduled: retry with the same key"
            raise Error("outcome_unknown", reason, retry_after=1.0) from error
        return Scheduled(name_of(entry["_id"]), due)

    async def _too_many(self, principal: Principal, entry: dict[str, Any]) -> bool:
        """Whether it was one too many: then it is gone. Counted with it, so that of those that come at the same time,
        wherever, never too many stay."""
        entries = self._outbox.entries
        if await entries.count_documents(self._own(principal), limit=self._most + 1) <= self._most:
            return False
        await entries.delete_one({"_id": entry["_id"]})
        return True

    def _when(self, at: At) -> float:
        if isinstance(at, str):
            try:
                parsed = datetime.fromisoformat(at)
            except ValueError:
                parsed = None
            if parsed is None or parsed.tzinfo is None:
                raise bad_request("at: seconds since 1970, or a date and time with its zone (RFC 3339)")
            at = parsed.timestamp()
        due = moment(at)
        assert due is not None
        if due > self._clock.time() + AHEAD:
            raise bad_request(f"at: {AHEAD // 86400} days ahead at most")
        return max(round(due, 3), 0.0)

    async def _compare(self, entry: dict[str, Any]) -> None:
        """An earlier attempt has made it, and it waits still."""
        with mapped():
            there = await self._outbox.entries.find_one({"_id": entry["_id"]})
        if there is not None and (there["text"], moment(there["at"])) != (entry["text"], entry["at"].timestamp()):
            raise Error("conflict", "key: another message of this channel is scheduled with it")

    async def waiting(self, principal: Principal, channel: str | None, limit: int) -> list[dict[str, Any]]:
        """[{"id", "channel", "data", "key", "user", "at"}], those that are due first in front: the principal's own; of
        an administrator's all, also those that the product has written."""
        self._lifecycle.check()
        if not self._outbox.on:
            return []
        which = self._own(principal) | ({} if channel is None else {"channel": channel})
        rows = []
        with mapped():
            for kind in ("date", "number"):  # MongoDB does not compare the two with each other
                some = {"$and": [which, {"at": {"$type": kind}}]}
                rows += [_shown(row) async for row in self._outbox.entries.find(some).sort("at", 1).limit(limit)]
        rows.sort(key=lambda row: row["at"] or 0)
        return rows[:limit]

    async def cancel(self, principal: Principal, identifier: str) -> None:
        """It will not be published. `not_found`: there is none, or it is published, or somebody else's."""
        self._lifecycle.check()
        deleted = 0
        if self._outbox.on:
            which = {"_id": {"$in": document_json.ids(identifier)}} | self._own(principal)
            with mapped():
                deleted = (await self._outbox.entries.delete_one(which)).deleted_count
        if not deleted:
            raise Error("not_found", "scheduled: there is none of yours with this id that waits")

    def _own(self, principal: Principal) -> dict[str, Any]:
        if principal.admin:
            return dict(_NOT_DUE)
        if principal.user is None:
            raise Error("permission_denied", f"{principal.name} may not schedule messages")
        return {**_NOT_DUE, "by.user": principal.user, "by.server": principal.server}

    def look_again(self, user: str | None = None) -> None:
        """Something was revoked, of one user or perhaps of all."""
        if self._outbox.on and self._outbox.holds:
            self._keeper.spawn("scheduled messages", self._look_again(user))

    async def _look_again(self, user: str | None) -> None:
        """Take out what may not be published any more, before it is forgotten that it was revoked; until that is done,
        or another node's: it looks by itself."""
        while self._outbox.holds:
            try:
                await self._take_out(user)
                return
            except Error as error:
                logger.warning("scheduled messages: %s", error.reason)
                await asyncio.sleep(AGAIN)

    async def _take_out(self, user: str | None) -> None:
        which: dict[str, Any] = {"by.user": {"$exists": True} if user is None else user, "by.server": False}
        lost: list[tuple[RawBSONDocument, Error]] = []
        with mapped():
            async for row in self._outbox.entries.find(which):
                try:
                    entry = entry_of(bytes(row.raw))
                    self._permissions.check(entry.principal, "publish", entry.channel)
                except Error as error:
                    if error.code != "unavailable":
                        lost.append((row, error))
            await self._outbox.bury(lost)
            await self._outbox.entries.delete_many({"_id": {"$in": [row["_id"] for row, _ in lost]}})


def _identifier(principal: Principal, channel: str, key: str) -> str:
    name = JSON.encode([channel, principal.user, principal.server, key])
    return hashlib.blake2b(name, digest_size=16).hexdigest()


def _shown(row: RawBSONDocument) -> dict[str, Any]:
    at = row["at"]
    try:
        entry = entry_of(bytes(row.raw))
        shown = {"channel": entry.channel, "data": entry.data, "key": entry.key, "user": entry.principal.user}
        at = entry.at
    except Error:  # it will be among the dead
        shown = {"channel": None, "data": None, "key": None, "user": None}
    return {"id": name_of(row["_id"]), **shown, "at": at if isinstance(at, float) else None}
