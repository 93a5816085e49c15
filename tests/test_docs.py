"""The documentation is true: every option is described with its default, and what README.md, docs/protocol.md and
docs/rest.md show works like that on a real server.

Marked blocks are carried out: ```sh run, ```python run and ```js run in README.md; ```json run in docs/protocol.md and
docs/documents.md (`→` is sent over one WebSocket, `←` must come back), ```http run there and in docs/rest.md (request,
blank line, answer); in the Python client's README.md ```python run (its output behind `# →`) and ```sh run (`$`, a
command, its output). `…` stands for anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import websocket_connect

from docs import generate
from server import config
from tests.support.processes import ROOT, Server

README = ROOT / "README.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
REST = ROOT / "docs" / "rest.md"
CLIENTS = ROOT / "docs" / "clients.md"
PYTHON_CLIENT = ROOT / "clients" / "python" / "README.md"
DOCUMENTS = ROOT / "docs" / "documents.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
ADDRESS = "127.0.0.1:8888"

PAGES = sorted([README, PYTHON_CLIENT, ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language} run\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_options_are_documented_from_the_code() -> None:
    """`make docs` brings the page up to date."""
    assert generate.page(CONFIGURATION.read_text()) == CONFIGURATION.read_text()


def test_every_option_is_described() -> None:
    assert [option.path for option in generate.options() if not option.description] == []


def test_every_option_is_in_config_yaml() -> None:
    text = (ROOT / "config.yaml").read_text()
    names = [option.path.rpartition(".")[2] for option in generate.options()]
    assert [name for name in names if not re.search(rf"\b{name}:", text)] == []


def test_config_yaml_has_the_defaults_of_the_code() -> None:
    written = config.load(ROOT / "config.yaml", {}, [])
    for section in ("server", "mongodb", "redis", "auth", "limits", "log", "metrics", "origins"):
        assert getattr(written, section) == getattr(config.Config(), section), section


# --- the pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:server|handlers|static|tests|docs)/[\w./-]+\.\w+)(?:::?\w+)?`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- what is shown, works ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = {  # docs/protocol.md uses them
        "shop": {"sha256": hashlib.sha256(b"the-key-of-the-shop").hexdigest()},
        "operator": {"sha256": hashlib.sha256(b"the-key-of-the-operator").hexdigest(), "admin": True},
    }
    one = Server(tmp_path_factory.mktemp("docs"), settings={"auth.api_keys": keys})
    asyncio.run(one.start())
    yield one
    asyncio.run(one.__aexit__(None, None, None))


def here(text: str, server: Server) -> str:
    return text.replace(ADDRESS, f"127.0.0.1:{server.port}")


def output_until(command: list[str], expected: str, within: float = 20.0, **options: Any) -> str:
    """What a program prints, which may run for ever, up to a line with `expected` (`…` stands for anything) or its
    end."""
    last = re.compile(re.escape(expected).replace("…", ".*"))

    async def run() -> str:
        child = await asyncio.create_subprocess_exec(
            *command, **{"cwd": ROOT, "env": with_client()} | options, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert child.stdout is not None
        seen = b""
        try:
            async with asyncio.timeout(within):
                while not last.search(seen.decode()) and (line := await child.stdout.readline()):
                    seen += line
        except TimeoutError:
            pass
        finally:
            if child.returncode is None:
                child.kill()
            await child.communicate()
        return seen.decode(errors="replace")

    return asyncio.run(run())


def with_client(**variables: str) -> dict[str, str]:
    """The environment in which `python` is this one and finds the client."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PYTHON_CLIENT.parent), **variables}


