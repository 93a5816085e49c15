"""The documentation as pages: docs/, the two README files and CHANGELOG.md, rendered from what they are."""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.template import Template

from handlers.pages import ROOT, STATIC, Page

if TYPE_CHECKING:
    from markdown_it.token import Token

TEMPLATE = STATIC / "prose.html"


class DocumentationPage(Page):
    """A Markdown file, as HTML."""

    def get_content_type(self) -> str:
        return "text/html; charset=utf-8"

    def get_content_size(self) -> int:
        return sum(map(len, self.get_content(self.absolute_path or "")))

    @classmethod
    def get_content(
        cls, abspath: str, start: int | None = None, end: int | None = None
    ) -> Generator[bytes, None, None]:
        path = Path(abspath)
        yield _page(path, path.stat().st_mtime_ns, TEMPLATE.stat().st_mtime_ns)[start:end]


@lru_cache(maxsize=32)
def _page(path: Path, *_versions: int) -> bytes:
    from markdown_it import MarkdownIt  # here, as a start should not wait for it

    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")  # ours: nobody else's HTML is in it
    environment: dict[str, Any] = {}
    tokens = markdown.parse(path.read_text(encoding="utf-8"), environment)
    _dress(tokens)
    title = next((tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"), path.name)
    content = markdown.renderer.render(tokens, markdown.options, environment)
    # Wide ones scroll by themselves, not the page.
    content = content.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    here = f"/{path.relative_to(ROOT)}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).generate(title=title, content=content, here=here)


def _dress(tokens: list[Token]) -> None:
    """Headings have names as GitHub makes them, so that links work in both places; columns to the right have a class,
    since the policy of our pages allows no styles in the text."""
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            words = re.sub(r"[^\w -]", "", tokens[at + 1].content.lower()).strip()
            token.attrSet("id", words.replace(" ", "-"))
        elif token.attrs.pop("style", None):
            token.attrSet("class", "right")
