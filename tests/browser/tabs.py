"""Tabs of a real browser. One Chromium serves all tests; each tab is a profile of its own, as another person has it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

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
# What a browser says by itself about a server that is away; anything else on the console is a bug of the page.
EXPECTED = re.compile(r"WebSocket connection to|net::ERR_")
# A network that lets plain HTTP through, and no WebSocket.
NO_WEBSOCKET = """
window.WebSocket = class {
    constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 10); }
    close() {}
}
"""


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
        """Nothing sticks out sideways."""
        return bool(await self.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"))


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
            assert tab.complaints == []


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
