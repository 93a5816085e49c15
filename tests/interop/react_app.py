"""An application with React, TypeScript and Vite, built with the package of `make dist` and clicked in a browser.

`make interop` runs it: it fetches from npm at exact versions, which the suite does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.browser.conftest import browsing, chromium  # noqa: F401
from tests.browser.tabs import Browsing, Tab
from tests.interop.fetched import FETCHED, HERE, run
from tests.support.processes import ROOT, Mongod, Server


def built(directory: Path) -> Path:
    """What a web server is to serve."""
    subprocess.run([sys.executable, str(ROOT / "deploy" / "dist.py"), str(directory / "dist")], check=True)
    (package,) = (directory / "dist").glob("*.tgz")
    home = FETCHED / "react"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(HERE / "react", home)
    run(["npm", "install", "--no-audit", "--no-fund", str(package)], home)
    run(["npm", "run", "build"], home)
    return home / "dist"


def test_an_application_with_react(browsing: Browsing, mongod: Mongod, tmp_path: Path) -> None:  # noqa: F811
    """Strict types, strict mode and the strict policy of `server.pages`: two tabs see each other's notes once,
    through a `kill -9` of the server, and what comes from a shell as well."""
    settings = {"server.pages": str(built(tmp_path)), "mongodb.database": "react"}

    async def use() -> None:
        async with Server(tmp_path, mongod.uri, settings=settings) as server, browsing.tabs(Tab) as new:
            one, two = await new(), await new()
            for tab in (one, two):
                await tab.page.goto(server.base)
                await tab.page.wait_for_selector("[role=status] >> text=open")
            await one.page.fill("input", "from one")
            await one.page.click("button")
            await two.page.wait_for_selector("li >> text=from one")
            await server.kill()
            await two.page.wait_for_selector("[role=status] >> text=waiting")
            await two.page.fill("input", "written while it was away")
            await two.page.click("button")
            await server.start()
            await server.post("/v1/channels/chat:react/messages", {"data": {"text": "from a shell"}})
            for tab in (one, two):
                await tab.page.evaluate("() => dispatchEvent(new Event('online'))")
                await tab.page.wait_for_selector("li:nth-child(3)")
                texts = await tab.page.locator("li").all_text_contents()
                assert sorted(texts) == ["from a shell", "from one", "written while it was away"]

    browsing.run(use())
