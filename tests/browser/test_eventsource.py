"""A browser's own EventSource, and the page of the API's documentation."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from tests.browser.tabs import Browsing, NewTab, Tab, scenario
from tests.support.client import make_token
from tests.support.processes import Mongod, Server
from tests.support.proxy import Proxy
from tests.support.waiting import until

SECRET = secrets.token_urlsafe(32)
LISTEN = """address => {
    window.seen = []; window.opened = 0; window.source = new EventSource(address);
    source.onopen = () => opened++;
    source.onmessage = event => seen.push([JSON.parse(event.data).data, event.lastEventId]);
}"""


async def holds(page: Any, expression: str) -> None:
    await until(lambda: page.evaluate(expression), 30, expression)


def test_an_eventsource_comes_back_by_itself_and_misses_nothing(
    browsing: Browsing, tmp_path: Path, mongod: Mongod
) -> None:
    """With a ticket, since it cannot send a token. Its connection is cut, and while it is away messages come: it
    continues with its Last-Event-ID. The ticket expired, it is refused, which the page sees."""

    async def play() -> None:
        settings = {"auth.secret": SECRET, "auth.ticket_ttl": 600, "mongodb.database": "eventsource",
                    "namespaces.room": {"publish": "user", "subscribe": "user"}}  # fmt: skip
        async with (
            Server(tmp_path, mongod.uri, settings=settings) as server,
            Proxy(server.port) as proxy,
            browsing.tabs(Tab) as new,
        ):
            token = make_token(SECRET, "ann")
            channels = ["room:a", "room:b"]

            async def publish(n: int) -> str:
                path = f"/v1/channels/{channels[n % 2]}/messages"
                answer = await server.post(path, {"data": n}, token=token)
                assert answer.status == 201
                return str(answer.body["cursor"])

            tab = await new()
            page = tab.page
            await page.goto(f"http://127.0.0.1:{proxy.port}/docs")
            ticket = (await server.post("/v1/tickets", {"channels": channels}, token=token)).body["ticket"]
            await page.evaluate(LISTEN, f"/v1/events?channel=room:a&channel=room:b&ticket={ticket}")
            await holds(page, "opened == 1")
            for n in range(4):
                await publish(n)
            await holds(page, "seen.length == 4")
            seen = await page.evaluate("seen")
            assert [data for data, _ in seen] == [0, 1, 2, 3]
            assert len({place for _, place in seen}) == 4
            await proxy.cut()
            for n in range(4, 8):
                await publish(n)
            await proxy.heal()
            await holds(page, "opened == 2")
            await publish(8)
            await holds(page, "seen.length >= 9")
            seen = await page.evaluate("seen")
            # Between channels no order is promised, within one it is.
            assert sorted(data for data, _ in seen) == list(range(9))
            for parity in (0, 1):
                assert [data for data, _ in seen if data % 2 == parity] == list(range(parity, 9, 2))
            await page.evaluate("source.close(); source = new EventSource('/v1/channels/room:a/events?ticket=x')")
            await holds(page, "source.readyState == EventSource.CLOSED")
            tab.complaints.clear()  # the refusal just provoked

    browsing.run(play())


@scenario(Tab)
async def test_the_page_of_the_documentation(new: NewTab[Tab], server: Server, artifacts: Path) -> None:
    """It shows every operation of /openapi.json with a command line, wide and narrow, without a complaint."""
    described = (await server.get("/openapi.json")).body
    wanted = sum(len(item) for item in described["paths"].values())
    for scheme, phone in (("light", False), ("dark", True)):
        tab = await new(scheme, phone)
        await tab.page.goto(f"{server.base}/docs")
        await tab.page.wait_for_selector("section pre")
        assert await tab.page.locator("#operations > section").count() == wanted
        assert await tab.page.locator("#contents a").count() == wanted
        await tab.page.screenshot(path=artifacts / f"docs-{'phone' if phone else 'wide'}.png")
        assert await tab.fits()
