"""REST for operators: bans, which last whatever tokens a user has."""

from __future__ import annotations

from typing import Any

from handlers.base import BaseHandler
from handlers.operations import operation
from server.access.bans import Ban
from server.wire.rest_bans import (
    BanRequest,
    BanRow,
    BanSaid,
    BansPage,
    BansQuery,
    LogQuery,
    UnbanRequest,
    UserBans,
    UserBansLog,
)


class BanList(BaseHandler):
    @operation("List bans", {200: BansPage, 304: None})
    async def get(self, query: BansQuery) -> None:
        """Those in force, by user. For API keys that are `admin`."""
        bans, following = self.node.moderation.bans(self.principal, query.prefix, query.after, query.limit)
        self.answer({"bans": [_row(one) for one in bans], "next": following})


class BanUser(BaseHandler):
    @operation("Ban a user", {200: UserBans})
    async def post(self, user: str, body: BanRequest) -> None:
        """From everything, or from channels, whatever tokens the user has or will have: connections are closed,
        subscriptions end, on every node within a second. For API keys that are `admin`."""
        bans = await self.node.moderation.ban(self.principal, user, body.channels, body.seconds, body.reason)
        self.answer({"user": user, "bans": [_row(one) for one in bans]})


class UnbanUser(BaseHandler):
    @operation("Lift a user's bans", {200: UserBans})
    async def post(self, user: str, body: UnbanRequest) -> None:
        """Those of the channels, or all. For API keys that are `admin`."""
        bans = await self.node.moderation.unban(self.principal, user, body.channels)
        self.answer({"user": user, "bans": [_row(one) for one in bans]})


class UserBanLog(BaseHandler):
    @operation("A user's bans, and who has said so", {200: UserBansLog, 304: None})
    async def get(self, user: str, query: LogQuery) -> None:
        """What is over stays in the log for 90 days. For API keys that are `admin`."""
        bans, said = await self.node.moderation.bans_of(self.principal, user, query.limit)
        self.answer({"user": user, "bans": [_row(one) for one in bans], "log": [_said(one) for one in said]})


def _row(ban: Ban) -> BanRow:
    return {
        "user": ban.user,
        "channel": ban.channel,
        "reason": ban.reason,
        "by": ban.by,
        "since": int(ban.at * 1000),
        "until": int(ban.ends * 1000) or None,
    }


def _said(entry: dict[str, Any]) -> BanSaid:
    return {
        "what": entry["kind"],
        "channel": next(iter(entry.get("channels", ())), None),
        "reason": entry.get("reason", ""),
        "by": entry.get("by", ""),
        "time": int(entry["at"] * 1000),
        "until": int(entry.get("ends", 0) * 1000) or None,
    }
