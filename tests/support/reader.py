"""Somebody who reads a page of the documentation and does what it says: commands, programs, files, in their order.

A fenced block says in its first line what it is: ```sh run, ```python run, ```js run. What it is said to print stands
behind `$ command` lines, or in comments `# → …` and `// → …`; `…` is anything, and alone in a line any lines.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.processes import ROOT, Mongod, Server, free_port

ADDRESS = "127.0.0.1:8888"
OTHER = "127.0.0.1:8000"
"""Where a web server of the reader's own is."""
COPIED = ("Makefile", "requirements.lock", "run.py", "config.yaml", "server", "handlers", "static", "docs", "clients")
INSTALLED = {"git", "make", "python3-venv", "libcurl4"}
"""What a fresh Debian needs besides what .ci/run installs by itself."""
PRELUDE = """\
curl() { command curl --silent --show-error --fail "$@"; }
pip() { python -m pip "$@" --quiet --dry-run --no-index --no-deps --no-build-isolation --disable-pip-version-check; }
"""
"""The server's refusals count, and nothing is fetched or installed."""


class Block(NamedTuple):
    info: str
    text: str
    line: int


def blocks(page: Path, *infos: str) -> list[Block]:
    """The fenced blocks of a page, those inside lists too; of these kinds, or all."""
    text = page.read_text()
    found = []
    for match in re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE):
        inside = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(match[2].strip(), inside, text.count("\n", 0, match.start()) + 1))
    return [block for block in found if not infos or block.info in infos]


def pattern(lines: Sequence[str]) -> re.Pattern[str]:
    """Of what is printed, from its first line on."""
    parts = [r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines[:-1]]
    return re.compile("".join(parts) + re.escape(lines[-1]).replace("…", ".*"))


def node() -> list[str] | None:
    """The command line of a Node with a WebSocket, or None: 20 or newer is needed."""
    program = shutil.which("node")
    if program is None:
        return None
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    major = int(re.sub(r"^v(\d+)\..*", r"\1", version.strip()) or 0)
    return None if major < 20 else [program, *(["--experimental-websocket"] if major < 22 else [])]


class Reader:
    """A reader with a copy of the project, in which the page's files are made and `make run` starts the server. It has
    a database of its own in a MongoDB that runs already: one for each reader would take as long as all the rest."""

    def __init__(self, directory: Path, mongod: Mongod, settings: dict[str, Any]) -> None:
        self.home = directory / "home"
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            self.home.mkdir(exist_ok=True)
            copy(ROOT / name, self.home / name)
        (self.home / ".venv").symlink_to(sys.prefix)
        self._database = f"reader_{uuid.uuid4().hex[:12]}"
        self._settings = settings
        self._token: dict[str, str] = {}
        """By the configuration that it was made with."""
        self._server = Server(directory, mongod.uri)
        self._server.root = self.home
        self.other = f"127.0.0.1:{free_port()}"

    @property
    def base(self) -> str:
        return self._server.base

    def close(self) -> None:
        asyncio.run(self._server.__aexit__(None, None, None))

    def follow(self, page: Path) -> None:
        for block in blocks(page, "sh run", "python run", "js run"):
            try:
                self._follow(block)
            except AssertionError as error:
                raise AssertionError(f"{page.name}, line {block.line}: {error}") from None

    def _follow(self, block: Block) -> None:
        if block.info == "sh run":
            self._shell(block.text)
            return
        text = self._here(block.text)
        if block.info == "python run":
            expected = re.findall(r"^# → (.*)$", block.text, re.MULTILINE)
            self._run([sys.executable, "-u", "-c", text], expected)
        elif program := node():
            expected = re.findall(r"^// → (.*)$", block.text, re.MULTILINE)
            self._run([*program, "--input-type=module", "-e", text], expected)

    def _shell(self, text: str) -> None:
        if text.startswith("$ "):
            for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, *lines = shown.rstrip("\n").split("\n")
                command = re.sub(r"^curl ", "curl --silent --show-error ", self._here(command))
                self._run(["sh", "-c", f"exec {command}"], lines)
            return
        script = ""
        for line in text.splitlines(keepends=True):
            if line.startswith(("make ", "apt-get ")):
                self._script(script)
                script = ""
                self._make(line) if line.startswith("make ") else self._install(line)
            else:
                script += line
        self._script(script)

    def _script(self, text: str) -> None:
        if text.strip():
            # What starts another server is only asked whether it would.
            text = re.sub(r"^(\S*python run\.py --.*)$", r"\1 --check-config", self._here(text), flags=re.MULTILINE)
            self._run(["sh", "-e", "-c", PRELUDE + text], [])

    def _make(self, line: str) -> None:
        target, *rest = shlex.split(line, comments=True)[1:]
        if target != "run":
            self._run(["make", "--dry-run", target, *rest], [])
            return
        arguments = shlex.split(dict(one.split("=", 1) for one in rest).get("ARGS", ""))
        settings = {} if "--config" in arguments else self._settings
        self._server.settings = {**settings, "mongodb.database": self._database}
        self._server.arguments = tuple(arguments)
        if self._server.running:
            asyncio.run(self._server.kill())
        asyncio.run(self._server.start())

    def _install(self, line: str) -> None:
        assert set(shlex.split(line)[2:]) == INSTALLED

    def _here(self, text: str) -> str:
        """The text for the server as it runs here, which is started if the text speaks of it."""
        if (ADDRESS in text or "waterspout_client" in text or "seed" in text) and not self._server.running:
            self._make("make run")
        return text.replace(ADDRESS, f"127.0.0.1:{self._server.port}").replace(OTHER, self.other)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        more = {
            "PATH": path,
            "WATERSPOUT_URL": self._server.base,
            "WATERSPOUT__SERVER__PORT": str(self._server.port),
            "WATERSPOUT__MONGODB__URI": str(self._server.mongodb_uri),
            "WATERSPOUT__MONGODB__DATABASE": self._database,
        }
        if (mine := self.home / "my.yaml").exists():
            if (text := mine.read_text()) not in self._token:
                self._token[text] = subprocess.run(
                    [sys.executable, "run.py", "token", "--config", "my.yaml", "--user", "ann"],
                    cwd=self.home, capture_output=True, text=True, check=True,
                ).stdout.strip()  # fmt: skip
            more["TOKEN"] = self._token[text]
        return {**os.environ, **more}

    def _run(self, command: list[str], expected: Sequence[str]) -> None:
        """To its end, which has to be a good one; or, where it is said what it prints, until it has printed that."""
        wanted = pattern(expected) if expected else None

        async def run() -> tuple[str, int | None]:
            child = await asyncio.create_subprocess_exec(
                *command, cwd=self.home, env=self._environment(), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            assert child.stdout is not None
            seen = b""
            try:
                async with asyncio.timeout(60):
                    while line := await child.stdout.readline():
                        seen += line
                        if wanted and wanted.match(seen.decode()):
                            break
                    else:
                        await child.wait()
            except TimeoutError:
                pass
            code = child.returncode
            if code is None:
                child.kill()
            await child.communicate()
            return seen.decode(errors="replace"), code

        seen, code = asyncio.run(run())
        if wanted:
            assert wanted.match(seen), f"{command[-1]}\nprinted\n{seen}"
        else:
            assert code == 0, f"{command[-1]}\nended with {code}\n{seen}"
