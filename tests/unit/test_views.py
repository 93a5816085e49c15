"""Views of a collection's changes: what they show, what the hub makes of them, and how far they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import server.delivery.hub
from server.delivery.hub import PROGRESS_MESSAGES, PROGRESS_SECONDS, Hub
from server.documents.views import Owner, View
from server.documents.where import Where, parse
from server.wire.messages import Message
from server.wire.pushes import GapPush
from tests.unit.test_hub import Sink, hub_test, turn

CHANNEL = "docs:c"
Document = dict[str, Any] | None


def change(offset: int, before: Document, after: Document, identifier: str = "1") -> Message:
    data = {"op": "delete" if after is None else "put", "id": identifier, "rev": None, "document": after}
    return Message(CHANNEL, "e", offset, "k", None, 0, data, images=(before, None))


def shown(view: View, before: Document, after: Document) -> str | None:
    message = view.show(change(1, before, after))
    return None if message is None else message.data["op"]


def test_a_where_shows_what_comes_and_goes() -> None:
    view = View(CHANNEL, "c", where=parse({"a": 1}))
    yes, no = {"a": 1}, {"a": 2}
    assert [shown(view, before, after) for before, after in ((None, yes), (no, yes), (yes, yes))] == ["put"] * 3
    assert [shown(view, before, after) for before, after in ((yes, no), (yes, None))] == ["delete"] * 2
    assert [shown(view, before, after) for before, after in ((None, no), (no, no), (no, None))] == [None] * 3
    gone = view.show(change(1, yes, no))
    assert gone is not None
    assert gone.data == {"op": "delete", "id": "1", "rev": None, "document": None}


def test_owners_see_their_own_alone_whatever_they_ask_for() -> None:
    view = View(CHANNEL, "c", where=parse({"owner": "bob"}), owner=Owner("owner", "ann"))
    assert shown(view, None, {"owner": "bob"}) is None
    view = View(CHANNEL, "c", owner=Owner("owner", "ann"))
    assert shown(view, None, {"owner": ["bob", "ann"]}) == "put"
    assert shown(view, {"owner": "ann"}, {"owner": "bob"}) == "delete"
    assert shown(view, {"owner": None}, {}) is None
    one = View(f"{CHANNEL}/1", "c", id="1", owner=Owner("owner", "ann"))
    assert shown(one, None, {"owner": "bob"}) is None
    assert one.show(change(1, None, {"owner": "ann"}, "2")) is None


def test_of_a_large_document_only_the_owner_is_known() -> None:
    large = {"_id": "1", "owner": "ann", "_truncated": True}
    data = {"op": "put", "id": "1", "rev": None, "document": None, "truncated": True}
    message = Message(CHANNEL, "e", 1, "k", None, 0, data, images=(None, large))
    where = parse({"a": 1})
    assert View(CHANNEL, "c", where=where, owner=Owner("owner", "ann")).show(message) is message
    assert View(CHANNEL, "c", where=where, owner=Owner("owner", "bob")).show(message) is None


def test_a_field_does_not_make_a_document_a_large_one() -> None:
    assert shown(View(CHANNEL, "c", where=parse({"a": 1})), None, {"_rev": "r", "_truncated": True, "a": 2}) is None


@hub_test
async def test_what_one_view_cannot_show_stops_nobody_else(hub: Hub) -> None:
    class Broken(Where):
        def holds(self, facts: Any) -> bool:
            raise ValueError("a bug")

    sinks = [Sink(name=str(number)) for number in range(3)]
    wheres = (Broken(parse({"b": 1}).conditions, "b"), parse({"a": 1}))
    for sink, where in zip(sinks, wheres, strict=False):
        hub.add(CHANNEL, sink, view=View(CHANNEL, "c", where=where))
    hub.add(CHANNEL, sinks[2])
    hub.deliver([change(1, None, {"a": 1})])
    await turn()
    assert [len(sink.deliveries) for sink in sinks] == [0, 1, 1]


@hub_test
async def test_watchers_of_one_view_share_the_work(hub: Hub) -> None:
    """Of two views with 50 watchers each: a message is encoded once; the one that does not show it sends nothing."""
    sinks = [Sink(name=str(number)) for number in range(100)]
    for number, sink in enumerate(sinks):
        hub.add(CHANNEL, sink, view=View(CHANNEL, "c", where=parse({"a": number % 2})))
    hub.deliver([change(1, None, {"a": 1})])
    await turn()
    assert hub.encodes == 1
    assert [len(sink.deliveries) for sink in sinks] == [0, 1] * 50
    assert hub.count(CHANNEL) == 100
    for number, sink in enumerate(sinks):
        hub.remove(CHANNEL, sink, View(CHANNEL, "c", where=parse({"a": number % 2})))
    assert hub.count(CHANNEL) == 0


class TestManyViews:
    """With no time at all for a turn, each turn shows one message in one view."""

    @pytest.fixture(autouse=True)
    def no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server.delivery.hub, "SLICE", 0.0)

    def test_they_show_in_turns(self) -> None:
        """The loop goes on in between; every view has everything in the end, in order."""

        @hub_test
        async def play(hub: Hub) -> None:
            sinks = [Sink(name=str(number)) for number in range(20)]
            for number, sink in enumerate(sinks):
                hub.add(CHANNEL, sink, view=View(CHANNEL, "c", where=parse({"a": {"$gt": -number}})))
            for offset in range(1, 4):
                hub.deliver([change(offset, None, {"a": 1})])
            await turn()
            assert 0 < sum(bool(sink.deliveries) for sink in sinks) < 20
            while not sinks[-1].deliveries or sinks[-1].deliveries[-1].last < 3:
                await asyncio.sleep(0)
            for sink in sinks:
                assert [one.first for one in sink.deliveries] == [1, 2, 3]

        play()

    def test_who_comes_and_goes_has_what_belongs_to_them(self) -> None:
        """Who joins a view or leaves it before it has shown everything: the one gets nothing of it, the other all."""

        @hub_test
        async def play(hub: Hub) -> None:
            views = [View(CHANNEL, "c", where=parse({"a": {"$gt": -number}})) for number in range(5)]
            first, second, late = Sink(name="first"), Sink(name="second"), Sink(name="late")
            for view in views[:4]:
                hub.add(CHANNEL, Sink(name="other"), view=view)
            hub.add(CHANNEL, first, view=views[4])
            hub.add(CHANNEL, second, view=views[4])
            hub.deliver([change(offset, None, {"a": 1}) for offset in (1, 2)])
            hub.send_held_back(CHANNEL, views[4])
            hub.remove(CHANNEL, first, views[4])
            hub.deliver([change(3, None, {"a": 1})])
            hub.add(CHANNEL, late, view=views[4])
            hub.deliver([change(4, None, {"a": 1})])
            while not late.deliveries:
                await asyncio.sleep(0)
            assert [(one.first, one.last) for one in first.deliveries] == [(1, 2)]
            assert [one.last for one in second.deliveries] == [2, 3, 4]
            assert [(one.first, one.last) for one in late.deliveries] == [(4, 4)]

        play()

    def test_too_much_is_not_put_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever brings more than may wait is held up until it is shown."""
        monkeypatch.setattr(server.delivery.hub, "UNSHOWN", 2)

        @hub_test
        async def play(hub: Hub) -> None:
            sinks = [Sink(name=str(number)) for number in range(5)]
            for number, sink in enumerate(sinks):
                hub.add(CHANNEL, sink, view=View(CHANNEL, "c", where=parse({"a": {"$gt": -number}})))
            hub.deliver([change(offset, None, {"a": 1}) for offset in range(1, 10)])
            await turn()
            assert all(sink.deliveries[0].last >= 7 for sink in sinks)

        play()


