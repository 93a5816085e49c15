"""What a hostile or broken HTTP client may send: requests whose every part is at times good and at times not, and
bytes that were damaged anyhow; by seed."""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import quote

import msgpack

from tests.support.garbage import Garbage

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "X-Y!")
PATHS = (
    *("/v1/ws", "/v1/channels/{}/messages", "/v1/channels/{}/events", "/v1/channels/{}/presence", "/v1/channels"),
    *(
        "/v1/events",
        "/v1/poll",
        "/v1/publish",
        "/v1/tickets",
        "/v1/nodes",
        "/v1/documents/{}:batch",
        "/v1/documents/{}",
    ),
    *("/v1/documents/{}/{}", "/v1/channels/{}/unsubscribe", "/v1/users/{}/disconnect", "/v1/users/{}/revoke"),
    *(
        "/v1/auth/refresh",
        "/v1/auth/logout",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/",
        "/docs",
        "/chat/",
    ),
    *("/static/{}", "/chat/{}", "/docs/{}.md", "/README.md", "/{}", "/{}/{}", "{}"),
)
NAMES = (
    *(
        "chat:a",
        "chat:b",
        "live:a",
        "nowhere:a",
        "notes",
        "docs:notes",
        "a",
        "a" * 300,
        "",
        ":",
        "..",
        "%00",
        "%ff",
        "%",
    ),
    *(
        "%2e%2e%2f",
        "%252e",
        "%e2%80%ae",
        "chat:%F0%9F%92%A9",
        "waterspout.js",
        "index.html",
        "\xff\xfe",
        "$where",
        "[]",
    ),
)
FIELDS = (
    *("after", "before", "limit", "wait", "channel", "last", "ticket", "where", "sort", "page", "fields", "count"),
    *("prefix", "left", "strict", "a", "", "%00", "%ff"),
)
VALUES = (
    *("0", "1", "-1", "2", "99999999999999999999", "1e9", "NaN", "null", "true", "~", "k3f9:1", "~a", "", " ", "%00"),
    *("%ff", "%", "+", "chat:a", "notes", '{"a":1}', '{"$where":1}', '{"a":{"$in":[1]}}', "{", "[" * 50, "a" * 3000),
    *("-created,_id", "a.b.c", "\xff"),
)
HEADERS = {
    "Accept": (
        "*/*",
        "application/json",
        "application/msgpack",
        "text/html",
        "text/event-stream",
        "a/b;q=0",
        ";;q=,",
        ",",
    ),
    "Accept-Encoding": ("gzip", "gzip;q=0", "*;q=0", "identity;q=0", "br", "", ";q=1", "gzip;q=nan", "gzip;q=1e999"),
    "Authorization": ("Bearer x", "Bearer", "Basic YTpi", "Bearer a.b.c", "Bearer " + "a" * 9000, "bearer\t x"),
    "Content-Type": (
        *("application/json", "application/msgpack", "text/plain", "application/merge-patch+json", "x/y", ";", ""),
        *("application/json; charset=utf-16", "multipart/form-data; boundary=x"),
    ),
    "Content-Encoding": ("gzip", "identity", "deflate", ""),
    "Origin": ("null", "http://localhost", "https://evil.example", "http://[", "", "http://localhost:99999", "\xff"),
    "If-Match": ('"1"', "*", "1", '"', '"a", "b"', 'W/"1"', ""),
    "If-None-Match": ("*", '"1"', '"', ",,,", 'W/"x"', '"a" "b"'),
    "If-Modified-Since": ("Sat, 29 Oct 1994 19:43:31 GMT", "x", "99999999999", "Sat, 99 Oct 9999 99:99:99 GMT"),
    "Range": ("bytes=0-1", "bytes=-5", "bytes=5-2", "bytes=999999999999999999999-", "bytes=", "x=1-2", "bytes=0-,1-"),
    "Idempotency-Key": ("k", "k" * 256, "", "\xc3\xa9", "\xff"),
    "Last-Event-ID": ("0", "~", "x", "k3f9:1", "\xff"),
    "Expect": ("100-continue", "x"),
    "Connection": ("close", "keep-alive", "Upgrade", "keep-alive, Upgrade", ""),
    "Upgrade": ("websocket", "h2c"),
    "Sec-WebSocket-Version": ("13", "8"),
    "Sec-WebSocket-Key": ("d2F0ZXJzcG91dCBiZW5jaA==", "x", ""),
    "Sec-WebSocket-Protocol": ("waterspout.json", "waterspout.msgpack, x", ",", "\xff"),
    "X-Forwarded-For": ("192.0.2.7", ",", "x", "::1", "a" * 500),
    "X-Forwarded-Proto": ("https", "", "x"),
    "Access-Control-Request-Method": ("POST", ""),
    "Cookie": ("a=b", ";", "\xff"),
    "Host": (
        "localhost",
        "localhost:80",
        "evil.example",
        "[::1]:1",
        "",
        "a b",
        "[",
        "localhost, localhost",
        "x:99999999",
    ),
    "X-Padding": ("x" * 5000, "x" * 20_000),
    "Content-Length": ("0", "5", "-1", "x", "5, 5", "5, 6", "99999999999999999999", "+5", "1_0"),
    "Transfer-Encoding": ("chunked", "gzip, chunked", "identity", "chunked, chunked", "Chunked"),
}


