"""The chat page in a real browser, against a real server: what people see and do."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import SECRET
from tests.browser.tabs import NO_WEBSOCKET, NewTab, Tab, scenario
from tests.support.client import Client, make_token
from tests.support.processes import Server
from tests.support.proxy import Proxy
from tests.support.waiting import until


class ChatTab(Tab):
    async def open(self, base: str, room: str, name: str = "") -> ChatTab:
        await self.page.goto(f"{base}/chat/#{room}")
        if name:
            await self.page.fill("#name", name)
            await self.page.keyboard.press("Enter")
        await self.state("open")
        return self

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.page.fill("#text", text)
            await self.page.keyboard.press("Enter")

    async def texts(self) -> list[str]:
        """The conversation as it stands: confirmed messages only, top to bottom."""
        return await self.page.locator("#log .message .text").all_inner_texts()

    async def pending(self) -> list[str]:
        return await self.page.locator("#outbox .message .text").all_inner_texts()

    async def shows(self, *texts: str, within: float = 20.0) -> None:
        """Wait until exactly these messages are shown, in this order, and nothing is pending; then make sure it stays
        so (a double might come late)."""
        seen: list[str] = []

        async def complete() -> bool:
            nonlocal seen
            seen = await self.texts()
            return seen == list(texts) and not await self.pending()

        try:
            await until(complete, within, "the messages", every=0.05)
        except TimeoutError:
            pytest.fail(f"expected {list(texts)}, shown {seen}, pending {await self.pending()}")
        await asyncio.sleep(0.4)
        assert await self.texts() == list(texts)

    async def banner(self) -> str:
        banner = self.page.locator("#banner")
        return await banner.inner_text() if await banner.is_visible() else ""

    async def at_end(self) -> bool:
        return bool(
            await self.page.evaluate("() => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 2")
        )

    async def frames(self) -> None:
        """Let the page lay out, tell of it and paint, twice."""
        await self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


NewChat = NewTab[ChatTab]
chat = scenario(ChatTab)


def room() -> str:
    return f"r{secrets.token_hex(4)}"


async def post(server: Server, name: str, data: Any) -> None:
    """Publish, and where that was too fast wait as long as the answer says, as a client would."""
    while (answer := await server.post(f"/v1/channels/chat:{name}/messages", {"data": data})).status == 429:
        await asyncio.sleep(answer.body["retry_after"])
    assert answer.status == 201, answer


def said(text: str, name: str = "Rest") -> dict[str, str]:
    return {"name": name, "text": text}


@chat
async def test_two_tabs_talk(new: NewChat, server: Server, artifacts: Path) -> None:
    """Who writes and who reads see the same conversation; one's own stands on one's own side."""
    name = room()
    ann = await (await new()).open(server.base, name, "Ann")
    await ann.page.wait_for_selector("text=Nothing here yet")
    bob = await (await new()).open(server.base, name, "Bob")
    await ann.say("Hello Bob")
    await bob.shows("Hello Bob")
    await bob.say("Hello Ann", "How are you?")
    for tab in (ann, bob):
        await tab.shows("Hello Bob", "Hello Ann", "How are you?")
    assert await ann.page.locator("#log .mine .text").all_inner_texts() == ["Hello Bob"]
    assert await bob.page.locator("#log .mine .text").all_inner_texts() == ["Hello Ann", "How are you?"]
    assert await bob.page.locator("#log .message:not(.mine) .meta b").all_inner_texts() == ["Ann"]
    assert await bob.page.title() == f"#{name} · Waterspout"


@chat
async def test_server_killed(new: NewChat, server: Server, artifacts: Path) -> None:
    """kill -9 and restart in the middle, with writing on both sides meanwhile: no hole, no double, in one order."""
    name = room()
    ann = await (await new()).open(server.base, name, "Ann")
    bob = await (await new(phone=True)).open(server.base, name, "Bob")
    await ann.say("one", "two")
    await bob.shows("one", "two")
    await ann.page.wait_for_selector("text=This is where the conversation began.")

    await server.kill()
    for tab in (ann, bob):
        await tab.state("waiting")
        # In between it says that it is connecting.
        waits = re.compile(r"No connection.*Next attempt in \d+ s", re.DOTALL)
        await tab.page.locator("#banner").filter(has_text=waits).wait_for()
    await ann.say("written while it was away", "and another")
    assert await ann.pending() == ["written while it was away", "and another"]
    await asyncio.sleep(0.8)
    assert "Waiting to be sent" in await ann.page.locator("#outbox").inner_text()
    assert await ann.pale() == []
    await ann.page.screenshot(path=artifacts / "chat-waiting.png")
    await bob.page.screenshot(path=artifacts / "chat-waiting-phone.png")

    await server.start()
    for number in range(3):
        await post(server, name, said(f"rest {number}"))
    for tab in (ann, bob):
        await tab.now()
    await until(lambda: _count(bob, 7), 20, "the messages")
    await bob.page.screenshot(path=artifacts / "chat-resumed-phone.png")
    everything = await bob.texts()
    assert sorted(everything) == sorted(
        ["one", "two", "rest 0", "rest 1", "rest 2", "written while it was away", "and another"]
    )
    assert everything.index("written while it was away") < everything.index("and another")
    assert everything.index("rest 0") < everything.index("rest 1") < everything.index("rest 2")
    for tab in (ann, bob):
        await tab.shows(*everything)
        assert await tab.page.locator("#log .line.gap").count() == 0
    await bob.say("all there")
    await ann.shows(*everything, "all there")


async def _count(tab: ChatTab, count: int) -> bool:
    return len(await tab.texts()) >= count


@chat
async def test_resumed_is_said(new: NewChat, server: Server, artifacts: Path) -> None:
    """After a loss the page says how many messages were caught up, and where they begin; then it is quiet again."""
    name = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        ann = await (await new()).open(f"http://127.0.0.1:{proxy.port}", name, "Ann")
        await ann.say("here")
        await ann.shows("here")
        await proxy.cut()
        await ann.state("waiting")
        for number in range(3):
            await post(server, name, said(f"missed {number}"))
        # Long enough for the button to be what brings it back.
        await ann.page.wait_for_selector("#banner >> text=/Next attempt in ([4-9]|\\d\\d) s/")
        await proxy.heal()
        await ann.page.get_by_role("button", name="Try now").click()
        await ann.shows("here", "missed 0", "missed 1", "missed 2")
        assert await ann.banner() == "Connected again, 3 messages caught up."
        assert await ann.page.locator("#log .line.away + .message .text").inner_text() == "missed 0"
        await ann.page.screenshot(path=artifacts / "chat-resumed.png")
        await ann.page.wait_for_selector("#banner", state="hidden")
    finally:
        await proxy.stop()


@chat
async def test_long_absence(new: NewChat, server: Server, artifacts: Path) -> None:
    """Hundreds of missed messages: the end is shown, the page does not grow without bound, and the rest is above it."""
    name = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        ann = await (await new()).open(f"http://127.0.0.1:{proxy.port}", name, "Ann")
        await ann.say("before")
        await ann.shows("before")
        await ann.page.evaluate("""() => {
            window.readOut = [];
            new MutationObserver((changes) => {
                const added = changes.flatMap((change) => [...change.addedNodes]);
                const texts = added.map((one) => one.querySelector?.(".text")?.innerText);
                if (log.ariaLive === "polite") readOut.push(...texts);
            }).observe(log, { childList: true, subtree: true });
        }""")
        await proxy.cut()
        for number in range(0, 600, 20):
            await asyncio.gather(*(post(server, name, said(f"{number + more}")) for more in range(20)))
        await post(server, name, said("last"))
        await proxy.heal()
        await ann.now()
        await ann.page.wait_for_selector("#log .message .text:text-is('last')")
        await ann.state("open")
        assert "601 messages caught up" in await ann.banner()
        await until(ann.at_end, 5, "the end")
        shown = await ann.texts()
        assert 400 <= len(shown) <= 500
        await ann.page.evaluate("() => { scroller.scrollTop = 0 }")
        await until(lambda: _count(ann, len(shown) + 50), 10, "the older page")
        # A screen reader is told the number, and then what comes.
        await ann.page.wait_for_selector("#log[aria-live=polite]")
        assert await ann.page.evaluate("() => readOut") == []
        await post(server, name, said("now"))
        await ann.page.wait_for_function("() => readOut.includes('now')")
        shown.append("now")
        texts = await ann.texts()
        assert texts[-len(shown) :] == shown
        history = await server.get(f"/v1/channels/chat:{name}/messages?limit={len(texts)}")
        assert texts == [message["data"]["text"] for message in history.body["messages"]]
    finally:
        await proxy.stop()


@chat
async def test_offline_and_online(new: NewChat, server: Server, artifacts: Path) -> None:
    """A network that dies silently: noticed at the browser's hint, written on meanwhile, complete afterwards."""
    name = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        ann = await (await new()).open(f"http://127.0.0.1:{proxy.port}", name, "Ann")
        await ann.say("before")
        await ann.shows("before")
        # Chromium's offline mode leaves open WebSockets alone, hence the proxy; the events and onLine are its own.
        proxy.black_hole()
        await ann.page.context.set_offline(True)
        await ann.say("into the tunnel")
        await ann.state("waiting", within=12)
        assert "You are offline" in await ann.banner()
        await ann.say("still there?")
        assert await ann.pending() == ["into the tunnel", "still there?"]
        await post(server, name, said("meanwhile"))
        await proxy.heal()
        await ann.page.context.set_offline(False)
        await ann.state("open", within=3)  # at once, whatever the next attempt was to be
        await until(lambda: _count(ann, 4), 20, "the messages")
        texts = await ann.texts()
        assert sorted(texts) == sorted(["before", "into the tunnel", "still there?", "meanwhile"])
        assert texts.index("into the tunnel") < texts.index("still there?")
        await ann.shows(*texts)
    finally:
        await proxy.stop()


