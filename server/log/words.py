"""The words of messages, by which they are found.

Words are what Unicode takes for letters and digits, without case and accents. Scripts that do without spaces (Chinese,
Japanese) are taken apart into characters, all of which have to be there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, NamedTuple

MAX_WORDS: Final = 200
"""Different ones of a message; those behind are not found."""
MAX_WORD: Final = 32
"""Characters by which a word is known."""
MAX_TEXT: Final = 16384
"""Characters of a message that are looked at."""
ASKED: Final = 8
"""Words of a question."""

_NO_SPACES: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD: Final = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+")


class Question(NamedTuple):
    """What has to be in a message: `words`, and one that begins with `prefix` ("": any)."""

    words: tuple[str, ...]
    prefix: str

    def fits(self, words: frozenset[str]) -> bool:
        return words.issuperset(self.words) and (not self.prefix or any(word.startswith(self.prefix) for word in words))


def words_in(text: str) -> list[str]:
    """In their order."""
    return [word[:MAX_WORD] for word in _WORD.findall(_plain(text))]


def words_of(data: Any) -> list[str]:
    """The different words of all strings in what a message says; names of members are none."""
    words: dict[str, None] = {}
    room = MAX_TEXT
    level = [data]
    while level and room > 0 and len(words) < MAX_WORDS:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                words |= dict.fromkeys(words_in(item[: max(0, room)]))
                room -= len(item)
            elif isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return list(words)[:MAX_WORDS]


def question(text: str) -> Question:
    """The last word may be the beginning of one, unless something stands behind it."""
    plain = _plain(text)
    words = [word[:MAX_WORD] for word in _WORD.findall(plain)][:ASKED]
    open_ended = bool(words) and _WORD.fullmatch(plain[-1]) is not None
    prefix = words.pop() if open_ended and len(words[-1]) < MAX_WORD else ""
    return Question(tuple(dict.fromkeys(words)), prefix)


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")
