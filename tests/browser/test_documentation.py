"""What the documentation says to a browser: the pages that a reader makes, and the snippets for pages of his own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.browser.conftest import SHOP
from tests.browser.tabs import Browsing, NewTab, Tab, scenario
from tests.support.processes import ROOT, Mongod, Server
from tests.support.reader import Block, Reader, blocks
from tests.support.waiting import until

# Tables that one has to scroll sideways.
CUT_OFF = """() => [...document.querySelectorAll(".wide, .scroll")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.innerText.slice(0, 60))"""
# Cells of sentences that stand in one line, wider than the screen.
NARROW = """() => [...document.querySelectorAll("td")]
    .filter((one) => one.offsetWidth > innerWidth).map((one) => one.innerText.slice(0, 60))"""


async def lists(tab: Tab, *lines: str) -> None:
    await until(lambda: _has(tab, lines), 20, f"{lines}")


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def _has(tab: Tab, lines: tuple[str, ...]) -> bool:
    return tuple(await tab.page.locator("li").all_inner_texts()) == lines


async def _seen(tab: Tab, server: Server, path: str) -> bool:
    """Publish until it is: nothing tells from outside when the stream is open."""
    await server.post(path, {"data": "news"}, token=SHOP)
    return bool(await tab.page.evaluate("seen.includes('news')"))


def test_the_page_of_the_readme(browsing: Browsing, mongod: Mongod, tmp_path: Path) -> None:
    """Made as it says, open twice: what is published from the shell or in one tab is in both."""
    reader = Reader(tmp_path, mongod, {})

    async def look() -> None:
        async with browsing.tabs(Tab) as new:
            one, two = await new(), await new()
            for tab in (one, two):
                await tab.page.goto(f"{reader.base}/hello")
                await lists(tab, "Hello from a shell")
            await one.page.fill("#text", "Hello from a tab")
            await one.page.keyboard.press("Enter")
            for tab in (one, two):
                await lists(tab, "Hello from a shell", "Hello from a tab")

    try:
        reader.follow(ROOT / "README.md")
        browsing.run(look())
    finally:
        reader.close()


def test_the_page_of_another_origin(browsing: Browsing, mongod: Mongod, tmp_path: Path) -> None:
    """Served by another web server, it imports the client from ours, and shows what the back end has published."""
    reader = Reader(tmp_path, mongod, {})

    async def look() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            await until(lambda: _listens(reader.other), 20, "the other web server")
            await tab.page.goto(f"http://{reader.other}/")
            await lists(tab, "Rain")

    web = None
    try:
        reader.follow(ROOT / "docs" / "quick-start.md")
        port = reader.other.rpartition(":")[2]
        command = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", "elsewhere"]
        web = subprocess.Popen(command, cwd=reader.home, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        browsing.run(look())
    finally:
        if web is not None:
            web.terminate()
            web.communicate()
        reader.close()


@scenario(Tab)
async def test_the_snippets_about_eventsource(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """docs/rest.md: one that anybody may open, and one with a ticket."""
    plain, with_ticket = blocks(ROOT / "docs" / "rest.md", "js browser")
    given = (
        f"const seen = (window.seen = []), show = (push) => seen.push(push.data), token = {SHOP!r}; console.log = show;"
    )

    async def check(block: Block, channel: str, ending: str = "") -> None:
        tab = await new()
        await tab.page.goto(f"{server.base}/docs")
        await tab.page.evaluate(f"() => {{ {given} {block.text} {ending} }}")
        path = f"/v1/channels/{channel}/messages"

        await until(lambda: _seen(tab, server, path), 20, channel)

    await check(plain, "chat:lobby")
    await check(with_ticket, "feed:news", "listen();")


@scenario(Tab)
async def test_the_documentation_as_pages(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """From the README on, each page fits and can be read, wide and on a phone, and each link leads somewhere: to a
    page, a file, and a heading that is there."""
    wide, phone = await new(), await new("dark", phone=True)
    todo, linked, headings = ["/README.md"], dict[str, str](), dict[str, set[str]]()
    while todo:
        path = todo.pop()
        if path in headings:
            continue
        for tab in (wide, phone):
            await tab.page.goto(server.base + path)
            assert await tab.fits(), path
            assert await tab.pale() == [], path
        assert await wide.page.evaluate(CUT_OFF) == [], path
        assert await phone.page.evaluate(NARROW) == [], path
        headings[path] = set(await wide.page.locator("main [id]").evaluate_all("all => all.map(one => one.id)"))
        for link in await wide.page.locator("a, img").evaluate_all("all => all.map(one => one.href ?? one.src)"):
            if link.startswith(server.base):
                linked[link.removeprefix(server.base)] = path
        todo += [link for link in (one.partition("#")[0] for one in linked) if link.endswith(".md")]
        if path == "/docs/quick-start.md":
            await wide.page.screenshot(path=artifacts / "documentation-wide.png")
            await phone.page.screenshot(path=artifacts / "documentation-phone.png")
    assert len(headings) == len(list((ROOT / "docs").glob("*.md"))) + 3  # README.md twice, CHANGELOG.md
    answered: dict[str, int] = {}
    for link, page in linked.items():
        path, _, heading = link.partition("#")
        if path not in answered:  # many links lead to a heading of the same page
            answered[path] = (await server.get(path)).status
        assert answered[path] in (200, 301), f"{page}: {link}"
        assert not heading or heading == "main" or heading in headings.get(path, {heading}), f"{page}: {link}"


@scenario(Tab)
async def test_finding_something_in_the_documentation(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """Search, with the keyboard alone, leads to the heading; the page says what is on it, and what comes before and
    next; code is coloured; the index is the server's own and comes once."""
    tab = await new()
    page = tab.page
    indices: list[str] = []
    page.on("request", lambda request: indices.append(request.url) if "search.json" in request.url else None)
    await page.goto(f"{server.base}/docs/quick-start.md")
    await page.keyboard.press("/")
    await page.keyboard.type("dns rebinding")
    await page.wait_for_selector("#found [aria-selected=true]")
    assert await page.get_attribute("#words", "aria-activedescendant") == "found-0"
    await page.keyboard.press("Escape")
    assert await page.locator("#found").is_hidden()
    await page.fill("#words", "closes with 4003")
    await page.wait_for_function("() => document.querySelector('#found-note').textContent")
    await page.fill("#words", "no such wordz anywhere")
    await page.wait_for_selector("#found-note >> text=Nothing found")
    await page.fill("#words", "cursors gaps")
    await page.wait_for_selector("#found-0 >> text=Cursors and gaps")
    await page.screenshot(path=artifacts / "documentation-search.png")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/docs/protocol.md#cursors-and-gaps")
    assert len(indices) == 1
    assert await page.locator("#outline").get_attribute("open") is not None
    headings = await page.locator("main :is(h2, h3)").all_text_contents()
    assert await page.locator("#outline a").all_text_contents() == headings
    await page.wait_for_selector("#outline a[aria-current]")
    assert await page.locator("pre .s2, pre .nt").count() > 10
    for way in ("next", "prev"):
        await page.click(f"a[rel={way}]")
        await page.wait_for_selector("main h1")
    assert page.url == f"{server.base}/docs/protocol.md"
    phone = await new("dark", phone=True)
    await phone.page.goto(f"{server.base}/docs/protocol.md")
    assert await phone.page.locator("#outline").get_attribute("open") is None
    assert await phone.page.locator("#outline summary").is_visible()