@chat
async def test_a_long_queue(new: NewChat, server: Server, artifacts: Path) -> None:
    """More was written offline than may be sent at once: all of it goes out, once and in order, as fast as the server
    allows."""
    name = room()
    lines = [f"line {number}" for number in range(160)]
    assert len(lines) > 100  # the burst that the default limits allow
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        ann = await (await new()).open(f"http://127.0.0.1:{proxy.port}", name, "Ann")
        await ann.say("before")
        await ann.shows("before")
        await proxy.cut()
        await ann.state("waiting")
        await ann.say(*lines)
        assert await ann.pending() == lines
        await proxy.heal()
        await ann.now()
        await until(lambda: _count(ann, 161), 30, "the messages")
        await ann.shows("before", *lines)
    finally:
        await proxy.stop()


@chat
async def test_reload_continues(new: NewChat, server: Server, artifacts: Path) -> None:
    """A reloaded tab is where it was, own messages included, and gets what it missed; what was unsent is sent."""
    name = room()
    proxy = Proxy(server.port)
    await proxy.start()
    try:
        ann = await (await new()).open(f"http://127.0.0.1:{proxy.port}", name, "Ann")
        await ann.say("mine")
        await ann.shows("mine")
        # The page is gone before the answer can come: sent or not, nobody there knows.
        proxy.black_hole("down")
        await ann.say("sent into silence")
        await until(lambda: _stored(server, name, "sent into silence"), 10, "the message")
        await ann.page.goto("about:blank")
        await proxy.heal()
        await post(server, name, said("missed"))
        await ann.page.go_back()
        await ann.state("open")
        await ann.shows("mine", "sent into silence", "missed")
        assert await ann.page.locator("#log .mine .text").all_inner_texts() == ["mine", "sent into silence"]
        assert await ann.page.input_value("#text") == ""
        await ann.page.reload()
        await ann.shows("mine", "sent into silence", "missed")
        assert await ann.page.locator("#me b").inner_text() == "Ann"
    finally:
        await proxy.stop()


