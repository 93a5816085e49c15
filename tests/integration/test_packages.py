"""`make dist`: what is built is installed from its files into a fresh place, and used from there alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import server
from tests.support.processes import ROOT, Mongod, Server

PYTHON = """
import asyncio, sys
from waterspout_client import Client, Message, __file__ as place

async def main():
    async with Client(sys.argv[1]) as client:
        async with client.subscribe("chat:packages", last=5) as events:
            await client.publish("chat:packages", {"text": "from Python"})
            async for event in events:
                if isinstance(event, Message):
                    print(event.data["text"], place)
                    return

asyncio.run(main())
"""
JAVASCRIPT = """
import { Waterspout } from "waterspout-client";

const client = new Waterspout(process.argv[2].replace("http", "ws") + "/v1/ws");
const channel = client.channel("chat:packages");
channel.on("message", ({ data }) => {
  console.log(data.text, client.transport, import.meta.resolve("waterspout-client"));
  if (data.text === "from JavaScript") process.exit(0);
});
await channel.subscribe({ last: 5 });
await channel.publish({ text: "from JavaScript" });
"""


def ran(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("no npm on PATH")
    out = tmp_path_factory.mktemp("dist")
    ran(sys.executable, ROOT / "deploy" / "dist.py", out, cwd=out)
    return out


@pytest.fixture(scope="module")
def fresh(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the two wheels, and by reference what they stand on: that is fetched in no test."""
    place = tmp_path_factory.mktemp("fresh")
    ran(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    python = place / "bin" / "python"
    install = ("install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", *built.glob("*.whl"))
    ran(sys.executable, "-m", "pip", "--python", python, *install, cwd=place)
    (packages,) = place.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return place


class Installed(Server):
    """The command `waterspout` of the fresh place."""

    def __init__(self, fresh: Path, mongod: Mongod) -> None:
        super().__init__(fresh, mongod.uri, settings={"mongodb.database": "packages"})
        self.root = fresh

    def command(self) -> list[str]:
        return [str(self.root / "bin" / "waterspout"), *super().command()[2:]]


@pytest.fixture(scope="module")
def running(fresh: Path, mongod: Mongod) -> Iterator[Installed]:
    one = Installed(fresh, mongod)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(one.start())
    yield one
    loop.run_until_complete(one.__aexit__(None, None, None))
    loop.close()


def test_the_server(fresh: Path, running: Installed) -> None:
    """`waterspout` serves from its wheel: pages, documentation, pictures, the client; `waterspout new` makes a folder
    that says how to start it."""

    async def look() -> None:
        for path in ("/", "/chat/", "/console/", "/docs", "/docs/quick-start.md", "/README.md", "/LICENSE",
                     "/docs/images/chat.png", "/bench/results/fanout.svg", "/static/waterspout.js"):  # fmt: skip
            assert (await running.get(path)).status == 200, path

    asyncio.run(look())
    waterspout = fresh / "bin" / "waterspout"
    assert ran(waterspout, "--version", cwd=fresh).strip() == f"waterspout {server.__version__}"
    assert "waterspout --config config.yaml" in ran(waterspout, "new", "my-app", cwd=fresh)
    assert (fresh / "my-app" / ".gitignore").exists()
    assert "good" in ran(waterspout, "--config", "config.yaml", "--check-config", cwd=fresh / "my-app")
    (packages,) = fresh.glob("lib/*/site-packages")
    assert {one.name for one in packages.iterdir() if one.is_dir()} >= {"waterspout", "waterspout_client"}
    assert not (packages / "server").exists(), "a name that anybody may use"


def test_the_python_client(fresh: Path, running: Installed) -> None:
    """A script of three lines, and the command line."""
    text, place = ran(fresh / "bin" / "python", "-c", PYTHON, running.base, cwd=fresh).strip().rsplit(" ", 1)
    assert text == "from Python"
    assert Path(place).is_relative_to(fresh)
    shown = ran(fresh / "bin" / "waterspout-client", "--help", cwd=fresh)
    assert "tail chat:lobby" in shown


def test_the_javascript_client(built: Path, running: Installed, tmp_path: Path) -> None:
    """`npm install` of the file, and a script for Node 20, which has no WebSocket of its own; the package says where
    its types are."""
    (package,) = built.glob("*.tgz")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    ran("npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", package, cwd=tmp_path)
    (tmp_path / "script.js").write_text(JAVASCRIPT)
    *_, last = ran("node", "script.js", running.base, cwd=tmp_path).splitlines()
    assert last.startswith("from JavaScript ")
    assert f"{tmp_path}/node_modules/waterspout-client/waterspout.js" in last
    home = tmp_path / "node_modules" / "waterspout-client"
    exported = json.loads((home / "package.json").read_text())["exports"]["."]
    assert all((home / file).is_file() for file in exported.values())


def test_one_version() -> None:
    """The server, both clients and what is declared of them are of one version."""
    versions = {
        *re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE),
        *re.findall(r'^version = "(.*)"', (ROOT / "clients" / "python" / "pyproject.toml").read_text(), re.MULTILINE),
        json.loads((ROOT / "clients" / "javascript" / "package.json").read_text())["version"],
    }
    assert versions == {server.__version__}
