"""The server as a package. `home/` is the project's folder as it lies in its repository: what is in there finds its
files and its modules as it does there."""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).with_name("home")


def main() -> int:
    sys.path.insert(0, str(HOME))
    import run

    code: int = run.main(sys.argv[1:])
    return code
