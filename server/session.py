"""One connected client: its commands, its subscriptions, its outbound queue.

Commands on one channel are carried out in order; those on different channels may overtake one another. Publishes do
not wait for each other (the log keeps their order), everything else waits for what is under way on its channel.

Outbound, the queue is bounded in bytes. What the connection cannot take stays here as whole frames. Over the bound, a
durable subscription is set *behind*: its frames are dropped from the queue and it is served from the log at the pace
the client reads; an ephemeral one loses messages and is told how many. Replies are never dropped; commands are not read
while too many replies wait. A client that takes nothing for STALLED_AFTER seconds is closed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from server.codec import Codec
from server.errors import NO_CONNECT, NO_PONG, STALLED, TOKEN_EXPIRED, Disconnect, Error, bad_request
from server.frames import BINARY, PING_FRAME, PONG, TEXT, close_frame, frame
from server.hub import Delivery
from server.limits import TokenBucket
from server.log import Receipt
from server.node import Node
from server.principals import Principal
from server.protocol import (
    AnyCommand,
    Connect,
    History,
    Ping,
    Publish,
    Push,
    Subscribe,
    Unsubscribe,
    disconnect_push,
    dropped_push,
    error_push,
    id_of,
    parse_command,
    reply,
)
from server.subscription import Subscription

logger = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 10.0
PING_EVERY: Final = 25.0
PONG_WITHIN: Final = 8.0
STALLED_AFTER: Final = 10.0
EXPIRY_GRACE: Final = 10.0
PIPELINED: Final = 1024
"""Commands under way per session; while there are more, nothing is read from it."""
WRITE_CHUNK: Final = 65536
TURN_BYTES: Final = 262144
"""Collected for one write; what comes on top of it in the same turn is written before."""

ChannelCommand = Subscribe | Unsubscribe | Publish | History


class Connection(Protocol):
    """What a session needs of its socket. It calls back `pause`, `resume` and `closed`."""

    def write(self, data: bytes) -> None: ...

    def buffered(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, farewell: bytes) -> None:
        """Send a last frame, and close when the client has answered it, or after a while."""

    def abort(self) -> None: ...


class Session:
    """A sink of the hub, a client of the node. `principal` is None until the client has said who it is."""

    __slots__ = (
        "id", "codec", "address", "_node", "_connection", "_write", "_principal", "_started", "_first",
        "_ended", "_bucket", "_subscriptions", "_lanes", "_tasks", "_paging", "_publishing", "_under_way",
        "_reading", "_clear", "_turn", "_turn_bytes", "_queue", "_queued", "_waiting", "_dropped", "_pong",
        "_opened_at", "_ping_at", "_pong_due", "_progress_at", "_progress",
    )  # fmt: skip

    def __init__(
        self, node: Node, connection: Connection, codec: Codec, principal: Principal | None, address: str
    ) -> None:
        self.id = "s" + secrets.token_hex(6)
        self.codec = codec
        self.address = address
        self._node = node
        self._connection = connection
        self._write: Callable[[bytes], None] = connection.write
        self._principal = principal
        self._started = False
        """Whether the client has said who it is, or is a guest."""
        self._first = True
        self._ended = False
        now = asyncio.get_running_loop().time()
        limits = node.config.limits
        self._bucket = TokenBucket(limits.messages_per_second, limits.burst, now)
        self._subscriptions: dict[str, Subscription] = {}
        self._lanes: dict[str, deque[ChannelCommand]] | None = None
        self._tasks: set[asyncio.Task[None]]
        self._paging: asyncio.Lock | None = None
        self._publishing: dict[str, asyncio.Future[Receipt]] | None = None
        """Per channel the newest publish under way."""
        self._under_way = 0
        self._reading = True
        self._clear = True
        """Nothing is queued and the connection takes more: what is sent goes out at the end of the turn."""
        self._turn: list[bytes] = []
        self._turn_bytes = 0
        self._queue: deque[Delivery | bytes] | None = None
        self._queued = 0
        self._waiting: list[asyncio.Future[None]] | None = None
        self._dropped: dict[str, int] | None = None
        self._pong: bytes | None = None
        self._opened_at = now
        self._ping_at = now + PING_EVERY
        self._pong_due = 0.0
        self._progress_at = 0.0
        self._progress = -1
        node.clients.add(self)

    def __repr__(self) -> str:
        return f"<session {self.id} {self._principal.name if self._principal else '?'} {self.address}>"

    # --- inbound ------------------------------------------------------------------------------------------------------

    def receive(self, opcode: int, payload: bytes) -> None:
        """One message of the client. Never raises."""
        self._pong_due = 0.0
        value: Any = None
        try:
            if opcode != self.codec.opcode:
                kinds = {TEXT: "text", BINARY: "binary"}
                raise bad_request(f"{self.codec.name} uses {kinds[self.codec.opcode]} frames")
            value = self.codec.decode(payload)
            command = parse_command(value)
            if not self._started:
                self._introduce(command)
            self._dispatch(command)
        except Error as error:
            self._refuse(id_of(value), error)
        except Disconnect as reason:
            self.disconnect(reason)
        except Exception:
            logger.exception("%r: a command failed", self)
            self._refuse(id_of(value), Error("internal", "the server failed; its log says why"))

    def _introduce(self, command: AnyCommand) -> None:
        """The first command settles who the client is: whom its token or the upgrade's says, else a guest."""
        token = command.token if isinstance(command, Connect) else None
        try:
            if token is not None or self._principal is None:
                self._principal = self._node.authenticator.authenticate(token)
        except Error as error:
            self._refuse(command.id, error)
            raise Disconnect(NO_CONNECT, error.reason) from None
        self._started = True

    def _dispatch(self, command: AnyCommand) -> None:
        first, self._first = self._first, False
        if isinstance(command, Publish | Subscribe | Unsubscribe | History):
            lane = self._lanes.get(command.channel) if self._lanes else None
            if lane is not None:
                lane.append(command)
                self._count(1)
            elif isinstance(command, Publish):
                self._publish(command)
            else:
                self._open_lane(command)
        elif isinstance(command, Ping):
            self._reply(command.id)
        else:
            self._connect(command, first)

    def _connect(self, command: Connect, first: bool) -> None:
        if not first:
            raise bad_request("connect: only as the first command")
        assert self._principal is not None
        self._reply(
            command.id,
            session=self.id,
            user=self._principal.user,
            node=self._node.id,
            ping=int(PING_EVERY),
            message_bytes=self._node.config.limits.message_bytes,
        )

    def _open_lane(self, command: ChannelCommand) -> None:
        if self._lanes is None:
            self._lanes = {}
            self._tasks = set()
        lane = self._lanes[command.channel] = deque((command,))
        self._count(1)
        task = asyncio.create_task(self._run_lane(command.channel, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_lane(self, channel: str, lane: deque[ChannelCommand]) -> None:
        while lane and not self._ended:
            command = lane[0]
            try:
                if isinstance(command, Publish):
                    self._publish(command)
                else:
                    newest = self._publishing.get(channel) if self._publishing else None
                    if newest is not None:
                        await asyncio.wait((newest,))
                    await self._carry_out(command)
            except Error as error:
                self._refuse(command.id, error)
            except Exception:
                logger.exception("%r: %s failed", self, type(command).__name__)
                self._refuse(command.id, Error("internal", "the server failed; its log says why"))
            lane.popleft()
            self._count(-1)
        # In the same turn as the last look at the queue: a command that comes later opens a lane of its own.
        assert self._lanes is not None
        del self._lanes[channel]

    async def _carry_out(self, command: Subscribe | Unsubscribe | History) -> None:
        assert self._principal is not None
        if isinstance(command, Subscribe):
            await self._subscribe(self._principal, command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(command)
        else:
            self._spend()
            await self._history(self._principal, command)

    async def _history(self, principal: Principal, command: History) -> None:
        """One page at a time, and none while too much of what was asked for is unread: replies are never dropped."""
        if self._paging is None:
            self._paging = asyncio.Lock()
        async with self._paging:
            limit = self._node.config.limits.queue_bytes
            if limit and self._queued > limit:
                await self.drained()
            page = await self._node.history(
                principal, command.channel, after=command.after, before=command.before, limit=command.limit
            )
            self._reply(command.id, channel=command.channel, **page)

    async def _subscribe(self, principal: Principal, command: Subscribe) -> None:
        if command.channel in self._subscriptions:
            raise Error("conflict", f"channel: already subscribed to {command.channel}")
        limit = self._node.config.limits.channels_per_connection
        if limit and len(self._subscriptions) >= limit:
            raise Error("limit_exceeded", f"channels_per_connection is {limit}")
        subscription, fields, gap = await self._node.subscribe(
            principal, command.channel, self, after=command.after, last=command.last
        )
        if self._ended:
            subscription.close()
            return
        self._subscriptions[command.channel] = subscription
        self._reply(command.id, **fields)
        if gap is not None:
            self._push(gap)
        subscription.start()

    def _unsubscribe(self, command: Unsubscribe) -> None:
        subscription = self._subscriptions.pop(command.channel, None)
        if subscription is None:
            raise bad_request(f"channel: not subscribed to {command.channel}")
        subscription.close()
        position = subscription.position
        fields = {} if position is None else {"cursor": str(position)}
        self._reply(command.id, channel=command.channel, **fields)

    def _publish(self, command: Publish) -> None:
        assert self._principal is not None
        self._spend()
        channel = command.channel
        future = self._node.publish(
            self._principal,
            channel,
            command.data,
            command.key,
            tag=command.tag,
            skip=None if command.echo else self.id,
        )
        if future is None:
            self._reply(command.id, channel=channel)
            return
        if self._publishing is None:
            self._publishing = {}
        self._publishing[channel] = future
        self._count(1)

        def done(future: asyncio.Future[Receipt]) -> None:
            assert self._publishing is not None
            if self._publishing.get(channel) is future:
                del self._publishing[channel]
            self._count(-1)
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                position, key, duplicate = future.result()
                self._reply(
                    command.id,
                    channel=channel,
                    offset=position.offset,
                    cursor=str(position),
                    key=key,
                    duplicate=duplicate,
                )
            elif isinstance(error, Error):
                self._refuse(command.id, error)

        future.add_done_callback(done)

    def _spend(self) -> None:
        wait = self._bucket.take(asyncio.get_running_loop().time())
        if wait:
            limit = self._node.config.limits.messages_per_second
            raise Error("rate_limited", f"messages_per_second is {limit}", retry_after=wait)

    def _count(self, change: int) -> None:
        self._under_way += change
        self._mind_reading()

    def _mind_reading(self) -> None:
        """Stop reading commands while too much of what they caused is unfinished or unread."""
        limit = self._node.config.limits.queue_bytes
        full = self._under_way > PIPELINED or (limit and self._queued > limit)
        if full and self._reading:
            self._reading = False
            self._connection.pause_reading()
        elif not full and not self._reading and not self._ended:
            self._reading = True
            self._connection.resume_reading()

    # --- outbound -----------------------------------------------------------------------------------------------------

    def send(self, delivery: Delivery) -> None:
        """From the hub, or from a subscription that catches up."""
        if self._clear and self._turn_bytes < TURN_BYTES:
            if self._node.hub.lone and not self._turn:
                self._write(delivery.data)
            else:
                self._out(delivery.data)
        else:
            self.flush()
            if self._clear:
                self._out(delivery.data)
            else:
                self._enqueue(delivery)

    def _out(self, data: bytes) -> None:
        if not self._turn:
            self._node.hub.wake(self)
        self._turn.append(data)
        self._turn_bytes += len(data)

    def flush(self) -> None:
        """Write what this turn has brought, in one go."""
        turn = self._turn
        if turn:
            data = turn[0] if len(turn) == 1 else b"".join(turn)
            turn.clear()
            self._turn_bytes = 0
            self._write(data)

    def _reply(self, identifier: int | None, **fields: Any) -> None:
        if identifier is not None:
            self._push(reply(identifier, **fields))

    def _refuse(self, identifier: int | None, error: Error) -> None:
        self._push(error_push(identifier, error))
        if not self._started and not self._node.authenticator.guests:
            self.disconnect(Disconnect(NO_CONNECT, "the first command must be a good connect"))

    def _push(self, push: Push) -> None:
        """A reply or a push that must not be dropped."""
        if self._ended:
            return
        data = frame(self.codec.opcode, self.codec.encode(push))
        if self._clear:
            self._out(data)
        else:
            self._put(data, len(data))
            self._mind_reading()

    def pong(self, payload: bytes) -> None:
        """Answer a ping. To a client that does not read, only the newest is answered (RFC 6455, 5.5.3)."""
        if self._clear:
            self._out(frame(PONG, payload))
        else:
            self._pong = payload

    def _put(self, item: Delivery | bytes, size: int) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        self._queued += size

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.data)
        limit = self._node.config.limits.queue_bytes
        if not limit or self._queued + size <= limit:
            self._put(delivery, size)
            return
        subscription = self._subscriptions.get(delivery.channel)
        if subscription is None:
            return
        if not subscription.durable:
            self._displace(delivery, size, limit)
        elif not subscription.live:
            self._put(delivery, size)  # a replayed chunk, asked for when there was room
        else:
            subscription.fall_behind(self._drop_queued(delivery) - 1)

    def _displace(self, delivery: Delivery, size: int, limit: int) -> None:
        """Make room for an ephemeral delivery by dropping the channel's oldest: of live values the newest count."""
        queue = self._queue if self._queue is not None else deque()
        lost, index = 0, 0
        while self._queued + size > limit and index < len(queue):
            item = queue[index]
            if isinstance(item, Delivery) and item.channel == delivery.channel:
                del queue[index]
                self._queued -= len(item.data)
                lost += item.size
            else:
                index += 1
        if self._queued + size <= limit:
            self._put(delivery, size)
        else:
            lost += delivery.size
        if self._dropped is None:
            self._dropped = {}
        self._dropped[delivery.channel] = self._dropped.get(delivery.channel, 0) + lost

    def _drop_queued(self, newest: Delivery) -> int:
        """Take the frames of a channel out of the queue; the first offset that the client has not been sent."""
        first = newest.first
        kept: deque[Delivery | bytes] = deque()
        for item in self._queue or ():
            if isinstance(item, Delivery) and item.channel == newest.channel:
                first = min(first, item.first)
                self._queued -= len(item.data)
            else:
                kept.append(item)
        self._queue = kept
        return first

    def pause(self) -> None:
        """The connection's buffer is full. Only `flush` and `resume` write, so nothing of this turn is left behind."""
        self._clear = False
        self._progress_at = asyncio.get_running_loop().time()
        self._progress = self._connection.buffered()

    def resume(self) -> None:
        """The connection takes more: hand on what has waited, until it is full again or all is gone."""
        self._clear = True
        self._progress = -1
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._write(frame(PONG, pong))
        while self._queue and self._clear:
            chunk: list[bytes] = []
            size = 0
            while self._queue and size < WRITE_CHUNK:
                item = self._queue.popleft()
                data = item.data if isinstance(item, Delivery) else item
                chunk.append(data)
                size += len(data)
            self._queued -= size
            self._write(b"".join(chunk))  # may call `pause`
        if self._queue:
            # Not empty, so not clear: what comes now must stand behind it.
            self._clear = False
            return
        self._mind_reading()
        if self._clear:
            self._queue = None
            self._tell_dropped()
        if self._clear and self._waiting:
            waiting, self._waiting = self._waiting, None
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, None
        for channel, count in (dropped or {}).items():
            self._push(dropped_push(channel, count))

    async def drained(self) -> None:
        """Return when nothing waits in the queue."""
        while not self._ended:
            if self._clear:
                if not self._turn:
                    return
                await asyncio.sleep(0)  # somebody else has had the room; see what this turn's write leaves of it
                continue
            if self._waiting is None:
                self._waiting = []
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    # --- time and the end ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: pings, pongs and patience."""
        if self._ended:
            return
        if self._principal is not None and self._principal.expires is not None:
            self._check_expiry(self._principal.expires)
        if not self._clear:
            buffered = self._connection.buffered()
            if buffered != self._progress:
                self._progress, self._progress_at = buffered, now
            elif now - self._progress_at > STALLED_AFTER:
                self.disconnect(Disconnect(STALLED, f"nothing was read for {STALLED_AFTER:.0f} s"))
            return
        unknown = not self._started and self._principal is None and not self._node.authenticator.guests
        if unknown and now - self._opened_at > CONNECT_WITHIN:
            self.disconnect(Disconnect(NO_CONNECT, f"no connect within {CONNECT_WITHIN:.0f} s"))
            return
        if self._pong_due and now > self._pong_due:
            self.disconnect(Disconnect(NO_PONG, f"no pong within {PONG_WITHIN:.0f} s"))
        elif now >= self._ping_at:
            self._ping_at = now + PING_EVERY
            self._pong_due = now + PONG_WITHIN
            self._out(PING_FRAME)

    def _check_expiry(self, expires: float) -> None:
        if time.time() > expires + EXPIRY_GRACE:
            self.disconnect(Disconnect(TOKEN_EXPIRED, "the token has expired"))

    def heard(self) -> None:
        """A pong, or any other sign of life."""
        self._pong_due = 0.0

    def disconnect(self, reason: Disconnect, delay: float | None = None) -> None:
        """Tell the client why, and whether and when (in `delay` seconds) to come back; then close."""
        if self._ended:
            return
        if delay is None:
            delay = random.uniform(0.1, 1.0)  # whatever happens to many at once must not bring them back at once
        farewell = b""
        if reason.code >= 4000:
            farewell = frame(self.codec.opcode, self.codec.encode(disconnect_push(reason, delay)))
        farewell += close_frame(reason.code, reason.reason)
        self.flush()
        self._end()
        self._connection.close(farewell)

    def closed(self) -> None:
        """The connection is gone. Calling it twice is fine."""
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._node.clients.discard(self)
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()
        self._queue = None
        self._turn.clear()
        self._clear = False
        for future in self._waiting or ():
            if not future.done():
                future.set_result(None)
        self._waiting = None
