"""The language of rules: to whom an option such as `publish` or `read` gives a right.

    anyone          guests as well                   user     with a token, or an API key
    server          with an API key                  nobody
    admin           with an API key that is `admin`
    claim:NAME      the token's claim NAME is there and is not empty, false or zero
    claim:NAME=X    the claim is X, or a list with X in it
    own             (of messages, in `amend`) who has published it, if that is no guest
    owner           a part of the channel's name behind the namespace (parts end at `:`) is the user: inbox:ann
    member          (of channels) a member of the channel, whatever its role
    member:ROLE     a member with that role; owners may what moderators may, and they what plain members may

Several, as a YAML list or with `|` in between, give it to whom any of them does.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

from server.core.names import owners_of
from server.core.principals import Principal

Rule = str | list[str]

OWN: Final = "own"
MEMBER: Final = "member"
MEMBERS: Final = (MEMBER, "member:ROLE")
"""What rules of channels have besides."""
MODERATOR: Final = "moderator"
OWNER: Final = "owner"
_RANKS: Final = {MEMBER: 1, MODERATOR: 2, OWNER: 3}
"""Of the roles that the server knows. All others are the product's own, and none is above another."""
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_WORDS: Final = ("anyone", "user", "server", "admin", "nobody", "owner")


def problem(rule: Rule, besides: tuple[str, ...] = ()) -> str | None:
    """Why `rule` is not one, or None. `besides`: words that it may have as well."""
    words = (*_WORDS, *besides)
    for term in terms(rule):
        if MEMBER in besides and term.startswith("member:") and is_role(term[7:]):
            continue
        if term not in words and not (term.startswith("claim:") and term[6:].partition("=")[0]):
            return f"{term!r} is none of {', '.join(words)}, claim:NAME, claim:NAME=VALUE"
    return None if terms(rule) else "an empty list is no rule; say nobody"


def terms(rule: Rule) -> tuple[str, ...]:
    return _split(rule) if isinstance(rule, str) else tuple(rule)


@lru_cache(maxsize=1024)
def _split(rule: str) -> tuple[str, ...]:
    return tuple(term.strip() for term in rule.split("|"))


def satisfies(principal: Principal, rule: Rule, owners: str | Collection[str] = ()) -> bool:
    """Whether `rule` gives `principal` the right to something that belongs to `owners`; or to the channel of that name,
    which says who they are."""
    for term in _split(rule) if isinstance(rule, str) else rule:  # on the way of every publish: no `any`, no call
        if term == "anyone" or _satisfies(principal, term, owners):
            return True
    return False


def _satisfies(principal: Principal, term: str, owners: str | Collection[str]) -> bool:
    if term == "user":
        return principal.user is not None
    if term == "server":
        return principal.server
    if term == "admin":
        return principal.admin
    if principal.server:
        return False  # an API key has no claims, and its name is nobody's user
    if term == "owner":
        return principal.user in (owners_of(owners) if isinstance(owners, str) else owners)
    if term.startswith("claim:"):
        name, equals, wanted = term[6:].partition("=")
        value = principal.claims.get(name)
        if not equals:
            return bool(value)
        return any(_text(one) == wanted for one in (value if isinstance(value, list) else [value]))
    return False


def _text(value: Any) -> str | None:
    """As one would write it in a rule."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


# --- roles of members -------------------------------------------------------------------------------------------------


def is_role(name: str) -> bool:
    """Whether a member may have it: `[a-z][a-z0-9_-]*`, 32 characters at most."""
    return _ROLE.fullmatch(name) is not None


def roles(rule: Rule) -> tuple[str, ...]:
    """The roles of members that `rule` gives a right to; "" is any."""
    return tuple(term[7:] for term in terms(rule) if term == MEMBER or term.startswith("member:"))


def plays(role: str | None, wanted: Collection[str]) -> bool:
    """Whether who has `role` (None: who is no member) has one of those that are `wanted`."""
    if role is None:
        return False
    rank = _RANKS.get(role, 0)
    return any(not one or one == role or 0 < _RANKS.get(one, 0) < rank for one in wanted)
