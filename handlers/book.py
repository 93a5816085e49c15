"""The documentation as a book: its chapters in their order, and an index of what stands where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from server.wire.codec import JSON

_PARTS: Final = {
    "Begin": {
        "/README.md": "README",
        "/docs/quick-start.md": "Quick start",
        "/docs/concepts.md": "Concepts",
    },
    "Build": {
        "/docs/clients.md": "JavaScript client",
        "/clients/python/README.md": "Python client",
        "/docs": "REST API",
        "/docs/rest.md": "REST in use",
        "/docs/rooms.md": "Rooms",
        "/docs/members.md": "Members",
        "/docs/documents.md": "Live documents",
        "/docs/accounts.md": "Accounts",
        "/docs/calls.md": "Calls",
        "/docs/consumers.md": "Consumers",
        "/docs/centrifugo.md": "Centrifugo's clients",
        "/docs/protocol.md": "Protocol",
    },
    "Run": {
        "/docs/configuration.md": "Configuration",
        "/docs/operations.md": "Operations",
        "/docs/security.md": "Security",
        "/docs/faults.md": "Fault plan",
        "/docs/benchmarks.md": "Benchmarks",
    },
    "Within": {
        "/docs/architecture.md": "Architecture",
        "/docs/life-of-a-message.md": "Life of a message",
        "/docs/design-notes.md": "Design notes",
        "/docs/contributing.md": "Contributing",
        "/docs/dependencies.md": "Dependencies",
        "/CHANGELOG.md": "Changelog",
    },
}
REFERENCE: Final = "/docs"
"""The one chapter that is no file: made of the OpenAPI document."""
_BEFORE: Final = "Run"
"""Chapters that nobody has given a place stand at the end of the part before this one."""


class Chapter(NamedTuple):
    path: str
    name: str


class Heading(NamedTuple):
    level: int
    id: str
    text: str


def slug(heading: str) -> str:
    """As GitHub makes it, so that links work in both places."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def parts(root: Path) -> dict[str, list[Chapter]]:
    """Those that are there, a file of docs/ without a place among them included."""
    book = {
        name: [Chapter(*one) for one in chapters.items() if one[0] == REFERENCE or (root / one[0][1:]).is_file()]
        for name, chapters in _PARTS.items()
    }
    placed = {chapter.path for chapters in book.values() for chapter in chapters}
    names = list(book)
    last = book[names[names.index(_BEFORE) - 1]]
    for file in sorted((root / "docs").glob("*.md")):
        if f"/docs/{file.name}" not in placed:
            last.append(Chapter(f"/docs/{file.name}", file.stem.replace("-", " ").capitalize()))
    return book


def neighbours(root: Path, path: str) -> tuple[Chapter | None, Chapter | None]:
    """The chapters before and behind one."""
    chapters = [None, *(chapter for part in parts(root).values() for chapter in part), None]
    for before, here, behind in zip(chapters, chapters[1:], chapters[2:], strict=False):
        if here is not None and here.path == path:
            return before, behind
    return None, None


def search_index(root: Path) -> bytes:
    """JSON: `pages`, [path, name] each, and `sections`, [number of the page, heading, its id, text] each."""
    chapters = [chapter for part in parts(root).values() for chapter in part if chapter.path != REFERENCE]
    return _index(root, tuple(chapters), *((root / one.path[1:]).stat().st_mtime_ns for one in chapters))


@lru_cache(maxsize=1)
def _index(root: Path, chapters: tuple[Chapter, ...], *_versions: int) -> bytes:
    sections = [
        [number, heading, id, text]
        for number, chapter in enumerate(chapters)
        for heading, id, text in _sections((root / chapter.path[1:]).read_text(encoding="utf-8"))
    ]
    return JSON.encode({"pages": [list(one) for one in chapters], "sections": sections})


def _sections(text: str) -> Iterator[tuple[str, str, str]]:
    """(heading, its id, what stands below it as plain text) of a page."""
    heads = [match for match in re.finditer(r"^#{1,3} (.+)$", text, re.MULTILINE) if not _in_code(text, match.start())]
    for head, following in pairwise([*heads, None]):
        assert head is not None
        below = text[head.end() : following.start() if following else len(text)]
        title = _plain(head[1])
        yield title, slug(head[1]), _plain(below)


def _in_code(text: str, at: int) -> bool:
    return text.count("\n```", 0, at) % 2 == 1


def _plain(text: str) -> str:
    text = re.sub(r"^[ ]*```.*$|^<!--.*-->$|^\|[-:| ]+\|$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[\s|]+", " ", re.sub(r"[`*]|^#+ ", "", text, flags=re.MULTILINE)).strip()
