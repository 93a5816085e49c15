"""`make setup` ends with this: does what was installed run on this machine? One line about what is missing."""

from __future__ import annotations

import subprocess
import sys

from server.core.errors import StartError
from server.mongo.embedded import find_mongod


def main() -> int:
    try:
        binary = find_mongod()
    except StartError as error:
        print(f"note: {error}", file=sys.stderr)
        return 0
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it does not start"]
        hint = "apt-get install libcurl4" if "libcurl" in reason[0] else "see docs/operations.md"
        print(f"mongod: {reason[0]} ({hint})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
