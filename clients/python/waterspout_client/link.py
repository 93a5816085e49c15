"""One WebSocket, from its opening to its end. Nothing of an ended link is handed on: its successor resumes from the
cursors, and would bring it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from waterspout_client.codec import Codec
from waterspout_client.errors import WaterspoutError, disconnected
from waterspout_client.events import Push
from waterspout_client.pace import Command, Done, Limited, Pace

MAX_FRAME = 64 << 20  # a page of the largest messages; beyond that something is wrong with the other end
UNANSWERED = 20.0  # s; the server decides a publish within 10 and answers everything else sooner
ABNORMAL = 1006  # RFC 6455's code for an end without a close frame

NEVER_WAITS = ("connect", "put", "patch", "delete", "call")
"""What the rate limit refuses at once: who writes documents may have written again in the meantime, and a call may have
a rate of its own."""


@dataclass(frozen=True, slots=True)
class End:
    """Why there is no connection (any more)."""

    code: int
    reason: str
    delay: float | None = None
    """Seconds after which the server wants us back, if it said so."""
    final: bool = False
    """Coming back would not help."""


def websocket_url(url: str) -> str:
    """`http://host` and the like as the address of the WebSocket there."""
    parts = urlsplit(url)
    scheme, host, path, query, _ = parts
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:  # `port` raises ValueError beyond 65535
        raise ValueError(f"url: not an http, https, ws or wss address: {url!r}")
    return urlunsplit((scheme, host, "/v1/ws" if path in ("", "/") else path, query, ""))


async def open_link(
    url: str,
    codec: Codec,
    patience: float,
    ping: float,
    take: Callable[[Push], None],
    limited: Callable[[Limited], None],
) -> Link | End:
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(codec.subprotocol)],
            compression=None,
            open_timeout=patience,
            ping_interval=ping,
            ping_timeout=patience,
            close_timeout=1,  # on a dead network it leads to nothing
            max_size=MAX_FRAME,
        )
    except InvalidStatus as refusal:
        after = refusal.response.headers.get("Retry-After", "")
        reason = f"the server answered {refusal.response.status_code}"
        return End(ABNORMAL, reason, delay=float(after) if after.isdecimal() else None)
    except (OSError, EOFError, WebSocketException) as error:
        return End(ABNORMAL, str(error) or type(error).__name__)
    return Link(socket, codec, take, limited)


class Link:
    def __init__(
        self,
        socket: ClientConnection,
        codec: Codec,
        take: Callable[[Push], None],
        limited: Callable[[Limited], None],
    ) -> None:
        self.message_bytes = 0
        """The server's limit, which `connect` tells; 0: none known."""
        self.over = False
        self._socket = socket
        self._codec = codec
        self._take = take
        self._next_id = 1
        self._replies: dict[int, Command] = {}  # oldest first
        self._pace = Pace(self._put, limited)
        self._unclaimed: list[tuple[float, WaterspoutError]] = []
        """Errors without an id: of a frame the server could not decode, it does not say which."""
        self._frames: asyncio.Queue[str | bytes] = asyncio.Queue()  # bounded by those who send: windows, and waiting
        self._goodbye: Push | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, kind: str, fields: Push, done: Done, wanted: Callable[[], bool] = lambda: True) -> None:
        """Send a command; what the rate limit refuses waits, and is sent again. `done` is called once and never from
        here, with `disconnected` if the link ends first."""
        command = Command(self._next_id, kind, fields, done, wanted)
        self._next_id += 1
        if self._pace.busy and kind not in NEVER_WAITS and self.usable:
            self._pace.wait(command)
        else:
            self._put(command)

    def _put(self, command: Command) -> None:
        try:
            frame = self._frame(command)
        except WaterspoutError as error:
            self._loop.call_soon(command.done, error, {})
            return
        command.sent_at = self._loop.time()
        self._replies[command.number] = command
        self._frames.put_nowait(frame)

    def _frame(self, command: Command) -> str | bytes:
        kind = command.kind
        if not self.usable:
            raise disconnected()
        try:
            frame = self._codec.encode({"type": kind, "id": command.number, **command.fields})
        except (TypeError, ValueError, OverflowError) as error:
            raise WaterspoutError("bad_request", f"{kind}: cannot be encoded: {error}") from None
        if self.message_bytes and 2 * len(frame) > self.message_bytes:  # a character has four bytes at most
            # Twice the limit in bytes ends the connection, and sent again it would end every connection from now on.
            size = len(frame.encode() if isinstance(frame, str) else frame)
            if size > 2 * self.message_bytes:
                reason = f"{kind}: {size} bytes, the server takes messages of {self.message_bytes} at most"
                raise WaterspoutError("too_large", reason)
        return frame

    async def ask(self, kind: str, /, **fields: Any) -> Push:
        """Send a command and return its reply."""
        future: asyncio.Future[Push] = self._loop.create_future()

        def done(error: WaterspoutError | None, reply: Push) -> None:
            if future.done():
                return  # given up by whoever has waited
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(reply)

        self.send(kind, fields, done)
        return await future

    @property
    def usable(self) -> bool:
        """What is sent after the server's `disconnect` may not be read any more."""
        return not self.over and self._goodbye is None

    async def run(self) -> End:
        """Read and write until the end."""
        tasks = [asyncio.create_task(part()) for part in (self._read, self._write, self._sweep)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return self._end(done.pop().result())
        finally:
            self.over = True
            for task in tasks:
                task.cancel()
            replies, self._replies = self._replies, {}
            for command in (*replies.values(), *self._pace.close()):
                command.done(disconnected(), {})
            try:
                await asyncio.wait(tasks)
                await self._socket.close()
            finally:
                self._socket.transport.abort()  # if nobody waits for that

    async def _read(self) -> str:
        try:
            async for frame in self._socket:
                try:
                    push = self._codec.decode(frame)
                except ValueError as error:
                    return f"not understood: {error}"
                self._receive(push)
        except ConnectionClosed:
            pass
        return self._socket.close_reason or "the connection was lost"

    def _receive(self, push: Push) -> None:
        kind = push.get("type")
        if kind == "error" and "id" not in push:
            self._unclaimed.append((self._loop.time(), WaterspoutError.of(push)))
        elif kind in ("reply", "error"):
            command = self._replies.pop(push.get("id", 0), None)
            if command is not None:
                self._answer(command, push)
        elif kind == "disconnect":
            self._goodbye = push
        else:
            self._take(push)

    def _answer(self, command: Command, push: Push) -> None:
        if push["type"] == "reply":
            self._pace.accepted()
            return command.done(None, push)
        error = WaterspoutError.of(push)
        if error.code == "rate_limited" and error.retry and command.kind not in NEVER_WAITS:
            self._pace.refused(command, error)
        else:
            command.done(error, push)

    async def _write(self) -> str:
        try:
            while True:
                await self._socket.send(await self._frames.get())
        except ConnectionClosed:
            return self._socket.close_reason or "the connection was lost"

    async def _sweep(self) -> str:
        """Whoever does not answer at all is left, and asked again elsewhere. But a command that has got no answer while
        there was an error without an id is the one that error was for: sent again, it would meet the same."""
        while True:
            await asyncio.sleep(UNANSWERED / 4)
            for command in list(self._replies.values()):
                if self._loop.time() - command.sent_at <= UNANSWERED:
                    break
                unclaimed = next((one for one in self._unclaimed if one[0] >= command.sent_at), None)
                if unclaimed is None and command.kind == "call":
                    continue  # how long the back end may take, the client is not told
                if unclaimed is None:
                    return "a command was not answered"
                self._unclaimed.remove(unclaimed)
                del self._replies[command.number]
                command.done(unclaimed[1], {})

    def _end(self, reason: str) -> End:
        goodbye = self._goodbye
        if goodbye is not None:
            delay = goodbye.get("delay")
            return End(
                goodbye.get("code", ABNORMAL), goodbye.get("reason", reason),
                float(delay) if delay is not None else None, final=goodbye.get("reconnect") is False,
            )  # fmt: skip
        code = self._socket.close_code or ABNORMAL
        return End(code, reason, final=4500 <= code <= 4999)
