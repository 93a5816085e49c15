"""The documentation as pages: docs/, the README files and CHANGELOG.md, rendered from what they are."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.template import Template

from handlers import book
from handlers.pages import ROOT, STATIC, Page

if TYPE_CHECKING:
    from markdown_it.token import Token

TEMPLATE = STATIC / "prose.html"


class Made(Page):
    """What is made of files instead of being one: of the content that is asked for, `content` says all."""

    @classmethod
    def content(cls, path: Path) -> bytes:
        raise NotImplementedError

    async def get(self, path: str, include_body: bool = True) -> None:
        named = Path(self.get_absolute_path(self.root, path))
        with suppress(OSError):  # such as of a name that is too long: then there is nothing of that name
            if named.is_file():
                await asyncio.to_thread(self.content, named)  # made once, and not on the loop
        await super().get(path, include_body)

    def get_content_size(self) -> int:
        return len(self.content(Path(self.absolute_path or "")))

    @classmethod
    def get_content(
        cls, abspath: str, start: int | None = None, end: int | None = None
    ) -> Generator[bytes, None, None]:
        yield cls.content(Path(abspath))[start:end]

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        return hashlib.sha256(cls.content(Path(abspath))).hexdigest()[:32]


class DocumentationPage(Made):
    """A Markdown file, as HTML."""

    def get_content_type(self) -> str:
        return "text/html; charset=utf-8"

    @classmethod
    def content(cls, path: Path) -> bytes:
        return _page(path, path.stat().st_mtime_ns, TEMPLATE.stat().st_mtime_ns)


class SearchIndex(Made):
    """What stands where in the documentation: `book.search_index`. Compressed, which every browser takes."""

    def get_content_type(self) -> str:
        return "application/json"

    @classmethod
    def content(cls, path: Path) -> bytes:
        return _compressed(book.search_index(ROOT))

    def set_extra_headers(self, path: str) -> None:
        super().set_extra_headers(path)
        self.set_header("Content-Encoding", "gzip")


@lru_cache(maxsize=1)
def _compressed(index: bytes) -> bytes:
    return gzip.compress(index, 6, mtime=0)


@lru_cache(maxsize=32)
def _page(path: Path, *_versions: int) -> bytes:
    from markdown_it import MarkdownIt  # here, as a start should not wait for it

    options = {"html": True, "highlight": _highlight}  # ours: nobody else's HTML is in it
    markdown = MarkdownIt("commonmark", options).enable("table")
    environment: dict[str, Any] = {}
    tokens = markdown.parse(path.read_text(encoding="utf-8"), environment)
    headings = _dress(tokens)
    title = next((one.text for one in headings), path.name)
    content = markdown.renderer.render(tokens, markdown.options, environment)
    # Wide ones scroll by themselves, not the page.
    content = content.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    content = content.replace("<pre>", '<pre tabindex="0">')
    head, closed, rest = content.partition("</h1>")
    here = f"/{path.relative_to(ROOT)}"
    before, behind = book.neighbours(ROOT, here)
    return Template(TEMPLATE.read_text(encoding="utf-8")).generate(
        title=title, head=head + closed, content=rest, here=here, parts=book.parts(ROOT), before=before, behind=behind,
        outline=[one for one in headings if one.level in (2, 3)],
    )  # fmt: skip


def _dress(tokens: list[Token]) -> list[book.Heading]:
    """Headings have names, and are returned; columns to the right have a class, since the policy of our pages allows no
    styles in the text."""
    headings = []
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            text = tokens[at + 1].content
            token.attrSet("id", book.slug(text))
            headings.append(book.Heading(int(token.tag[1:]), book.slug(text), text.replace("`", "")))
        elif token.attrs.pop("style", None):
            token.attrSet("class", "right")
    return headings


def _highlight(code: str, info: str, _attributes: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(info.split()[0] if info.split() else "text")
    except ClassNotFound:
        return escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))
