"""What the browser tests need. Where it is missing they are skipped, by name, or fail: WATERSPOUT_REQUIRE_BROWSER=1."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.browser.tabs import FLAGS, Browsing
from tests.support import commands
from tests.support.methods import METHODS
from tests.support.processes import Mongod, Server

SECRET = "a secret of at least thirty-two bytes"
SHOP = "the-key-of-the-shop"
WORKER = "the-key-of-the-worker"


def lacking(what: str) -> NoReturn:
    if os.environ.get("WATERSPOUT_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and WATERSPOUT_REQUIRE_BROWSER=1", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> str:
    try:
        import playwright  # noqa: F401
    except ImportError:
        lacking("no playwright in this environment")
    return commands.chromium() or lacking("no chromium on PATH")


@pytest.fixture(scope="session")
def browsing(chromium: str) -> Iterator[Browsing]:
    """On a loop of its own that nobody else is given: other tests have theirs."""
    from playwright.async_api import Browser, Playwright, async_playwright

    async def begin() -> tuple[Playwright, Browser]:
        playwright = await async_playwright().start()
        return playwright, await playwright.chromium.launch(executable_path=chromium, args=FLAGS)

    async def end() -> None:
        await browser.close()
        await playwright.stop()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        playwright, browser = runner.run(begin())
        yield Browsing(runner, browser)
        runner.run(end())


@pytest.fixture(scope="session")
def node() -> list[str]:
    """The command line of a Node that has a WebSocket."""
    path = shutil.which("node")
    if path is None:
        lacking("no node on PATH")
    for flags in ([], ["--experimental-websocket"]):  # a stable one came with Node 22
        probe = subprocess.run([path, *flags, "-p", "typeof WebSocket"], capture_output=True, text=True, check=False)
        if probe.stdout.strip() == "function":
            return [path, *flags]
    lacking("a node without WebSocket: it is older than 20.10")


@pytest.fixture(scope="module")
def server(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests of a file, with the default limits. Each test talks in rooms of its own. Its MongoDB stands
    beside it, since the tests restart the server over and over."""
    directory = tmp_path_factory.mktemp("server")
    keys = {
        "shop": {"sha256": hashlib.sha256(SHOP.encode()).hexdigest(), "admin": True},
        "worker": {"sha256": hashlib.sha256(WORKER.encode()).hexdigest(), "consumers": ["jobs"]},
    }
    settings = {
        "mongodb.database": directory.name,
        "auth.secret": SECRET,
        "auth.api_keys": keys,
        "namespaces.club": {"publish": "anyone"},
        "namespaces.stock": {"publish": "anyone", "subscribe": "anyone", "patterns": True},
        "namespaces.den": {
            "publish": "anyone",
            "subscribe": "anyone",
            "amend": "own",
            "reactions": True,
            "search": True,
            "threads": True,
        },
        "namespaces.work": {"publish": "server", "subscribe": "server"},
        "consumers": {"jobs": {"channels": ["work:*"]}},
        "calls": METHODS,
    }
    one = Server(directory, mongod.uri, settings=settings)
    try:
        asyncio.run(one.start())
        yield one
    finally:
        asyncio.run(one.stop())


@pytest.fixture
def running(server: Server) -> Server:
    """The server, started again if a test before left it dead."""
    if not server.running:
        asyncio.run(server.start())
    return server


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where screenshots go."""
    directory = Path(os.environ.get("WATERSPOUT_ARTIFACTS") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
