"""Pages: files as they are, with a strict Content-Security-Policy."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches
from tornado.web import HTTPError, RequestHandler, StaticFileHandler, stream_request_body

from handlers.negotiation import wants_page
from handlers.problems import CONTENT_SECURITY_POLICY, not_found_page, page_headers, problem_body, problem_headers
from handlers.request import METHODS
from handlers.site import Site
from server.core.errors import Error
from server.core.principals import GUEST

logger = logging.getLogger(__name__)
access_log = logging.getLogger("waterspout.access")

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "static"
_CODES = {400: "bad_request", 403: "permission_denied", 404: "not_found", 405: "bad_request", 416: "bad_request"}


class PageFolder(PathMatches):
    """`/chat/` is static/chat/index.html, `/chat/chat.js` lies beside it; every folder there that has an index.html is
    a page, your own too."""

    def __init__(self, root: Path) -> None:
        super().__init__(r"/([a-z][\w-]*(?:/.*)?)")
        self._root = root

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        return found if found and os.path.isfile(self._root / request.path.split("/")[1] / "index.html") else None


@stream_request_body
class Page(StaticFileHandler):
    """Nothing of a file is secret, so pages of other origins may import the client from here. What is sent to it is
    thrown away."""

    def data_received(self, chunk: bytes) -> None:
        pass

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        if "\0" in path:  # no file has such a name, and asking the system raises ValueError
            raise HTTPError(404)
        return super().get_absolute_path(root, path)

    def get_content_type(self) -> str:
        named = "." in str(self.absolute_path).rpartition("/")[2]
        return super().get_content_type() if named else "text/plain; charset=utf-8"

    def compute_etag(self) -> str:
        """Of the file as it is now: who edits a page sees it. (Tornado remembers the first one it has seen.)"""
        return f'"{self.get_content_version(self.absolute_path or "")}"'

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-cache")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As at the other doors (base.py): a problem, or a page for a person who has followed a link to nowhere. It
        counts as a request of the address, as there."""
        site: Site = self.settings["site"]
        code = _CODES.get(status_code, "internal")
        if status_code == 403:  # a folder, or a path that leads out: for who asks there is nothing
            status_code, code = 404, "not_found"
        words = {404: "there is nothing at this path", 405: "method: only GET, HEAD here"}
        error = Error(code, words.get(status_code, self._reason), status=status_code)
        address = site.client_address(self.request.remote_ip or "", self.request.headers)
        try:
            site.node.admission.count_request(GUEST, address)
        except Error as limited:
            error = limited
        site.node.incidents.refused(error, None, address)
        person = error.status == 404 and wants_page(self.request.headers.get("Accept", ""))
        self.set_status(error.status)
        for name, value in (page_headers() if person else problem_headers(error)).items():
            self.set_header(name, value)
        if error.status == 405:
            self.set_header("Allow", "GET, HEAD")
        self.finish(not_found_page() if person else problem_body(error))

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """As in `BaseHandler`: never the query."""
        if not isinstance(error, HTTPError):
            logger.error("%s failed", self.request.path, exc_info=(kind, error, trace))


def log_page(handler: RequestHandler) -> None:
    """As `Site.log`."""
    status, request = handler.get_status(), handler.request
    level = logging.DEBUG if status < 400 else logging.ERROR if status == 500 else logging.INFO
    took = 1000 * request.request_time()
    method = request.method if request.method in METHODS else "?"
    access_log.log(level, "%d %s %s %.1f ms", status, method, request.path, took, extra={"ip": request.remote_ip})