async def _stored(server: Server, name: str, text: str) -> bool:
    answer = await server.get(f"/v1/channels/chat:{name}/messages")
    return any(message["data"].get("text") == text for message in answer.body["messages"])


@chat
async def test_history_by_scrolling(new: NewChat, server: Server, artifacts: Path) -> None:
    """A long conversation starts at its end; scrolling up brings the rest without a jump, down to its beginning."""
    name = room()
    expected = [f"message {number}" for number in range(130)]
    for text in expected:
        await post(server, name, said(text))
    ann = await (await new()).open(server.base, name, "Ann")
    await ann.shows(*expected[-50:])
    assert await ann.at_end()
    await post(server, name, said("one more"))
    await ann.shows(*expected[-50:], "one more")
    assert await ann.at_end()

    first = await ann.page.locator("#log .message .text").first.element_handle()
    assert first is not None
    before = await first.evaluate("text => { scroller.scrollTop = 280; return text.getBoundingClientRect().top }")
    await until(lambda: _count(ann, 101), 10, "the older page")
    assert abs(await first.evaluate("text => text.getBoundingClientRect().top") - before) <= 2
    await ann.page.evaluate("() => { scroller.scrollTop = 0 }")
    await until(lambda: _count(ann, 131), 10, "the oldest page")
    assert await ann.texts() == [*expected, "one more"]
    await ann.page.wait_for_selector("text=This is where the conversation began.")

    # Reading old messages is not disturbed by new ones; they are announced.
    await ann.page.evaluate("() => { scroller.scrollTop = 100 }")
    await post(server, name, said("news"))
    button = ann.page.get_by_role("button", name="1 new message")
    await button.wait_for()
    assert await ann.page.evaluate("() => scroller.scrollTop") == 100
    await button.click()
    await until(ann.at_end, 5, "the end")
    assert await ann.page.locator("#newest").is_hidden()


