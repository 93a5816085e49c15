"""The console in a real browser, against a real server: what an operator sees and does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.tabs import Browsing, Tab
from tests.support.client import Client, Refused, make_token
from tests.support.processes import UNLIMITED, Mongod, Server

if TYPE_CHECKING:
    from playwright.async_api import Page

SECRET = "a secret of at least thirty-two bytes"
OPERATOR, SHOP = "the-key-of-the-operator", "the-key-of-a-shop"


@pytest.fixture
def operated(mongod: Mongod, tmp_path: Path) -> Iterator[Server]:
    keys = {
        "operator": {"sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True},
        "shop": {"sha256": hashlib.sha256(SHOP.encode()).hexdigest()},
    }
    settings = {**UNLIMITED, "auth.secret": SECRET, "auth.api_keys": keys, "mongodb.database": "console"}
    settings["mongodb.outbox"] = True
    settings["consumers.packer"] = {"channels": ["chat:*"], "from": "beginning"}
    server = Server(tmp_path, mongod.uri, settings=settings)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    server.clean()


async def enter(page: Page, operated: Server, at: str = "") -> None:
    """As an operator, by the keyboard."""
    await page.goto(f"{operated.base}/console/{at}")
    await page.fill("#key", OPERATOR)
    await page.keyboard.press("Enter")


def test_the_console(browsing: Browsing, operated: Server, artifacts: Path) -> None:
    """Only an admin comes in. Then: nodes, figures, channels, refusals; a look into a channel, a test message, a user
    to disconnect; on a phone too, with the keyboard, and after a reload. Signed out, nothing is left."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new, Client([operated.ws], token=make_token(SECRET, "ann")) as ann:
            await ann.subscribe("chat:lobby")
            await ann.publish("chat:lobby", {"text": "Hello"})
            tab = await new()
            page = tab.page
            await page.goto(f"{operated.base}/console")
            assert page.url.endswith("/console/")

            for wrong, why in ((SHOP, "This key is not admin."), ("no-key", "This is not a key of this server.")):
                await page.fill("#key", wrong)
                await page.keyboard.press("Enter")
                await page.wait_for_selector(f"text={why}")
            tab.complaints = [text for text in tab.complaints if "the server responded with a status of" not in text]
            assert await page.locator("#inside").is_hidden()

            await page.fill("#key", OPERATOR)
            await page.keyboard.press("Enter")
            await page.wait_for_selector("body[data-state=open]")
            await page.wait_for_selector("#nodes .status[data-status=ready]")
            assert await page.locator("#nodes .outbox").inner_text() == "outbox: 0 wait, 0 s behind, 0 dead"
            assert await page.locator("#nodes tr").count() == 1
            assert OPERATOR not in page.url
            packer = page.locator("#consumer-rows tr", has_text="packer")
            await packer.get_by_role("button", name="Pause packer").click()
            await page.wait_for_selector("text=packer is paused.")
            follows, behind, _, state, act = await packer.locator("td").all_inner_texts()
            assert (follows, behind, state, act) == ("chat:*", "1", "paused", "Go on")
            await packer.get_by_role("button", name="Go on packer").click()
            await page.wait_for_selector("text=packer goes on.")

            with pytest.raises(Refused):
                await ann.subscribe("nowhere:a")
            await page.wait_for_selector("#events >> text=no namespace is declared for nowhere:a")

            await page.click("text=chat:lobby")
            await page.wait_for_selector("#channel-title:focus")
            await page.wait_for_selector("#history >> text=Hello")
            await page.wait_for_selector("#present >> text=ann")
            assert await page.inner_text("#present-note") == "1 user, 0 guests"

            await page.fill("#data", "no JSON")
            await page.click("#publish button")
            await page.wait_for_selector("#outcome[data-kind=bad] >> text=This is not JSON")
            await page.fill("#data", '{"text": "from the console"}')
            await page.click("#publish button")
            await page.wait_for_selector("#outcome >> text=Stored as number 2.")
            await page.check("#ephemeral")
            await page.click("#publish button")
            await page.wait_for_selector("#outcome >> text=Passed on; it is not stored.")
            pushes = [await ann.subscriptions["chat:lobby"].next() for _ in range(3)]
            assert [push.get("offset") for push in pushes] == [1, 2, None]

            await page.click("#present >> text=Disconnect")
            await page.click("text=Really disconnect?")
            await page.wait_for_selector("#outcome >> text=/ann was disconnected|cannot disconnect users/")

            await page.reload()
            await page.wait_for_selector("#nodes .status[data-status=ready]")
            await page.wait_for_selector("#history >> text=from the console")
            await asyncio.sleep(2)  # for plots that show something
            await page.evaluate("scrollTo(0, 0)")
            assert await tab.pale() == []
            await page.screenshot(path=artifacts / "console.png", full_page=True)

            await page.click("#close")
            await page.locator("#channel").wait_for(state="hidden")
            await page.click("#leave")
            await page.wait_for_function("sessionStorage.length === 0")
            await page.reload()
            await page.wait_for_selector("#key:focus")

            phone = await new("dark", phone=True)
            await enter(phone.page, operated, "#chat%3Alobby")
            await phone.page.wait_for_selector("#history >> text=from the console")
            await phone.page.wait_for_selector("#nodes .status[data-status=ready]")
            assert await phone.fits()
            await phone.page.evaluate("scrollTo(0, 0)")
            assert await phone.pale() == []
            await phone.page.screenshot(path=artifacts / "console-phone.png", full_page=True)
            tab.complaints = [text for text in tab.complaints if "404" not in text]

    browsing.run(run())


