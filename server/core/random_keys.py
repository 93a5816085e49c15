"""Keys for messages whose publishers have none."""

from __future__ import annotations

import secrets
from typing import Final

_LENGTH: Final = 16
_AT_A_TIME: Final = 256


class RandomKeys:
    """Nobody can guess one, and they are drawn many at a time: one by one they would be a twentieth of a publish."""

    def __init__(self) -> None:
        self._drawn = ""
        self._at = 0

    def next(self) -> str:
        """96 random bits, as 16 characters that stand in a URL as they are."""
        if self._at == len(self._drawn):
            self._drawn = secrets.token_urlsafe(_LENGTH * 3 // 4 * _AT_A_TIME)
            self._at = 0
        start, self._at = self._at, self._at + _LENGTH
        return self._drawn[start : self._at]
