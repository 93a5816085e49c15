"""What follows from who was banned and whose ban was lifted, in that order."""

from __future__ import annotations

import pytest

from server.access.bans import Ban, Bans
from server.core.clock import Clock
from server.core.errors import Error

NOW = 1_800_000_000.0


def test_the_newest_of_each_scope_holds_until_it_ends() -> None:
    """A ban from everything and those from channels stand beside each other; each ends by itself, or is lifted."""
    now = [NOW]
    bans = Bans(Clock(lambda: now[0]))
    bans.set(Ban("ann", "chat:*", NOW, 0.0, "spam", "ops"))
    bans.set(Ban("ann", None, NOW, NOW + 60, "", "ops"))
    assert [one.channel for one in bans.of("ann")] == [None, "chat:*"]
    with pytest.raises(Error, match="permission_denied: ann is banned until 2027-01-15T08:01:00Z"):
        bans.check("ann")
    inside = bans.in_channel("ann", "$thread:7:chat:tea")
    assert inside is not None
    assert inside.words == "banned: spam"
    assert bans.in_channel("ann", "feed:x") is None
    assert bans.whole("bob") is None
    now[0] += 60
    bans.check("ann")
    bans.forget_ended()
    assert [one.channel for one in bans.of("ann")] == ["chat:*"]
    bans.lift("ann", "chat:*")
    assert bans.of("ann") == []
    assert bans.in_channel("ann", "chat:tea") is None


def test_pages_are_of_whole_users() -> None:
    """By name, from behind the last of the page before; those whose bans are over are not there."""
    bans = Bans(Clock(lambda: NOW))
    for user in ("dan", "bob", "cid", "ann"):
        bans.set(Ban(user, None, NOW, 0.0, "", "ops"))
    bans.set(Ban("bob", "chat:*", NOW, 0.0, "", "ops"))
    bans.set(Ban("cid", None, NOW, NOW, "", "ops"))
    rows, following = bans.page("", "", 2)
    assert ([one.user for one in rows], following) == (["ann", "bob", "bob"], "bob")
    rows, following = bans.page("", "bob", 2)
    assert ([one.user for one in rows], following) == (["dan"], None)
    assert [one.user for one in bans.page("d", "", 2)[0]] == ["dan"]
