"""Presence between nodes that hear each other through something that loses, doubles and dies; on a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from server.brokers.base import Announcement
from server.presence.attendance import GATHER, GRACE, LEASE, ROWS, Attendance
from server.wire.messages import Notice
from tests.unit.virtual_time import run

TEST = Callable[[], Coroutine[Any, Any, None]]
CHAT = "chat:a"


class Network:
    """Carries announcements as a broker does, encoded; `lossy` loses all, `cut` those of one node."""

    def __init__(self, *names: str, limit: int = 0, tells: bool = True) -> None:
        self.limit = limit
        self.tells = tells
        self.lossy = False
        self.cut: set[str] = set()
        self.sent = 0
        self.peers = {name: Peer(self, name) for name in names}

    def add(self, name: str) -> Peer:
        self.peers[name] = Peer(self, name)
        return self.peers[name]

    def carry(self, announcement: Announcement) -> None:
        self.sent += 1
        raw = msgspec.msgpack.encode(announcement)
        if not self.lossy and announcement.node not in self.cut:
            for peer in self.peers.values():
                if peer.name != announcement.node and peer.name not in self.cut:
                    peer.hear(msgspec.msgpack.decode(raw, type=Announcement))

    async def beats(self, count: int = 1, hearing: bool = True) -> None:
        for _ in range(count):
            for peer in self.peers.values():
                self.carry(Announcement(peer.name, beat=True, attended=peer.presence.number))
                peer.presence.tick(hearing)
            await asyncio.sleep(1)

    def agree(self, channel: str = CHAT) -> Any:
        """What all of them say, which is the same."""
        shown = [peer.presence.show(channel) for peer in self.peers.values() if peer.name not in self.cut]
        assert all(one == shown[0] for one in shown), shown
        return shown[0]


class Peer:
    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.notices: list[Notice] = []
        self.presence = Attendance(
            name,
            announce=lambda **fields: network.carry(Announcement(name, **fields)),
            deliver=self.notices.extend,
            tells=lambda channel: network.tells,
            limit=network.limit,
        )

    def hear(self, announcement: Announcement) -> None:
        if announcement.attendance is not None:
            self.presence.hear(announcement.node, announcement.attendance)
        if announcement.beat:
            self.presence.hear_beat(announcement.node, announcement.attended)
        if self.name in announcement.ask:
            self.presence.hear_question()

    def enter(self, user: str | None, channel: str = CHAT, info: Any = None) -> Callable[[bool], None]:
        return self.presence.enter(channel, user, info, f"session of {user}")

    def told(self) -> list[tuple[Any, ...]]:
        """The pushes since the last time, (type, user or count)."""
        told, self.notices[:] = [notice.push() for notice in self.notices], []
        return [(push["type"], push.get("user", push.get("count"))) for push in map(msgspec.to_builtins, told)]


async def gathered() -> None:
    await asyncio.sleep(2 * GATHER)


def virtual(test: TEST) -> Callable[[], None]:
    def wrapped() -> None:
        run(test())

    wrapped.__doc__ = test.__doc__
    wrapped.__name__ = test.__name__
    return wrapped


@virtual
async def test_users_once_with_their_sessions() -> None:
    """Tabs on several nodes are one user with the sum of sessions; guests are a number; all nodes say the same."""
    network = Network("a", "b", "c")
    a, b, _ = network.peers.values()
    a.enter("ann", info={"name": "Ann"})
    a.enter("ann", info={"name": "Ann"})
    b.enter("ann")
    b.enter("bob")
    b.enter(None)
    a.enter(None)
    await gathered()
    assert network.agree() == {
        "users": [{"user": "ann", "sessions": 3, "info": {"name": "Ann"}}, {"user": "bob", "sessions": 1}],
        "count": 2,
        "guests": 2,
    }
    assert all(sorted(peer.told()) == [("join", "ann"), ("join", "bob")] for peer in network.peers.values())


@virtual
async def test_a_reload_is_not_a_leave() -> None:
    """Whoever comes back within the grace, on whichever node, was never gone; later it is a leave, once."""
    network = Network("a", "b")
    a, b = network.peers.values()
    leave = a.enter("ann")
    await gathered()
    assert [peer.told() for peer in (a, b)] == [[("join", "ann")]] * 2
    leave(False)
    await network.beats(int(GRACE) - 2)
    assert network.agree()["users"] == [{"user": "ann", "sessions": 0}]
    leave = b.enter("ann")
    await network.beats(int(GRACE) + 2)
    assert network.agree()["users"] == [{"user": "ann", "sessions": 1}]
    assert [peer.told() for peer in (a, b)] == [[], []]
    leave(False)
    await network.beats(int(GRACE) + 2)
    assert network.agree() == {"users": [], "count": 0, "guests": 0}
    assert [peer.told() for peer in (a, b)] == [[("leave", "ann")]] * 2
    assert [(d.channel, d.user) for d in b.presence.departures] == [(CHAT, "ann")]


@virtual
async def test_unsubscribing_is_a_leave_at_once() -> None:
    """Only the last session's; and who comes and goes before anybody was told has not been there."""
    network = Network("a", "b")
    a, b = network.peers.values()
    first, second = a.enter("ann"), b.enter("ann")
    await gathered()
    first(True)
    await gathered()
    assert b.told() == [("join", "ann")]
    second(True)
    a.enter("bob")(True)
    await gathered()
    assert b.told() == [("leave", "ann")]
    assert network.agree()["count"] == 0


