"""The chat page's rooms with members, in a real browser: the server as `make run` starts it, with its example users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.tabs import Browsing, Tab
from tests.interop import fetched
from tests.support.processes import UNLIMITED, Mongod, Server


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
        await self.page.get_by_role("button", name="Sign in").click()
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

    async def axe(self) -> list[str]:
        try:
            await self.page.evaluate(fetched.axe().read_text())
        except fetched.Missing:
            return []
        found: list[str] = await self.page.evaluate(
            """async () => (await axe.run()).violations
                .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html}`))"""
        )
        return found


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
            assert "garden" in await sam.page.inner_text("#join")
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
