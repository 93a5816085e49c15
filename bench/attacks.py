"""What one client may send to hold a server up: one function an attack, in a process of its own (bench/held.py).

Each speaks to a server whose collections are COLLECTIONS, from one address, with plain sockets and no event loop.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

CONNECTIONS: Final = 50
CHANNELS: Final = 128
"""Both as the default limits have them."""
VALUES: Final = 9_890
"""Of one frame or body: a few less than its limit."""

COLLECTIONS: Final[dict[str, dict[str, Any]]] = {
    "things": {},
    "multiples": {"schema": {"additionalProperties": {"items": {"multipleOf": 0.01}}}},
    "unique": {"schema": {"additionalProperties": {"uniqueItems": True}}},
    "patterned": {"schema": {"additionalProperties": {"pattern": "^(a+)+$"}}},
}
"""Anybody may read and write them."""

Json = dict[str, Any]


# --- a client -------------------------------------------------------------------------------------------------------


def frame(payload: bytes, opcode: int = 1, final: bool = True) -> bytes:
    """As a client sends it, masked with zeros."""
    first, size = final << 7 | opcode, len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 0xFE, size) + bytes(4) + payload
    return struct.pack("!BBQ", first, 0xFF, size) + bytes(4) + payload


def command(**fields: Any) -> bytes:
    return frame(json.dumps(fields).encode())


class WebSocket:
    """Counts the frames that come, and drops them."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._incoming = self._socket.makefile("rb", 1 << 16)
        while self._incoming.readline().strip():
            pass
        self.frames = 0
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait(self, frames: int, seconds: float = 30) -> None:
        """Until so many have come in all."""
        end = time.monotonic() + seconds
        while self.frames < frames and time.monotonic() < end and not self.ended.is_set():
            time.sleep(0.005)

    def close(self) -> None:
        """Without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.shutdown(socket.SHUT_RD)
        self._incoming.close()
        self._socket.close()

    def _read(self) -> None:
        try:
            while head := self._incoming.read(2):
                size = head[1]
                if size >= 126:
                    size = int.from_bytes(self._incoming.read(2 if size == 126 else 8), "big")
                self._incoming.read(size)
                self.frames += 1
        except (OSError, ValueError, IndexError):
            pass
        finally:
            self.ended.set()


class Http:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Json:
        """The answer; a refusal is one, too."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = self._connection.getresponse()
        text = response.read()
        plain = (
            text and response.headers["Content-Type"].endswith("json") and "Content-Encoding" not in response.headers
        )
        answer: Json = json.loads(text) if plain else {}
        if response.status >= 400:
            refusals[f"{response.status} {answer.get('reason', '')[:100]}"] = None
        return answer


refusals: dict[str, None] = {}
"""What was refused, for whoever looks whether an attack does what it is meant to."""


def at_once(works: Iterable[Callable[[], Any]]) -> None:
    works = list(works)
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


# --- floods: CONNECTIONS of one address, each sending as fast as it is taken ----------------------------------------

FLOODS: Final[dict[str, Callable[[], bytes]]] = {
    "malformed": lambda: frame(b"0") * 10_000,
    "pings": lambda: command(type="ping", id=1) * 3_000,
    "control-pings": lambda: frame(b"", 9) * 20_000,
    "fragments": lambda: frame(b"", 1, False) + frame(b"", 0, False) * 60_000,
    "subscribes": lambda: b"".join(command(type="subscribe", id=n, channel=f"chat:f{n}") for n in range(2_000)),
    "unsubscribes": lambda: command(type="unsubscribe", id=1, channel="chat:nowhere") * 3_000,
    "denied": lambda: command(type="publish", id=1, channel="feed:news", data=1) * 3_000,
    "wide": lambda: frame(b"[" + b",".join([b"0"] * 9_990) + b"]") * 50,
    "deep": lambda: frame(b'{"a":' * 30 + b"0" + b"}" * 30) * 3_000,
    "deeper": lambda: frame(b"[" * 60_000) * 30,
    "many-keys": lambda: frame(json.dumps({f"k{n}": n for n in range(8_000)}).encode()) * 30,
    "large": lambda: command(type="publish", id=1, channel="chat:large", data="x" * 60_000) * 30,
    "conditions": lambda: b"".join(
        command(type="subscribe", id=n, channel=f"docs:things#{n}", where={f"f{n}.{i}a": i for i in range(50)})
        for n in range(1_000)
    ),
}


def flood(data: bytes, port: int) -> None:
    def one() -> None:
        try:
            connection = WebSocket(port)
            connection.send(data)
            connection.ended.wait(10)
            connection.close()
        except OSError:
            pass

    at_once([one] * CONNECTIONS)


# --- documents ------------------------------------------------------------------------------------------------------


