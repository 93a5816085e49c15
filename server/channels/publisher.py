"""Publishing: the right, the size and the rates, the hook if there is one, and then the log or the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, cast

from server.access.admission import Admission
from server.access.hooks import Hooks
from server.access.memberships import Unloaded
from server.access.permissions import Permissions
from server.access.quotas import Charge, Quotas
from server.access.rights import Right, Rights
from server.brokers.base import Broker
from server.core.clock import now_ms
from server.core.config import MAX_STORED, Limits, Namespace
from server.core.cursors import Position
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.names import is_thread, namespace_of, parent_of, root_of, thread_of
from server.core.principals import Principal
from server.core.random_keys import RandomKeys
from server.core.tasks import Keeper
from server.log.log import UNKNOWN, Log, Receipt
from server.wire.codec import JSON
from server.wire.messages import Message


class _Draft(NamedTuple):
    """What is to be published, once the hook has allowed it."""

    principal: Principal
    channel: str
    data: Any
    key: str | None
    tag: str | None
    skip: str | None
    ephemeral: bool
    address: str
    by_server: bool
    mentions: Sequence[str]
    root: int = 0
    """Of what is published in the thread about a message as well: that message's offset."""


class Publisher:
    def __init__(
        self,
        *,
        permissions: Permissions,
        rights: Rights,
        hooks: Hooks,
        admission: Admission,
        quotas: Quotas,
        log: Log,
        broker: Broker,
        lifecycle: Lifecycle,
        keeper: Keeper,
        limits: Limits,
    ) -> None:
        self.published = 0
        """Publishes that were accepted."""
        self._permissions = permissions
        self._rights = rights
        self._hooks = hooks
        self._admission = admission
        self._quotas = quotas
        self._log = log
        self._broker = broker
        self._lifecycle = lifecycle
        self._keeper = keeper
        self._limits = limits
        self._keys = RandomKeys()
        self._waiting: dict[tuple[str | None, str], asyncio.Future[None]] = {}
        """(session, channel) → done when its newest publish has been asked about and is in the log's queue."""
        self._asking: set[asyncio.Task[Receipt | None]] = set()
        self.on_own: Callable[[Principal, str, Position, bool], Awaitable[None]] | None = None
        """Awaited where channels have members, when a user's message is stored (in direct channels: anybody's) and
        before its publisher is told; and whether that was accepted earlier. Set by the rooms."""
        self.on_reply: Callable[[Principal, str, Position, Sequence[str]], Awaitable[None]] | None = None
        """The same of what is stored in a thread, whoever has written it, with whom it mentions."""
        self._perhaps_new: set[str] = set()
        """Channels that this node did not know, whose first message is under way."""

    def publish(
        self,
        principal: Principal,
        channel: str,
        data: Any,
        key: str | None = None,
        *,
        tag: str | None = None,
        skip: str | None = None,
        ephemeral: bool = False,
        broadcast: bool = False,
        session: str | None = None,
        address: str = "",
        mentions: Sequence[str] | None = None,
    ) -> asyncio.Future[Receipt | None] | None:
        """Store and send a message; None for an ephemeral one, which is not stored (or a future of None, if the
        namespace has a hook). `skip`: the session that does not get it; `session`, `address`: where it comes from;
        `mentions`: members of the channel, or `*`. `broadcast`: of what is published in a thread, publish it in the
        parent as well.

        Not a coroutine: the order of the calls is the order in the channel, for those of one `session` that is.
        """
        if broadcast:
            if ephemeral or not is_thread(channel):
                raise bad_request(f"broadcast: {channel} is no thread, or nothing of it is to be stored")
            key = key or self._keys.next()
        known = True
        try:
            namespace = self._permissions.check(principal, "publish", channel)
        except Unloaded as missing:
            namespace, known = missing.options, False
        if ephemeral and namespace.durable and not namespace.ephemeral:
            raise bad_request(f"ephemeral: {channel} stores every message; its namespace does not allow others")
        size = self.size_of(data)
        self._admission.spend(principal, address, channel)
        ephemeral = ephemeral or not namespace.durable
        by_server = principal.server and (namespace.amends or bool(mentions))
        mentioned = named(mentions, namespace, channel, ephemeral) if mentions else ()
        waits = self._waiting and (session, channel) in self._waiting
        counts = namespace.threads and not ephemeral and is_thread(channel)
        asks = namespace.hook is not None and self._hooks.wanted(namespace.hook, "publish")
        if known and not (waits or counts or broadcast or asks):
            if ephemeral:  # nothing of what is told of a message in the log concerns it
                self._pass_on(principal, channel, data, key, tag, skip)
                return None
            try:
                receipt = self._accept(
                    principal, channel, data, key, tag, skip, ephemeral, address, by_server, mentioned, 0, size
                )
                return self._own(principal, channel, receipt, namespace.direct) if namespace.members else receipt
            except Error as error:
                if not _is_about_new_channels(error):
                    raise
        self._lifecycle.check()
        right = (self._rights.to_broadcast if broadcast else self._rights.to_publish)(principal, channel)
        draft = _Draft(principal, channel, data, key, tag, skip, ephemeral, address, by_server, mentioned)
        lane = None if session is None else (session, channel)
        publishing = self._ask_and_accept(lane, right, draft)
        if broadcast:
            copy = draft._replace(channel=parent_of(channel), tag=None, root=root_of(channel))
            publishing = self._then_copy(publishing, copy)
        if counts and namespace.members:
            publishing = self._then_followed(principal, channel, publishing, mentioned)
        return self._spawn(channel, publishing)

    async def _then_copy(self, reply: Awaitable[Receipt | None], copy: _Draft) -> Receipt | None:
        """It has the same key as the reply, so that a retry makes up for whatever is missing. It is not counted again
        by the rates: who may publish once in a second could never have done both.
        Who hears that there is no room for it has to know that there is a reply."""
        receipt = await reply
        right = self._rights.to_publish(copy.principal, copy.channel)
        try:
            await self._log.amendments.announce(copy.channel)
            await self._ask_and_accept(None, right, copy)
        except Error as error:
            if not (error.retry or error.limit):
                raise
            reason = f"stored in the thread, but perhaps not in the parent: {error.reason}"
            raise Error("outcome_unknown", reason, limit=error.limit, retry_after=error.retry_after) from None
        return receipt

    def store(
        self, principal: Principal, channel: str, data: Any, key: str, mentions: Sequence[str] = ()
    ) -> asyncio.Future[Receipt | None] | None:
        """What was accepted earlier, as `publish` does it but without asking for more than the right and the size, and
        without a deadline: whoever does not want it any more cancels the future."""
        namespace = self._permissions.check(principal, "publish", channel)
        size, by_server = self.size_of(data), principal.server and (namespace.amends or bool(mentions))
        mentioned = named(mentions, namespace, channel, not namespace.durable) if mentions else ()

        def accept() -> asyncio.Future[Receipt | None] | None:
            return self._accept(
                principal, channel, data, key, None, None, not namespace.durable, "", by_server, mentioned, 0, size,
                accepted=True,
            )  # fmt: skip

        if namespace.threads and is_thread(channel):
            storing = self._store_reply(channel, accept)
            if namespace.members:
                storing = self._then_followed(principal, channel, storing, mentioned)
            return self._spawn(channel, storing)
        receipt = accept()
        if not namespace.members:
            return receipt
        return self._own(principal, channel, receipt, namespace.direct, earlier=True)

    async def _store_reply(
        self, thread: str, accept: Callable[[], asyncio.Future[Receipt | None] | None]
    ) -> Receipt | None:
        async with self._replying(thread) as stored:
            receipt = accept()
            assert receipt is not None
            return stored(await receipt)

    async def _then_followed(
        self, principal: Principal, thread: str, storing: Awaitable[Receipt | None], mentions: Sequence[str]
    ) -> Receipt | None:
        """Who has answered follows, and others with it."""
        stored = await storing
        if stored is not None and self.on_reply is not None:
            await _noted(self.on_reply(principal, thread, stored.position, mentions))
        return stored

    @asynccontextmanager
    async def _replying(self, thread: str) -> AsyncIterator[Callable[[Receipt | None], Receipt | None]]:
        """Around what is stored in a thread. What it gives takes the receipt, and gives it back."""
        assert self._log.replies is not None
        async with self._log.replies.replying(thread) as round:

            def stored(receipt: Receipt | None) -> Receipt | None:
                if receipt is not None and not receipt.duplicate:
                    round.changed()
                return receipt

            yield stored

    def _own(
        self, principal: Principal, channel: str, receipt: asyncio.Future[Receipt | None] | None, direct: bool,
        *, earlier: bool = False,
    ) -> asyncio.Future[Receipt | None] | None:  # fmt: skip
        if receipt is None or self.on_own is None or is_thread(channel):
            return receipt
        if (principal.server or principal.user is None) and not direct:
            return receipt
        return self._spawn(channel, self._then_own(principal, channel, receipt, earlier))

    def _spawn(self, channel: str, work: Coroutine[Any, Any, Receipt | None]) -> asyncio.Task[Receipt | None]:
        """A publish that `drain` waits for."""
        task = self._keeper.spawn(f"publish in {channel}", work, awaited=True)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _then_own(
        self, principal: Principal, channel: str, receipt: asyncio.Future[Receipt | None], earlier: bool
    ) -> Receipt | None:
        """What is one's own is read. If that cannot be written, nobody is told that all is well: a retry with the same
        key makes up for it."""
        stored = await receipt
        if stored is not None and self.on_own is not None:
            await _noted(self.on_own(principal, channel, stored.position, earlier))
        return stored

    async def drain(self) -> None:
        """Return when every hook that is being asked about a publish has answered, and the log what it allows."""
        await asyncio.gather(*self._asking, return_exceptions=True)

    def _pass_on(
        self, principal: Principal, channel: str, data: Any, key: str | None, tag: str | None, skip: str | None
    ) -> None:
        """To who listens now: it is not stored."""
        self._broker.publish([Message(channel, "", 0, key or "", principal.user, now_ms(), data, tag, skip)])
        self.published += 1

    def _accept(
        self, principal: Principal, channel: str, data: Any, key: str | None, tag: str | None, skip: str | None,
        ephemeral: bool, address: str, by_server: bool, mentions: Sequence[str], root: int, size: int, *,
        exists: bool = False, accepted: bool = False,
    ) -> asyncio.Future[Receipt | None] | None:  # fmt: skip
        if ephemeral:
            self._pass_on(principal, channel, data, key, tag, skip)
            return None
        self._lifecycle.check()
        new, charge = False, None
        if self._quotas.limited and not accepted:
            # Whether a channel is new is known when its first message has an offset: until then one that this node
            # does not know counts as new, once however many messages are under way in it.
            new = not (exists or self._log.knows(channel) or channel in self._perhaps_new)
            namespace = namespace_of(channel)
            charge = self._quotas.charge(principal, address, namespace, new_channels=int(new), messages=1, size=size)
        # Every message has a key before its first attempt: after an unknown outcome it is found by it.
        try:
            receipt = self._log.append(
                channel, principal.user, key or self._keys.next(), data, size, skip,
                by_server=by_server, mentions=mentions, root=root, patient=accepted,
            )  # fmt: skip
        except Error:
            if charge is not None:
                charge.give_all_back()
            raise
        self.published += 1
        if charge is not None:
            if new:
                self._perhaps_new.add(channel)
            receipt.add_done_callback(partial(self._settle, channel, new, charge))
        return cast("asyncio.Future[Receipt | None]", receipt)

    def _settle(self, channel: str, new: bool, charge: Charge, publishing: asyncio.Future[Receipt]) -> None:
        """It may be stored unless it is known that it is not."""
        if new:
            self._perhaps_new.discard(channel)
        if publishing.cancelled():
            return
        error = publishing.exception()
        if error is None:
            receipt = publishing.result()
            if receipt.duplicate:
                charge.give_all_back()
            elif new and receipt.position.offset > 1:
                charge.give_back("new_channels", 1)
        elif not (isinstance(error, Error) and error.code == "outcome_unknown"):
            charge.give_all_back()

    async def _ask_and_accept(
        self, lane: tuple[str, str] | None, right: Right[Namespace], draft: _Draft
    ) -> Receipt | None:
        if draft.ephemeral or not right.options.threads or not is_thread(draft.channel):
            return await self._ask_and_store(lane, right, draft)
        try:
            async with AsyncExitStack() as around:
                return await self._ask_and_store(lane, right, draft, around)
        except Error as error:
            # The thread is closed, but this may be the retry of what was stored before it was.
            if error.code != "not_found" or draft.key is None:
                raise
            data = UNKNOWN if self._hooks.wanted(right.options.hook, "publish") else draft.data
            stored = await self._log.stored(draft.channel, draft.principal.user, draft.key, data)
            if stored is None:
                raise
            return stored

    async def _ask_and_store(
        self, lane: tuple[str, str] | None, right: Right[Namespace], draft: _Draft, around: AsyncExitStack | None = None
    ) -> Receipt | None:
        """The hook may be asked about many at a time; they are accepted in the order in which they came. `around`: of
        a reply in a thread, which is counted when it is stored."""
        stored: Callable[[Receipt | None], Receipt | None] | None = None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = None if lane is None else self._waiting.get(lane)
        if lane is not None:
            self._waiting[lane] = turn
        try:
            try:
                about = {"channel": draft.channel, "data": draft.data, "key": draft.key}
                if draft.mentions:
                    about["mentions"] = draft.mentions
                if draft.root:
                    about["thread"] = thread_of(draft.channel, draft.root)
                answer = await right.ask("publish", about)
            finally:
                if before is not None:  # refused or not: who comes next must not overtake who came before
                    await asyncio.wait((before,))
            if around is not None:
                stored = await around.enter_async_context(self._replying(draft.channel))
            await right.ask_again()
            draft = draft._replace(data=answer.get("data", draft.data))
            receipt = await self._look_and_accept(right, draft)
        finally:
            turn.set_result(None)
            if lane is not None and self._waiting[lane] is turn:
                del self._waiting[lane]
        options = right.options
        own = self._own(draft.principal, draft.channel, receipt, options.direct) if options.members else receipt
        receipt_or_none = None if own is None else await own
        return receipt_or_none if stored is None else stored(receipt_or_none)

    async def _look_and_accept(self, right: Right[Namespace], draft: _Draft) -> asyncio.Future[Receipt | None] | None:
        """Who may make no more channels may go on in those that there are: also in one that this node does not know,
        because it has just been started, or because others serve it."""
        size = self.size_of(draft.data)
        try:
            return self._accept(*draft, size)
        except Error as error:
            if not _is_about_new_channels(error):
                raise
            if not (await self._log.head(draft.channel)).position.offset:
                raise
        await right.ask_again()
        return self._accept(*draft, size, exists=True)

    def size_of(self, data: Any) -> int:
        """Bytes of the encoded data; `too_large` if it is more than a message may be."""
        limit = self._limits.message_bytes or MAX_STORED
        size = len(JSON.encode(data))
        if size > limit:
            raise Error("too_large", f"data: {size} bytes; message_bytes is {limit}")
        return size


def named(mentions: Sequence[str], namespace: Namespace, channel: str, ephemeral: bool) -> Sequence[str]:
    """Whom a message mentions, each once; `bad_request` where nobody could be."""
    if not namespace.members:
        raise bad_request(f"mentions: {channel} has no members")
    if ephemeral:
        raise bad_request("mentions: a message that is not stored mentions nobody")
    return tuple(dict.fromkeys(mentions))


async def _noted(work: Awaitable[None]) -> None:
    """Of what is stored: a retry makes up for what fails now."""
    try:
        await work
    except Error as error:
        reason = f"stored, but not marked as read: {error.reason}"
        raise Error("outcome_unknown", reason, retry_after=1.0) from None


def _is_about_new_channels(error: Error) -> bool:
    return error.limit is not None and error.limit.endswith(".new_channels")
