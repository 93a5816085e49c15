"""A connection that comes back, and what goes over it."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from waterspout_client.codec import Encoding, codec, to_json
from waterspout_client.commands import Commands
from waterspout_client.cursors import Cursors, load
from waterspout_client.documents import Collection
from waterspout_client.errors import WaterspoutError
from waterspout_client.events import Published, Push
from waterspout_client.jobs import Job, consume
from waterspout_client.link import ABNORMAL, End, Link, open_link, websocket_url
from waterspout_client.outbox import Outbox, jitter
from waterspout_client.pace import Limited
from waterspout_client.rooms import PUSHES, ROOMS, Membership, Rooms
from waterspout_client.served import Served
from waterspout_client.state import State, StateChange
from waterspout_client.subscription import Stream, Subscription
from waterspout_client.timeline import Timeline

logger = logging.getLogger("waterspout_client")

REFRESH_AT = 0.8  # of a token's remaining life: what is left is for a slow callback and clocks that differ
REFRESH_PAUSE = 10.0  # s at least, however wrong our clock is
LASTED = 5.0  # s; a server that lets in and throws out at once has not answered

T = TypeVar("T")
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A JWT or an API key, or a function that is asked for one at each connection and before one expires."""


class Client(Commands):
    """`async with Client("http://127.0.0.1:8888") as client: …`. It connects at once, in the background: publishes
    wait in their queues meanwhile, `subscribe` and the other commands for their answers.

    url          of the server; a path other than `/v1/ws` only if a proxy has moved it
    token        none: a guest
    encoding     "json", or "msgpack" (needs the `msgpack` package)
    cursors      where the cursors are kept, so that the next run of the program continues (`FileCursors`)
    on_state     called at every change of state
    on_limited   called when the server's rate limit makes commands wait, and when it no longer does
    min_delay    seconds; the first pause between attempts is random below this
    max_delay    seconds; no pause is longer, unless the server says so
    patience     seconds to wait for a connection, or for a sign of life after asking for one
    ping         seconds between asking for signs of life
    window       publishes under way at once in a channel; with 1 not even a refusal that asks to try again can change
                 their order
    max_queue    publishes waiting in a channel; more are refused with `limit_exceeded`
    max_pending  events waiting in a subscription for the loop that reads it; see `Subscription`
    name, version  of the program: what the server's hook is told of who connects
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8888",
        *,
        token: Token | None = None,
        encoding: Encoding = "json",
        cursors: Cursors | None = None,
        on_state: Callable[[StateChange], None] | None = None,
        on_limited: Callable[[Limited], None] | None = None,
        min_delay: float = 0.5,
        max_delay: float = 30.0,
        patience: float = 8.0,
        ping: float = 25.0,
        window: int = 32,
        max_queue: int = 1000,
        max_pending: int = 1000,
        name: str = "",
        version: str = "",
    ) -> None:
        super().__init__()
        self.url = websocket_url(url)
        self.state: State = "closed"
        self.session: Push = {}
        """The reply to `connect`: `session`, `user`, `node`…"""
        self._token = token
        self._codec = codec(encoding)
        self._cursors = cursors
        self._on_state = on_state
        self._on_limited = on_limited
        self._min_delay = min_delay
        self._max_delay = max_delay
        self._patience = patience
        self._ping = ping
        self._window = window
        self._max_queue = max_queue
        self._max_pending = max_pending
        self._open_link: Link | None = None
        self._about = {"name": name, "version": version}
        self._early: list[Push] = []
        self._streams: dict[str, Stream[Any]] = {}
        self._served = Served(self._streams, self.subscribe)
        self._outboxes: dict[str, Outbox] = {}
        self._changed = asyncio.Event()
        self._closed: WaterspoutError | None = WaterspoutError("closed", "use `async with`: it connects, and closes")
        self._running: asyncio.Task[None] | None = None

    # --- the connection -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("a client is entered once")
        self._closed = None
        self._running = asyncio.create_task(self._run(), name=f"waterspout {self.url}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, and do not come back. What was not acknowledged yet is refused with `closed`, its outcome unknown."""
        try:
            if self._running is not None:
                self._running.cancel()
                await asyncio.wait([self._running])
        finally:  # whoever waits for something is told, even if this here is cancelled
            self._close(End(1000, "closed by this program"))

    async def ready(self) -> Push:
        """Wait for a connection; the server's reply to `connect`."""
        await self._link()
        return self.session

    async def _run(self) -> None:
        try:
            await self._stay()
        except Exception as error:
            logger.exception("%s: the client failed", self.url)
            self._close(End(ABNORMAL, f"the client failed: {error!r}"))

    async def _stay(self) -> None:
        attempt = 0
        while True:
            self._set(StateChange("connecting"))
            began = time.monotonic()
            end = await self._connection()
            if end.final:
                return self._close(end)
            if self.session and time.monotonic() - began > LASTED:
                attempt = 0
            # The server's delay spreads a whole herd and is kept exactly, unless we are sent away again and again.
            delay = jitter(attempt, self._min_delay, self._max_delay)
            if end.delay is not None:
                delay = end.delay if attempt == 0 else max(end.delay, delay)
            attempt += 1
            self._set(StateChange("waiting", end.reason, end.code, delay))
            logger.warning("%s: %s; next attempt in %.1f s", self.url, end.reason, delay)
            await asyncio.sleep(delay)

    async def _connection(self) -> End:
        """One connection, from the attempt to its end."""
        self.session, self._early = {}, []
        try:  # before the connection: the server does not wait long for what is said first
            token = await self._fresh_token()
        except Exception as error:
            return End(ABNORMAL, f"no token: {error!r}")
        link = await open_link(self.url, self._codec, self._patience, self._ping, self._take, self._limited)
        if isinstance(link, End):
            return link
        running = asyncio.create_task(link.run())
        greeting = asyncio.create_task(self._greet(link, token))
        try:
            await asyncio.wait((running, greeting), return_when=asyncio.FIRST_COMPLETED)
            refused = greeting.result() if greeting.done() else None
            return refused or await running
        finally:
            self._open_link = None
            self._changed.clear()
            greeting.cancel()
            running.cancel()
            await asyncio.wait((running, greeting))
            for stream in list(self._streams.values()):
                stream.lost()
            for outbox in list(self._outboxes.values()):
                outbox.lost()

    async def _greet(self, link: Link, token: str | None) -> End | None:
        """Say who we are, go on where we were, and renew the token in time. Why not, if the server refuses."""
        try:
            greeting = {"token": token, "after": self._served.places(), **self._about}
            session = await link.ask("connect", **{name: value for name, value in greeting.items() if value})
        except WaterspoutError as error:
            if error.code == "disconnected":
                return None  # the link's end says more
            another = error.code == "token_expired" and callable(self._token)
            return End(ABNORMAL if error.retry or another else 4500, error.reason, error.retry_after,
                       final=not (error.retry or another))  # fmt: skip
        link.message_bytes = session.get("message_bytes", 0)
        self.session = session
        self._open_link = link
        self._set(StateChange("open"))
        self._changed.set()
        for stream in list(self._streams.values()):
            stream.opened(link)
        for outbox in list(self._outboxes.values()):
            outbox.opened(link)
        while self._early:
            self._take(self._early.pop(0))
        expires = session.get("expires")
        while callable(self._token) and expires is not None:
            await asyncio.sleep(max(REFRESH_PAUSE, (expires - time.time()) * REFRESH_AT))
            try:
                expires = (await link.ask("refresh", token=await self._fresh_token())).get("expires")
            except Exception as error:  # the server ends the connection at the expiry, and the next has a new token
                logger.warning("%s: the token was not renewed: %s", self.url, error)
        return None

    async def _fresh_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return await token if inspect.isawaitable(token) else token

    def _take(self, push: Push) -> None:
        if self._open_link is None:  # right behind the reply to `connect`
            return self._early.append(push)
        if push.get("type") == "subscribed":
            return self._served.take(push, self._open_link)
        mine = push.get("type") in PUSHES and "offset" not in push  # (else it is a receipt of the channel)
        name = ROOMS if mine else push.get("pattern") or push.get("channel", "")
        stream = self._streams.get(name)
        if stream is not None:
            stream.take(push)

    def _close(self, end: End) -> None:
        if self._closed is not None:
            return
        self._closed = WaterspoutError("closed", end.reason)
        for stream in list(self._streams.values()):
            stream.ended(self._closed)
        for outbox in self._outboxes.values():
            outbox.closed(self._closed)
        self._served.close(self._closed)
        self._changed.set()
        self._set(StateChange("closed", end.reason, end.code))

    def _set(self, change: StateChange) -> None:
        self.state = change.state
        self._tell("on_state", self._on_state, change)

    def _limited(self, limited: Limited) -> None:
        if limited.waiting:
            logger.info("%s: the rate limit makes commands wait: %s", self.url, limited.reason)
        self._tell("on_limited", self._on_limited, limited)

    def _tell(self, name: str, listener: Callable[[T], None] | None, what: T) -> None:
        if listener is None:
            return
        try:
            listener(what)
        except Exception:  # the connection is not at fault
            logger.exception("%s: %s failed", self.url, name)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # else it would grow with each who is told

    async def _link(self) -> Link:
        """The link commands may be sent on, as soon as there is one; WaterspoutError once the client is closed."""
        while self._open_link is None or not self._open_link.usable:
            self._check_open()
            if self._open_link is not None:
                self._changed.clear()  # on its way out
            await self._changed.wait()
        return self._open_link

    # --- channels -----------------------------------------------------------------------------------------------------

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str | None = None,
        echo: bool = True,
        tag: str | None = None,
        ephemeral: bool = False,
        at: float | str | None = None,
        mentions: Sequence[str] | None = None,
        broadcast: bool = False,
    ) -> asyncio.Future[Published]:
        """Queue a message at once, in the order of the calls; awaited, it returns when the message is stored.

        Through losses and refusals that ask to try again it is sent once more with the same key, so it is stored once;
        WaterspoutError tells what will not change by itself. To cancel it (`asyncio.timeout`) is to stop waiting: the
        message may still be stored, or not. (Ephemeral messages are not stored: after a loss one may come twice.)

        data       any JSON value; ValueError or TypeError for others
        key        the idempotency key, 1 to 255 characters; by default a random one
        echo       False: a subscription of this client does not get it live
        tag        what a conflating channel keeps the newest message of
        ephemeral  pass it on without storing it, in a durable channel that allows it
        at         accepted now and published then: seconds since 1970, or a date and time with its zone
        mentions   members of the channel, or `*`: all of them
        broadcast  of a thread: publish it in the parent as well
        """
        self._check_open()
        # Copied: the caller may change the object, and a retry with other data would be a conflict.
        fields = {"channel": channel, "data": json.loads(to_json(data)), "key": key or secrets.token_hex(16)}
        more = {
            "echo": None if echo else False, "tag": tag, "ephemeral": ephemeral or None, "at": at,
            "mentions": list(mentions) if mentions else None, "broadcast": broadcast or None,
        }  # fmt: skip
        fields |= {name: value for name, value in more.items() if value is not None}
        outbox = self._outboxes.get(channel)
        if outbox is not None:
            return outbox.put(fields)
        outbox = Outbox(self._window, self._max_queue, lambda: self._outboxes.pop(channel, None))
        self._outboxes[channel] = outbox
        receipt = outbox.put(fields)  # first: with nothing to do it would be forgotten
        if self._open_link is not None:
            outbox.opened(self._open_link)
        return receipt

    def subscribe(
        self,
        channel: str,
        *,
        after: str | None = None,
        last: int | None = None,
        where: Push | None = None,
        max_pending: int | None = None,
    ) -> Subscription:
        """A channel's stream, to be used with `async with` and `async for`: after a cursor, with the newest `last`
        messages (up to 1,000), or from now on. A cursor that is kept from an earlier run goes before `last`.

        At most `max_pending` events wait for the loop. Beyond that a durable channel's go on waiting on the server, and
        of an ephemeral one the oldest are dropped, which is told.
        """
        kept = load(self._cursors, channel) if after is None and self._cursors is not None else None
        options: Push = {}
        if last is not None:
            options["last"] = last
        if where is not None:
            options["where"] = where
        return Subscription(
            self, channel, options, after=after or kept, kept=kept is not None, cursors=self._cursors,
            max_pending=max_pending or self._max_pending,
        )  # fmt: skip

    def served(self) -> AsyncIterator[Subscription]:
        """What the server subscribes this client to (the token's `subscribe`, or a back end), one by one as it comes,
        each to be used with `async with` and `async for`: `async for subscription in client.served(): …`"""
        return self._served.each()

    def consume(
        self, consumer: str, *, limit: int = 10, on_gap: Callable[[dict[str, Any]], object] | None = None
    ) -> AsyncGenerator[Job, None]:
        """`async for job in client.consume("packing"): …`. A job is done when the loop asks for the next one.
        `on_gap({"channel", "from", "to"})` is told of messages that were gone before anybody got them."""
        return consume(self, consumer, limit, on_gap)

    def timeline(self, channel: str, *, last: int = 50) -> Timeline:
        """The channel's messages as they are shown: merged, live, and edited at once."""
        return Timeline(self, channel, last)

    def room(self, channel: str) -> Membership:
        """Being a member of a channel: join, leave, members, and how far it is read."""
        return Membership(self, channel)

    def rooms(self, *, threads: bool = False) -> Rooms:
        """The channels that this user is a member of, live, with what is unread; `threads`: also those it follows."""
        return Rooms(self, self._max_pending, lambda: self.session.get("user"), threads)

    def open_rooms(self) -> Rooms | None:
        """Those that are being read just now."""
        return rooms if isinstance(rooms := self._streams.get(ROOMS), Rooms) else None

    def collection(self, name: str) -> Collection:
        """The live documents of a collection."""
        return Collection(self, name, self._max_pending)

    # --- for the streams ----------------------------------------------------------------------------------------------

    def join(self, stream: Stream[Any]) -> Link | None:
        self._check_open()
        if stream.labelled:
            names = (f"{stream.channel}#{number}" if number > 1 else stream.channel for number in itertools.count(1))
            stream.channel = next(name for name in names if name not in self._streams)
        elif (other := self._streams.get(stream.channel)) is not None and not other.yields_to(stream):
            raise WaterspoutError("conflict", f"channel: this client is subscribed to {stream.channel} already")
        self._streams[stream.channel] = stream
        return self._open_link

    def leave(self, stream: Stream[Any]) -> None:
        if self._streams.get(stream.channel) is stream:
            del self._streams[stream.channel]