@scenario(Tab)
async def test_requests_from_the_reference(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """`/docs` sends what it shows, with the visitor's token, and shows what comes back: an answer, a refusal, and the
    messages of a stream until it is stopped."""
    tab = await new()
    page = tab.page
    await page.goto(f"{server.base}/docs")
    publishing = page.locator("section", has=page.locator("h2", has_text="POST /v1/channels/{channel}/messages"))
    await publishing.get_by_text("Send it from here").click()
    body = publishing.locator("textarea")
    assert "data" in await body.input_value()
    await body.fill('{"data": {"text": "from the reference"}}')
    await publishing.locator("input[name=channel]").fill("feed:reference")
    await publishing.get_by_role("button", name="Send").click()
    await publishing.locator(".answer .s4").wait_for()
    assert "permission_denied" in await publishing.locator(".answer").inner_text()
    await page.fill("#token", SHOP)
    await publishing.get_by_role("button", name="Send").click()
    await publishing.locator(".answer .s2 >> text=201").wait_for()
    assert '"offset": 1' in await publishing.locator(".answer > pre").inner_text()
    await page.screenshot(path=artifacts / "reference.png")

    listening = page.locator("section", has=page.locator("h2", has_text="GET /v1/channels/{channel}/events"))
    await listening.get_by_text("Send it from here").click()
    await listening.locator("input[name=channel]").fill("feed:reference")
    await listening.locator("input[name=after]").fill("0")
    await listening.get_by_role("button", name="Send").click()
    await listening.locator(".answer > pre >> text=from the reference").wait_for()
    await server.post("/v1/channels/feed:reference/messages", {"data": "another"}, token=SHOP)
    await listening.locator(".answer > pre >> text=another").wait_for()
    await listening.get_by_role("button", name="Stop").click()
    await listening.get_by_role("button", name="Send").wait_for()
    assert await page.evaluate("() => Object.keys(localStorage).length") == 0
    assert await tab.pale() == []
    tab.complaints = [text for text in tab.complaints if "status of 403" not in text]


@scenario(Tab)
async def test_one_navigation(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """Every page has the same ways to the others, to the documentation too, and says which it is; they fit a phone."""
    ways = ["Chat", "Shop", "Market", "Docs", "Console"]
    current = {"/": [], "/chat/": ["Chat"], "/feed/": ["Shop"], "/dashboard/": ["Market"], "/console/": ["Console"]}
    for path in ("/docs", "/docs/quick-start.md", "/README.md"):
        current[path] = ["Docs"]
    for phone in (False, True):
        tab = await new(phone=phone)
        for path, here in current.items():
            await tab.page.goto(server.base + path)
            links = tab.page.locator("nav.pages a")
            assert await links.all_inner_texts() == ways or path == "/chat/", path
            assert await links.all_text_contents() == ways, path
            assert await tab.page.locator("nav.pages a[aria-current]").all_text_contents() == here, path
            assert await tab.fits(), path
    for href in await tab.page.locator("nav.pages a").evaluate_all("all => all.map(one => one.href)"):
        assert (await server.get(href.removeprefix(server.base))).status == 200
