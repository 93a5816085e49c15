"""What is fetched from the registries: at exact versions, once, into a folder that git ignores."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FETCHED = HERE.parents[1] / ".interop"
PYTHON_CLIENT = "0.7.0"
"""Of centrifuge-python: pyproject.toml has the same."""


class Missing(Exception):
    """What cannot be had on this machine; the text says why."""


def javascript() -> Path:
    """The folder with the program and node_modules."""
    tool("node")
    return _made("js", "js", lambda home: run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], home))


def axe() -> Path:
    """The script that looks for what keeps people from using a page."""
    tool("npm")
    home = _made(
        "axe", "axe", lambda home: run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], home)
    )
    return home / "node_modules" / "axe-core" / "axe.min.js"


def mongodb() -> Path:
    """The folder with MongoDB's driver for Node and its shell in node_modules."""
    tool("node")
    command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    return _made("mongodb", "mongodb", lambda home: run(command, home))


def go() -> Path:
    """The program."""
    tool("go")

    def build(home: Path) -> None:
        run(["go", "mod", "tidy"], home)
        run(["go", "build", "-o", "program", "."], home)

    return _made("go", "go", build) / "program"


def java() -> list[str]:
    """The command of the program."""
    tool("java")
    tool("mvn")
    goals = ["package", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    home = _made("java", "java", lambda home: run(["mvn", "--quiet", "--batch-mode", *goals], home))
    return ["java", "-cp", f"{home}/target/interop-1.jar:{home}/target/dependency/*", "Program"]


def python_sources() -> Path:
    """The source distribution of centrifuge-python, which has its tests."""
    name = f"centrifuge_python-{PYTHON_CLIENT}"

    def build(home: Path) -> None:
        home.mkdir()
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        run([*fetch, "--dest", str(home), f"centrifuge-python=={PYTHON_CLIENT}"], home)
        with tarfile.open(next(home.glob("*.tar.gz"))) as archive:
            archive.extractall(home, filter="data")

    return _once("python", PYTHON_CLIENT, build) / name


def javascript_checkout(checkout: Path) -> Path:
    """A copy of a checkout of centrifuge-js, with what its tests need."""
    if not (checkout / "package.json").is_file():
        raise Missing(f"{checkout} is no checkout of centrifuge-js")
    tool("node")

    def build(home: Path) -> None:
        shutil.copytree(checkout, home, ignore=shutil.ignore_patterns("node_modules", ".git"))
        run(["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"], home)

    pins = "".join((checkout / name).read_text() for name in ("package.json", "yarn.lock"))
    return _once("centrifuge-js", pins + str(checkout), build)


def tool(name: str) -> None:
    if shutil.which(name) is None:
        raise Missing(f"{name} is not here")


def run(command: Sequence[str], home: Path, within: float = 600) -> None:
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        list(command), cwd=home, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=within,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise Missing(f"{' '.join(command[:3])}: {said[-1][:200]}")


def _made(name: str, source: str, build: Callable[[Path], None]) -> Path:
    """A copy of a folder of ours, built."""
    files = sorted(path for path in (HERE / source).rglob("*") if path.is_file())

    def copy_and_build(home: Path) -> None:
        shutil.copytree(HERE / source, home)
        build(home)

    return _once(name, "".join(path.read_text() for path in files), copy_and_build)


def _once(name: str, pins: str, build: Callable[[Path], None]) -> Path:
    """The folder `name`, built unless it was built from the same before."""
    home, digest = FETCHED / name, hashlib.sha256(pins.encode()).hexdigest()
    stamp = FETCHED / f"{name}.built-from"
    if stamp.exists() and stamp.read_text() == digest:
        return home
    shutil.rmtree(home, ignore_errors=True)
    FETCHED.mkdir(exist_ok=True)
    try:
        build(home)
    except (Missing, OSError, subprocess.TimeoutExpired, tarfile.TarError) as error:
        shutil.rmtree(home, ignore_errors=True)
        raise Missing(str(error)) from error
    stamp.write_text(digest)
    return home
