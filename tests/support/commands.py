"""`run.py` on the command line, and what belongs to a server that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import ROOT
from tests.support.server import Server


async def called(*flags: str, environment: Mapping[str, str] | None = None, within: float = 30) -> tuple[int, str]:
    """Run it to its end: the exit code, and what it has said on both of its outputs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "run.py"), *flags),
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def refused(*flags: str, environment: Mapping[str, str] | None = None, within: float = 30) -> str:
    """Start it where it has to give up: its last words, having checked that they are one line for people."""
    code, text = await called(*flags, environment=environment, within=within)
    assert code == 1, text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    assert lines[0].startswith("waterspout: ")
    return lines[0]


def chromium() -> str | None:
    """The browser of the tests, if there is one. The shell without windows takes a seventh of the time for each tab:
    the others make a whole window of a browser, which nobody sees."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def mongods(server: Server) -> list[int]:
    """The pids of the server's own mongod."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if b"mongod" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def alive(pid: int) -> bool:
    try:
        # A zombie (an orphan that nobody has collected yet) has ended.
        return _state(Path(f"/proc/{pid}")) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(pid: int) -> bool:
    """Whether a SIGSTOP has reached all of its threads."""
    return all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir())


def _state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]