def grown(port: int, collection: str, parts: Iterable[Json]) -> tuple[Http, str]:
    """A document that is larger than a body may be: put and patched together."""
    client, path = Http(port), f"/v1/documents/{collection}/{os.urandom(6).hex()}"
    for number, part in enumerate(parts):
        client.send("PATCH" if number else "PUT", path, part)
    return client, path


def touched(port: int, collection: str, parts: Iterable[Json], times: int = 10) -> None:
    client, path = grown(port, collection, parts)
    for number in range(times):
        client.send("PATCH", path, {"touched": {"n": number}})
        client.send("GET", path)


def many_fields(prefix: str, count: int = VALUES) -> Json:
    return {f"{prefix}{n}": n for n in range(count)}


def patch_fields(port: int) -> None:
    """A document of as many fields as it may have, changed."""
    touched(port, "things", (many_fields("a"), many_fields("b")))


def patch_numbers(port: int) -> None:
    """A document of as many numbers as it may have, changed."""
    touched(port, "things", ({f"l{n}": list(range(VALUES))} for n in range(7)))


def patch_objects(port: int) -> None:
    """A document of as many small objects as it may have, changed."""
    touched(port, "things", ({f"l{n}": [{"a": 1.5}] * (VALUES // 2)} for n in range(9)))


def large_change(port: int) -> None:
    """A document of 1 MiB in texts, changed and watched; and its history."""
    watcher = WebSocket(port)
    watcher.send(command(type="subscribe", id=1, channel="docs:things"))
    watcher.wait(1)
    touched(port, "things", [{"t": "x" * 1_000_000}])
    touched(port, "things", [{f"t{n}": "\n" * 100 for n in range(4_000)}])
    touched(port, "things", ({f"t{n}": list(range(VALUES))} for n in range(7)))
    watcher.close()
    client = Http(port)
    for _ in range(3):
        client.send("GET", "/v1/channels/docs:things/messages?limit=100")
    again = WebSocket(port)
    again.send(command(type="subscribe", id=1, channel="docs:things#again", after="0", where={"t1.x": {"$ne": 1}}))
    again.wait(40, 5)
    again.close()


def watched(port: int, wheres: list[Json], parts: Iterable[Json]) -> None:
    connections = [WebSocket(port) for _ in range(0, len(wheres), CHANNELS)]
    for number, where in enumerate(wheres):
        channel = f"docs:things#{number}"
        connections[number // CHANNELS].send(command(type="subscribe", id=number, channel=channel, where=where))
    for connection in connections:
        connection.wait(min(len(wheres), CHANNELS))
    touched(port, "things", parts)
    for connection in connections:
        connection.close()


def where_in(port: int) -> None:
    """`$in` of 191 values, tried on a list of 9,890."""
    watched(port, [{f"l{n}": {"$in": [f"{n} {i}" for i in range(191)]} for n in range(1)}],
            [{"l0": [f"value {n}" for n in range(VALUES)]}])  # fmt: skip


def where_deep(port: int) -> None:
    """49 deep paths through long lists of a large document."""
    deep: Any = {"z": 1}
    for _ in range(20):
        deep = {"a": deep}
    wheres = [{f"l{n % 9}.{'a.' * (n % 20)}k{n}": {"$ne": n} for n in range(49)}]
    watched(port, wheres, ({f"l{n}": [{"a": {}}] * (VALUES // 3)} for n in range(9)))
    watched(port, wheres, ({f"l{n}": [deep] * (VALUES // 25)} for n in range(9)))
    watched(port, wheres, ({f"l{n}": [{}] * (VALUES - 10)} for n in range(7)))


def where_many(port: int) -> None:
    """As many views as one address may have, of 50 conditions each."""
    one = [{f"f{n}.{i}a": i for i in range(10)} for n in range(CONNECTIONS * CHANNELS)]
    watched(port, one, [many_fields("a", 1000)])


def lists(port: int) -> None:
    """Pages of documents of 1 MiB, and a snapshot of them."""
    for _ in range(6):
        client, _ = grown(port, "things", ({f"l{n}": [{"a": 1.5}] * (VALUES // 2)} for n in range(5)))
    for _ in range(5):
        client.send("GET", "/v1/documents/things?limit=100")
        client.send("GET", "/v1/documents/things?limit=100", headers={"Accept-Encoding": "gzip"})
        client.send("GET", "/v1/documents/things?limit=100&fields=l1", headers={"Accept": "application/msgpack"})
    watcher = WebSocket(port)
    watcher.send(command(type="subscribe", id=1, channel="docs:things", snapshot=True))
    watcher.wait(20, 5)
    watcher.close()


def batches(port: int) -> None:
    """Batches of documents and of messages, as large as they may be."""
    client = Http(port)
    for _ in range(5):
        writes = [{"op": "put", "document_id": f"b{n}", "document": {"a": list(range(8))}} for n in range(500)]
        client.send("POST", "/v1/documents/things:batch", {"writes": writes})
        conditional = [{"op": "patch", "document_id": f"b{n}", "document": {"b": n}} for n in range(500)]
        client.send("POST", "/v1/documents/things:batch", {"writes": conditional})
        messages = [{"channel": f"chat:b{n}", "data": list(range(8))} for n in range(500)]
        client.send("POST", "/v1/publish", {"messages": messages})


def multiples(port: int) -> None:
    """`multipleOf` of a fraction, for as many numbers as a document has room for."""
    touched(port, "multiples", ({f"l{n}": [0.5] * VALUES} for n in range(7)), 3)
    touched(port, "multiples", ({f"l{n}": [1] * VALUES} for n in range(9)), 3)


def unique_items(port: int) -> None:
    touched(port, "unique", ({f"l{n}": [[i, n] for i in range(VALUES // 3)]} for n in range(9)), 3)


def patterns(port: int) -> None:
    touched(port, "patterned", [{f"t{n}": "a" * 60 for n in range(VALUES)}], 3)
    touched(port, "patterned", [{f"t{n}": "a" * 10_000 for n in range(90)}], 3)
    client = Http(port)
    for _ in range(3):
        client.send("PUT", "/v1/documents/patterned/x", {f"t{n}": "a" * 60 + "b" for n in range(VALUES)})
        client.send("PUT", "/v1/documents/patterned/x", {f"t{n}": "a" * 10_000 + "b" for n in range(90)})


# --- connections and requests ---------------------------------------------------------------------------------------


def closes(port: int) -> None:
    """As many subscriptions as one address may have, left all at once; with and without a close frame."""
    for leave in (WebSocket.close, lambda connection: connection.send(frame(b"\x03\xe8", 8))):
        connections = [WebSocket(port) for _ in range(CONNECTIONS)]
        for at, connection in enumerate(connections):
            names = (f"chat:{at}-{n}" for n in range(CHANNELS))
            connection.send(b"".join(command(type="subscribe", id=1, channel=name) for name in names))
        for connection in connections:
            connection.wait(CHANNELS)
        time.sleep(0.5)
        for connection in connections:
            leave(connection)
        time.sleep(1)


def requests(port: int) -> None:
    """Requests whose every part is as long, or has as many parts, as may be."""
    client = Http(port)
    for _ in range(20):
        client.send("GET", "/v1/documents/things?" + "&".join("a=1" for _ in range(1_000)))
        client.send("GET", "/v1/documents/things?where=" + "%7B%22%24and%22%3A%5B" * 700)
        client.send("GET", "/v1/documents/things?sort=" + ",".join("abcd"))
        client.send("GET", "/v1/documents/things", headers={"Accept": ",".join("a/b;q=0.1" for _ in range(1_500))})
        client.send(
            "GET", "/v1/documents/things", headers={"Accept-Encoding": ",".join("b;q=0.1" for _ in range(1_900))}
        )
        client.send("GET", "/v1/documents/things", headers={"If-None-Match": ",".join('"x"' for _ in range(3_500))})
        client.send("GET", "/v1/documents/things", headers={"Authorization": "Bearer " + "a." * 7_000})
        client.send("POST", "/v1/publish", b"[" * 1_000_000)
        client.send("POST", "/v1/publish", b'{"' + b"a" * 1_000_000)
        client.send("POST", "/v1/publish", b"[" + b"[]," * 300_000)
        client.send("POST", "/v1/publish", b"\xdc\xff\xff" * 300_000, {"Content-Type": "application/msgpack"})
        client.send("POST", "/v1/publish", b"\x91" * 1_000_000, {"Content-Type": "application/msgpack"})


def polls(port: int) -> None:
    """Long polls of many channels, again and again."""

    def one(at: int) -> None:
        client = Http(port)
        for n in range(10):
            query = "&".join(f"channel=chat:p{at}-{n}-{i}" for i in range(64))
            client.send("GET", f"/v1/poll?{query}&wait=0")

    at_once((lambda at=at: one(at)) for at in range(20))  # type: ignore[misc]


ATTACKS: Final[dict[str, Callable[[int], None]]] = {
    **{name: (lambda port, make=make: flood(make(), port)) for name, make in FLOODS.items()},  # type: ignore[misc]
    "patch-fields": patch_fields,
    "patch-numbers": patch_numbers,
    "patch-objects": patch_objects,
    "large-change": large_change,
    "where-in": where_in,
    "where-deep": where_deep,
    "where-many": where_many,
    "lists": lists,
    "batches": batches,
    "multipleOf": multiples,
    "uniqueItems": unique_items,
    "patterns": patterns,
    "closes": closes,
    "requests": requests,
    "polls": polls,
}
