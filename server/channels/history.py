"""Reading what was: pages of the log, forwards and backwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from server.access.admission import Admission
from server.access.rights import Rights, must_be_admin
from server.core.config import Namespace
from server.core.cursors import BEGINNING, Position, parse_cursor
from server.core.errors import Error, bad_request, failed
from server.core.lifecycle import Lifecycle
from server.core.names import namespace_of
from server.core.principals import Principal
from server.core.worker import Pace
from server.documents.service import DocumentService
from server.documents.views import View
from server.log.counts import Count
from server.log.endings import Ending, Near
from server.log.log import Log
from server.wire.amendments import AmendedMessagePush, Amendment, Counted
from server.wire.messages import Message
from server.wire.pushes import MessagePush
from server.wire.rest import Gap, HistoryPage, StoredChannel, StoredChannelsPage

logger = logging.getLogger(__name__)

Rest = Callable[[], Awaitable[HistoryPage]]
"""What is still to be done for a page, by who can wait for it."""
PageOutcome = HistoryPage | Error | Rest


class History:
    def __init__(
        self,
        *,
        rights: Rights,
        admission: Admission,
        log: Log,
        documents: DocumentService,
        lifecycle: Lifecycle,
        namespaces: Mapping[str, Namespace],
        mine: Callable[[Principal, str, Sequence[int]], Awaitable[dict[str, list[str]]]],
    ) -> None:
        """`mine`: how somebody has reacted to messages of a channel, by their offsets."""
        self._rights = rights
        self._admission = admission
        self._log = log
        self._documents = documents
        self._lifecycle = lifecycle
        self._namespaces = namespaces
        self._mine = mine

    async def remove(self, principal: Principal, channel: str) -> None:
        """All that the channel holds now is gone, for everybody and for good; offsets go on from there. For API keys
        that are `admin`. The changes of documents are the documents' own, and stay."""
        must_be_admin(principal)
        namespace = self._namespaces.get(namespace_of(channel))
        if namespace is None:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        if not namespace.durable:
            raise bad_request(f"channel: {channel} is ephemeral, it has no history")
        self._lifecycle.check()
        await self._log.clear(channel)

    async def stored(self, principal: Principal, prefix: str, after: str, limit: int) -> StoredChannelsPage:
        """The channels that have messages, by name, whether anybody listens or not. For API keys that are `admin`."""
        must_be_admin(principal)
        self._lifecycle.check()
        names = await self._log.survey.names(prefix, after, limit + 1)
        shown = names[:limit]
        counts = await self._log.counts.of_all(shown)
        oldest = await self._log.survey.times({channel: counts[channel].floor + 1 for channel in shown})
        return {
            "channels": [_stored(channel, counts[channel], oldest.get(channel)) for channel in shown],
            "next": shown[-1] if len(names) > limit else None,
        }

    async def page(
        self,
        principal: Principal,
        channel: str,
        *,
        after: str | None,
        before: str | None,
        limit: int,
        where: Any = None,
        address: str = "",
        head: Position | None = None,
        counted: bool = False,
    ) -> HistoryPage:
        """Oldest first, bounds exclusive; with neither bound the newest. A page may be shorter than `limit`, or empty
        though there are more: of the changes of documents only those are in it that `where` shows. `head`: the newest
        position, where it is known already. `counted`: it belongs to an answer that has been counted as a read."""
        if not counted:
            self._admission.spend(principal, address)
        async with self._rights.reading(principal, channel) as namespace:
            start, end, view = self._understand(principal, namespace, channel, after, before, where)
            name = channel if view is None else view.log_channel
            ending: Ending | None = None
            if head is None:
                ending = await self._log.ending(name, _near(start, limit) if end is None and view is None else None)
                head = ending.head.position
            if ending is not None and _is_page(ending, start):
                answer = _page_of(ending, start)
            elif start is not None:
                answer = await self._after(name, start, head, limit, view)
            else:
                answer = await self._before(name, end, head, limit, view)
            if namespace.amends:
                _told_amended(answer, start, end, head)
            if namespace.reactions:
                answer["mine"] = await self._mine(principal, channel, [one.offset for one in answer["messages"]])
            return answer

    def page_soon(
        self,
        principal: Principal,
        channel: str,
        done: Callable[[PageOutcome], None],
        *,
        after: str | None,
        before: str | None,
        limit: int,
        where: Any = None,
        address: str = "",
    ) -> Rest | None:
        """The same without a task, where there is nothing to wait for but the end of the log: `done` is called with
        what comes of it. Else what is still to be done, which `done` may be given as well."""
        self._admission.spend(principal, address)
        rest = partial(
            self.page, principal, channel, after=after, before=before, limit=limit, where=where, counted=True
        )
        namespace = self._rights.to_read(principal, channel)
        if namespace is None or namespace.reactions:
            return rest
        start, end, view = self._understand(principal, namespace, channel, after, before, where)
        if end is not None or view is not None:
            return rest
        asked = self._log.ending(channel, _near(start, limit))
        asked.add_done_callback(partial(self._ended, principal, channel, start, rest, done))
        return None

    def _ended(
        self,
        principal: Principal,
        channel: str,
        start: Position | None,
        rest: Callable[..., Awaitable[HistoryPage]],
        done: Callable[[PageOutcome], None],
        asked: asyncio.Future[Ending],
    ) -> None:
        outcome: PageOutcome
        try:
            ending = asked.result()
            namespace = self._rights.to_read(principal, channel)
            if namespace is not None and _is_page(ending, start):
                outcome = _page_of(ending, start)
                if namespace.amends:
                    _told_amended(outcome, start, None, ending.head.position)
            else:
                outcome = partial(rest, head=ending.head.position)
        except Error as error:
            outcome = error
        except Exception:
            logger.exception("reading history failed")
            outcome = failed()
        done(outcome)

    def _understand(
        self,
        principal: Principal,
        namespace: Namespace,
        channel: str,
        after: str | None,
        before: str | None,
        where: Any,
    ) -> tuple[Position | None, Position | None, View | None]:
        """The bounds of a page, and what of the documents is to be shown; `bad_request` for what has no meaning."""
        if not namespace.durable:
            raise bad_request(f"channel: {channel} is ephemeral, it has no history")
        if after is not None and before is not None:
            raise bad_request("after, before: one of them")
        start = None if after is None else parse_cursor(after, "after")
        end = None if before is None else parse_cursor(before, "before")
        view = self._documents.view(principal, channel, where)
        self._lifecycle.check()
        return start, end, view

    async def _after(self, channel: str, after: Position, head: Position, limit: int, view: View | None) -> HistoryPage:
        gap: Gap | None = None
        given = after
        if after == BEGINNING:
            after = Position(head.epoch, 0)
        elif after.epoch != head.epoch or (
            after.offset > head.offset and after.offset > await self._log.confirmed_head(channel)
        ):
            gap = {"from": None, "to": None, "reason": "epoch"}
            after = given = Position(head.epoch, 0)
        messages: list[Message] = []
        if after.offset < head.offset:
            page = await self._log.read(channel, after, head.offset, limit)
            messages = page.messages
            if page.gap is not None:
                gap = gap or {"from": page.gap[0], "to": page.gap[1]}
                given = Position(head.epoch, max(given.offset, page.gap[1]))
        cursor = messages[-1].position if messages else given
        more = bool(messages) and cursor.offset < head.offset
        answer = _page(await _pushes(messages, view), cursor, head, more, gap)
        if messages and isinstance(messages[0], Counted):
            shown = [message for message in messages if isinstance(message, Amendment) and not message.hidden]
            answer["amends"] = [amendment.push() for amendment in shown]
        return answer

    async def _before(
        self, channel: str, before: Position | None, head: Position, limit: int, view: View | None
    ) -> HistoryPage:
        gap: Gap | None = None
        offset = head.offset + 1
        if before is not None:
            if before.epoch == head.epoch or before == BEGINNING:
                offset = min(before.offset, offset)
            else:
                gap = {"from": None, "to": None, "reason": "epoch"}
        messages, floor = await self._log.read_back(channel, offset, limit)
        if before is not None and gap is None and not messages and 1 < offset <= head.offset:
            gap = {"from": 1, "to": min(floor, offset - 1)}
        first = messages[0].offset if messages else 0
        cursor = (messages[0] if before is not None else messages[-1]).position if messages else before or head
        return _page(await _pushes(messages, view), cursor, head, bool(messages) and first - 1 > floor, gap)