@chat
async def test_rooms(new: NewChat, server: Server, artifacts: Path) -> None:
    """Another room is another conversation, by its address too; the first is complete when one comes back."""
    first, second = room(), room()
    ann = await (await new()).open(server.base, first, "Ann")
    await ann.say("in the first")
    await ann.shows("in the first")
    await ann.page.fill("#go-room", f"  #{second.upper()} ")
    await ann.page.keyboard.press("Enter")
    await ann.page.wait_for_function(f"() => location.hash === '#{second}'")
    await ann.shows()
    await ann.say("in the second")
    await ann.shows("in the second")
    await post(server, first, said("meanwhile"))
    await ann.page.get_by_role("link", name=first).click()
    await ann.shows("in the first", "meanwhile")
    await ann.page.go_back()
    await ann.shows("in the second")


@chat
async def test_unread_rooms(new: NewChat, server: Server, artifacts: Path) -> None:
    """What comes in another room is counted there, and marked where it begins."""
    first, second = room(), room()
    ann = await (await new()).open(server.base, first, "Ann")
    await ann.say("in the first")
    await ann.shows("in the first")
    await ann.page.evaluate(f"() => {{ location.hash = '{second}' }}")
    await ann.page.wait_for_selector("text=Nothing here yet")
    for text in ("one", "two"):
        await post(server, first, said(text))
    await ann.page.locator(f"#rooms a:has-text('{first}') .badge:has-text('2')").wait_for()
    assert await ann.page.title() == f"(2) #{second} · Waterspout"
    await ann.page.screenshot(path=artifacts / "chat-unread.png")
    await ann.page.click(f"#rooms a:has-text('{first}')")
    await ann.shows("in the first", "one", "two")
    assert await ann.page.locator("#log .line.away:text-is('New') + .message .text").inner_text() == "one"
    assert await ann.page.title() == f"#{first} · Waterspout"
    assert await ann.page.locator("#rooms .badge").count() == 0


@chat
async def test_a_busy_room_that_nobody_looks_at(new: NewChat, server: Server, artifacts: Path) -> None:
    """It counts what comes, and keeps the newest of it only; the rest is had from the server when one scrolls up."""
    first, second = room(), room()
    ann = await (await new()).open(server.base, first, "Ann")
    await ann.page.wait_for_selector("text=Nothing here yet")
    await ann.page.evaluate("room => { location.hash = room }", second)
    await ann.page.wait_for_selector(f"text=Say the first word in #{second}.")
    for number in range(0, 600, 20):
        await asyncio.gather(*(post(server, first, said(f"{number + more}")) for more in range(20)))
    await post(server, first, said("last"))
    await ann.page.locator("#rooms .badge:has-text('99+')").wait_for()
    await until(lambda: ann.page.evaluate("() => document.title.startsWith('(601)')"), 20, "all of them")
    await ann.page.click(f"#rooms a:has-text('{first}')")
    await ann.page.locator("#log .message .text:text-is('last')").wait_for()
    shown = await ann.texts()
    assert 400 <= len(shown) <= 500
    assert shown[-1] == "last"
    await ann.page.evaluate("() => { scroller.scrollTop = 0 }")
    await until(lambda: _count(ann, len(shown) + 50), 10, "the older page")
    assert (await ann.texts())[-len(shown) :] == shown


