"""One request as it came: its line and headers, taken apart as far as somebody asks."""

from __future__ import annotations

import re
import time
from functools import cached_property
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from tornado.httputil import HTTPInputError, RequestStartLine

from handlers.headers import Headers
from handlers.server import Connection, RequestConnection
from server.core.errors import bad_request

MAX_QUERY_FIELDS: Final = 1000
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_HOST: Final = re.compile(r"([A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")


class Request:
    def __init__(self, connection: RequestConnection, start_line: RequestStartLine, headers: Headers) -> None:
        """HTTPInputError without one good Host header."""
        assert isinstance(connection.context, Connection)
        self.connection = connection
        self.context = connection.context
        self.method, self.uri, version = start_line
        self.path, _, self.query = self.uri.partition("?")
        self.headers = headers
        self.remote_ip = self.context.remote_ip
        host = self.headers.get("Host")
        if host is None and version == "HTTP/1.0":
            host = "127.0.0.1"
        found = _HOST.fullmatch(host or "")
        if found is None:
            raise HTTPInputError("expected one Host header")
        self.host_name: str = found[1].lower()
        asked = self.headers.get("Connection", "").lower()
        self.kept = asked == "keep-alive" if version != "HTTP/1.1" else not asked or not _closes(asked)
        """Whether the connection is there for another request."""
        self.to_be_told = version != "HTTP/1.1"
        """HTTP/1.0: a connection is closed unless it is said that it is not."""
        self.began = time.perf_counter()

    @property
    def named_method(self) -> str:
        """For the log: a method may be any word."""
        return self.method if self.method in METHODS else "?"

    @cached_property
    def arguments(self) -> dict[str, list[str]]:
        """Of the query; `bad_request` if it is not UTF-8, or has too many."""
        found: dict[str, list[str]] = {}
        if self.query:
            try:
                query = self.query.encode("latin1").decode()  # what is not escaped, as it should have been
                pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
            except UnicodeDecodeError:
                raise bad_request("query: not UTF-8") from None
            except ValueError:
                raise bad_request(f"query: {MAX_QUERY_FIELDS} fields at most") from None
            for name, value in pairs:
                found.setdefault(name, []).append(value.strip())
        return found

    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began


def _closes(connection: str) -> bool:
    """Whether a Connection header, a list of options, has `close` in it."""
    return "close" in [option.strip() for option in connection.split(",")]


def unescape(part: str) -> str:
    """A part of a path; `bad_request` if it is not UTF-8."""
    if "%" not in part and part.isascii():
        return part
    try:
        return unquote_to_bytes(part.encode("latin1")).decode()
    except UnicodeDecodeError:
        raise bad_request("path: not UTF-8") from None
