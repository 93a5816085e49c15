"""`run.py new my-app`: a folder with a page, a configuration, a rule in Python and a README, to begin with."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

from server.core.errors import StartError

STARTER: Final = Path(__file__).with_name("starter")


def run(folder: Path, command: str) -> int:
    """`command`: how the server is started here."""
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise StartError(f"new: {name!r}: expected letters, digits, `_`, `.` and `-`")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartError(f"new: {folder} is there already, and not empty")
    words = {"MY_APP": name, "SECRET": secrets.token_urlsafe(32), "COMMAND": command}
    pattern = re.compile("|".join(words))
    try:
        for source in sorted(STARTER.rglob("*")):
            if source.is_file() and source.suffix != ".pyc":
                made = folder / source.relative_to(STARTER)
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_text(pattern.sub(lambda word: words[word[0]], source.read_text()))
        (folder / "config.yaml").chmod(0o600)  # it holds a secret
    except OSError as error:
        raise StartError(f"new: {error.filename}: {error.strerror}") from None
    print(f"{folder} is made. To start it:\n\n  cd {folder}\n  {command} --config config.yaml\n")
    print("Then open http://127.0.0.1:8888/; README.md there says what is what.")
    return 0
