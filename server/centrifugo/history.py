"""Reading history as Centrifugo's clients and back ends ask for it: by offset and epoch, either way."""

from __future__ import annotations

from typing import Final

from server.centrifugo.codes import unrecoverable
from server.channels.history import History
from server.core.cursors import Position, parse_cursor
from server.core.errors import Error
from server.core.principals import Principal
from server.wire.amendments import AmendedMessagePush
from server.wire.codec import JSON
from server.wire.commands import MAX_PAGE

ENOUGH: Final = 4 << 20
"""Bytes of messages in an answer, behind which no further page is read. A page of the log is about as much at most."""


async def read(
    history: History,
    principal: Principal,
    channel: str,
    *,
    limit: int,
    since: tuple[int, str] | None = None,
    reverse: bool = False,
    address: str = "",
) -> tuple[list[AmendedMessagePush], Position]:
    """Messages, in the order they were asked for, and the newest position. `limit`: 0 for the position alone, -1 for as
    many as there may be in an answer: MAX_PAGE, or those that first come to ENOUGH bytes. `since`: (offset, epoch),
    exclusive, with an empty epoch for the present one; error 112 if that is of another history. Without it from the
    beginning, or backwards from the end."""
    count = MAX_PAGE if limit < 0 else min(limit, MAX_PAGE)
    after = before = None
    if since is not None and limit:
        cursor = await _cursor(history, principal, channel, *since, address)
        after, before = (None, cursor) if reverse else (cursor, None)
    elif limit and not reverse:
        after = "0"
    page = await history.page(principal, channel, after=after, before=before, limit=count or 1, address=address)
    head = parse_cursor(page["head"])
    foreign = since is not None and since[1] not in ("", head.epoch)
    if foreign or (page["gap"] is not None and page["gap"]["from"] is None):
        raise unrecoverable("since: of another history than the channel's")
    if not limit:
        return [], head
    messages = list(page["messages"])
    size = 0
    while page["more"] and page["messages"] and len(messages) < count:
        size += len(JSON.encode([message.data for message in page["messages"]]))
        if size >= ENOUGH:
            break
        after, before = (None, messages[0].cursor) if reverse else (messages[-1].cursor, None)
        page = await history.page(
            principal, channel, after=after, before=before, limit=count - len(messages), address=address, head=head,
            counted=True,
        )  # fmt: skip
        messages = [*page["messages"], *messages] if reverse else [*messages, *page["messages"]]
    return messages[::-1] if reverse else messages, head


async def _cursor(
    history: History, principal: Principal, channel: str, offset: int, epoch: str, address: str
) -> str | None:
    if not epoch:
        page = await history.page(principal, channel, after=None, before=None, limit=1, address=address)
        epoch = parse_cursor(page["head"]).epoch
    try:
        return str(parse_cursor(f"{epoch}:{offset}", "since"))
    except Error:  # the epoch is none of ours
        raise unrecoverable("since: of another history than the channel's") from None