def test_the_readme_has_something_to_run() -> None:
    assert all(blocks(README, language) for language in ("sh", "python", "js"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_commands_of_the_readme(server: Server) -> None:
    for block in blocks(README, "sh"):
        for command in here(block, server).replace("\\\n", " ").splitlines():
            done = subprocess.run(
                ["sh", "-c", command.replace("curl ", "curl --silent --show-error --fail ", 1)],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            json.loads(done.stdout)


def test_the_python_client_of_the_readme(server: Server) -> None:
    for block in blocks(README, "python"):
        seen = output_until([sys.executable, "-u", "-c", here(block, server)], "Hello from Python")
        assert "Hello from Python" in seen, seen


def test_the_python_examples_of_the_python_client(server: Server, tmp_path: Path) -> None:
    for block in blocks(PYTHON_CLIENT, "python"):
        expected = re.findall(r"^# → (.*)$", block, re.MULTILINE)
        seen = output_until([sys.executable, "-u", "-c", here(block, server)], expected[-1], cwd=tmp_path)
        assert seen.splitlines()[: len(expected)] == expected


def test_the_command_line_of_the_python_client(server: Server) -> None:
    environment = with_client(WATERSPOUT_URL=server.base)
    for block in blocks(PYTHON_CLIENT, "sh"):
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = shown.splitlines()
            seen = output_until(["sh", "-c", f"exec {command}"], lines[-1], env=environment).splitlines()
            assert len(seen) == len(lines)
            for line, expected in zip(seen, lines, strict=True):
                assert re.fullmatch(re.escape(expected).replace("…", ".*"), line), (command, line)


def node() -> str | None:
    program = shutil.which("node")
    if program is None:
        return None
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return program if int(re.sub(r"^v(\d+)\..*", r"\1", version.strip()) or 0) >= 20 else None


@pytest.mark.skipif(node() is None, reason="Node 20 or newer is not installed")
@pytest.mark.parametrize("page", [README, CLIENTS], ids=lambda page: page.name)
def test_the_javascript_client(server: Server, page: Path) -> None:
    """A comment `// → …` says what is printed."""
    for block in blocks(page, "js"):
        said = re.search(r"^// → (.*)$", block, re.MULTILINE)
        expected = said[1] if said else "Hello from JavaScript"
        command = [str(node()), "--experimental-websocket", "--input-type=module", "-e", here(block, server)]
        assert expected in output_until(command, expected), block


def alike(expected: Any, actual: Any) -> bool:
    """`…` stands for anything; of a cursor only the offset counts, of an object every field."""
    if isinstance(expected, str) and "…" in expected:
        return True
    if isinstance(expected, str) and isinstance(actual, str) and re.fullmatch(r"[0-9a-z]+:\d+", expected):
        return expected.partition(":")[2] == actual.partition(":")[2]
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            name in ("session", "node", "time") or alike(value, actual[name]) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(alike, expected, actual))
    return bool(expected == actual)


def statements(block: str) -> Iterator[tuple[str, str]]:
    """(`→` or `←`, JSON); a statement goes on over indented lines."""
    for statement in re.split(r"\n(?=[→←])", block.strip()):
        yield statement[0], " ".join(line.strip() for line in statement[1:].splitlines()).strip()


def test_the_websocket_examples(server: Server) -> None:
    async def play(block: str) -> None:
        socket = await websocket_connect(server.ws)
        received: list[Any] = []
        try:
            for arrow, text in statements(block):
                if arrow == "→":
                    await socket.write_message(text)
                    continue
                expected = json.loads(text)
                async with asyncio.timeout(5):
                    while not any(alike(expected, push) for push in received):
                        message = await socket.read_message()
                        assert message is not None, f"closed {socket.close_code} before {text}; got {received}"
                        received.append(json.loads(message))
                received.remove(next(push for push in received if alike(expected, push)))
        except TimeoutError:
            pytest.fail(f"{text} did not come; left: {received}")
        finally:
            socket.close()
            while (message := await socket.read_message()) is not None:  # until the socket itself is closed
                received.append(json.loads(message))
        assert received == [], "more came than is shown"

    for block in blocks(PROTOCOL, "json") + blocks(DOCUMENTS, "json"):  # in their order: they build on one another
        asyncio.run(play(block))


def test_the_rest_examples(server: Server) -> None:
    async def play(block: str) -> None:
        parts = block.strip().split("\n\n")
        assert len(parts) % 2 == 0, "request, blank line, answer"
        for request, answer in list(pairwise(parts))[::2]:
            head, *lines = request.splitlines()
            method, path = head.split()
            headers = dict(line.split(": ", 1) for line in lines if re.match(r"[A-Z][\w-]+: ", line))
            body = "".join(line.strip() for line in lines if not re.match(r"[A-Z][\w-]+: ", line))
            status, *shown = answer.splitlines()
            got = await server.request(method, path, body.encode() or None, headers=headers)
            assert got.status == int(status), (request, got)
            assert alike(json.loads("".join(line.strip() for line in shown)), got.body), (request, got.body)

    for block in blocks(PROTOCOL, "http") + blocks(REST, "http") + blocks(DOCUMENTS, "http"):
        asyncio.run(play(block))


def test_the_phone_of_the_rest_page(server: Server) -> None:
    (block,) = blocks(REST, "python")
    done = subprocess.run(
        [sys.executable, "-c", here(block, server)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "before you came", "while you slept", "as it happens", "offset 4 a duplicate: True",
    ]  # fmt: skip


def test_the_protocol_has_examples() -> None:
    assert len(blocks(PROTOCOL, "json")) >= 5
    assert len(blocks(PROTOCOL, "http")) >= 3