@virtual
async def test_guests_have_no_grace() -> None:
    """They are counted, not named, and nobody is told."""
    network = Network("a", "b")
    a, b = network.peers.values()
    leave = a.enter(None)
    await gathered()
    assert network.agree()["guests"] == 1
    leave(False)
    await gathered()
    assert network.agree()["guests"] == 0
    assert b.told() == []


@virtual
async def test_the_own_session_is_not_told_of_its_coming() -> None:
    """The notice of a join names the session it is not for; a leave is for everybody."""
    network = Network("a")
    (a,) = network.peers.values()
    a.enter("ann")(True)
    a.enter("bob")
    await gathered()
    assert [notice.skip for notice in a.notices] == ["session of bob"]


@virtual
async def test_lost_changes_are_made_up_for() -> None:
    """Whatever was lost, after the next beats all agree, and everybody is told of what happened in between."""
    network = Network("a", "b")
    a, b = network.peers.values()
    stays = a.enter("ann")
    a.enter("bob")
    await gathered()
    assert len(b.told()) == 2
    network.lossy = True
    stays(True)
    a.enter("cid")
    b.enter("dan")
    await gathered()
    assert b.told() == [("join", "dan")]
    network.lossy = False
    a.enter("eve")
    await network.beats(2)
    assert [row["user"] for row in network.agree()["users"]] == ["bob", "cid", "dan", "eve"]
    assert sorted(b.told()) == [("join", "cid"), ("join", "eve"), ("leave", "ann")]
    sent = network.sent
    await network.beats(2)
    assert network.sent == sent + 4  # nothing but beats any more


@virtual
async def test_a_newcomer_gets_everything() -> None:
    """A table of many parts comes over whole, and the node that had it sends it once for all who asked."""
    network = Network("a")
    (a,) = network.peers.values()
    for n in range(3 * ROWS + 1):
        a.enter(f"user{n:05}")
    await network.beats(1)
    network.add("b")
    network.add("c")
    await network.beats(2)
    assert network.agree()["count"] == 3 * ROWS + 1


@virtual
async def test_half_a_table_is_not_believed() -> None:
    """A part that is lost is no leave of those who are in it: the table is asked for again."""
    network = Network("a", "b")
    a, b = network.peers.values()
    for n in range(2 * ROWS):
        a.enter(f"user{n:05}")
    await gathered()
    b.told()
    hear, lost = b.hear, []

    def lossy(announcement: Announcement) -> None:
        if announcement.attendance is not None and announcement.attendance.parts and not lost:
            lost.append(announcement)
        else:
            hear(announcement)

    b.hear = lossy  # type: ignore[method-assign]
    network.lossy = True
    a.enter("zoe")
    await gathered()
    network.lossy = False
    await network.beats(1)
    assert len(lost) == 1
    assert b.presence.show(CHAT)["count"] == 2 * ROWS
    await network.beats(2)
    assert network.agree()["count"] == 2 * ROWS + 1
    assert b.told() == [("join", "zoe")]