@chat
async def test_who_is_at_the_end_stays_there(new: NewChat, server: Server, artifacts: Path) -> None:
    """While one writes, while rows come and go, while the window changes; and who reads further up stays there."""
    name = room()
    for number in range(60):
        await post(server, name, said(f"{number}"))
    ann = await (await new()).open(server.base, name, "Ann")
    await ann.page.locator("#log .message .text:text-is('59')").wait_for()
    await until(ann.at_end, 5, "the end")
    await ann.page.focus("#text")
    for line in ("one", "two", "three", "four"):
        await ann.page.keyboard.type(line)
        await ann.page.keyboard.press("Shift+Enter")
        await ann.frames()
        assert await ann.at_end()
    high = await ann.page.locator("#text").bounding_box()
    assert high is not None
    assert high["height"] > 100
    for number in range(5):
        await ann.page.keyboard.type("x")
        await post(server, name, said(f"more {number}"))
        await ann.page.locator(f"#log .message .text:text-is('more {number}')").wait_for()
        await ann.frames()
        assert await ann.at_end()
    await ann.page.set_viewport_size({"width": 390, "height": 400})
    await ann.frames()
    assert await ann.at_end()
    await ann.page.keyboard.press("Enter")
    await ann.page.wait_for_selector("#log .mine")
    await ann.frames()
    assert await ann.at_end()
    assert await ann.page.locator("#newest").is_hidden()

    await ann.page.evaluate("() => { scroller.scrollTop -= 200 }")
    await ann.page.locator("#newest").wait_for()
    place = await ann.page.evaluate("() => scroller.scrollTop")
    await post(server, name, said("unseen"))
    await ann.page.locator("#newest:has-text('1 new message')").wait_for()
    assert await ann.page.evaluate("() => scroller.scrollTop") == place
    await ann.page.click("#newest")
    assert await ann.at_end()
    await ann.page.locator("#newest").wait_for(state="hidden")


@chat
async def test_presence_and_typing(new: NewChat, server: Server, artifacts: Path) -> None:
    """How many are here and who, as far as they have a user, and who types; nothing of that is stored, and nothing is
    animated for ever but what one sees."""
    name = room()
    endless = "() => document.getAnimations().filter((one) => one.effect.getTiming().iterations === Infinity).length"
    ann = await (await new()).open(server.base, name, "Ann")
    bob = await (await new()).open(server.base, name, "Bob")
    await bob.page.wait_for_selector("#present b:text-is('2')")
    async with Client(server.ws, token=make_token(SECRET, "mara")) as mara:
        await mara.subscribe(f"chat:{name}")
        await bob.page.wait_for_selector("#present b:text-is('3')")
        await bob.page.get_by_role("button", name="3 here").focus()
        await bob.page.keyboard.press("Enter")
        here = bob.page.get_by_role("list", name="Who is here")
        assert await here.get_by_role("listitem").all_inner_texts() == ["mara", "2 guests"]
    await bob.page.keyboard.press("Escape")
    await here.wait_for(state="hidden")
    assert await bob.page.evaluate("() => document.activeElement.id") == "present"
    await ann.page.locator("#text").press_sequentially("Hm")
    await bob.page.wait_for_selector("#typing.shown >> text=Ann is typing")
    assert await bob.page.evaluate(endless)
    assert not await ann.page.locator("#typing.shown").count()
    assert not await ann.page.evaluate(endless)
    await ann.page.keyboard.press("Enter")
    await bob.shows("Hm")
    await bob.page.wait_for_selector("#typing:not(.shown)", state="attached")
    history = await server.get(f"/v1/channels/chat:{name}/messages")
    assert [message["data"]["text"] for message in history.body["messages"]] == ["Hm"]


@chat
async def test_without_websockets(new: NewChat, server: Server, artifacts: Path) -> None:
    """Where no WebSocket gets through, an event stream does, and a kill -9 is survived as well."""
    name = room()
    ann = await (await new(script=NO_WEBSOCKET)).open(server.base, name, "Ann")
    bob = await (await new()).open(server.base, name, "Bob")
    await ann.say("by POST")
    await bob.shows("by POST")
    await bob.say("by WebSocket")
    await ann.shows("by POST", "by WebSocket")
    await server.kill()
    for tab in (ann, bob):
        await tab.state("waiting")
    await ann.say("meanwhile")
    await server.start()
    await post(server, name, said("from outside"))
    for tab in (ann, bob):
        await tab.now()
    await until(lambda: _count(bob, 4), 20, "the messages")
    texts = await bob.texts()
    assert sorted(texts) == sorted(["by POST", "by WebSocket", "meanwhile", "from outside"])
    for tab in (ann, bob):
        await tab.shows(*texts)


