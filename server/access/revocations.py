"""Revocations: what was taken back before its time. Not trusted to Redis: written with a majority, asked for by all.

    revocations  {_id: n, kind, user, at, until?, …}      n is 1, 2, 3… without holes

    member       the user's role in the channels has changed, or is none any more
    ban, unban   what the user may not do, whatever token it has, until it is lifted or over: see bans.py
    revoke       all tokens of `user` issued until `at`; or the one named `token`; or all their rights in `channels`
    unsubscribe  ends the user's subscriptions to `channel`, once
    disconnect   ends the user's sessions, once

`at` is MongoDB's time, so that it does not matter through which node a revocation came. When a token was issued only
its issuer knows (`iat`); if its clock is ahead of MongoDB's, tokens survive that were issued so many seconds before the
revocation, up to the 10 s beyond which a token is from the future and refused.

Since the numbers have no holes, asking for the one after the last known says everything: if a *linearizable* read does
not find it, there is nothing newer, and the primary that says so is no deposed one. Every node asks every half second.
What it has not been told for CONFIRM_WITHIN seconds it does not know (`confirmed`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from pymongo.errors import PyMongoError

from server.access.bans import BAN, UNBAN, Ban, Bans
from server.core.clock import Clock
from server.core.errors import Error
from server.core.names import covers, without_label
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.log.groups import GroupReader
from server.mongo.client import LINEARIZABLE, brief, duplicates, mapped
from server.mongo.clock import compare
from server.mongo.databases import DatabaseApart

logger = logging.getLogger(__name__)

POLL_EVERY: Final = 0.5
ANSWER_WITHIN: Final = 2.0
CONFIRM_WITHIN: Final = 3.0
ONCE_KEPT: Final = 86400.0
"""Seconds what happens once stays in the collection, for nodes that were cut off."""
BANS_KEPT: Final = 90 * 86400.0
"""Seconds that it can be looked up who has banned whom after it is over."""
EXPIRE_EVERY: Final = 3600.0
WRITTEN_TOGETHER: Final = 500


class Bearer(Protocol):
    """What a revocation may concern: a principal, or a right that a token gives in one channel."""

    @property
    def token(self) -> str | None:
        """Names the token."""

    @property
    def issued(self) -> float | None:
        """Its `iat`."""


class Revocation(NamedTuple):
    kind: str
    user: str
    at: float = 0.0
    """Seconds since 1970, UTC, by MongoDB's clock. `Revocations.add` sets it."""
    token: str | None = None
    channels: Sequence[str] = ()
    reason: str = ""
    reconnect: bool = False
    code: int | None = None
    """Of a disconnect: what clients are told whose protocol lets a back end choose it."""
    session: str | None = None
    """Only this one of the user's sessions is meant."""
    spared: Sequence[str] = ()
    """Sessions of the user that are not meant."""
    kept: float = 0.0
    """Seconds after which none of the tokens that are meant is good any more; 0: nobody knows."""
    by: str = ""
    """Of a ban: whose it is."""
    lasts: float = 0.0
    """Of a ban: seconds; 0: until it is lifted."""
    ends: float = 0.0
    """Of a ban: when it is over, as `at`. `Revocations.add` sets it."""

    def concerns(self, bearer: Bearer) -> bool:
        """Whether its token is one of those that are revoked. One that does not say when it was issued is as old as can
        be. A ban does not ask for tokens."""
        if self.kind == BAN:
            return True
        if self.token is not None:
            return bearer.token == self.token
        return (bearer.issued or 0.0) <= self.at

    def means(self, session: str) -> bool:
        """Whether it is about this one of the user's sessions."""
        return self.session in (None, session) and session not in self.spared

    def names(self, channel: str) -> bool:
        """Whether the channel is one that is named in so many words: subscriptions to it are to end."""
        return not {channel, without_label(channel)}.isdisjoint(self.channels)

    def covers(self, channel: str) -> bool:
        """Whether the right to the channel is taken."""
        return covers(self.channels, channel)