class Sent(NamedTuple):
    chunks: list[bytes]
    """The bytes, as they are written."""
    whole: bool
    """These are good requests as far as HTTP goes, and the last one asks for the end: there is an answer."""


class HTTPGarbage(Garbage):
    """`request()` is the next one."""

    def request(self) -> Sent:
        shape = self.random.random()
        if shape < 0.05:
            return Sent(self.cut(self.random.randbytes(self.random.choice((1, 20, 300, 70_000)))), False)
        count = self.random.choice((1, 1, 1, 2, 4))
        if shape < 0.65:
            requests = [self._good(last=number == count - 1) for number in range(count)]
            return Sent(self.cut(b"".join(requests)), True)
        data = b"".join(self._bad() for _ in range(count))
        return Sent(self.cut(self.damaged(data) if shape < 0.9 else data), False)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _good(self, *, last: bool) -> bytes:
        """Well framed; what it says need not make any sense."""
        method = self.random.choice(METHODS[:7])
        body = self._body() if method in ("POST", "PUT", "PATCH", "DELETE") or self.random.random() < 0.1 else b""
        framing = {"Content-Length", "Transfer-Encoding", "Host", "Connection", "Upgrade", "Expect"}
        lines = [f"{method} {self._target()} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {self.random.choice(HEADERS[name])}" for name in self._some(set(HEADERS) - framing)]
        if last:
            lines.append("Connection: close")
        if self.random.random() < 0.2:
            return self._head([*lines, "Transfer-Encoding: chunked"]) + self._chunked(body)
        return self._head([*lines, f"Content-Length: {len(body)}"]) + body

    def _bad(self) -> bytes:
        """With framing that may be wrong as well."""
        version = self.random.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "X", ""))
        lines = [f"{self.random.choice(METHODS)} {self._target()} {version}"]
        if self.random.random() < 0.8:
            lines.append("Host: localhost")
        lines += [f"{name}: {self.random.choice(HEADERS[name])}" for name in self._some(set(HEADERS))]
        if self.random.random() < 0.2:
            lines.insert(
                self.random.randrange(len(lines) + 1), self.random.choice((" folded", "no colon", ": x", "a b: c"))
            )
        body = self._body()
        if self.random.random() < 0.5:
            lines.append(f"Content-Length: {max(len(body) + self.random.choice((0, 0, 1, -1, 1000)), 0)}")
        elif self.random.random() < 0.5:
            lines.append("Transfer-Encoding: chunked")
            body = self.damaged(self._chunked(body))
        return self._head(lines) + body

    def _some(self, names: set[str]) -> list[str]:
        return self.random.sample(sorted(names), self.random.choice((0, 1, 2, 3, 6)))

    @staticmethod
    def _head(lines: list[str]) -> bytes:
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin1")

    def _target(self) -> str:
        path = self.random.choice(PATHS)
        while "{}" in path:
            name = self.random.choice(NAMES) if self.random.random() < 0.9 else quote(self.random.randbytes(5))
            path = path.replace("{}", name, 1)
        fields = [
            f"{self.random.choice(FIELDS)}={self.random.choice(VALUES)}".replace(" ", "%20")
            for _ in range(self.random.choice((0, 0, 1, 2, 5)))
        ]
        return (path or "*").replace(" ", "%20") + ("?" + "&".join(fields) if fields else "")

    def _body(self) -> bytes:
        choice = self.random.random()
        if choice < 0.1:
            return b""
        if choice < 0.2:
            return self.random.randbytes(self.random.choice((1, 50, 3000)))
        if choice < 0.23:
            return b"[" + b"0," * self.random.choice((10_000, 300_000, 600_000)) + b"0]"
        if choice < 0.3:
            return self.bomb(self.random.choice(("waterspout.json", "waterspout.msgpack")))
        value = self._fields() if choice < 0.9 else self.value(4)
        if self.random.random() < 0.8:
            body = json.dumps(value, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        else:
            try:
                body = msgpack.packb(value, unicode_errors="surrogatepass")
            except (ValueError, OverflowError):
                body = b"\xc1"
        return self.damaged(body) if self.random.random() < 0.2 else body

    def _fields(self) -> dict[str, object]:
        """An object such as one path or another takes."""
        shapes: tuple[dict[str, object], ...] = (
            {"data": self.value(3)},
            {"data": self.value(2), "key": self.value(1), "tag": self.value(1), "ephemeral": self.value(0)},
            {"messages": [{"channel": "chat:a", "data": self.value(1)}, self.value(2)]},
            {"channels": ["chat:a", "chat:b"], "data": self.value(2)},
            {"channels": [{"channel": "chat:a", "after": "0"}], "wait": 0},
            {"writes": [{"op": "put", "document_id": "a", "document": {"a": self.value(2)}}, self.value(2)]},
            {"refresh_token": "u.x"},
            {"user": "ann", "reason": self.value(1)},
        )
        chosen = dict(self.random.choice(shapes))
        if self.random.random() < 0.3:
            chosen[self.random.choice(("a", "data", "_id", "_rev", "$set", "channel", "op"))] = self.value(2)
        return chosen

    def _chunked(self, body: bytes) -> bytes:
        pieces = [piece for piece in self.cut(body) if piece]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
