"""Errors as answers: problem+json (RFC 9457), or a page for a person who has followed a link to nowhere."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

from server.core.errors import Error
from server.wire.codec import JSON
from server.wire.rest import problem

STATIC: Final = Path(__file__).resolve().parents[1] / "static"
MISDIRECTED: Final = 421
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TITLES: Final = {status.value: status.phrase for status in HTTPStatus}


def problem_headers(error: Error) -> dict[str, str]:
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.rev is not None:
        headers["ETag"] = f'"{error.rev}"'
    if error.retry_after is not None or error.status in (429, 503):
        headers["Retry-After"] = str(max(1, round((error.retry_after or 0.5) + 0.5)))
    return headers


def problem_body(error: Error) -> bytes:
    title = _TITLES.get(error.status, "Refused")  # a user's back end may have a status of its own
    return JSON.encode({"type": "about:blank", "title": title, "status": error.status, **problem(error)})


def page_headers() -> dict[str, str]:
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
    }


def not_found_page() -> bytes:
    page = STATIC / "not-found.html"
    return _read(page, page.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(page: Path, _version: int) -> bytes:
    return page.read_bytes()
