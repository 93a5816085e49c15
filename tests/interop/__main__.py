"""`make interop`: everything, as a table. `make interop ARGS="--only storm" CENTRIFUGE_JS=DIR`."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.interop import suites
from tests.interop.fetched import Missing
from tests.interop.product import product
from tests.interop.programs import STEPS, available
from tests.interop.storm import storm
from tests.support.process import ROOT

PARTS = ("behaviours", "centrifuge-js", "centrifuge-python", "cent", "storm", "product")
COUNT = 2000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable; without it, all")
    parser.add_argument("--count", type=int, default=COUNT, help=f"messages of the storm (default: {COUNT})")
    options = parser.parse_args(arguments)
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.system()}\n", flush=True)
    print("| | passed | failed | skipped | why |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="waterspout-interop-") as directory:
        for part in options.only or PARTS:
            try:
                asyncio.run(_PARTS[part](Path(directory), options.count))
            except Missing as missing:
                _row(part, 0, 0, 0, [f"not run: {missing}"])
    return 0


def _row(name: str, passed: int, failed: int, skipped: int, why: Iterable[str]) -> None:
    text = "; ".join(why).replace("|", "\\|").replace("\n", " ")
    print(f"| {name} | {passed} | {failed} | {skipped} | {text} |", flush=True)


def _results(label: str, results: Iterable[suites.Result]) -> None:
    for one in results:
        why = [f"{test}: {reason}" for test, reason in one.failed.items()]
        _row(f"{label}{one.name}", one.passed, len(one.failed), one.skipped, why)


async def _behaviours(directory: Path, count: int) -> None:
    async with suites.server(directory, None, port=None) as server:
        _results("", [await suites.behaviours(server.base)])


async def _centrifuge_js(directory: Path, count: int) -> None:
    checkout = os.environ.get("CENTRIFUGE_JS")
    if not checkout:
        raise Missing("CENTRIFUGE_JS names no checkout of its repository; the behaviours stand in for it")
    async with suites.server(directory, None):
        _results("centrifuge-js, ", await suites.javascript(Path(checkout)))


async def _centrifuge_python(directory: Path, count: int) -> None:
    async with suites.server(directory, None):
        _results("centrifuge-python, ", await suites.python())


async def _cent(directory: Path, count: int) -> None:
    """What the suite says of it already, in numbers."""
    report = directory / "cent.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "tests/integration/test_centrifugo_api.py"]
    command += ["-k", "python_library"]
    await asyncio.to_thread(subprocess.run, command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)
    _results("", [suites.junit(suites.Result("cent (PyPI)"), "", report)])


async def _storm(directory: Path, count: int) -> None:
    found, missing = await asyncio.to_thread(available)
    for program, why in (await storm(found, directory, None, count)).items():
        steps = len(STEPS) + 1
        _row(f"{program}", steps - len(why), len(why), 0, [f"{step}: {reason}" for step, reason in why.items()])
    for name, reason in missing.items():
        _row(name, 0, 0, 0, [f"not run: {reason}"])


async def _product(directory: Path, count: int) -> None:
    _results("", await product(directory))


_PARTS = {
    "behaviours": _behaviours,
    "centrifuge-js": _centrifuge_js,
    "centrifuge-python": _centrifuge_python,
    "cent": _cent,
    "storm": _storm,
    "product": _product,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
