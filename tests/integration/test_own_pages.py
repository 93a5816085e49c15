"""Pages of the user's own: folders of static/."""

from __future__ import annotations

from pathlib import Path

import pytest

import handlers
from handlers.routing import Doors
from server.node import Node
from tests.integration.test_polls import client


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(handlers, "STATIC", tmp_path)
    return tmp_path


@pytest.fixture
def app(node: Node, static: Path) -> Doors:
    return handlers.make_app(node)


@pytest.mark.gen_test
async def test_who_edits_a_page_sees_it(base_url: str, http_server: object, static: Path) -> None:
    """It is there as soon as it is written, without a restart, and a browser that has the old one gets the new one."""
    async with client(base_url) as http:
        assert (await http.get("/hello/")).status_code == 404
        (static / "hello").mkdir()
        page = static / "hello" / "index.html"
        old = '"none"'
        for text in ("<p>one</p>", "<p>another</p>"):
            page.write_text(text)
            answer = await http.get("/hello/", headers={"If-None-Match": old})
            assert (answer.status_code, answer.text) == (200, text)
            old = answer.headers["etag"]
        assert (await http.get("/hello/", headers={"If-None-Match": old})).status_code == 304
