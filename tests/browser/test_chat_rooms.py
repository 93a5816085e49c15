"""The chat page's rooms with members, in a real browser: the server as `make run` starts it, with its example users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.tabs import Browsing, Tab
from tests.support.processes import UNLIMITED, Mongod, Server
from tests.support.waiting import until


@pytest.fixture(scope="module")
def developed(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {**UNLIMITED, "mongodb.database": "developed"}
    directory = tmp_path_factory.mktemp("developed")
    server = Server(directory, mongod.uri, settings=settings, arguments=("--development",))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    server.clean()


class RoomTab(Tab):
    async def enter(self, server: Server, user: str, room: str = "/team:garden") -> RoomTab:
        """As one of the examples, by one click."""
        await self.page.goto(f"{server.base}/chat/#{room}")
        await self.page.locator("#join", has_text="Sign in to take part").get_by_role("button", name="Sign in").click()
        await self.page.get_by_role("button", name=user, exact=True).click()
        await self.page.locator(".account-name", has_text=user).wait_for()
        await self.state("open")
        return self

    async def say(self, text: str) -> None:
        await self.page.fill("#text", text)
        await self.page.keyboard.press("Enter")
        await self.page.locator("#log .mine .text", has_text=text).wait_for()

    async def goes(self, room: str) -> None:
        await self.page.locator("#rooms a", has_text=room).click()
        await self.page.locator("#title", has_text=room).wait_for()

    async def badge(self, room: str, number: int) -> None:
        """So many are unread there, as the list says."""
        await self.page.locator("#rooms a", has_text=room).locator(".badge", has_text=str(number)).wait_for()

    async def texts(self) -> list[str]:
        return await self.page.locator("#log .message .text").all_inner_texts()


def test_rooms_with_members(browsing: Browsing, developed: Server, artifacts: Path) -> None:
    """What one has not read is counted by the server, a line stands above it, and seeing its end is reading it, in any
    window; a message may be kept unread. Others are joined by one click, and left among the members, where an owner
    gives roles."""

    async def run() -> None:
        async with browsing.tabs(RoomTab) as new:
            ann = await (await new()).enter(developed, "ann")
            page = ann.page
            await ann.goes("welcome")
            bob = await (await new("dark", phone=True)).enter(developed, "bob")
            await bob.say("Slugs!")
            await bob.say("Everywhere.")
            await ann.badge("garden", 2)
            assert (await page.title()).startswith("(2) ")
            await ann.goes("garden")
            await page.locator(".line.away:text-is('New') + .message .text", has_text="Slugs!").wait_for()
            await page.locator("#rooms a[aria-current]", has_text="garden").wait_for()
            await page.wait_for_function("() => document.title === '#garden · Waterspout'")
            await ann.goes("welcome")
            await page.reload()
            await page.locator("#rooms a", has_text="garden").wait_for()
            assert await page.locator("#rooms .badge").count() == 0

            await ann.goes("garden")
            row = page.locator("#log .message", has_text="Slugs!")
            await row.hover()
            await row.get_by_role("button", name="Mark as unread").click()
            await ann.goes("welcome")
            await ann.badge("garden", 2)

            # Roles: ann is the garden's owner, bob a moderator, who may erase what carol has written.
            await ann.goes("garden")
            await page.get_by_role("button", name="Members").click()
            members = page.get_by_role("region", name="Members of #garden")
            await members.get_by_role("status").filter(has_text="3 members, 2 here now").wait_for()
            await members.get_by_label("Role of carol").select_option("owner")
            await members.get_by_role("listitem").filter(has_text="carol").locator("small:text-is('owner')").wait_for()
            await members.get_by_label("Add somebody").fill("sam")
            await page.keyboard.press("Enter")
            await members.get_by_role("listitem").filter(has_text="sam").wait_for()
            await members.get_by_label("Role of sam").select_option("Remove")
            await members.get_by_role("status").filter(has_text="3 members").wait_for()
            assert await ann.pale() == []
            assert await ann.axe() == []
            await page.screenshot(path=artifacts / "chat-members.png")
            await page.keyboard.press("Escape")
            await page.wait_for_function("() => document.activeElement.id === 'members'")

            sam = await (await new()).enter(developed, "sam")
            await sam.page.locator("#join", has_text="garden").wait_for()
            assert await sam.page.locator("#composer").is_hidden()
            await sam.page.get_by_role("button", name="Join", exact=True).click()
            await sam.say("May I help?")
            await bob.page.locator("#log .text", has_text="May I help?").wait_for()
            erased = bob.page.locator("#log .message", has_text="May I help?")
            await erased.tap()
            await erased.get_by_role("button", name="Erase").tap()
            await bob.page.screenshot(path=artifacts / "chat-tools-phone.png")
            await erased.get_by_role("button", name="Erase?").tap()
            await page.locator("#log .text", has_text="This message was erased").wait_for()
            assert await bob.fits()
            assert await bob.pale() == []

            await sam.page.get_by_role("button", name="Members").click()
            leave = sam.page.get_by_role("button", name="Leave this room")
            await leave.click()
            await sam.page.get_by_role("button", name="Leave this room?").click()
            await sam.page.locator("#title", has_text="lobby").wait_for()
            assert await sam.page.locator("#rooms a", has_text="garden").count() == 0

            # A room of one's own, by its name; and everything by the keyboard.
            await page.get_by_label("Find or make a room").fill("Compost")
            await page.keyboard.press("Enter")
            await page.locator("#title", has_text="compost").wait_for()
            await page.get_by_role("button", name="Join", exact=True).click()
            await page.wait_for_selector("#text:focus")
            await ann.say("Who has worms?")
            await page.keyboard.press("ArrowUp")
            await page.get_by_label("Edit the message").fill("Who has red worms?")
            await page.keyboard.press("Enter")
            await page.locator("#log .text", has_text="red worms").wait_for()
            assert await page.evaluate("() => document.activeElement.matches('.message')")

    browsing.run(run())


def test_what_one_does_with_messages(browsing: Browsing, developed: Server, artifacts: Path) -> None:
    """Reactions, answers in a thread and beside it, somebody called by name, an answer that streams in, a conversation
    of two, and who has read what one has said: at once on the other's screen, by mouse, keyboard and finger."""

    async def run() -> None:
        async with browsing.tabs(RoomTab) as new:
            ann = await (await new()).enter(developed, "ann")
            bob = await (await new("dark", phone=True)).enter(developed, "bob")
            page = ann.page
            beans = page.locator("#log .message", has_text="The beans are up")
            await page.focus("#scroller")
            await page.keyboard.press("ArrowUp")
            for _ in range(20):
                if "The beans are up" in await page.evaluate("() => document.activeElement.innerText"):
                    break
                await page.keyboard.press("ArrowUp")
            await page.keyboard.press("Tab")  # to what may be done with it
            await page.keyboard.press("Enter")
            await page.get_by_role("dialog", name="Choose a reaction").wait_for()
            await page.keyboard.press("ArrowRight")
            await page.screenshot(path=artifacts / "chat-picker.png")
            await page.keyboard.press("Enter")
            await beans.locator(".chip[aria-pressed=true]", has_text="❤️ 1").wait_for()
            theirs = bob.page.locator("#log .message", has_text="The beans are up")
            await theirs.locator(".chip[aria-pressed=false]", has_text="❤️ 1").tap()
            await beans.locator(".chip[aria-pressed=true]", has_text="❤️ 2").wait_for()
            await beans.locator(".chip", has_text="❤️ 2").click()
            await beans.locator(".chip[aria-pressed=false]", has_text="❤️ 1").wait_for()

            await beans.hover()
            await beans.get_by_role("button", name="Reply").click()
            await page.wait_for_selector("#thread-text:focus")
            await page.keyboard.type("I have nets.")
            await page.keyboard.press("Enter")
            await theirs.get_by_role("button", name="1 reply").tap()
            thread = bob.page.get_by_role("region", name="Thread in #garden")
            await thread.get_by_text("I have nets.").wait_for()
            await bob.page.get_by_label("Also send to #garden").check()
            await bob.page.fill("#thread-text", "Nets it is.")
            await bob.page.keyboard.press("Enter")
            await page.locator("#log .message", has_text="Nets it is.").get_by_text("From a thread").wait_for()
            await page.locator("#panel .message", has_text="Nets it is.").wait_for()
            await beans.get_by_role("button", name="2 replies").wait_for()
            assert await ann.pale() == []
            assert await ann.axe() == []
            await page.screenshot(path=artifacts / "chat-thread.png")
            assert await bob.pale() == []
            assert await bob.fits()
            await bob.page.screenshot(path=artifacts / "chat-thread-phone.png")
            await bob.page.get_by_role("button", name="Close").tap()
            await page.keyboard.press("Escape")

            await page.get_by_role("button", name="Search").click()
            await page.wait_for_selector("#search-words:focus")
            await page.keyboard.type("copper ta")
            found = page.get_by_role("region", name="Search #garden").get_by_role("button", name="copper tape")
            await found.locator("mark", has_text="copper").wait_for()
            assert await ann.axe() == []
            await found.click()
            await page.locator("#log .message.pointed", has_text="copper tape").wait_for()

            await ann.goes("welcome")
            await bob.page.fill("#text", "Ask @an")
            await bob.page.get_by_role("option", name="@ann").wait_for()
            await bob.page.keyboard.press("Enter")
            assert await bob.page.input_value("#text") == "Ask @ann "
            await bob.page.keyboard.press("Enter")
            await page.locator("#rooms .badge.mentioned").wait_for()
            await ann.goes("garden")
            await page.locator("#log .mentioned .call", has_text="@ann").wait_for()
            await bob.page.locator("#seen", has_text="Seen by ann").wait_for()

            token = (await developed.post("/v1/auth/example", {"user": "carol"})).body["token"]
            messages = "/v1/channels/team:garden/messages"
            made = await developed.request("POST", messages, {"data": {"name": "carol", "text": "Nets"}}, token=token)
            append = {"append": " are in the shed", "part": 1}
            await developed.request("PATCH", f"{messages}/{made.body['offset']}", append, token=token)
            await page.locator("#log .text.writing", has_text="Nets are in the shed").wait_for()
            append = {"append": ".", "part": 2, "done": True}
            await developed.request("PATCH", f"{messages}/{made.body['offset']}", append, token=token)
            await page.locator("#log .text:not(.writing)", has_text="Nets are in the shed.").wait_for()

            await page.get_by_role("button", name="Members").click()
            await page.get_by_label("Count only what mentions me").check()
            await page.locator("#rooms a.mute", has_text="garden").wait_for()
            await page.get_by_role("button", name="Message bob").click()
            await page.locator("#title.direct", has_text="bob").wait_for()
            await ann.say("Between us: what slugs?")
            await bob.page.click("#menu")
            direct = bob.page.get_by_role("list", name="Direct messages").get_by_role("link", name="ann 1 unread")
            await direct.wait_for()
            await bob.page.screenshot(path=artifacts / "chat-direct-phone.png")
            await direct.tap()
            await bob.page.locator("#log .text", has_text="Between us").wait_for()
            await page.locator("#seen", has_text="Seen by bob").wait_for()

    browsing.run(run())


