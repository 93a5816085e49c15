"""Who may do what in a channel: deny by default, one place that decides.

Permissions decides, whatever is asked for and by which door. Whoever waits for something between asking and doing takes
the right from rights.py; who does not wait asks `Permissions.check`. A right comes from the namespace's rule
(core/rules.py) or from what the token or the API key carries itself; a revocation takes either.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal, Protocol

from server.access.directs import Directs
from server.access.memberships import Memberships, Unloaded
from server.access.threads import Threads
from server.core.config import BUILT_IN, Collection, Namespace
from server.core.errors import Error, bad_request
from server.core.names import (
    DOCUMENTS,
    SYSTEM,
    SYSTEM_CHANNELS,
    collection_of,
    matches,
    namespace_of,
    parent_of,
    without_label,
)
from server.core.principals import Principal
from server.core.rules import MEMBER, OWN, Rule, plays, roles, satisfies, terms
from server.wire.amendments import AmendedMessage

Action = Literal["publish", "subscribe"]
Role = tuple[str | None, bool]
"""As memberships.py says it: the role, and whether that was read for who asks."""


class Revoked(Protocol):
    """What has been taken back, as far as this node knows."""

    @property
    def confirmed(self) -> bool:
        """Whether that is up to date."""

    def token(self, principal: Principal) -> bool:
        """Whether all that the principal may do is revoked."""

    def right(self, principal: Principal, channel: str) -> bool:
        """Whether what the principal may do in the channel is revoked."""

    def refusal(self, principal: Principal, channel: str | None = None, what: str = "") -> Error:
        """What says so."""


class Permissions:
    """`guests`: whether there are any; without them not even `anyone` is open to the world."""

    def __init__(
        self,
        namespaces: Mapping[str, Namespace],
        revoked: Revoked | None = None,
        guests: bool = True,
        collections: Mapping[str, Collection] | None = None,
        memberships: Memberships | None = None,
        directs: Directs | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._namespaces = namespaces
        self._collections = collections or {}
        self._revoked = revoked
        self._guests = guests
        self._memberships = memberships
        self._directs = directs
        self._threads = threads

    def check(self, principal: Principal, action: Action, channel: str, known: Role | None = None) -> Namespace:
        """The channel's options if `principal` may `action`; else `bad_request` (the name), `unknown_channel` (no such
        namespace), `permission_denied`, or `unavailable` (nobody knows at the moment whether the right was revoked;
        or, as `Unloaded`, whether the principal is a member, or whether there is what a thread is about). The right to
        subscribe is also the right to history, presence and resume. `known`: the role there, where that has been looked
        at already."""
        name = namespace_of(channel)
        if name == DOCUMENTS:
            return self._check_changes(principal, action, without_label(channel))
        namespace = self._namespaces.get(name)
        if namespace is None or (name == SYSTEM and channel not in SYSTEM_CHANNELS):
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        room = parent_of(channel)
        if room is not channel:
            _check_threads(namespace, room)
        if namespace.patterns and "*" in channel:
            raise bad_request(f"channel: {channel} is ephemeral, as all patterns are: it can be subscribed to, no more")
        if namespace.direct and self._directs is not None:
            self._directs.check(principal, action, room, namespace)
        rule = namespace.publish if action == "publish" else namespace.subscribe
        if not (
            satisfies(principal, rule, room)
            or (name not in BUILT_IN and _granted(principal, action, channel))
            or self._plays(principal, namespace, rule, room, known)
        ):
            raise Error("permission_denied", f"{principal.name} may not {action} in {channel}")
        if revocable(principal):
            self._check_revoked(principal, channel, rule, f"{action} in {channel}")
        if room is not channel and action == "publish":
            self._check_open(namespace, channel)
        return namespace

    def check_amend(self, principal: Principal, channel: str, own: bool = True) -> Namespace:
        """The channel's options if `principal` may amend a message there, which is or is not its `own`; else as
        `check`. The right may be carried by a token or an API key as well (`amend`)."""
        name = namespace_of(channel)
        if name == DOCUMENTS or name in BUILT_IN:
            raise Error("permission_denied", f"{principal.name} may not amend in {channel}")
        namespace = self._namespaces.get(name)
        if namespace is None:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        if not namespace.durable:
            raise bad_request(f"channel: {channel} is ephemeral, it has nothing to amend")
        room = parent_of(channel)
        if room is not channel:
            _check_threads(namespace, room)
        rule = namespace.amend
        known: Role | None = None
        if namespace.members and not principal.server:
            # Once for both rules: what has been read is for who asks next, and for nobody after that.
            if self._memberships is not None and principal.user is not None:
                known = self._memberships.role(principal.user, room)
            # Not even what was one's own, where one is a stranger now.
            self.check(principal, "subscribe", channel, known)
        if not (
            satisfies(principal, rule, room)
            or (own and principal.user is not None and OWN in terms(rule))
            or (namespace.may_be_amended and _granted(principal, "amend", channel))
            or self._plays(principal, namespace, rule, room, known)
        ):
            raise Error("permission_denied", f"{principal.name} may not amend this in {channel}")
        if revocable(principal):
            self._check_revoked(principal, channel, rule, f"amend in {channel}")
        return namespace

    def check_react(self, principal: Principal, channel: str, on: bool = True) -> Namespace:
        """The channel's options if `principal` may react to its messages: whoever may read them and has a name, and in
        direct channels is not blocked, but for what is taken back (`on` is false); else as `check`."""
        namespace = self.check(principal, "subscribe", channel)
        if not namespace.reactions:
            raise Error("permission_denied", f"{channel} has no reactions")
        if principal.user is None:
            raise Error("permission_denied", "a guest has no name to react by")
        if on and namespace.direct and self._directs is not None:
            self._directs.check(principal, "react", parent_of(channel), namespace)
        return namespace

    def amends(self, channel: str) -> bool:
        """Whether there may be amendments in this channel."""
        namespace = self._namespaces.get(parent_of(channel).partition(":")[0])
        return namespace is not None and namespace.amends

    def _plays(
        self, principal: Principal, namespace: Namespace, rule: Rule, room: str, known: Role | None = None
    ) -> bool:
        """Whether the principal is a member with a role that the rule gives the right to; `Unloaded` if that is not
        known. `room`: no thread, as those have no members of their own."""
        wanted = roles(rule)
        if not wanted or self._memberships is None or principal.user is None or principal.server:
            return False
        if namespace.direct:  # who is named is one of the two
            return plays(MEMBER, wanted)
        role, fresh = known or self._memberships.role(principal.user, room)
        if plays(role, wanted):
            return True
        if not fresh:
            raise Unloaded(namespace, partial(self._memberships.load, principal.user, room))
        return False

    def shows(self, principal: Principal, channel: str, role: str) -> bool:
        """Whether who has this role in the channel, or in the parent of a thread, may read it now: else it is not shown
        among their rooms."""
        room = parent_of(channel)
        namespace = self._namespaces.get(room.partition(":")[0])
        if namespace is None or not namespace.members or not (namespace.threads or room is channel):
            return False
        rule = namespace.subscribe
        if not (
            plays(role, roles(rule)) or satisfies(principal, rule, room) or _granted(principal, "subscribe", channel)
        ):
            return False
        return not self.is_taken(principal, channel)

    def is_taken(self, principal: Principal, channel: str) -> bool:
        """Whether the principal's rights in the channel are revoked, or its user is banned there now."""
        return self._revoked is not None and self._revoked.right(principal, channel)

    def check_room(self, principal: Principal, channel: str) -> Namespace:
        """The options of a channel that has members, or of a thread in one, for who is no guest; what such a one may do
        there is for others to say. Else as `check`."""
        namespace = self._namespaces.get(namespace_of(channel))
        if namespace is None:
            raise Error("unknown_channel", f"channel: no namespace is declared for {channel}")
        if not namespace.members:
            raise bad_request(f"channel: {channel} has no members")
        room = parent_of(channel)
        if room is not channel:
            _check_threads(namespace, room)
        if principal.user is None:
            raise Error("permission_denied", "a guest is no member")
        if namespace.direct and self._directs is not None:
            self._directs.check(principal, "subscribe", room, namespace)
        if revocable(principal):
            self._check_revoked(principal, channel, "member", f"be a member of {channel}")
        return namespace

    def check_call(self, principal: Principal, method: str, rule: Rule, name: str) -> None:
        """`permission_denied` if `rule` does not let `principal` call the method, whose pattern has that `name`; or as
        `check`, of a token that was revoked."""
        if not satisfies(principal, rule):
            told = f"{principal.name} may not call what is under {name}"
            raise Error("permission_denied", f"{principal.name} may not call {method}", told=told)
        if revocable(principal):
            self._check_revoked(principal, None, rule, f"call {method}")

    def check_pattern(self, principal: Principal, pattern: str) -> Namespace:
        """The namespace's options if `principal` may subscribe to a pattern of it, whichever channels it may read then;
        else what `check` raises, and `bad_request` where there are no such subscriptions."""
        name = namespace_of(pattern)
        namespace = self._namespaces.get(name)
        if namespace is None and name != DOCUMENTS:
            raise Error("unknown_channel", f"channel: no namespace is declared for {pattern}")
        if parent_of(pattern) is not pattern:
            raise bad_request(f"channel: {pattern} is a pattern of threads, and there are none")
        if namespace is None or not namespace.patterns:
            raise bad_request(f"channel: {pattern} is a pattern, and {name} does not say patterns: true")
        owners = () if principal.user is None else (principal.user,)
        if not (satisfies(principal, namespace.subscribe, owners) or _granted_some(principal, name)):
            raise Error("permission_denied", f"{principal.name} may not subscribe in {pattern}")
        if revocable(principal):
            self._check_revoked(principal, pattern, namespace.subscribe, f"subscribe in {pattern}")
        return namespace

    def check_subscription(self, principal: Principal, name: str) -> Namespace:
        """`check` for what is subscribed to: a channel or a pattern."""
        return self.check_pattern(principal, name) if "*" in name else self.check(principal, "subscribe", name)

    def _check_open(self, namespace: Namespace, thread: str) -> None:
        if self._threads is not None and not self._threads.open(thread):
            raise Unloaded(namespace, partial(self._threads.look, thread))

    def _check_revoked(self, principal: Principal, channel: str | None, rule: Rule, what: str) -> None:
        """`channel`: None where it is the right to none."""
        if self._revoked is not None:
            if self._revoked.token(principal):
                raise self._revoked.refusal(principal)
            if channel is not None and self._revoked.right(principal, channel):
                raise self._revoked.refusal(principal, channel, what)
            if not self._revoked.confirmed and self._guarded(rule):
                raise Error("unavailable", "revocations cannot be confirmed: MongoDB is away", retry_after=1.0)

    def _check_changes(self, principal: Principal, action: Action, channel: str) -> Namespace:
        """Of the changes of documents; nobody but the tailer publishes there."""
        name = collection_of(channel)
        if name not in self._collections:
            raise Error("unknown_channel", f"channel: no collection is declared for {channel}")
        if action == "publish":
            raise Error("permission_denied", f"{principal.name} may not publish in {channel}")
        collection = self.check_documents(principal, "read", name, channel)
        return Namespace(history=collection.history, hook=collection.hook)

    def check_documents(
        self, principal: Principal, action: Literal["read", "write"], name: str, channel: str | None = None
    ) -> Collection:
        """The collection's options; else `not_found` (not declared), or what `check` raises. A token may carry the
        right to `subscribe` (to read and to watch) or to `write` in docs:NAME; or to subscribe to one document's
        `channel`."""
        collection = self._collections.get(name)
        if collection is None:
            raise Error("not_found", f"collection: {name[:100]} is not declared")
        channel = channel or f"{DOCUMENTS}:{name}"
        rule = collection.read if action == "read" else collection.write
        of_all = collection.read_all if action == "read" else collection.write_all
        # Rows with owners are shown to their owners alone: anybody may be one.
        owners = (principal.user,) if collection.owner is not None and principal.user is not None else ()
        carried = "subscribe" if action == "read" else "write"
        if not (
            satisfies(principal, rule, owners) or satisfies(principal, of_all) or _granted(principal, carried, channel)
        ):
            raise Error("permission_denied", f"{principal.name} may not {action} documents of {name}")
        if revocable(principal):
            self._check_revoked(principal, channel, _least(collection, rule), f"{action} documents of {name}")
        return collection

    def deliveries_wait(self, principal: Principal, channel: str) -> bool:
        """Whether deliveries to `principal` have to wait while revocations cannot be confirmed: not those of what any
        guest could read."""
        namespace = self._namespaces.get(namespace_of(channel))
        if namespace_of(channel) == DOCUMENTS:
            collection = self._collections.get(collection_of(channel))
            return revocable(principal) and (collection is None or self._guarded(_least(collection, collection.read)))
        return revocable(principal) and (namespace is None or self._guarded(namespace.subscribe))

    def _guarded(self, rule: Rule) -> bool:
        return not self._guests or "anyone" not in terms(rule)


