"""What holds for every page: people with any abilities can use it (axe-core), and it is light."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import SHOP
from tests.browser.tabs import NewTab, Tab, scenario
from tests.interop import fetched
from tests.support.processes import Server

KEY = f"sessionStorage.setItem('waterspout.console.key', {SHOP!r})"
# Page → what is there when it is.
PAGES = {
    "/": "body[data-state=open] #plug-read",
    "/chat/#usable": "body[data-state=open] #name",
    "/feed/": "#no-products >> text=empty",
    "/dashboard/": "body[data-state=open]",
    "/console/": "#nodes .status",
    "/docs": "#operations section summary",
    "/docs/quick-start.md": "#outline",
    "/nowhere": "main h1",
}
# Kilobytes of all that a page loads before it is used, as sent: without compression, which a proxy adds. 190 of them
# are the client; plots are 25 of the market's and the console's, lists, edits and views 45 of the shop's;
# what only signed-in people need of the chat comes when they ask for it.
BUDGET = {"/": 230, "/chat/#usable": 335, "/feed/": 270, "/dashboard/": 265, "/console/": 310, "/docs": 400,
          "/docs/quick-start.md": 120, "/nowhere": 40}  # fmt: skip


@pytest.fixture(autouse=True)
def _there() -> None:
    try:
        fetched.axe()
    except fetched.Missing as missing:
        pytest.skip(str(missing))


# Of what repeats many times a part is looked at: it is made by the same lines.
PART = {"/docs": [".bar", ".intro", "#contents", "#operations > section:nth-child(-n+3)"]}


class Looks(Tab):
    async def forgetful(self) -> None:
        """Each page loads all that it needs, as for a visitor who has been on no other."""
        browser = await self.page.context.new_cdp_session(self.page)
        await browser.send("Network.enable")
        await browser.send("Network.setCacheDisabled", {"cacheDisabled": True})

    async def weight(self) -> float:
        """Kilobytes of what was loaded, the page itself included, and what it then asked for left out."""
        size = await self.page.evaluate("""() => ["navigation", "resource"]
            .flatMap((kind) => performance.getEntriesByType(kind))
            .filter((one) => !/^(fetch|xmlhttprequest)$/.test(one.initiatorType))
            .reduce((sum, one) => sum + one.decodedBodySize, 0)""")
        return float(size) / 1000


@scenario(Looks)
async def test_every_page_can_be_used(new: NewTab[Looks], server: Server, artifacts: Path) -> None:
    """Not one violation of axe-core's rules by light, and no text of too little contrast in the dark, where those that
    show the most have no violation either. And no page is heavier than its budget, pictures and scripts included."""
    faults: dict[str, list[str]] = {}
    heavy: dict[str, float] = {}
    for scheme in ("light", "dark"):
        tab = await new(scheme, script=KEY)
        await tab.forgetful()
        for path, there in PAGES.items():
            await tab.page.goto(server.base + path)
            await tab.page.wait_for_selector(there)
            whole = scheme == "light" or path in ("/feed/", "/dashboard/", "/console/")
            found = await tab.axe(PART.get(path)) if whole else await tab.pale()
            faults[f"{path} {scheme}"] = found
            heavy[path] = await tab.weight()
        tab.complaints = [text for text in tab.complaints if "status of 40" not in text]
    assert {path: found for path, found in faults.items() if found} == {}
    assert {path: weight for path, weight in heavy.items() if weight > BUDGET[path]} == {}, heavy