def test_finding_and_keeping_order(browsing: Browsing, developed: Server, artifacts: Path) -> None:
    """By the keyboard from anywhere to any room, person or search; what is pinned is listed and unpinned; what was
    begun waits in its room; text is set as it is meant; whom one blocks is hidden, and let back from a list."""

    async def run() -> None:
        async with browsing.tabs(RoomTab) as new:
            ann = await new("dark")
            page = ann.page
            await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            await ann.enter(developed, "ann")
            jump = page.get_by_role("combobox", name="Jump to")

            async def says(user: str, channel: str, text: str, **more: Any) -> None:
                token = (await developed.post("/v1/auth/example", {"user": user})).body["token"]
                body = {"data": {"name": user, "text": text}, **more}
                assert (await developed.post(f"/v1/channels/{channel}/messages", body, token=token)).status == 201

            async def all_read(user: str, channel: str) -> bool:
                token = (await developed.post("/v1/auth/example", {"user": user})).body["token"]
                rooms = (await developed.get("/v1/rooms", token=token)).body["rooms"]
                return all(room["unread"] == 0 for room in rooms if room["channel"] == channel)

            async def chooses(typed: str, chosen: str) -> None:
                await page.keyboard.press("Control+k")
                await jump.wait_for()
                await page.keyboard.type(typed)
                await page.get_by_role("option", name=chosen, selected=True).wait_for()
                await page.keyboard.press("Enter")

            await page.fill("#text", "*Copper* is `dear`:\n```\nbuy(3)\n```\n> shall I bring it?\n_No_ 2*3*4")
            await chooses("wel", "welcome")
            await page.locator("#title", has_text="welcome").wait_for()
            assert await page.input_value("#text") == ""
            await page.locator("#rooms a", has_text="garden").locator(".draft").wait_for()
            await page.keyboard.press("Alt+ArrowUp")
            await page.locator("#title", has_text="garden").wait_for()
            await page.locator("#text").press("Enter")
            said = page.locator("#log .mine .text").last
            await said.locator("pre", has_text="buy(3)").wait_for()
            parts = await said.locator("strong, em, code, blockquote").all_inner_texts()
            assert parts == ["Copper", "dear", "buy(3)", "shall I bring it?", "No"]
            assert "2*3*4" in await said.inner_text()
            await page.locator("#rooms a[aria-current]", has_text="garden").wait_for()

            row = page.locator("#log .message", has_text="Somebody has to water".lower())
            await row.hover()
            await row.get_by_role("button", name="Pin").click()
            await chooses("pinned", "Pinned in #garden")
            pins = page.get_by_role("region", name="Pinned in #garden")
            await pins.get_by_role("listitem").filter(has_text="water on Saturday").wait_for()
            assert await ann.pale() == []
            assert await ann.axe() == []
            await page.screenshot(path=artifacts / "chat-pins.png")
            await pins.get_by_role("button", name="Unpin the message of bob").click()
            await pins.get_by_text("Nothing is pinned yet").wait_for()
            await page.locator("#log .pinned").wait_for(state="detached")

            await page.locator("#log button.author", has_text="carol").first.click()
            await page.get_by_role("dialog", name="carol").get_by_role("button", name="Block").click()
            hidden = page.locator("#log .message", has_text="From somebody you have blocked")
            await hidden.first.get_by_role("button", name="Show it").click()
            await page.locator("#log .text", has_text="copper tape").wait_for()
            await page.get_by_role("button", name="Preferences").click()
            assert await ann.axe() == []
            await page.get_by_role("button", name="Unblock carol").click()
            await hidden.first.wait_for(state="detached")

            # Told by the desktop, once that is asked for, and only while nobody looks.
            await page.evaluate("""() => {
                window.told = [];
                window.Notification = class extends Notification {
                    static permission = "granted"; // without a head nobody is there to be asked
                    static requestPermission = async () => "granted";
                    constructor(title, { body }) { super(title, { body }); told.push(`${title}: ${body}`); }
                };
            }""")
            await page.get_by_role("button", name="Close").click()
            await page.get_by_role("button", name="Preferences").click()
            await page.get_by_label("When I am mentioned, or written to alone").check()
            for hidden_now, text in ((False, "Seen, @ann"), (True, "*Rain*, @ann!")):
                await page.evaluate(
                    "now => Object.defineProperty(document, 'hidden', { value: now, configurable: true })", hidden_now
                )
                await says("bob", "team:garden", text, mentions=["ann"])
                await page.locator("#log .mentioned", has_text=text.split(",")[0].strip("*")).wait_for()
                if not hidden_now:  # else it may count as a mention when the page is hidden already
                    await until(lambda: all_read("ann", "team:garden"), what="what was seen is read")
            await page.wait_for_function("() => told.length")
            assert await page.evaluate("() => told") == ["You are mentioned in #garden: Rain, @ann!"]
            await page.evaluate("() => delete document.hidden")

            # Who answers in a thread follows it, and sees what is new there from anywhere.
            await chooses("welcome", "welcome")
            await says("ann", "$thread:2:team:garden", "Is it dear?")
            await says("bob", "$thread:2:team:garden", "Not _that_ dear, @ann.", mentions=["ann"])
            await page.get_by_role("button", name="Threads 1 with new replies").click()
            threads = page.get_by_role("region", name="Threads")
            await threads.get_by_role("button", name="copper tape left").wait_for()
            assert await ann.axe() == []
            await page.screenshot(path=artifacts / "chat-threads.png")
            await threads.get_by_role("button", name="copper tape left").click()
            thread = page.get_by_role("region", name="Thread in #garden")
            await thread.locator(".mentioned em", has_text="that").wait_for()
            await page.locator("#threads .badge").wait_for(state="hidden")
            await thread.get_by_role("button", name="Following").click()
            await thread.get_by_role("button", name="Follow this thread").wait_for()
            await says("bob", "$thread:2:team:garden", "Cheap.")
            await thread.get_by_text("Cheap.").wait_for()

            # A message has an address of its own.
            row = page.locator("#log .message", has_text="The beans are up")
            await row.hover()
            await row.get_by_role("button", name="Copy its link").click()
            await page.locator("#banner", has_text="The link is copied.").wait_for()
            assert (await page.evaluate("() => navigator.clipboard.readText()")).endswith(
                "/chat/#%2Fteam%3Agarden&at=1"
            )
            await page.evaluate("() => { location.hash = '%2Fteam%3Awelcome&at=1' }")
            await page.locator("#log .message.pointed", has_text="Welcome!").wait_for()
            await page.evaluate("() => { location.hash = '%2Fteam%3Agarden' }")
            await page.locator("#title", has_text="garden").wait_for()  # what was asked for before is dropped

            await chooses("copper ta", "“copper ta” in #garden")
            await page.locator("#panel mark", has_text="copper").wait_for()
            await page.keyboard.press("Control+k")
            await jump.wait_for()
            assert await ann.axe() == []
            await page.screenshot(path=artifacts / "chat-jump.png")
            await page.keyboard.press("Escape")
            await page.wait_for_selector("#search-words:focus")

    browsing.run(run())


def test_the_examples_are_there(developed: Server) -> None:
    """The users to sign in as, and the rooms with what was said in them; started again, nothing is said twice."""

    async def run() -> tuple[Any, list[str]]:
        await developed.stop()
        await developed.start()
        ways = (await developed.get("/v1/auth")).body
        tokens = await developed.post("/v1/auth/example", {"user": "carol"})
        history = await developed.request("GET", "/v1/channels/team:welcome/messages", token=tokens.body["token"])
        return ways["examples"], [message["user"] for message in history.body["messages"]]

    examples, said = asyncio.run(run())
    assert examples == ["ann", "bob", "carol", "olga", "sam"]
    assert said == ["olga", "olga"]
