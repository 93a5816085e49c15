"""Tabs of a real browser. One Chromium serves all tests; each tab is a profile of its own, as another person has it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.interop import fetched
from tests.support.processes import Server

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

T = TypeVar("T")
AnyTab = TypeVar("AnyTab", bound="Tab")
NewTab = Callable[..., Awaitable[AnyTab]]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a browser says by itself about a server that is away or just starting; anything else on the console is a bug of
# the page.
EXPECTED = re.compile(r"WebSocket connection to|net::ERR_|status of 503")
# A network that lets plain HTTP through, and no WebSocket.
NO_WEBSOCKET = """
window.WebSocket = class {
    constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 10); }
    close() {}
}
"""

# Text that stands out from what is behind it by less than WCAG's AA asks for. Invisible text is meant to be, and that
# of a control which cannot be used at the moment may be pale.
PALE = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
        return [red, green, blue, alpha / 255];
    };
    const over = ([red, green, blue, alpha], below) =>
        [red, green, blue].map((part, index) => alpha * part + (1 - alpha) * below[index]);
    const light = (colour) => {
        const linear = (part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2]);
    };
    const behind = new Map([[null, { ground: [255, 255, 255], solid: 1 }]]);
    const place = (one) => {
        if (!behind.has(one)) {
            const { ground, solid } = place(one.parentElement);
            const { backgroundColor, opacity } = getComputedStyle(one);
            behind.set(one, { ground: over(rgba(backgroundColor), ground), solid: solid * opacity });
        }
        return behind.get(one);
    };
    const found = [];
    const look = (one, words, { color, fontSize, fontWeight }) => {
        const { ground, solid } = place(one);
        const ink = rgba(color);
        if (!ink[3]) return;
        ink[3] *= solid;
        const [less, more] = [light(ground), light(over(ink, ground))].sort((a, b) => a - b);
        const large = parseFloat(fontSize) >= (fontWeight >= 700 ? 18.66 : 24);
        const contrast = (more + 0.05) / (less + 0.05);
        if (contrast < (large ? 3 : 4.5)) found.push(`${words.slice(0, 40)}: ${contrast.toFixed(2)}`);
    };
    for (const one of document.body.querySelectorAll(":not(script, noscript)")) {
        if (!one.checkVisibility({ visibilityProperty: true })) continue;
        if (one.closest(":disabled")) continue;
        const texts = [...one.childNodes].filter((child) => child.nodeType === 3);
        const words = texts.map((text) => text.data).join(" ").trim();
        if (words) look(one, words, getComputedStyle(one));
        const typed = one.matches("input:not([type=checkbox]), textarea") && one.value;
        if (typed) look(one, typed, getComputedStyle(one));
        else if (one.placeholder) look(one, one.placeholder, getComputedStyle(one, "::placeholder"));
    }
    return found;
}"""


class Tab:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("dialog", lambda dialog: self._complain(f"a dialog: {dialog.message}"))

    def _complain(self, text: str) -> None:
        if not EXPECTED.search(text):
            self.complaints.append(text)

    async def go(self, base: str, path: str) -> Self:
        await self.page.goto(base + path)
        await self.state("open")
        return self

    async def state(self, name: str, within: float = 20.0) -> None:
        await self.page.wait_for_selector(f"body[data-state={name}]", timeout=within * 1000)

    async def now(self) -> None:
        """As when the network is back: try to connect at once."""
        await self.page.evaluate("() => dispatchEvent(new Event('online'))")
        await self.state("open")

    async def fits(self) -> bool:
        """Nothing sticks out sideways; on a phone, which zooms out to show it, either."""
        return bool(
            await self.page.evaluate("() => document.documentElement.scrollWidth <= Math.min(innerWidth, screen.width)")
        )

    async def pale(self) -> list[str]:
        """Text of too little contrast, with what it has."""
        found: list[str] = await self.page.evaluate(PALE)
        return found

    async def axe(self, parts: list[str] | None = None) -> list[str]:
        """What axe-core finds in these parts of the page or all of it, the rule and where; nothing where it is not
        there."""
        try:
            await self.page.evaluate(fetched.axe().read_text())
        except fetched.Missing:
            return []
        found: list[str] = await self.page.evaluate(
            """async (parts) =>
                (await axe.run(parts ? { include: parts } : document, { resultTypes: ["violations"] })).violations
                .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html}`))""",
            parts,
        )
        return found


class Browsing:
    """The browser and the loop that it lives on."""

    def __init__(self, runner: asyncio.Runner, browser: Browser) -> None:
        self._runner = runner
        self._browser = browser

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @asynccontextmanager
    async def tabs(self, kind: type[AnyTab]) -> AsyncIterator[NewTab[AnyTab]]:
        """A function that opens tabs; at the end none may have complained."""
        opened: list[AnyTab] = []
        contexts = []

        async def new(scheme: str = "light", phone: bool = False, script: str | None = None) -> AnyTab:
            context = await self._browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 800},
                device_scale_factor=2 if phone else 1,
                has_touch=phone,
                is_mobile=phone,
                locale="en-GB",
            )
            contexts.append(context)
            context.set_default_timeout(20_000)
            if script is not None:
                await context.add_init_script(script)
            tab = kind(await context.new_page())
            opened.append(tab)
            return tab

        try:
            yield new
        finally:
            for context in contexts:
                await context.close()
        for tab in opened:
            assert tab.complaints == [], tab.complaints  # not a file whose assertions pytest explains


Scenario = Callable[[NewTab[AnyTab], Server, Path], Coroutine[Any, Any, None]]


def scenario(kind: type[AnyTab]) -> Callable[[Scenario[AnyTab]], Callable[[Browsing, Server, Path], None]]:
    """A test with a function that opens tabs, the server and a place for screenshots."""

    def decorate(function: Scenario[AnyTab]) -> Callable[[Browsing, Server, Path], None]:
        def test(browsing: Browsing, running: Server, artifacts: Path) -> None:
            async def run() -> None:
                async with browsing.tabs(kind) as new:
                    await function(new, running, artifacts)

            browsing.run(run())

        test.__doc__ = function.__doc__
        return test

    return decorate