def _least(collection: Collection, rule: Rule) -> Rule:
    """Who may do at least so much. Where documents have owners, what somebody sees is theirs, whoever may look."""
    return rule if collection.owner is None else "user"


def revocable(principal: Principal) -> bool:
    """Whoever has a token. Guests have nothing to take back, and API keys are taken back in the configuration."""
    return (principal.user is not None or principal.token is not None) and not principal.server


def owns(principal: Principal, message: AmendedMessage) -> bool:
    """Whether the message is the principal's own: a user's, or of any back end for an API key. Nothing is a guest's."""
    if principal.server or message.by_server:
        return principal.server and message.by_server
    return principal.user is not None and principal.user == message.user


def _check_threads(namespace: Namespace, room: str) -> None:
    if not namespace.threads:
        raise bad_request(f"channel: {room} has no threads, its namespace does not say threads: true")


def _granted(principal: Principal, action: str, channel: str) -> bool:
    """Rights a token or an API key carries itself: patterns of channels with `*`. Those to a channel are also rights to
    its threads; and there may be one to a single thread."""
    room = parent_of(channel)
    return any(
        action in actions and (matches(pattern, room) or (room is not channel and matches(pattern, channel)))
        for pattern, actions in principal.channels.items()
    )


def _granted_some(principal: Principal, namespace: str) -> bool:
    """Whether a token or an API key carries a right to subscribe to anything there."""
    return any(
        "subscribe" in actions and (pattern == "*" or pattern.partition(":")[0] in (namespace, "*"))
        for pattern, actions in principal.channels.items()
    )
