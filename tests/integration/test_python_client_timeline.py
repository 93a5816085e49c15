"""The Python client's timeline: what is shown of messages, of what is edited and erased too."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from server.node import Node
from tests.support.client import make_token
from tests.support.waiting import until
from waterspout_client import Amend, Client, Message, Timeline, WaterspoutError

pytestmark = pytest.mark.gen_test(timeout=60)

DEN = "den:a"
TOKEN = make_token("a secret of at least thirty-two bytes", "ann")


@pytest.fixture
def settings() -> dict[str, object]:
    return {"namespaces.den": {"publish": "anyone", "subscribe": "anyone", "amend": "own", "reactions": True,
                            "threads": True}}  # fmt: skip


async def followed(timeline: Timeline) -> None:
    async for _ in timeline:
        pass


def shown(timeline: Timeline) -> list[tuple[Any, ...]]:
    """(offset, data, edited, erased, pinned), and whether it is pending."""
    return [
        (one.message.offset, one.message.data, one.message.edited, one.message.deleted is not None, one.message.pinned,
         one.pending)
        for one in timeline.messages
    ]  # fmt: skip


async def test_everybody_sees_the_same(base_url: str, http_server: object) -> None:
    """Live, for who comes late, and for who scrolls up."""
    ann, guest, late = Client(base_url, token=TOKEN), Client(base_url), Client(base_url)
    mine, theirs, few = ann.timeline(DEN), guest.timeline(DEN), late.timeline(DEN, last=2)
    async with ann, guest, mine, theirs:
        following = [asyncio.create_task(followed(one)) for one in (mine, theirs)]
        for number in range(3):
            await mine.send(number)
        assert (await mine.edit(1, None)).offset == 4
        await mine.edit(1, "zero")
        await mine.remove(2)
        await mine.pin(3)
        expected = [
            (1, "zero", True, False, False, False),
            (2, None, False, True, False, False),
            (3, 2, False, False, True, False),
        ]
        await until(lambda: shown(mine) == shown(theirs) == expected, 10, "what is shown")
        async with late, few:
            following.append(asyncio.create_task(followed(few)))
            await until(lambda: shown(few) == expected[1:], 10, "the newest two")
            assert await few.load_older() is False
            assert shown(few) == expected
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_an_answer_is_written(base_url: str, http_server: object) -> None:
    """Piece by piece, shown as it comes by all, and by who scrolls up meanwhile; what is refused is raised."""
    ann, guest = Client(base_url, token=TOKEN), Client(base_url)
    mine, theirs = ann.timeline(DEN), guest.timeline(DEN, last=1)
    async with ann, guest, mine:
        following = [asyncio.create_task(followed(mine))]
        of = (await mine.send({"text": ""})).offset
        await mine.send("newer")
        async with theirs:
            following.append(asyncio.create_task(followed(theirs)))
            assert of is not None
            async with mine.append(of) as answer:
                for number in range(200):
                    await answer.write(f"{number} ")
                    if number % 50 == 0:
                        await theirs.load_older()
            expected = {"text": "".join(f"{number} " for number in range(200))}
            await until(lambda: mine.messages[0].message.data == expected, 10, "the answer")
            await until(lambda: theirs.messages[0].message.data == expected, 10, "the answer at another's")
            assert not mine.messages[0].message.edited
            with pytest.raises(WaterspoutError, match="permission_denied"):
                async with theirs.append(of) as answer:
                    await answer.write("no")
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_what_is_refused_is_taken_back(base_url: str, http_server: object, node: Node) -> None:
    """It is shown at once, as pending; and as it was when the server has said no."""
    async with Client(base_url, token=TOKEN) as ann, Client(base_url) as guest, guest.timeline(DEN) as timeline:
        following = asyncio.create_task(followed(timeline))
        await ann.publish(DEN, "ann's")
        await until(lambda: bool(timeline.messages), 10, "the message")
        edit = asyncio.create_task(timeline.edit(1, "a guest's"))
        await asyncio.sleep(0)
        assert shown(timeline) == [(1, "a guest's", True, False, False, True)]
        with pytest.raises(WaterspoutError, match="permission_denied"):
            await edit
        assert shown(timeline) == [(1, "ann's", False, False, False, False)]
        following.cancel()
        await asyncio.wait([following])


async def test_reactions(base_url: str, http_server: object) -> None:
    """All see how many there are, and each which are one's own; one that is asked for shows at once, and is taken back
    if it is refused. Of several words about one the last counts."""
    token = make_token("a secret of at least thirty-two bytes", "bob")
    async with AsyncExitStack() as stack:
        ann, bob, late, guest = [
            await stack.enter_async_context(Client(base_url, token=one)) for one in (TOKEN, token, token, None)
        ]
        mine, theirs, his = ann.timeline(DEN), bob.timeline(DEN), guest.timeline(DEN)
        following = []
        for timeline in (mine, theirs, his):
            await stack.enter_async_context(timeline)
            following.append(asyncio.create_task(followed(timeline)))

        def seen(timeline: Timeline) -> tuple[dict[str, int], list[str]]:
            (one,) = timeline.messages
            return {each.kind: each.count for each in one.message.reactions}, one.mine

        await mine.send("tea?")
        await until(lambda: all(one.messages and not one.messages[0].pending for one in (mine, theirs, his)), 10)
        reacting = asyncio.create_task(mine.react(mine.messages[0].message, "👍"))
        await asyncio.sleep(0)
        assert seen(mine) == ({"👍": 1}, ["👍"])
        assert (await reacting).on
        with pytest.raises(WaterspoutError, match="permission_denied"):
            await his.react(1, "👎")
        assert "👎" not in seen(his)[0]
        words = [theirs.react(1, "👍"), theirs.react(1, "🎉"), theirs.unreact(1, "🎉"), theirs.react(1, "❤️")]
        assert [one.on for one in await asyncio.gather(*words)] == [True, False, False, True]
        counted = {"👍": 2, "❤️": 1}
        await until(lambda: [seen(one)[0] for one in (mine, theirs, his)] == [counted] * 3, 10, "the count")
        assert [sorted(seen(one)[1]) for one in (mine, theirs, his)] == [["👍"], sorted(["👍", "❤️"]), []]
        page = await late.history(DEN)
        assert page.mine == {1: ["👍", "❤️"]}
        first = page.messages[0].reactions[0]
        assert (first.kind, first.count, first.users) == ("👍", 2, ("ann", "bob"))
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_threads(base_url: str, http_server: object) -> None:
    """A message is answered in a timeline of its own, and says how often; a reply may be in the parent as well, and
    leads back to its thread."""
    async with Client(base_url, token=TOKEN) as ann, ann.timeline(DEN) as room:
        following = [asyncio.create_task(followed(room))]
        root = await room.send("who brings cake?")
        async with room.thread(root.offset or 0) as thread:
            following.append(asyncio.create_task(followed(thread)))
            await thread.send("I do")
            await thread.send("and tea", broadcast=True)
            await until(lambda: len(room.messages) == 2 and room.messages[0].message.replies, 10, "the replies")
            await until(lambda: room.messages[0].message.replies.count == 2, 10, "both replies")  # type: ignore[union-attr]
            replies = room.messages[0].message.replies
            assert replies is not None
            assert (replies.users, replies.newest) == (("ann",), thread.messages[-1].message.cursor)
            copy = room.messages[1].message
            assert (copy.data, copy.thread) == ("and tea", thread.channel)
            assert room.thread(copy).channel == thread.channel == "$thread:1:den:a"
            await thread.remove(1)
            await until(lambda: room.messages[0].message.replies.count == 1, 10, "one less")  # type: ignore[union-attr]
            await room.remove(1)
            await until(lambda: room.messages[0].message.replies is None, 10, "that it is erased")
            with pytest.raises(WaterspoutError, match="not_found"):
                await thread.send("too late")
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_amendments_are_events(base_url: str, http_server: object) -> None:
    """Of a subscription, beside the messages; in a page of history beside them."""
    async with Client(base_url, token=TOKEN) as ann, ann.subscribe(DEN) as events:
        first = await ann.publish(DEN, "a")
        await ann.edit(DEN, 1, "b", key="e1")
        assert (await ann.edit(DEN, 1, "b", key="e1")).duplicate
        async for event in events:
            if isinstance(event, Amend):
                assert (event.of, event.op, event.data, event.version) == (1, "edit", "b", 2)
                break
            assert not isinstance(event, Message) or event.data == "a"
        page = await ann.history(DEN, after=first.cursor)
        assert (page.messages, [amend.data for amend in page.amends]) == ([], ["b"])
        (message,) = (await ann.history(DEN)).messages
        assert (message.data, message.edited, message.version) == ("b", True, 2)
