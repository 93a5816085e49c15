"""Where a program keeps its cursors, so that it continues after a restart of its own."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Protocol


class Cursors(Protocol):
    """Both are called in the event loop, `save` after every event: they have to be quick."""

    def load(self, channel: str) -> str | None: ...

    def save(self, channel: str, cursor: str) -> None: ...


logger = logging.getLogger("waterspout_client")


def load(cursors: Cursors, channel: str) -> str | None:
    """Where the program stopped, as far as that can be read: what is kept may be damaged, and the channel is not."""
    try:
        kept: object = cursors.load(channel)
    except Exception as error:
        logger.warning("%s: from now on, since its cursor cannot be read: %r", channel, error)
        return None
    if kept is None or (isinstance(kept, str) and kept):
        return kept
    logger.warning("%s: from now on, since what is kept is no cursor", channel)
    return None


class FileCursors:
    """A JSON file, replaced as a whole and synchronized at each step. One program, one file. It survives `kill -9`; the
    step before a power failure may be missing, and then those messages come again. ValueError if it is another file."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            kept = json.loads(self._path.read_text())
        except FileNotFoundError:
            kept = {}
        except ValueError as error:
            raise ValueError(f"{path}: not a file of cursors: {error}") from None
        if not isinstance(kept, dict):
            raise ValueError(f"{path}: not a file of cursors")
        self._cursors: dict[str, str] = kept

    def load(self, channel: str) -> str | None:
        return self._cursors.get(channel)

    def save(self, channel: str, cursor: str) -> None:
        self._cursors[channel] = cursor
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w") as file:
            file.write(json.dumps(self._cursors))
            file.flush()
            os.fsync(file.fileno())  # else some file systems have the new name before the new content
        os.replace(beside, self._path)
