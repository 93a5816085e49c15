"""Foreign clients' own tests, as they are, against our server on port 8000."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.interop import fetched
from tests.interop.servers import SETTINGS
from tests.support.processes import Mongod, Server

PORT = 8000
TEST_WITHIN = 60
SUITE_WITHIN = 420.0


ABSENT = {"map.": "map subscriptions", "shared_poll.": "shared polls"}
"""How the names of test files of centrifuge-js begin that are about nothing else."""


@dataclass
class Result:
    """Of one suite, or one file of it."""

    name: str
    passed: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Test → why."""


@contextlib.asynccontextmanager
async def server(directory: Path, mongod_uri: str | None, port: int | None = PORT) -> AsyncIterator[Server]:
    """As the suites expect theirs. `port`: None for any."""
    async with contextlib.AsyncExitStack() as stack:
        if mongod_uri is None:
            mongod_uri = (await stack.enter_async_context(Mongod(directory / "mongod"))).uri
        settings = SETTINGS | {"mongodb.database": f"suite_{uuid.uuid4().hex[:8]}", "mongodb.dedupe_window": 0}
        yield await stack.enter_async_context(Server(directory, mongod_uri, settings=settings, port=port))


async def javascript(checkout: Path) -> list[Result]:
    """Those of centrifuge-js, from a checkout; a file at a time, so that one that hangs is one that fails."""
    home = await asyncio.to_thread(fetched.javascript_checkout, checkout)
    results = []
    for path in sorted((home / "src").glob("*.test.ts")):
        absent = next((what for name, what in ABSENT.items() if path.name.startswith(name)), None)
        if absent is not None:
            results.append(Result(path.name, failed={"(not run)": f"{absent} are absent"}))
        elif ".bench." not in path.name:
            report = home / f"{path.name}.json"
            command = ["npx", "jest", f"src/{path.name}", "--forceExit", "--json", f"--outputFile={report}"]
            ended = await _run([*command, f"--testTimeout={TEST_WITHIN * 250}"], home)
            results.append(_jest(path.name, report, ended))
    return results


def _jest(name: str, report: Path, ended: bool) -> Result:
    result = Result(name)
    if not report.exists():
        result.failed["(all)"] = "it could not be run" if ended else f"not over within {SUITE_WITHIN:.0f} s"
        return result
    for file in json.loads(report.read_text())["testResults"]:
        if not file["assertionResults"]:
            result.failed["(all)"] = _brief(file["message"])
        for test in file["assertionResults"]:
            if test["status"] == "passed":
                result.passed += 1
            elif test["status"] == "failed":
                result.failed[test["fullName"]] = _brief(" ".join(test["failureMessages"]))
            else:
                result.skipped += 1
    return result


async def python() -> list[Result]:
    """centrifuge-python's, from its source distribution; each test has a time limit of its own."""
    home = await asyncio.to_thread(fetched.python_sources)
    results = []
    for path in sorted((home / "tests").glob("test_*.py")):
        result = Result(path.name)
        needs_server = "8000" in path.read_text() or "require_centrifugo" in path.read_text()
        tests = await _collect(path, home) if needs_server else [f"tests/{path.name}"]
        for test in tests:
            report = home / "report.xml"
            report.unlink(missing_ok=True)
            await _run([*_PYTEST, f"--junitxml={report}", test], home, within=TEST_WITHIN * (1 if needs_server else 3))
            junit(result, test, report)
        results.append(result)
    return results


_PYTEST = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-c",
    os.devnull,
    "--rootdir=.",
    "--confcutdir=.",
]


async def _collect(path: Path, home: Path) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *_PYTEST, "--collect-only", f"tests/{path.name}", cwd=home, stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    said, _ = await process.communicate()
    return [
        line for line in said.decode().splitlines() if "::Test" in line
    ]  # functions that make tokens have such names


def junit(result: Result, test: str, report: Path) -> Result:
    """What a run of pytest says, of one test or of several, added to the result."""
    if not report.exists():
        result.failed[test.partition("::")[2] or "(all)"] = f"not over within {TEST_WITHIN} s"
        return result
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [one for one in case if one.tag in ("failure", "error")]
        if faults:
            result.failed[f"{case.get('name')}"] = _brief(faults[0].get("message") or faults[0].text or "")
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1
    return result


async def behaviours(base: str) -> Result:
    """Of the npm package, written anew for when there is no checkout."""
    home = await asyncio.to_thread(fetched.javascript)
    process = await asyncio.create_subprocess_exec(
        "node", "--test", "--test-reporter=tap", "behaviours.test.mjs", cwd=home,
        env={**os.environ, "INTEROP_BASE": base}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SUITE_WITHIN):
            said, _ = await process.communicate()
    finally:
        _end(process)
    result = Result("behaviours of the npm package")
    lines = said.decode(errors="replace").splitlines()
    for at, line in enumerate(lines):
        found = re.match(r"\s*(not ok|ok) \d+ - (.*)", line)
        if found and found[1] == "ok" and not found[2].endswith(".mjs"):
            result.passed += 1
        elif found and found[1] == "not ok" and not found[2].endswith(".mjs"):
            why = next((one for one in lines[at : at + 30] if one.strip().startswith("error:")), "")
            result.failed[found[2]] = _brief(why.replace("error:", ""))
    if not result.passed and not result.failed:
        result.failed["(all)"] = _brief(" ".join(lines[-5:]))
    return result


async def _run(command: list[str], home: Path, within: float = SUITE_WITHIN) -> bool:
    """Whether it has ended by itself. What it says is not looked at: reports are files."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=home, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(within):
            await process.wait()
        return True
    except TimeoutError:
        return False
    finally:
        _end(process)


def _end(process: asyncio.subprocess.Process) -> None:
    """With its children: it leads a session of its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _brief(text: str) -> str:
    """The first line that says something, for a table."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return next((line.strip()[:160] for line in plain.splitlines() if line.strip()), "")