@hub_test
async def test_a_view_that_shows_nothing_says_how_far_it_is(hub: Hub) -> None:
    """After so many messages, or seconds."""
    view, sink = View(CHANNEL, "c", where=parse({"a": 1})), Sink()
    hub.add(CHANNEL, sink, view=view)
    hub.deliver([change(offset, None, {"a": 2}) for offset in range(1, PROGRESS_MESSAGES)])
    await turn()
    assert sink.deliveries == []
    hub.deliver([change(PROGRESS_MESSAGES, None, {"a": 2})])
    for _ in range(PROGRESS_MESSAGES):  # views take their time: more than a turn, where the machine is busy
        if not sink.deliveries:
            await turn()
    assert f'"cursor":"e:{PROGRESS_MESSAGES}"'.encode() in sink.deliveries[-1].data
    assert b'"type":"progress"' in sink.deliveries[-1].data
    hub.deliver([change(PROGRESS_MESSAGES + 1, None, {"a": 2})])
    now = asyncio.get_running_loop().time()
    hub.tick(now + PROGRESS_SECONDS / 2)
    assert len(sink.deliveries) == 1
    hub.tick(now + PROGRESS_SECONDS)
    assert f'"cursor":"e:{PROGRESS_MESSAGES + 1}"'.encode() in sink.deliveries[-1].data
    hub.tick(now + 10 * PROGRESS_SECONDS)
    assert len(sink.deliveries) == 2


@hub_test
async def test_a_conflating_view_sends_the_newest_of_each_document(hub: Hub) -> None:
    """The first at once, then one batch an interval; and all of it before anybody joins or leaves, or a gap is told."""
    view, sink = View(CHANNEL, "c", conflate=0.1), Sink()
    hub.add(CHANNEL, sink, view.conflate, view)
    for offset in range(1, 8):
        hub.deliver([change(offset, None, {"n": offset}, identifier="ab"[offset % 2])])
    await turn()
    assert [(one.first, one.last) for one in sink.deliveries] == [(1, 1)]
    await asyncio.sleep(0.11)
    assert [(one.first, one.last) for one in sink.deliveries] == [(1, 1), (6, 7)]
    hub.deliver([change(8, None, {})])
    hub.deliver([change(9, {}, None)])
    hub.tell(CHANNEL, GapPush.trimmed(CHANNEL, "e", 10, 10), 10, 10)
    assert [(one.first, one.last) for one in sink.deliveries[2:]] == [(9, 9), (10, 10)]
    hub.deliver([change(11, None, {})])
    hub.send_held_back(CHANNEL, view)
    hub.remove(CHANNEL, sink, view)
    assert sink.deliveries[-1].last == 11