@chat
async def test_hostile_data(new: NewChat, server: Server, artifacts: Path) -> None:
    """Anything may be in a channel. It is shown as text or as JSON, runs nothing and breaks nothing."""
    name = room()
    markup = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    for data in (
        said(markup, markup),
        said("javascript:alert(1) https://example.org/<b>?x=\"y\" http://[", "\u202eevil\u0000\n\u200b"),
        {"name": {"a": 1}, "text": "no name"},
        {"name": "x", "text": 7},
        {"__proto__": {"polluted": True}, "constructor": 1},
        None,
        True,
        3.5,
        "only text",
        ["a", ["b"]],
        said("a" * 9000, "n" * 500),
        said("", "  "),
        said("*a _b ~c > e @f " * 400 + "`d ```"),
        said("*<b>bold</b>* _in_ ```\n<i>code</i>\n``` > no quote\n> a quote, 2*3*4 and snake_case_words"),
    ):  # fmt: skip
        await post(server, name, data)
    ann = await (await new()).open(server.base, name, "Ann")
    await until(lambda: _count(ann, 14), 10, "the messages")
    texts = await ann.texts()
    assert texts[0] == markup
    assert texts[2:4] == ["no name", '{"name":"x","text":7}']
    assert texts[5:10] == ["null", "true", "3.5", "only text", '["a",["b"]]']
    assert await ann.page.locator("#log img, #log script, #log b b").count() == 0
    assert texts[12].startswith("*a _b ~c > e @f *a")
    marked = ann.page.locator("#log .text").last.locator("strong, em, code, blockquote")
    assert await marked.all_text_contents() == [
        "<b>bold</b>",
        "in",
        "<i>code</i>",
        "a quote, 2*3*4 and snake_case_words",
    ]
    links = await ann.page.locator("#log a").evaluate_all("links => links.map(link => link.href)")
    assert links == ["https://example.org/"]
    names = await ann.page.locator("#log .meta b").all_text_contents()
    assert names[1] == "evil"
    assert names[2] == "Anonymous"
    assert all(len(one) <= 40 for one in names)
    assert await ann.fits()
    await ann.say("alive")
    await until(lambda: _count(ann, 15), 10, "an own message")


@chat
async def test_refused_message(new: NewChat, server: Server, artifacts: Path) -> None:
    """A message the server will not take stays, says why, and can be tried again or discarded."""
    name = "x" * 60 + room()  # cut to 60 characters: a valid room, with a name as long as may be
    settings = {"namespaces.chat": {"publish": "user", "subscribe": "anyone"}, "mongodb.database": name[-9:]}
    async with Server(artifacts, server.mongodb_uri, settings=settings, name="strict") as strict:
        ann = await (await new()).open(strict.base, name, "Ann")
        await ann.say("not here")
        await ann.page.wait_for_selector("#outbox .failed")
        assert "Not sent: a guest may not publish" in await ann.page.locator("#outbox .note").inner_text()
        await ann.page.get_by_role("button", name="Discard").click()
        assert await ann.pending() == []
        assert await ann.page.get_by_role("heading", level=1).inner_text() == "x" * 60


@chat
async def test_keyboard_and_screen_reader(new: NewChat, server: Server, artifacts: Path) -> None:
    """Everything can be reached and is named; Enter sends, Shift+Enter does not; the drawer keeps and returns focus."""
    name = room()
    ann = await (await new(phone=True)).open(server.base, name, "Ann")
    page = ann.page
    assert await page.evaluate("() => document.activeElement.id") == "text"
    await page.keyboard.type("first line")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second line")
    await page.keyboard.press("Enter")
    await ann.shows("first line\nsecond line")
    for role, label in (("log", "Messages"), ("textbox", "Message"), ("button", "Send"), ("region", "Conversation")):
        assert await page.get_by_role(role, name=label, exact=True).count() == 1, label  # type: ignore[arg-type]
    await page.wait_for_selector("#log[aria-live=polite]")
    assert "Ann" in await page.locator("#log").aria_snapshot()  # whose it is, is heard though it is not seen

    menu = page.get_by_role("button", name="Rooms and your name")
    await menu.focus()
    await page.keyboard.press("Enter")
    assert await menu.get_attribute("aria-expanded") == "true"
    assert await page.evaluate("() => side.contains(document.activeElement) && main.inert")
    await page.keyboard.press("Escape")
    assert await page.evaluate("() => document.activeElement.id") == "menu"

    await menu.click()
    await page.get_by_role("button", name="Change your name").click()
    await page.fill("#name", "Anna")
    await page.keyboard.press("Enter")
    await ann.say("renamed")
    await ann.shows("first line\nsecond line", "renamed")
    assert await page.locator("#log .meta b").all_text_contents() == ["Ann", "Anna"]

    unnamed = await page.evaluate("""() => [...document.querySelectorAll("button, input, textarea, a")].filter((one) =>
        !(one.ariaLabel || one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML)""")
    assert unnamed == []


