"""A WebSocket client such as a careful user would write: it resumes by cursor and never loses or doubles by itself.

It deliberately repairs nothing: what the server sends twice, out of order or not at all is handed on like that, since
finding it is what the tests are for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import msgpack  # type: ignore[import-untyped,unused-ignore]
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

Push = dict[str, Any]
Codec = Literal["json", "msgpack"]

# Everything that may go wrong while no server is there, or none that wants us now.
UNREACHABLE = (OSError, TimeoutError, HTTPClientError, StreamClosedError, WebSocketClosedError)


class Refused(Exception):
    """The server's `error` to a command."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('reason')}")
        self.code = str(error.get("code"))
        self.reason = str(error.get("reason"))
        self.retry = bool(error.get("retry"))
        self.retry_after = float(error.get("retry_after") or 0)
        self.error = dict(error)


class ConnectionLost(Exception):
    """The connection ended before the reply: whether the command was carried out is unknown."""


@dataclass(frozen=True)
class Loss:
    """One end of a connection that the client did not ask for."""

    at: float  # time.monotonic()
    code: int | None
    reason: str | None
    disconnect: Push | None  # the server's announcement, if it made one


class Subscription:
    """One channel's stream. Pushes go to `on_push` if given (in the order they came), else into a queue to read."""

    def __init__(self, channel: str, options: Mapping[str, Any], on_push: Callable[[Push], None] | None) -> None:
        self.channel = channel
        self.options = dict(options)
        self.cursor: str | None = None
        self.replies: list[Push] = []  # to every `subscribe`, resumptions included
        self.ended: Push | None = None  # the server's `unsubscribed`
        self._queue: asyncio.Queue[Push] = asyncio.Queue()
        self.on_push = on_push or self._queue.put_nowait

    @property
    def reply(self) -> Push:
        """The newest reply to `subscribe`."""
        return self.replies[-1]

    def take_reply(self, reply: Push) -> None:
        self.replies.append(reply)
        self.cursor = reply.get("cursor", self.cursor)

    def take_push(self, push: Push) -> None:
        # Moves only with what was handed on: whoever resumes from it continues exactly behind the last push seen.
        self.cursor = push.get("cursor") or self.cursor
        if push["type"] == "unsubscribed":
            self.ended = push
        self.on_push(push)

    async def next(self, within: float = 5.0) -> Push:
        """The next push of any type."""
        async with asyncio.timeout(within):
            return await self._queue.get()

    async def message(self, within: float = 5.0) -> Push:
        """The next push, which has to be a message."""
        push = await self.next(within)
        assert push["type"] == "message", push
        return push

    async def messages(self, count: int, within: float = 10.0) -> list[Push]:
        """The next `count` pushes, all of them messages, within so many seconds in all."""
        async with asyncio.timeout(within):
            return [await self.message(within) for _ in range(count)]

    def waiting(self) -> list[Push]:
        """What has arrived and was not read yet, without waiting."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def __aiter__(self) -> AsyncIterator[Push]:
        while True:
            yield await self._queue.get()


@dataclass
class _Pending:
    reply: asyncio.Future[Push]
    subscription: Subscription | None = None
    ends: str | None = None  # the channel that an `unsubscribe` ends


class Client:
    """`async with Client(server.ws, token=…) as ann: …`

    `urls`   one address, or several that are tried in turn after a loss, like instances behind a load balancer
    `stay`   come back by itself after a loss and resume every subscription; otherwise call `reconnect()`
    `greet`  send `connect` first (with the token, unless `bearer`); its reply is in `session`
    `bearer` send the token in the upgrade request instead
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        codec: Codec | None = "json",
        name: str = "",
        stay: bool = False,
        greet: bool = True,
        bearer: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.token = token
        self.codec = codec
        self.name = name
        self.stay = stay
        self.greet = greet
        self.bearer = bearer
        self.headers = dict(headers or {})
        self.session: Push = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.connected = asyncio.Event()  # and everything is resumed
        self.losses: list[Loss] = []
        self.strays: list[Push] = []  # errors without an id, and pushes of no known subscription
        self.on_stray: Callable[[Push], None] = self.strays.append
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._connection: WebSocketClientConnection | None = None
        self._stream: IOStream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._return: asyncio.Task[None] | None = None
        self.announced: Push | None = None  # the newest `disconnect` on this link
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closing = False
        self._link = 0

    # --- the connection ---------------------------------------------------------------------------------------------

    @property
    def link(self) -> int:
        """Counts the connections made: what was sent on different links has no promised order."""
        return self._link

    @property
    def url(self) -> str:
        return self.urls[0]

    async def connect(self) -> Self:
        """Open a connection to the first address and greet. Raises one of UNREACHABLE, Refused or ConnectionLost."""
        assert self._reader is None or self._reader.done(), "connected already"
        headers = dict(self.headers)
        if self.token is not None and self.bearer:
            headers["Authorization"] = f"Bearer {self.token}"
        protocols = [f"waterspout.{self.codec}"] if self.codec else None
        connection = await websocket_connect(
            HTTPRequest(self.url, headers=headers, connect_timeout=10), subprotocols=protocols
        )
        self._connection = connection
        stream = getattr(connection.protocol, "stream", None)
        self._stream = stream  # undocumented, and the only way to be impolite
        self.announced = None
        self._link += 1
        self._reader = asyncio.create_task(self._read(connection), name=f"reader of {self.name}")
        if self.greet:
            credentials: dict[str, Any] = {"token": self.token} if self.token is not None and not self.bearer else {}
            self.session = await self.request("connect", **credentials)
        if not self.subscriptions:
            self.connected.set()
        return self

    async def reconnect(self, within: float = 60.0) -> None:
        """Leave the old connection for good, come back when the server said (else after a jittered, growing pause) and
        resume every subscription behind the last push that was handed on."""
        announced = self.announced
        await self._leave()
        if announced is not None and not announced.get("reconnect", True):
            raise ConnectionLost(f"{self.name} was told not to come back: {announced}")
        delay = float(announced.get("delay") or 0) if announced else 0.0
        async with asyncio.timeout(within):
            for attempt in itertools.count():
                await asyncio.sleep(delay or random.uniform(0, min(2.0, 0.1 * 2**attempt)))
                delay = 0.0
                try:
                    await self.connect()
                    await self._resume()
                    if self._reader is None or self._reader.done():
                        raise ConnectionLost(f"{self.name}: lost while resuming")
                    self.connected.set()
                    return
                except (*UNREACHABLE, ConnectionLost):
                    await self._leave()
                    self.urls.append(self.urls.pop(0))
                except Refused as refusal:
                    await self._leave()
                    if not refusal.retry:
                        raise
                    delay = refusal.retry_after

    async def close(self) -> None:
        """Say goodbye and stop coming back."""
        self._closing = True
        if self._return is not None:
            self._return.cancel()
            await asyncio.wait([self._return])
        self._may_read.set()
        if self._connection is not None and self._reader is not None and not self._reader.done():
            self._connection.close(1000)
            await asyncio.wait([self._reader], timeout=2)
        await self._leave()

    def abort(self) -> None:
        """Close the socket without a close frame, as a phone in a tunnel does."""
        self.connected.clear()
        if self._stream is not None:
            self._stream.close()

    def pause_reading(self) -> None:
        """Stop reading from the socket (pings stay unanswered too): a stalled client. The kernel's buffer is kept from
        growing to megabytes, which would hide the stall from the server for a while."""
        self._may_read.clear()
        if self._stream is not None and not self._stream.closed():
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)

    def resume_reading(self) -> None:
        self._may_read.set()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _leave(self) -> None:
        """End the old connection. Its reader ends with it, before anything new begins: a push of the old link that was
        still on its way must not be handed on after the cursor was used to resume."""
        self.connected.clear()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        self.abort()
        self._connection = None
        self._lose_pending("connection left")
        if reader is not None and not reader.cancelled() and (error := reader.exception()):
            raise error  # a frame that cannot be decoded, or a push its callback rejects

    async def _resume(self) -> None:
        await asyncio.gather(*(self._subscribe_again(one) for one in list(self.subscriptions.values())))

    async def _subscribe_again(self, subscription: Subscription) -> None:
        options = {key: value for key, value in subscription.options.items() if key not in ("after", "last")}
        if subscription.cursor is not None:
            options["after"] = subscription.cursor
        for attempt in itertools.count():
            try:
                await self._ask("subscribe", {"channel": subscription.channel, **options}, subscription=subscription)
                return
            except Refused as refusal:
                if not refusal.retry:
                    raise
                await asyncio.sleep(refusal.retry_after or random.uniform(0, min(2.0, 0.1 * 2**attempt)))

    async def _come_back(self) -> None:
        while not self._closing:
            try:
                await self.reconnect()
                return
            except TimeoutError:
                continue

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _read(self, connection: WebSocketClientConnection) -> None:
        try:
            while True:
                await self._may_read.wait()
                frame = await connection.read_message()
                if frame is None:
                    break
                self._take(msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame))
        finally:
            self.connected.clear()
            self._lose_pending(f"closed with {connection.close_code} {connection.close_reason}")
            connection.close()  # Tornado warns about one that is not closed, though the other end has closed it
        if not self._closing:
            self.losses.append(Loss(time.monotonic(), connection.close_code, connection.close_reason, self.announced))
            if self.stay and (self._return is None or self._return.done()):
                self._return = asyncio.create_task(self._come_back(), name=f"return of {self.name}")

    def _take(self, push: Push) -> None:
        kind = push.get("type")
        pending = self._pending.get(push.get("id", -1)) if kind in ("reply", "error") else None
        if pending is not None:
            # Here and not where the reply is awaited: pushes that follow in the same packet are handled before that.
            if kind == "reply" and pending.subscription is not None:
                pending.subscription.take_reply(push)
            if kind == "reply" and pending.ends is not None:
                self.subscriptions.pop(pending.ends, None)
            if not pending.reply.done():
                if kind == "reply":
                    pending.reply.set_result(push)
                else:
                    pending.reply.set_exception(Refused(push))
        elif kind == "disconnect":
            self.announced = push
            self.connected.clear()  # what is sent after this may not be read any more
        elif push.get("channel") in self.subscriptions and kind not in ("reply", "error"):
            subscription = self.subscriptions[push["channel"]]
            subscription.take_push(push)
            if kind == "unsubscribed":
                del self.subscriptions[push["channel"]]
        else:
            self.on_stray(push)

    def _lose_pending(self, why: str) -> None:
        pending, self._pending = self._pending, {}
        for one in pending.values():
            if not one.reply.done():
                one.reply.set_exception(ConnectionLost(f"{self.name}: {why}"))

    # --- commands ---------------------------------------------------------------------------------------------------

    async def send(self, command: Mapping[str, Any]) -> None:
        """Send an object as one frame in the connection's encoding."""
        if self.codec == "msgpack":
            await self.send_raw(msgpack.packb(command))
        else:
            await self.send_raw(json.dumps(command))

    async def send_raw(self, frame: str | bytes) -> None:
        """Send a text or binary frame as it is."""
        if self._connection is None:
            raise ConnectionLost(f"{self.name} is not connected")
        try:
            await self._connection.write_message(frame, binary=isinstance(frame, bytes))
        except (WebSocketClosedError, StreamClosedError) as error:
            raise ConnectionLost(f"{self.name}: closed while sending") from error

    async def request(self, kind: str, /, *, timeout: float = 30.0, **fields: Any) -> Push:
        """Send a command and return its reply. Raises Refused, ConnectionLost, or TimeoutError when no reply comes."""
        return await self._ask(kind, fields, timeout)

    async def _ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        timeout: float = 30.0,
        subscription: Subscription | None = None,
        ends: str | None = None,
    ) -> Push:
        number = next(self._ids)
        pending = _Pending(asyncio.get_running_loop().create_future(), subscription, ends)
        self._pending[number] = pending
        try:
            await self.send({"type": kind, "id": number, **fields})
            async with asyncio.timeout(timeout):
                return await pending.reply
        finally:
            self._pending.pop(number, None)
            if not pending.reply.cancel() and not pending.reply.cancelled():
                pending.reply.exception()  # seen: a loss during `send` raises there already

    async def subscribe(
        self, channel: str, *, on_push: Callable[[Push], None] | None = None, **options: Any
    ) -> Subscription:
        """Subscribe with `after`, `last`, `snapshot`… as the protocol has them."""
        subscription = Subscription(channel, options, on_push)
        assert channel not in self.subscriptions, f"{self.name} is subscribed to {channel}"
        self.subscriptions[channel] = subscription  # before the reply: pushes may follow it in the same packet
        try:
            await self._ask("subscribe", {"channel": channel, **options}, subscription=subscription)
        except BaseException:
            self.subscriptions.pop(channel, None)
            raise
        return subscription

    async def unsubscribe(self, channel: str) -> Push:
        return await self._ask("unsubscribe", {"channel": channel}, ends=channel)

    async def publish(self, channel: str, data: Any, key: str | None = None, **fields: Any) -> Push:
        """One attempt; see `publish_surely` for one that does not give up."""
        if key is not None:
            fields["key"] = key
        return await self.request("publish", channel=channel, data=data, **fields)

    async def publish_surely(self, channel: str, data: Any, key: str, within: float = 60.0, **fields: Any) -> Push:
        """Try again with the same key, over reconnects (with `stay`), until the outcome is known: the reply, or Refused
        for what the server will never take. TimeoutError after `within` seconds: still unknown."""
        async with asyncio.timeout(within):
            for attempt in itertools.count():
                pause = random.uniform(0, min(1.0, 0.05 * 2**attempt))
                try:
                    return await self.publish(channel, data, key, **fields)
                except ConnectionLost:
                    if not self.stay:
                        raise
                    await self.connected.wait()
                except Refused as refusal:
                    if not refusal.retry and refusal.code != "outcome_unknown":
                        raise
                    pause = refusal.retry_after or pause
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def history(self, channel: str, **bounds: Any) -> Push:
        return await self.request("history", channel=channel, **bounds)

    async def presence(self, channel: str) -> Push:
        return await self.request("presence", channel=channel)

    async def ping(self) -> Push:
        return await self.request("ping")


def make_token(secret: str, sub: str, lifetime: float = 3600.0, **claims: Any) -> str:
    """A JWT signed with HS256, made without the server's own library: both must agree on the standard, not on a bug."""
    body = {"sub": sub, "exp": int(time.time() + lifetime), **claims}
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "HS256", "typ": "JWT"}, body)]
    signed = b".".join(_base64url(part) for part in parts)
    return (signed + b"." + _base64url(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
