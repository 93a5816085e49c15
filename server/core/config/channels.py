"""What channels there are: `namespaces`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import field

from server.core.config.values import Count, Rate, Seconds, Section
from server.core.errors import StartError
from server.core.names import DEAD, DOCUMENTS, PERSONAL, ROOMS, SYSTEM
from server.core.rules import MEMBER, MEMBERS, OWN, Rule, problem, roles, terms

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")


class Retention(Section):
    size: Count = 10000
    """how many messages (of a collection: changes) are retained to resume from; 0: no bound"""
    ttl: Seconds = Seconds(30 * 86400)
    """for how long; whichever bound is reached first. 0: no bound"""


class UserRate(Section):
    per_user: Rate
    burst: Count = 0


class Namespace(Section):
    durable: bool = True
    """false: nothing is stored, nothing is promised"""
    history: Retention = field(default_factory=Retention)
    presence: bool = False
    """who is there can be asked for. Costs a row per user and channel in the memory of every instance"""
    join_leave: bool = True
    """with `presence`: subscribers are told who comes and goes. False: they have to ask"""
    ephemeral: bool = False
    """durable channels: a publish may say `"ephemeral": true` and is passed on without being stored"""
    conflate: Seconds = Seconds(0)
    """ephemeral messages: the newest per `tag` in each such interval. Refused for durable channels that allow none"""
    patterns: bool = False
    """clients may subscribe to patterns of it (`stock:*`): to whatever is published in the channels that match and that
    they may read, from now on. Not together with `members`, with a hook that is asked about `subscribe`, or with
    `redis.sharded`"""
    publish: Rule = "nobody"
    """a rule, see below"""
    subscribe: Rule = "nobody"
    """the same; it is also the right to history and resume"""
    amend: Rule = "nobody"
    """who may edit, erase and pin messages: a rule, with the word `own` besides: who has published the message (never a
    guest; any API key what any API key has published)"""
    reactions: bool = False
    """users may react to messages that they may read, with an emoji or the like. Needs MongoDB 6.0"""
    search: bool = False
    """messages are found by their words, by who may read the channel"""
    members: bool = False
    """channels have members: users with roles, who are kept. Rules may say `member` and `member:ROLE` then"""
    threads: bool = False
    """its messages may be answered in [threads](rooms.md#threads)"""
    join: Literal["invited", "anyone"] = "invited"
    """of channels with members: who becomes one without being asked"""
    receipts: bool = False
    """of channels with members: who is subscribed is told how far each member has read"""
    direct: bool = False
    """channels of two users each, who are in the name (`dm:ann,bob`): nobody else reads or publishes there, and both
    are members from the first message on. Implies `members`, and `member` for `publish` and `subscribe` where they say
    nothing else"""
    rate: Rate | UserRate = 0.0
    """messages a second that one user may publish in the namespace (to one instance; of guests: one address);
    `{per_user: 5, burst: 20}` to choose the burst, which is a second's worth else. API keys are not counted"""
    hook: str | None = None
    """one of `hooks`: asked before what the rule allows happens"""

    def __post_init__(self) -> None:
        if self.direct:
            self.members = True
            for option in ("publish", "subscribe"):
                if terms(getattr(self, option)) == ("nobody",):
                    setattr(self, option, MEMBER)

    def check(self, path: str) -> None:
        name = path.partition(".")[2]
        if not _NAME.fullmatch(name):
            raise StartError(f"{path}: a name is [a-z][a-z0-9_-]*")
        if name == DOCUMENTS or name in BUILT_IN:
            raise StartError(f"{path} is built in")
        if self.durable and self.conflate and not self.ephemeral:
            raise StartError(
                f"{path}: a durable channel shows every message, so only ephemeral ones can conflate, and it allows "
                "none"
            )
        check_rule(f"{path}.publish", self.publish, *MEMBERS)
        check_rule(f"{path}.subscribe", self.subscribe, *MEMBERS)
        check_rule(f"{path}.amend", self.amend, OWN, *MEMBERS)
        if self.may_be_amended and not self.durable:
            raise StartError(f"{path}.amend: what is not stored cannot be amended")
        if self.reactions and not self.durable:
            raise StartError(f"{path}.reactions: to what is stored")
        if self.search and not self.durable:
            raise StartError(f"{path}.search: of what is stored")
        if "anyone" in terms(self.amend):
            raise StartError(f"{path}.amend: guests amend nothing; say user")
        if self.members and not self.durable:
            raise StartError(f"{path}.members: of channels that store their messages")
        if self.threads and not self.durable:
            raise StartError(f"{path}.threads: of messages that are stored")
        for option in ("publish", "subscribe", "amend"):
            if roles(getattr(self, option)) and not self.members:
                raise StartError(f"{path}.{option}: members: true is missing, for there to be any")
        if self.join != "invited" and not self.members:
            raise StartError(f"{path}.join: members: true is missing")
        if self.receipts and not self.members:
            raise StartError(f"{path}.receipts: members: true is missing, whose receipts they are")
        if self.join != "invited" and self.direct:
            raise StartError(f"{path}.join: nobody joins the two of a direct channel")

    @property
    def may_be_amended(self) -> bool:
        """Whether anybody may edit, erase and pin messages."""
        return terms(self.amend) != ("nobody",)

    @property
    def amends(self) -> bool:
        """Whether there may be amendments, whoever makes them."""
        return self.may_be_amended or self.reactions or self.threads


BUILT_IN: Final[Mapping[str, Namespace]] = {
    SYSTEM: Namespace(durable=False, subscribe="admin", history=Retention(100_000, Seconds(7 * 86400))),
    PERSONAL: Namespace(publish="server", subscribe="owner", history=Retention(1000, Seconds(7 * 86400))),
    DEAD: Namespace(subscribe="admin"),
    ROOMS: Namespace(durable=False, subscribe="user"),
}
"""Those that need no declaration."""


def check_rule(path: str, rule: Rule, *words: str) -> None:
    """StartError if it is none. `words`: that it may have besides."""
    wrong = problem(rule, words)
    if wrong:
        raise StartError(f"{path}: {wrong}")
