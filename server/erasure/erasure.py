"""Erasing a person: all that this server keeps of a user, in every collection of its own.

It is asked for once, and carried out in stages by any node, in steps that are kept (jobs.py), so it goes on when a node
dies. It begins with the way in: the account, its sessions and tokens. Then it waits a moment, until what was under way
is stored and the departures are written down, and erases what there is.

What there is after it comes from elsewhere: a back end that gives the user a token lets them in again, and what they do
then is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Final

from server.access.accounts.service import Accounts
from server.access.moderation import Moderation
from server.access.revocations import Revocation
from server.access.rights import must_be_admin
from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import PERSONAL, is_thread
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.erasure.jobs import Job, Jobs
from server.erasure.messages import Messages
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.outbox.outbox import Outbox
from server.reactions.reactions import Reactions
from server.rooms.members import MAX_USER, Members

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 3.0
"""Seconds between looks for one that another node has left behind, or an operator has asked for."""
SETTLE_SECONDS: Final = 3.0
WAIT_SECONDS: Final = 20.0
"""How long who has asked is kept waiting for the end."""
SERVER: Final = Principal(user=None, server=True, admin=True)

Steps = AsyncIterator[tuple[str, int]]


class Erasure:
    """`names`: of the API keys, which are no persons."""

    def __init__(
        self,
        *,
        database: Database,
        node: str,
        outbox: Outbox,
        messages: Messages,
        members: Members,
        reactions: Reactions,
        accounts: Accounts | None,
        moderation: Moderation,
        lifecycle: Lifecycle,
        keeper: Keeper,
        clock: Clock,
        names: Collection[str],
    ) -> None:
        self.jobs = Jobs(database, node, clock)
        self._database = database
        self._outbox = outbox
        self._members = members
        self._reactions = reactions
        self._accounts = accounts
        self._moderation = moderation
        self._lifecycle = lifecycle
        self._keeper = keeper
        self._names = names
        self.stages: tuple[tuple[str, Callable[[str, str], Steps]], ...] = (
            # Before the right to publish them is taken, else they would be dead letters.
            ("scheduled", self._each(self._unschedule)),
            ("account", self._each(self._leave)),
            ("messages", messages.erase),
            ("dead_letters", self._each(messages.erase_dead_letters)),
            ("reactions", self._unreact),
            ("scheduled", self._each(self._unschedule)),
            ("notices", self._each(lambda user: messages.erase_all(f"{PERSONAL}:{user}"))),
            ("memberships", self._each(self._leave_rooms)),
            ("blocks", self._each(lambda user: self._delete("blocks", {"$or": [{"_id.u": user}, {"_id.b": user}]}))),
            ("answers", self._each(lambda user: self._delete("calls", {"user": user}))),
            ("creations", self._each(lambda user: self._delete("creations", {"_id.u": user}))),
            ("departures", self._each(lambda user: self._delete("seen", {"_id.u": user}))),
            ("events", self._each(messages.erase_events)),
        )
        self._look = asyncio.Lock()

    async def open(self) -> None:
        await self.jobs.open()
        self._keeper.every("erasures", LOOK_EVERY, self.step)

    async def erase(self, principal: Principal, user: str) -> dict[str, Any]:
        """Have a user erased, for API keys that are `admin`: {user, done, erased: {what: how much}}. It goes on when it
        is not done yet; who asks again hears how far it is, or has it done once more."""
        must_be_admin(principal)
        check(user, self._names)
        self._lifecycle.check()
        await self.jobs.begin(user, principal.name)
        logger.info("a user is to be erased, by %s", principal.name, extra={"user": user})
        self._keeper.spawn("erasure", self.step())
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        while True:
            await asyncio.sleep(0.1)
            job = await self.jobs.get(user)
            if job is None or job.done or asyncio.get_running_loop().time() >= until:
                return job.fields() if job is not None else {"user": user, "done": True, "erased": {}}

    async def step(self) -> None:
        """Carry on what nobody else does."""
        if self._look.locked():
            return
        async with self._look:
            while (job := await self.jobs.take()) is not None:
                try:
                    await self._carry_out(job)
                except Error as error:
                    logger.warning("erasing a user goes on later: %s", error.reason, extra={"user": job.user})
                    return

    async def _carry_out(self, job: Job) -> None:
        while job.stage < len(self.stages):
            name, stage = self.stages[job.stage]
            async for after, number in stage(job.user, job.after):
                counts = dict(job.erased)
                counts[name] = counts.get(name, 0) + number
                job = job._replace(after=after, erased=counts)
                if not await self.jobs.keep(job):
                    return
            job = job._replace(stage=job.stage + 1, after="")
            if not await self.jobs.keep(job):
                return
        if await self.jobs.keep(job._replace(done=True)):
            told = ", ".join(f"{number} {name}" for name, number in job.erased.items())
            logger.info("a user is erased, as %s has asked: %s", job.by, told, extra={"user": job.user})

    # --- the stages ---------------------------------------------------------------------------------------------------

    def _each(self, erase: Callable[[str], Awaitable[int]]) -> Callable[[str, str], Steps]:
        """One that is done in one step."""

        async def steps(user: str, _: str) -> Steps:
            yield "", await erase(user)

        return steps

    async def _leave(self, user: str) -> int:
        erased = 0
        if self._accounts is not None:
            try:
                await self._accounts.administration.delete(SERVER, user)
                erased = 1
            except Error as error:
                if error.code != "not_found":
                    raise
            await self._accounts.log_out(user)
        await self._moderation.take_back(Revocation("revoke", user))
        await asyncio.sleep(SETTLE_SECONDS)
        return erased

    async def _unreact(self, user: str, _: str) -> Steps:
        while number := await self._reactions.forget_user(user):
            yield "", number

    async def _unschedule(self, user: str) -> int:
        """What the product itself has put there for this user as well."""
        with mapped():
            return (await self._outbox.entries.delete_many({"user": user})).deleted_count

    async def _leave_rooms(self, user: str) -> int:
        rows = self._database.own("members")
        with mapped():
            channels = [row["_id"]["c"] async for row in rows.find({"_id.u": user}, {"_id": 1})]
        for channel in channels:
            if is_thread(channel):  # what is followed goes with its parent
                continue
            try:
                await self._members.set_role(SERVER, channel, user, None)
            except Error as error:
                if error.retry:
                    raise
        # What is left says that somebody was one, or is of rooms that are none any more.
        await self._delete("members", {"_id.u": user})
        with mapped():  # who has made others what they are
            await rows.update_many({"by": user}, {"$set": {"by": None}})
        return len(channels)

    async def _delete(self, name: str, query: dict[str, Any]) -> int:
        with mapped():
            return (await self._database.own(name).delete_many(query)).deleted_count


def check(user: str, names: Collection[str]) -> None:
    """`bad_request` for what is no user's name."""
    if not user or len(user.encode()) > MAX_USER:
        raise bad_request(f"user: 1 to {MAX_USER} bytes")
    if user in names:
        raise bad_request("user: an API key has this name; what a back end has written is no person's")
