"""`run.py new`: what it makes runs, as its README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import run
from tests.browser.tabs import Browsing, Tab
from tests.support.processes import ROOT, Mongod, Server


def made(folder: Path) -> str:
    """What is printed while it is made."""
    command = [sys.executable, str(ROOT / "run.py"), "new", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_to_begin_with(browsing: Browsing, mongod: Mongod, tmp_path: Path, artifacts: Path) -> None:
    """The page works in two tabs, in both themes; what the rule in Python refuses is told with its reason, and what it
    changes is changed; a note of a shell is there too."""
    folder = tmp_path / "my-app"
    shown = made(folder)
    readme = (folder / "README.md").read_text()
    (command,) = re.findall(r"^  (.* --config config.yaml)$", shown, re.MULTILINE)
    assert command in readme
    assert not re.search(
        "MY_APP|SECRET|COMMAND", "".join(one.read_text() for one in folder.rglob("*") if one.is_file())
    )

    async def use() -> None:
        settings = {"mongodb.database": "starter"}
        configuration = ("--config", str(folder / "config.yaml"))
        server = Server(tmp_path, mongod.uri, settings=settings, arguments=configuration)
        async with server, browsing.tabs(Tab) as new:
            ann, bob = await new(), await new("dark", phone=True)
            for tab in (ann, bob):
                await tab.page.goto(server.base)
                await tab.page.wait_for_selector("#state >> text=Live")
                await tab.page.wait_for_selector("#empty")
                assert await tab.fits()
                assert await tab.pale() == []
            await ann.page.screenshot(path=artifacts / "starter.png")
            await ann.page.fill("#text", "  Water the roses ")
            await ann.page.keyboard.press("Enter")
            answer = await server.post("/v1/channels/wall:all/messages", {"data": {"text": "From a shell"}})
            assert answer.status == 201
            for tab in (ann, bob):
                await tab.page.wait_for_selector("#notes li:nth-child(2)")
                assert sorted(await tab.page.locator("#notes li").all_text_contents()) == [
                    "From a shell",
                    "Water the roses",
                ]
                assert await tab.page.locator("#empty").is_hidden()
            await ann.page.fill("#text", "x" * 281)
            await ann.page.keyboard.press("Enter")
            await ann.page.wait_for_selector("#problem >> text=Not on the wall: a note has 280 characters at most.")
            assert len(await ann.page.input_value("#text")) == 281

    browsing.run(use())


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that has something in it stays as it is; a name that is none is refused."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for folder, why in ((tmp_path / "there", "there already, and not empty"), (tmp_path / "a <b>", "expected letters")):
        assert run.main(["new", str(folder)]) == 1
        assert why in capsys.readouterr().err
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["mine.txt"]
