"""Pages of the user's own: the folder `server.pages`, and folders of static/."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.testing import bind_unused_port

import handlers
from handlers.routing import Doors
from handlers.server import HTTPServer
from server.core import config
from server.core.errors import StartError
from server.node import Node
from tests.integration.test_polls import client
from tests.support.processes import Mongod


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(handlers, "STATIC", tmp_path)
    return tmp_path


@contextlib.asynccontextmanager
async def served(settings: dict[str, Any], mongod: Mongod) -> AsyncIterator[httpx.AsyncClient]:
    """A server without the repository's configuration, on a port of its own."""
    database = {"mongodb.database": f"test_{uuid.uuid4().hex[:12]}"}
    node = Node(config.load(None, {}, (database | settings).items()), mongod.uri)
    socket, port = bind_unused_port()
    server = HTTPServer(handlers.make_app(node), [socket])
    await node.start()
    try:
        async with client(f"http://127.0.0.1:{port}") as http:
            yield http
    finally:
        server.stop()
        await node.close()
        await server.close_all_connections()


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


PAGE = {"Accept": "text/html"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of pages, and beside it what nobody may have."""
    site = tmp_path / "site"
    for name, text in {
        "site/index.html": "<p>mine</p>",
        "site/chat/index.html": "<p>my chat</p>",
        "site/a b/ä.txt": "with a space",
        "site/assets/index-BxQ2k3Zp.js": "export {}",
        "site/assets/my-document.js": "export {}",
        "site/static/waterspout.js": "not the client",
        "site/v1/nodes": "not the API",
        "site/.git/config": "a secret",
        "site/.env": "a secret",
        "site/.well-known/security.txt": "Contact: us",
        "site/empty/.keep": "",
        "secret.txt": "a secret",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (site / "out.txt").symlink_to(tmp_path / "secret.txt")
    (site / "elsewhere").symlink_to(tmp_path)
    (site / "shown.txt").symlink_to(site / ".env")
    for page, text in (("out", tmp_path / "secret.txt"), ("hidden", site / ".env")):
        (site / page).mkdir()
        (site / page / "index.html").symlink_to(text)
    (site / "200.html").symlink_to(tmp_path / "secret.txt")
    return site


@pytest.mark.gen_test
async def test_a_folder_of_pages(io_loop: object, mongod: Mongod, site: Path) -> None:
    """`server.pages`: its files come ahead of the server's pages and behind its API; hashed names are kept by browsers,
    the others are asked for again; nothing of another origin may read them."""
    async with served({"server.pages": str(site)}, mongod) as http:
        for path, text in {
            "/": "<p>mine</p>",
            "/chat/": "<p>my chat</p>",
            "/a%20b/%C3%A4.txt": "with a space",
            "/.well-known/security.txt": "Contact: us",
        }.items():
            answer = await http.get(path)
            assert (answer.status_code, answer.text) == (200, text), path
            assert answer.headers["cache-control"] == "no-cache"
            assert "'unsafe" not in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers
            again = await http.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304, path
        assert "immutable" in (await http.get("/assets/index-BxQ2k3Zp.js")).headers["cache-control"]
        assert (await http.get("/assets/my-document.js")).headers["cache-control"] == "no-cache"
        moved = await http.get("/chat")
        assert (moved.status_code, moved.headers["location"]) == (301, "/chat/")
        assert "class Waterspout" in (await http.get("/static/waterspout.js")).text
        assert (await http.get("/v1/nodes")).status_code == 403
        assert (await http.get("/feed/")).status_code == 200
        assert (await http.post("/")).status_code == 405
        assert (await http.get("/nowhere", headers=PAGE)).status_code == 404
        (site / "200.html").unlink()
        (site / "200.html").write_text("<p>the application</p>")
        fallback = await http.get("/orders/7", headers=PAGE)
        assert (fallback.status_code, fallback.text) == (200, "<p>the application</p>")
        for path, headers in (("/orders/7", {}), ("/v1/nothing", PAGE), ("/static/nothing", PAGE)):
            assert (await http.get(path, headers=headers)).status_code == 404, path


@pytest.mark.gen_test
async def test_what_is_not_in_the_folder(io_loop: object, mongod: Mongod, site: Path) -> None:
    """No way leads out of it, by dots, however they are written, or by links; names that begin with a dot are none."""
    paths = [
        *("/.env", "/.git/config", "/.git/", "/%2e%65nv", "/shown.txt", "/out.txt", "/elsewhere/secret.txt", "/empty/"),
        *(
            "/out/",
            "/hidden/",
            "/empty/.keep",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/chat/../../secret.txt",
            "/%00",
        ),
        *("/chat/..%2f..%2fsecret.txt", "/..%5csecret.txt", "//secret.txt", "/%ff", "/secret.txt", "/index.html/"),
        *("/x/.well-known/security.txt", "/assets/"),
    ]
    async with served({"server.pages": str(site), "server.pages_policy": "default-src 'self'"}, mongod) as http:
        for path in paths:
            answer = await http.request("GET", http.base_url.copy_with(raw_path=path.encode()))
            assert answer.status_code == 404, path
            assert "a secret" not in answer.text, path
        for path in ("/nowhere", "nowhere"):
            answer = await http.get("/", headers=PAGE, extensions={"target": path.encode()})
            assert (answer.status_code, "a secret" in answer.text) == (404, False), path
        assert (await http.get("/")).headers["content-security-policy"] == "default-src 'self'"


def test_the_folder_is_named_by_the_file(tmp_path: Path) -> None:
    """A relative `server.pages` of a configuration file lies beside the file; one that is no folder ends the start."""
    (tmp_path / "my.yaml").write_text("server: {pages: site}")
    options = config.load(tmp_path / "my.yaml", {}, ())
    assert options.server.pages == str(tmp_path / "site")
    with pytest.raises(StartError, match=r"server.pages: .*/site is not a folder"):
        handlers.make_app(Node(options, "mongodb://127.0.0.1:1/"))
    with pytest.raises(StartError, match="pages_policy: expected one line"):
        config.load(None, {}, [("server.pages_policy", "a\r\nSet-Cookie: b")])