def _stored(channel: str, count: Count, oldest: int | None) -> StoredChannel:
    return {
        "channel": channel,
        "head": str(count.head),
        "messages": max(0, count.messages - (count.floor - count.amended_floor)),
        "oldest": oldest,
        "newest": count.time or None,
    }


def _near(start: Position | None, limit: int) -> Near:
    return Near(limit, None if start is None else start.offset)


def _told_amended(answer: HistoryPage, start: Position | None, end: Position | None, head: Position) -> None:
    """What is said besides where messages can be amended."""
    if start is not None:
        answer.setdefault("amends", [])
    elif end is None:
        answer["cursor"] = str(head)  # what of its messages has been amended up to there is in them


def _is_page(ending: Ending, start: Position | None) -> bool:
    """Whether what was read with the head is all that is asked for."""
    if start is None:
        return ending.lines is not None
    return bool(ending.lines) and start.epoch in ("", ending.head.position.epoch)


def _page_of(ending: Ending, start: Position | None) -> HistoryPage:
    head, floor = ending.head.position, ending.head.floor
    if not ending.lines:
        return _page([], head, head, False, None)
    more = ending.first - 1 > floor if start is None else ending.last < head.offset
    return _page(ending.pushes(), Position(head.epoch, ending.last), head, more, None)


async def _pushes(messages: list[Message], view: View | None) -> list[MessagePush]:
    """As they are told; of amendments nothing."""
    if view is not None:
        pace = Pace()
        every, messages = messages, []
        for message in every:
            shown = view.show(message)
            message.facts = None
            if shown is not None:
                messages.append(shown)
            await pace.rest()
    return [cast(MessagePush, message.push()) for message in messages if not isinstance(message, Amendment)]


def _page(pushes: list[MessagePush], cursor: Position, head: Position, more: bool, gap: Gap | None) -> HistoryPage:
    messages = cast(list[AmendedMessagePush], pushes)
    return {"messages": messages, "cursor": str(cursor), "head": str(head), "more": more, "gap": gap}