def test_a_look_makes_no_refusals(browsing: Browsing, operated: Server, artifacts: Path) -> None:
    """Channels without presence, without history, and of documents are looked into again and again, and nothing of that
    is refused; a change of documents is nobody's, and a test message is offered only where one may be published."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new, Client([operated.ws], token=OPERATOR) as shop:
            for channel in ("feed:news", "docs:orders", "dash:market"):
                await shop.subscribe(channel)
            await shop.publish("feed:news", {"title": "Rain"})
            answer = await operated.request("PUT", "/v1/documents/orders/7", {"status": "open"}, token=OPERATOR)
            assert answer.status in (200, 201), answer
            page = (await new()).page
            await enter(page, operated, "#feed%3Anews")
            await page.wait_for_selector("#present-note >> text=not counted")
            await page.wait_for_selector("#history >> text=Rain")
            assert await page.locator("#publish").is_visible()

            await page.evaluate("location.hash = '#docs%3Aorders'")
            await page.wait_for_selector("#history >> text=/change · 1/")
            assert await page.locator("#publish").is_hidden()
            await page.wait_for_selector("#present-note >> text=not counted")

            await page.evaluate("location.hash = '#nobody%3Ahere'")
            await page.wait_for_selector("#present-note >> text=0 users, 0 guests")
            await page.evaluate("location.hash = '#dash%3Amarket'")
            await page.wait_for_selector("#present-note >> text=not counted")
            await asyncio.sleep(6)  # it has looked again
            refused = await page.locator("#events li").all_inner_texts()
            assert all("presence" not in one for one in refused), refused
            assert len([one for one in refused if "dash:market" in one]) <= 1, refused

    browsing.run(run())


def test_operators_follow_and_search(browsing: Browsing, operated: Server, artifacts: Path) -> None:
    """A channel is followed live, through a filter; documents are found and opened; the figures have a range, and are
    read with the keyboard; who is refused most is named, and what was told is still there after a reload."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new, Client([operated.ws], token=make_token(SECRET, "ann")) as ann:
            for number in range(25):
                document = {"status": "open" if number % 5 else "paid", "number": number}
                await operated.request("PUT", f"/v1/documents/orders/{number:02}", document, token=OPERATOR)
            tab = await new()
            page = tab.page
            await enter(page, operated)
            await page.wait_for_selector("#nodes .status[data-status=ready]")

            await page.fill("#prefix", "chat:followed")
            await page.keyboard.press("Enter")
            await page.click("#open")
            await page.click("#follow")
            await page.wait_for_selector("#history-note >> text=Nothing yet.")
            await page.wait_for_selector("#channels >> text=chat:followed")
            await ann.publish("chat:followed", {"text": "Rain in the north"})
            await ann.publish("chat:followed", {"text": "Sun"}, ephemeral=True)
            await page.wait_for_selector("#history li:nth-child(2)")
            await page.fill("#filter", "rain user:ann")
            await page.wait_for_selector("#history:has(li:only-child) >> text=Rain in the north")
            await page.fill("#filter", "user:bob")
            await page.wait_for_selector("#history-note >> text=None are like that.")
            await page.fill("#filter", "")
            await page.wait_for_selector("#history >> text=ephemeral")
            await page.click("#follow")
            await page.wait_for_selector("#follow[aria-pressed=false]")

            # Channels that nobody listens to, in pages; and a look into one.
            for number in range(60):
                await ann.publish(f"chat:old-{number:02}", {"text": f"message {number}"})
            await page.click("#stored-now")
            await page.fill("#prefix", "chat:old-")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#stored tr:nth-child(50):last-child")
            await page.click("#more")
            await page.wait_for_selector("#stored tr:nth-child(60)")
            assert (await page.locator("#stored tr").last.inner_text()).split("\t") == [
                "chat:old-59", "1", "just now", "just now",
            ]  # fmt: skip
            await page.click("text=chat:old-59")
            await page.wait_for_selector("#history >> text=message 59")
            await page.click("#close")
            await page.click("#open-now")
            await page.fill("#prefix", "chat:followed")
            await page.keyboard.press("Enter")

            await page.fill("#collection", "orders")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#documents-list li:nth-child(20)")
            await page.click("#documents-more")
            await page.wait_for_selector("#documents-list li:nth-child(25)")
            await page.fill("#where", '{"status": "paid"}')
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#documents-list:not(:has(li:nth-child(6))) li:nth-child(5)")
            await page.click("#documents-list summary")
            await page.wait_for_selector("#documents-list pre >> text=_rev")
            await page.fill("#where", '{"status": "nowhere"}')
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#documents-note >> text=None are like that.")

            frame = page.get_by_role("slider", name="Clients, over time")
            await frame.focus()
            await page.keyboard.press("ArrowLeft")
            await page.wait_for_function("() => / at \\d\\d:\\d\\d:\\d\\d/.test(document.activeElement.ariaValueText)")
            assert await page.locator("#figures .plot-tip:visible").count() == 1
            await page.click("#ranges >> text=15 min")
            await page.wait_for_selector("#ranges [aria-pressed=true]:text-is('15 min')")

            await page.fill("#person-name", "ann")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#person h3:focus")
            await page.get_by_label("Channels; none: everything").fill("chat:followed")
            await page.get_by_label("Reason, which the user is told").fill("off topic")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#bans tr:has-text('chat:followed') >> text=off topic")
            with pytest.raises(Refused, match="off topic"):
                await ann.publish("chat:followed", {"text": "Again"})
            await page.wait_for_selector("#events [data-kind=bans] >> text=ann in chat:followed")
            await page.click("#bans >> text=Lift")
            await page.wait_for_selector("#bans-note >> text=Nobody is banned.")
            await page.wait_for_selector("#person .said >> text=Lifted")
            await ann.publish("chat:followed", {"text": "Again"})

            with pytest.raises(Refused):
                await ann.subscribe("nowhere:a")
            await page.wait_for_selector("#refused-most >> text=/unknown_channel.*ann × 1/")
            await page.fill("#events-filter", "nowhere ann")
            await page.wait_for_selector("#events:has(li:only-child) >> text=nowhere:a")
            await page.wait_for_selector("#limit-rows tr:has-text('channels_per_connection') >> text=128")
            assert await tab.pale() == []
            assert await tab.axe() == []
            assert await tab.fits()
            await page.reload()
            await page.wait_for_selector("#events >> text=no namespace is declared for nowhere:a")
            await page.wait_for_selector("#refused-most >> text=/unknown_channel.*ann × 1/")

    browsing.run(run())