class Revocations:
    """`on_revocation` is called for each new one, `on_confirmed` when `confirmed` changes. `token_ttl`: seconds that no
    token outlives its issue by; 0: not known, so what is revoked is kept for ever."""

    def __init__(
        self,
        database: DatabaseApart,
        token_ttl: float,
        *,
        on_revocation: Callable[[Revocation], None],
        on_confirmed: Callable[[bool], None],
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._clock = clock or Clock()
        self._collection = database.own("revocations")
        self._linearizable = self._collection.with_options(read_concern=LINEARIZABLE)
        self._token_ttl = token_ttl
        self._on_revocation = on_revocation
        self._on_confirmed = on_confirmed
        self.confirmed = False
        self.newest = 0
        """The number of the last one that is known here."""
        self._users: dict[str, tuple[float, float]] = {}
        """User → all tokens issued until then are revoked; and when all of these have expired."""
        self._tokens: dict[str, dict[str, float]] = {}
        """Token → users; and when it has expired."""
        self._rights: dict[str, list[Revocation]] = {}
        self.bans = Bans(self._clock)
        self._ended: dict[tuple[str, str], float] = {}
        """(user, channel) → when a back end last ended the user's subscriptions there, for ONCE_KEPT seconds."""
        self._doubt: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._keeper = Keeper()
        self._writer: GroupReader[Revocation, bool] = GroupReader(
            self._keeper, "new revocations", self._write, WRITTEN_TOGETHER
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load all that there is, and keep asking; `unavailable` if MongoDB does not answer (try again)."""
        with mapped():
            async for document in self._collection.find().sort("_id"):
                self.newest = document["_id"]
                self._remember(_revocation(document), document.get("until"))
        await self._ask()
        self._keeper.keep("revocations", self._poll)
        self._keeper.every("old revocations", EXPIRE_EVERY, self._expire)

    def problem(self) -> str | None:
        """What of it has ended in the background, by name."""
        return self._keeper.problem()

    async def close(self) -> None:
        await self._keeper.close()
        if self._doubt is not None:
            self._doubt.cancel()

    # --- what is revoked ----------------------------------------------------------------------------------------------

    def token(self, principal: Principal) -> bool:
        """Whether all that the principal has is revoked, or its user banned. A token that names no user is meant by its
        name alone."""
        user = principal.user
        if principal.server:
            return False
        named = self._tokens.get(principal.token) if principal.token is not None else None
        if user is None:
            return named is not None
        if (named is not None and user in named) or self.bans.whole(user) is not None:
            return True
        revoked = self._users.get(user)
        return revoked is not None and (principal.issued or 0.0) <= revoked[0]

    def revoked_at(self, user: str) -> float:
        """Tokens of the user that were issued until then (seconds since 1970) are revoked; 0: none are."""
        return self._users.get(user, (0.0, 0.0))[0]

    def right(self, principal: Principal, channel: str) -> bool:
        """Whether the principal's rights in the channel are revoked, or its user is banned there."""
        if principal.user is None or principal.server:
            return False
        if any(one.concerns(principal) and one.covers(channel) for one in self._rights.get(principal.user, ())):
            return True
        return self.bans.in_channel(principal.user, channel) is not None

    def refusal(self, principal: Principal, channel: str | None = None, what: str = "") -> Error:
        """Why `token` is true of the principal, or `right` of it in the `channel`, where it may not do `what`."""
        user = principal.user or ""
        ban = self.bans.whole(user) if channel is None else self.bans.in_channel(user, channel)
        if channel is not None:
            return Error("permission_denied", f"{user} may not {what}: {ban.words if ban is not None else 'revoked'}")
        if ban is not None:
            return Error("permission_denied", f"{user} is {ban.words}")
        return Error("unauthenticated", "the token has been revoked")

    def ended(self, user: str, channel: str) -> float:
        """When a back end has last ended the user's subscriptions to the channel (seconds since 1970, by MongoDB's
        clock); 0: not within ONCE_KEPT seconds."""
        return self._ended.get((user, channel), 0.0)

    def _remember(self, revocation: Revocation, until: float | None) -> None:
        if revocation.kind == "unsubscribe" and revocation.session is None:
            for channel in revocation.channels:
                self._ended[revocation.user, channel] = revocation.at
        scope = revocation.channels[0] if revocation.channels else None
        if revocation.kind == BAN:
            ends, reason, by = revocation.ends, revocation.reason, revocation.by
            self.bans.set(Ban(revocation.user, scope, revocation.at, ends, reason, by))
        elif revocation.kind == UNBAN:
            self.bans.lift(revocation.user, scope)
        if revocation.kind != "revoke":
            return
        user, until = revocation.user, until or math.inf
        if revocation.channels:
            self._rights.setdefault(user, []).append(revocation)
        elif revocation.token is not None:
            self._tokens.setdefault(revocation.token, {})[user] = until
        else:
            at, known = self._users.get(user, (0.0, 0.0))
            self._users[user] = max(at, revocation.at), max(known, until)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def add(self, revocation: Revocation) -> None:
        """Return when a majority has it and this node acts on it. Its time is now. `unavailable`: it was not written;
        `outcome_unknown`: it may have been; writing it again does no harm. What is added at the same time is written
        together."""
        await self._writer.ask(
            revocation._replace(channels=tuple(revocation.channels), spared=tuple(revocation.spared))
        )

    async def _write(self, revocations: Sequence[Revocation]) -> dict[Revocation, bool]:
        now = await compare(self._database, self._clock)
        documents = [self._document(revocation, now) for revocation in revocations]
        while documents:
            await self._ask()
            numbered = [document | {"_id": self.newest + 1 + index} for index, document in enumerate(documents)]
            try:
                await self._collection.insert_many(numbered, ordered=True)
                break
            except PyMongoError as error:
                there = duplicates(error)
                if there is None:
                    reason = f"MongoDB: {brief(error)}; the revocation may have been written, send it again"
                    raise Error("outcome_unknown", reason, retry_after=1.0) from error
                # Another node was faster with that number: read what it has, and go on from there.
                documents = documents[there[0] :]
        await self._ask()
        return dict.fromkeys(revocations, True)

    def _document(self, revocation: Revocation, now: float) -> dict[str, Any]:
        ends = now + revocation.lasts if revocation.lasts else 0.0
        stored = revocation._replace(at=now, ends=ends, kept=0.0, lasts=0.0)
        document = {name: value for name, value in stored._asdict().items() if value}
        if revocation.kind in (BAN, UNBAN):
            return document  # the next one of the same says what becomes of it
        known = [seconds for seconds in (self._token_ttl, revocation.kept) if seconds]
        kept = min(known, default=0.0) if revocation.kind == "revoke" else ONCE_KEPT
        return document | ({"until": now + kept} if kept else {})

    # --- asking -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Ask now: somebody says that there is something new."""
        self._wanted.set()

    async def catch_up(self) -> None:
        """Return when all is known that had been acknowledged when this was called, by whichever node; `unavailable`
        if that cannot be known."""
        await self._ask()

    async def _poll(self) -> None:
        while True:
            try:
                await self._ask()
            except Error as error:
                logger.warning("revocations cannot be confirmed: %s", error.reason)
            except Exception:
                logger.exception("revocations cannot be confirmed")
            try:
                async with asyncio.timeout(POLL_EVERY):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()

    async def _ask(self) -> None:
        """Act on what is new. What had been acknowledged when this was called is known when it returns."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                with mapped():
                    newer = await self._linearizable.find_one({"_id": self.newest + 1}, {"_id": 1})
                    # After a long silence the next number may have come and expired, and others behind it not.
                    if newer is not None or not self.confirmed:
                        async for document in self._collection.find({"_id": {"$gt": self.newest}}).sort("_id"):
                            self._take(document)
        except TimeoutError:
            raise Error("unavailable", f"MongoDB: no answer within {ANSWER_WITHIN:.0f} s", retry_after=1.0) from None
        self._confirm(began)

    def _take(self, document: dict[str, Any]) -> None:
        if document["_id"] <= self.newest:
            return  # another `_ask` was faster
        self.newest = document["_id"]
        revocation = _revocation(document)
        self._remember(revocation, document.get("until"))
        try:
            self._on_revocation(revocation)
        except Exception:
            logger.exception("a revocation could not be carried out at once")

    def _confirm(self, at: float) -> None:
        loop = asyncio.get_running_loop()
        if self._doubt is not None:
            if self._doubt.when() >= at + CONFIRM_WITHIN:
                return
            self._doubt.cancel()
        self._doubt = loop.call_at(at + CONFIRM_WITHIN, self.doubt)
        if not self.confirmed:
            self.confirmed = True
            self._on_confirmed(True)

    def doubt(self) -> None:
        """Nobody has said for too long that there is nothing newer: nothing is confirmed until somebody does."""
        self._doubt = None
        self.confirmed = False
        self._on_confirmed(False)

    async def _expire(self) -> None:
        """What means nothing any more, and of each user all but the newest of those that revoke everything before them.
        Never the last one of all: the numbers must not start again."""
        now = await compare(self._database, self._clock)
        self._ended = {what: at for what, at in self._ended.items() if at > now - ONCE_KEPT}
        self._users = {user: revoked for user, revoked in self._users.items() if revoked[1] > now}
        for token, users in tuple(self._tokens.items()):
            self._tokens[token] = {user: until for user, until in users.items() if until > now}
            if not self._tokens[token]:
                del self._tokens[token]
        self.bans.forget_ended()
        older: dict[str, Any] = {"_id": {"$lt": self.newest}}
        whole: dict[str, Any] = {"kind": "revoke", "until": None, "token": None, "channels": None}
        several: list[dict[str, Any]] = [
            {"$match": whole},
            {"$group": {"_id": "$user", "newest": {"$max": "$at"}, "n": {"$sum": 1}}},
            {"$match": {"n": {"$gt": 1}}},
        ]
        with mapped():
            await self._collection.delete_many(older | {"until": {"$lt": now}})
            async for one in await self._collection.aggregate(several):
                await self._collection.delete_many(older | whole | {"user": one["_id"], "at": {"$lt": one["newest"]}})
            await self._expire_bans(now - BANS_KEPT)

    async def _expire_bans(self, before: float) -> None:
        """What was said of a ban before the newest, and that too if nothing is banned by it; the older ones first, or a
        ban would be there again."""
        said: list[dict[str, Any]] = [
            {"$match": {"kind": {"$in": [BAN, UNBAN]}}},
            {"$sort": {"_id": 1}},
            {"$group": {"_id": {"user": "$user", "channels": "$channels"}, "newest": {"$last": "$$ROOT"}}},
            {"$match": {"newest.at": {"$lt": before}}},
        ]
        async for one in await self._collection.aggregate(said):
            newest = one["newest"]
            same = {"kind": {"$in": [BAN, UNBAN]}, "user": newest["user"], "channels": newest.get("channels")}
            await self._collection.delete_many(same | {"_id": {"$lt": newest["_id"]}})
            over = newest["kind"] == UNBAN or 0 < newest.get("ends", 0) < before
            if over and newest["_id"] < self.newest:
                await self._collection.delete_one({"_id": newest["_id"]})

    async def said_of(self, user: str, limit: int) -> list[dict[str, Any]]:
        """Who has banned the user and who has lifted that, the newest first, for BANS_KEPT seconds at least."""
        with mapped():
            query = {"kind": {"$in": [BAN, UNBAN]}, "user": user}
            return [one async for one in self._collection.find(query).sort("_id", -1).limit(limit)]


def _revocation(document: dict[str, Any]) -> Revocation:
    return Revocation(**{name: document[name] for name in Revocation._fields if name in document})
