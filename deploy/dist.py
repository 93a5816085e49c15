"""`make dist`: what one installs, built into a folder: wheels of the server and of the Python client, and the package
of the JavaScript client. `dist.py FOLDER server` builds the server's alone.

Each is put together in a folder of its own first, so that nothing is left in the source. The server's wheel has the
project as it lies here, below `waterspout/home/`: pages, documentation and the default configuration included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = (
    *("run.py", "config.yaml", "README.md", "CHANGELOG.md", "LICENSE", "server", "handlers", "static", "docs"),
    *("clients/python/README.md", "bench/results"),
)
UNWANTED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build", "*.json.gz")
SETUPTOOLS = """
[project.scripts]
waterspout = "waterspout:main"

[tool.setuptools]
packages = ["waterspout"]

[tool.setuptools.package-data]
waterspout = ["home/**/*", "home/**/.*"]
"""


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=UNWANTED)
    else:
        shutil.copy(source, target)


def server(folder: Path, out: Path) -> None:
    copy(ROOT / "deploy" / "package" / "waterspout", folder / "waterspout")
    for name in HOME:
        copy(ROOT / name, folder / "waterspout" / "home" / name)
    project, _, _ = (ROOT / "pyproject.toml").read_text().partition("\n[build-system]")
    build = '\n[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
    (folder / "pyproject.toml").write_text(project + build + SETUPTOOLS)
    wheel(folder, out)


def python(folder: Path, out: Path) -> None:
    copy(ROOT / "clients" / "python", folder)
    wheel(folder, out)


def wheel(folder: Path, out: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(folder)], check=True)


def javascript(folder: Path, out: Path) -> None:
    copy(ROOT / "clients" / "javascript", folder)
    for name in ("waterspout.js", "waterspout.d.ts", "waterspout"):
        copy(ROOT / "static" / name, folder / name)
    copy(ROOT / "LICENSE", folder / "LICENSE")
    npm = ["npm", "pack", "--silent", "--pack-destination", str(out)]
    subprocess.run(npm, cwd=folder, check=True, stdout=subprocess.DEVNULL)


PACKAGES = {"server": server, "python": python, "javascript": javascript}


def main(out: Path, names: list[str]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    missing = "javascript" in names and shutil.which("npm") is None
    with tempfile.TemporaryDirectory() as made:
        for name in names:
            if name == "javascript" and missing:
                print("no npm on PATH: the JavaScript package is left out", file=sys.stderr)
            else:
                PACKAGES[name](Path(made) / name, out)
    for one in sorted(out.iterdir()):
        print(f"{one}  {one.stat().st_size / 1000:.0f} kB")
    return int(missing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve(), sys.argv[2:] or list(PACKAGES)))
