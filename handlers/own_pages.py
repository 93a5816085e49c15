"""Pages of the user's own: the files of `server.pages`, ahead of the server's own pages and behind its API."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher

from handlers.negotiation import wants_page
from handlers.pages import Page

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "media-src 'self' blob:; worker-src 'self'; connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""What a page may do where `server.pages_policy` does not say otherwise: nothing from elsewhere, nothing inline."""
FALLBACK: Final = "200.html"
"""What a browser gets where no file is: the page of an application that reads the address by itself."""
_RESERVED: Final = ("v1", "static")
"""The API and the client's files stay the server's."""
_WELL_KNOWN: Final = ".well-known"
_HASHED: Final = re.compile(r"(^|/)assets/(.*/)?[^/]*[-.](?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{8,}\.\w+$")
"""Names that change with what is in the file, as bundlers make them: assets/index-BxQ2k3Zp.js."""


def find(root: str, path: str) -> str | None:
    """The file below `root` (an absolute, real path) that a request's path asks for, relative to it; of a folder, the
    folder, if it has an index.html. None for what is not there, lies outside, links included, or begins with a dot."""
    try:
        name = unquote(path, errors="strict").lstrip("/")
    except UnicodeDecodeError:
        return None
    parts = name.split("/")
    if "\0" in name or "\\" in name or parts[0] in _RESERVED or _hidden(parts):
        return None
    real = os.path.realpath(f"{root}/{name}")
    folder = os.path.isdir(real)
    wanted = os.path.realpath(f"{real}/index.html") if folder else real
    there = _inside(root, real) and _inside(root, wanted) and os.path.isfile(wanted)
    return name if there and (folder or not name.endswith("/")) else None


def _inside(root: str, real: str) -> bool:
    """Whether a real path is of the folder's own, and not hidden there."""
    return real == root or (real.startswith(root + os.sep) and not _hidden(real[len(root) + 1 :].split(os.sep)))


def _hidden(parts: list[str]) -> bool:
    return any(part.startswith(".") and (part != _WELL_KNOWN or at) for at, part in enumerate(parts))


class OwnFiles(Matcher):
    """Requests for a file that is there now: it may have been written a moment ago."""

    def __init__(self, root: str) -> None:
        self._root = root

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        name = find(self._root, request.path)
        return None if name is None else {"path_args": [name.encode()]}


class Fallback(Matcher):
    """A person who has followed a link to nowhere, where there is a `200.html`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        person = request.method in ("GET", "HEAD") and wants_page(request.headers.get("Accept", ""))
        reserved = request.path.removeprefix("/").partition("/")[0] in _RESERVED
        there = person and not reserved and find(self._root, FALLBACK) is not None
        return {"path_args": [FALLBACK.encode()]} if there else None


class OwnPage(Page):
    """A file of the user's own. Not for pages of other origins, unlike the server's files."""

    def initialize(self, *, policy: str, **options: Any) -> None:  # type: ignore[override]
        super().initialize(**options)
        self._policy = policy

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Content-Security-Policy", self._policy)
        self.set_header("Referrer-Policy", "no-referrer")
        lasting = _HASHED.search(path)
        self.set_header("Cache-Control", "public, max-age=31536000, immutable" if lasting else "no-cache")

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        """Not of its bytes: a film would be read through for each request."""
        state = Path(abspath).stat()
        return f"{state.st_mtime_ns:x}-{state.st_size:x}"