@virtual
async def test_a_dead_node_takes_its_users_out() -> None:
    """After the lease, everywhere at once, with when they were last seen; who is elsewhere too stays."""
    network = Network("a", "b", "c")
    a, b, _ = network.peers.values()
    a.enter("ann")
    a.enter("bob")
    b.enter("bob")
    await network.beats(2)
    b.told()
    network.cut.add("a")
    await network.beats(LEASE - 1)
    assert network.agree()["count"] == 2
    await network.beats(1)
    assert network.agree()["users"] == [{"user": "bob", "sessions": 1}]
    assert b.told() == [("leave", "ann")]
    assert [departure.user for departure in b.presence.departures] == ["ann"]


@virtual
async def test_a_frozen_node_comes_back() -> None:
    """One that was silent for too long is forgotten, and remembered with all its users at its next beat."""
    network = Network("a", "b")
    a, b = network.peers.values()
    a.enter("ann")
    b.enter("bob")
    await network.beats(1)
    assert sorted(b.told()) == [("join", "ann"), ("join", "bob")]
    network.cut.add("a")
    await network.beats(LEASE)
    assert b.told() == [("leave", "ann")]
    network.cut.clear()
    await network.beats(2)
    assert [row["user"] for row in network.agree()["users"]] == ["ann", "bob"]
    assert b.told() == [("join", "ann")]


@virtual
async def test_without_a_broker_nobody_is_forgotten() -> None:
    """Who does not even hear itself says what it knows; afterwards the lease begins anew."""
    network = Network("a", "b")
    a, _ = network.peers.values()
    leave = a.enter("ann")
    await network.beats(1)
    network.lossy = True
    await network.beats(5 * LEASE, hearing=False)
    assert network.agree()["count"] == 1
    leave(True)
    network.lossy = False
    await network.beats(2)
    assert network.agree()["count"] == 0


@virtual
async def test_crowds_are_only_counted() -> None:
    """Above the limit there are no names, joins or leaves, but their number once a second; below it again there are."""
    network = Network("a", "b", limit=10)
    a, b = network.peers.values()
    leaves = [a.enter(f"user{n:02}") for n in range(10)]
    await network.beats(1)
    assert len(b.told()) == 10
    leaves += [a.enter(f"user{n:02}") for n in range(10, 30)]
    await network.beats(1)
    await network.beats(1)
    assert network.agree() == {"users": [], "count": 30, "guests": 0}
    assert b.told() == [("occupancy", 30)]
    await network.beats(2)
    assert b.told() == []
    for leave in leaves[:20]:
        leave(True)
    await network.beats(1)
    assert b.told()[0] == ("occupancy", 10)
    assert len(network.agree()["users"]) == 10
    leaves[20](True)
    await gathered()
    assert b.told() == [("leave", "user20")]


@virtual
async def test_a_storm_is_a_few_announcements() -> None:
    """A thousand who come within a moment are one announcement, and one delivery."""
    network = Network("a", "b")
    a, b = network.peers.values()
    for n in range(ROWS):
        a.enter(f"user{n:04}")
    await gathered()
    assert network.sent == 1
    assert len(b.told()) == ROWS


@virtual
async def test_a_node_that_leaves_has_seen_its_users() -> None:
    """They are noted as seen, those in their grace as of when they left, and peers keep them for the lease."""
    network = Network("a", "b")
    a, _ = network.peers.values()
    a.enter("ann")
    a.enter("bob")(False)
    a.enter(None)
    await gathered()
    a.presence.close()
    assert [departure.user for departure in a.presence.departures] == ["ann", "bob"]
    assert network.agree()["count"] == 2


@virtual
async def test_nobody_is_told_where_nobody_wants_to_know() -> None:
    """`join_leave: false`: presence is there for the asking only."""
    network = Network("a", "b", tells=False)
    a, b = network.peers.values()
    a.enter("ann")
    await gathered()
    assert b.presence.show(CHAT)["count"] == 1
    assert b.told() == []


def test_numbers_go_up_only() -> None:
    """A doubled or late announcement changes nothing."""

    async def scenario() -> None:
        network = Network("a", "b")
        a, b = network.peers.values()
        heard: list[Announcement] = []
        hear = b.hear
        b.hear = lambda announcement: (heard.append(announcement), hear(announcement))[1]  # type: ignore[method-assign]
        leave = a.enter("ann")
        await gathered()
        leave(True)
        await gathered()
        for announcement in (*heard, *heard):
            hear(announcement)
        await gathered()
        assert b.told() == [("join", "ann"), ("leave", "ann")]
        assert b.presence.show(CHAT)["count"] == 0

    run(scenario())