@chat
async def test_strict_policy(new: NewChat, server: Server, artifacts: Path) -> None:
    """No inline script or style, nothing from elsewhere; and the policy of the page would stop it."""
    ann = await (await new()).open(server.base, room(), "Ann")
    inline = (
        "[style]:not(#text):not(html), [onclick], [onload], style, script:not([src])"  # #text: its height, by CSSOM
    )
    assert await ann.page.locator(inline).count() == 0
    elsewhere = await ann.page.evaluate("""() => performance.getEntriesByType("resource").map((one) => one.name)
        .filter((name) => new URL(name).host !== location.host)""")
    assert elsewhere == []
    ran = await ann.page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        return window.ran === true;
    }""")
    assert ran is False
    ann.complaints.clear()  # the refusal just provoked


@chat
async def test_looks(new: NewChat, server: Server, artifacts: Path) -> None:
    """Screenshots: wide and phone, light and dark, the drawer, the keyboard. A room with people in it, another one with
    something unread. Nothing sticks out sideways, and all text stands out from what is behind it."""
    people = [Client(server.ws, token=make_token(SECRET, name)) for name in ("mara", "jonas", "ümit", "nour")]
    async with people[0] as mara, people[1], people[2], people[3]:
        for scheme, phone in (("light", False), ("light", True), ("dark", False), ("dark", True)):
            kind = "phone" if phone else "wide"
            name, other = "pump-test", "ferry"
            if (scheme, kind) != ("light", "wide"):  # that one is in the README
                name, other = (f"{each}-{scheme}-{kind}" for each in (name, other))
            for one in people:
                await one.subscribe(f"chat:{name}")
            for author, text in (
                ("Mara", "Morning. The pump test is at ten, is the gauge calibrated?"),
                ("Jonas", "Yes, did it last night."),
                ("Jonas", "Numbers are in the sheet: https://example.org/gauges?sheet=11"),
                ("Mara", "Perfect, thank you"),
                ("Ümit", "I will be ten minutes late, the ferry is still in the fog."),
                ("نور", "صباح الخير، أنا في الطريق"),
            ):
                await post(server, name, said(text, author))
            tab = await (await new(scheme, phone)).open(server.base, other)
            await tab.page.wait_for_selector("text=Nothing here yet")
            await tab.page.evaluate("room => { location.hash = room }", name)
            await tab.page.locator("#log .message").nth(5).wait_for()
            assert await tab.fits()
            assert await tab.pale() == []
            await tab.page.fill("#name", "Ann")
            await tab.page.keyboard.press("Enter")
            await tab.say("No hurry. We start with the dry run anyway, and there is coffee.")
            await tab.page.wait_for_selector("#log .mine")
            for text in ("It is moving again", "Nine forty"):
                await post(server, other, said(text, "Captain"))
            await tab.page.locator("#rooms .badge").wait_for(state="attached")
            await tab.page.wait_for_selector("#present b:text-is('5')")
            if not phone:
                await tab.page.click("#present")
            await tab.page.fill("#text", "And biscuits.")
            await until(tab.at_end, 20, "the end")
            await mara.publish(f"chat:{name}", {"typing": "Mara"}, ephemeral=True)
            await tab.page.wait_for_selector("#typing.shown")
            assert await tab.pale() == []
            await tab.page.screenshot(path=artifacts / f"chat-{scheme}-{kind}.png")
            if not phone:
                continue
            await tab.page.fill(
                "#text", "And biscuits.\nAnd the spare valve, and the long hose, if it fits into the car."
            )
            assert await tab.fits()
            await tab.page.set_viewport_size({"width": 390, "height": 400})  # an on-screen keyboard
            await until(tab.at_end, 5, "the end")
            assert await tab.page.locator("#text").is_visible()
            await tab.page.screenshot(path=artifacts / f"chat-{scheme}-keyboard.png")
            await tab.page.set_viewport_size({"width": 320, "height": 560})
            assert await tab.fits()
            await tab.page.click("#menu")
            await tab.page.wait_for_function("() => side.getAnimations().length === 0")
            await tab.page.screenshot(path=artifacts / f"chat-{scheme}-drawer.png")


# --- small things that one notices ------------------------------------------------------------------------------------


@chat
async def test_one_s_own_in_another_tab(new: NewChat, server: Server, artifacts: Path) -> None:
    """What is said in one tab of a browser is one's own in the other, and somebody else's in another browser."""
    name = room()
    ann = await (await new()).open(server.base, name, "Ann")
    second = ChatTab(await ann.page.context.new_page())
    await second.open(server.base, name)
    bob = await (await new()).open(server.base, name, "Bob")
    await ann.say("from the first tab")
    await second.say("from the second")
    for tab, count in ((ann, 2), (second, 2), (bob, 0)):
        await tab.shows("from the first tab", "from the second")
        assert await tab.page.locator("#log .mine").count() == count
    assert second.complaints == []


@chat
async def test_a_room_is_left(new: NewChat, server: Server, artifacts: Path) -> None:
    """It goes from the list, also after a reload, and nothing of it is heard; entered again, it is as it was."""
    name = room()
    tab = await (await new()).open(server.base, name, "Ann")
    await tab.say("said before")
    await tab.shows("said before")
    await tab.page.hover(f"#rooms >> text={name}")
    await tab.page.click(f"#rooms button[aria-label='Leave {name}']")
    await tab.page.wait_for_selector("#title >> text=lobby")
    assert await tab.page.locator(f"#rooms >> text={name}").count() == 0
    await post(server, name, said("nobody hears it"))
    assert "lobby" in await tab.page.title()
    await tab.page.reload()
    await tab.state("open")
    assert await tab.page.locator("#rooms a").all_inner_texts() == ["lobby"]
    await tab.page.fill("#go-room", name)
    await tab.page.keyboard.press("Enter")
    await tab.page.wait_for_selector("#text:focus")  # to go on writing
    await tab.shows("said before", "nobody hears it")


@chat
async def test_too_long_a_text_is_not_cut(new: NewChat, server: Server, artifacts: Path) -> None:
    """It stays as it was pasted, with a word about its length, and is sent when it is short enough."""
    tab = await (await new()).open(server.base, room(), "Ann")
    await tab.page.fill("#text", "x" * 10_000)
    await tab.page.wait_for_selector("#too-long >> text=/10.000 characters; a message has 4.000 at most/")
    assert await tab.pale() == []
    await tab.page.keyboard.press("Enter")
    assert len(await tab.page.input_value("#text")) == 10_000
    assert await tab.pending() == []
    await tab.page.fill("#text", "x" * 4000)
    await tab.page.keyboard.press("Enter")
    await tab.shows("x" * 4000)
    assert await tab.page.locator("#too-long").is_hidden()


@chat
async def test_renaming_may_be_cancelled(new: NewChat, server: Server, artifacts: Path) -> None:
    tab = await (await new()).open(server.base, room())
    assert await tab.page.locator("#keep-name").is_hidden()  # the first name is needed
    await tab.page.fill("#name", "Ann")
    await tab.page.keyboard.press("Enter")
    await tab.page.click("#me")
    await tab.page.fill("#name", "Somebody else")
    await tab.page.click("#keep-name")
    await tab.page.wait_for_selector("#text:focus")
    assert await tab.page.locator("#me b").inner_text() == "Ann"
    assert await tab.page.locator("#introduce").is_hidden()


@chat
async def test_caught_up_counts_others_messages(new: NewChat, server: Server, artifacts: Path) -> None:
    """One's own that waited are not news, and a text that turns its direction is shown as it is written."""
    name = room()
    tab = await (await new()).open(server.base, name, "Ann")
    await tab.say("here")
    await tab.shows("here")
    await server.kill()
    await tab.state("waiting")
    await tab.say("mine one", "mine two", "mine three")
    await server.start()
    await post(server, name, said("theirs\u202etxt.exe"))
    await tab.now()
    await tab.page.wait_for_selector("#banner >> text=/Connected again, (1 message caught up|nothing missed)/")
    await until(lambda: _count(tab, 5), 20, "the messages")
    assert "theirstxt.exe" in await tab.texts()


@chat
async def test_guests_are_counted_soon(new: NewChat, server: Server, artifacts: Path) -> None:
    """Nobody tells of guests that come, so they are counted while one looks."""
    name = room()
    ann = await (await new()).open(server.base, name, "Ann")
    await ann.page.wait_for_selector("#present b >> text=1")
    await (await new()).open(server.base, name, "Bob")
    await ann.page.wait_for_selector("#present b >> text=2", timeout=8000)
