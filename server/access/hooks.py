"""Hooks: the user's own rules, asked before a publish, a subscription or a write of a document is accepted.

A hook is a URL of the user's back end, or a Python function. Both get the same question and give the same answer:

    {"action": "publish", "channel": "chat:lobby", "user": "ann", "server": false, "claims": {…}, "data": …}
    → nothing, or {"allow": true}; {"allow": false, "reason": "…"}; {"data": …} changes what is published

A request is signed: `Waterspout-Signature: v1=` and the hexadecimal HMAC-SHA256 of the timestamp in
`Waterspout-Timestamp`, a dot, and the body.

A hook has CONCURRENT questions at a time; the others wait for their turn, and their time runs from when they are asked.
A hook that fails again and again is left alone for a while. Only its own failures count: of what waits too long because
there are too many questions, or because this process is busy, nothing is known, so it is refused, never passed over.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import importlib
import inspect
import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from server.core.clock import Clock
from server.core.config import Hook
from server.core.errors import Error, StartError
from server.core.principals import Principal
from server.wire.codec import JSON

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

FAILURES: Final = 5
"""In a row, after which a hook is not asked for RESTS seconds."""
RESTS: Final = 5.0
ANSWER_BYTES: Final = 1 << 20
CONCURRENT: Final = 64
"""Questions that one hook is asked at a time: connections to its URL, or threads of a function that is not `async`."""
WAITING: Final = 5000
"""Questions that wait for their turn at one hook; more are refused at once."""
TURN_WITHIN: Final = 10.0
"""Seconds after which a question that has not had its turn is refused: about as long as a publish may take."""
LATE: Final = 0.25
"""Seconds by which a time-out may come too late before it is the event loop that has been slow, not the hook."""
KEEP_ALIVE: Final = 2.0
"""Seconds an unused connection is kept: less than the 5 s after which many servers close theirs, since a question that
is sent into a closing connection looks like a failure of the hook."""

Question = dict[str, Any]
Answer = Mapping[str, Any]


def _tls() -> ssl.SSLContext:
    """One for all hooks: it reads all the certificates of the system. (httpx is imported by who asks a URL: it would
    be a tenth of everybody's start.)"""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


class _Failed(Exception):
    """No answer, or none that can be understood."""


class Hooks:
    """`clock` dates the requests. StartError if a function cannot be imported."""

    def __init__(self, hooks: Mapping[str, Hook], clock: Clock | None = None) -> None:
        clock = clock or Clock()
        tls = _tls() if any(hook.function is None for hook in hooks.values()) else None
        self._hooks = {name: _Asked(name, hook, tls, clock) for name, hook in hooks.items()}

    def wanted(self, name: str | None, action: str) -> bool:
        """Whether the hook is to be asked about this."""
        return name is not None and action in self._hooks[name].options.actions

    async def ask(self, name: str | None, action: str, principal: Principal, about: Question) -> Answer:
        """What the hook says: maybe with `data`; nothing if it is not wanted. `permission_denied` with its reason if it
        refuses; `unavailable` if it does not answer, unless it is to be passed over then, and if it could not be asked
        for lack of time."""
        if name is None or not self.wanted(name, action):
            return {}
        question = {
            "action": action, "user": principal.user, "server": principal.server, "claims": dict(principal.claims),
        } | about  # fmt: skip
        answer = await self._hooks[name].ask(question)
        if answer.get("allow", True) is not True:
            told = f"refused by {name}"  # its own reason may quote what was to be published
            raise Error("permission_denied", str(answer.get("reason") or told)[:1000], told=told)
        return answer

    async def close(self) -> None:
        for hook in self._hooks.values():
            await hook.close()


class _Asked:
    """One hook, and how it has been doing."""

    def __init__(self, name: str, options: Hook, tls: ssl.SSLContext | None, clock: Clock) -> None:
        self.name = name
        self.options = options
        self._tls = tls
        self._clock = clock
        self._connections: list[httpx.AsyncClient] = []
        """Each a client with one connection: httpx's own pool looks through all that it has with every request and
        every answer, which takes ten times as long as the rest where there are 64."""
        self._unused: list[httpx.AsyncClient] = []
        self._function = None if options.function is None else _load(name, options.function)
        self._threads: ThreadPoolExecutor | None = None
        if self._function is not None and not inspect.iscoroutinefunction(self._function):
            # As many as may be asked at a time, so that no question waits in the pool while its time runs.
            self._threads = ThreadPoolExecutor(CONCURRENT, thread_name_prefix=f"hook {name}")
        self._turns = asyncio.Semaphore(CONCURRENT)
        self._waiting = 0
        self._failures = 0
        self._rests_until = 0.0

    async def close(self) -> None:
        for connection in self._connections:
            await connection.aclose()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, question: Question) -> Answer:
        loop = asyncio.get_running_loop()
        async with self._turn():
            if loop.time() < self._rests_until:
                return self._without("does not answer", self._rests_until - loop.time())
            if self._failures >= FAILURES:
                self._rests_until = loop.time() + RESTS  # this one tries; the others wait for what comes of it
            try:
                async with asyncio.timeout(self.options.timeout) as deadline:
                    answer = await (self._post(question) if self._function is None else self._call(question))
                if not isinstance(answer, Mapping):
                    raise _Failed("answered neither an object nor nothing")
            except Exception as error:
                until = deadline.when()
                if deadline.expired() and until is not None and loop.time() > until + LATE:
                    raise self._busy("this server was too busy to hear its answer") from None
                self._failures += 1
                if self._failures >= FAILURES:
                    self._rests_until = loop.time() + RESTS
                logger.warning("hook %s: %s", self.name, _why(error))
                return self._without(_why(error), 1.0)
        self._failures = 0
        self._rests_until = 0.0
        return answer

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of CONCURRENT, in the order of asking; `unavailable` if there are too many before."""
        if self._waiting >= WAITING:
            raise self._busy("too many questions wait for it")
        self._waiting += 1
        try:
            async with asyncio.timeout(TURN_WITHIN):
                await self._turns.acquire()
        except TimeoutError:
            raise self._busy("too many questions wait for it") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    def _busy(self, why: str) -> Error:
        return Error("unavailable", f"hook {self.name}: {why}", retry_after=1.0)

    def _without(self, why: str, retry_after: float) -> Answer:
        if self.options.on_failure == "allow":
            return {}
        raise Error("unavailable", f"hook {self.name}: {why}", retry_after=retry_after)

    async def _call(self, question: Question) -> Any:
        assert self._function is not None
        question = copy.deepcopy(question)  # its own copy, so that it changes only what it says it does
        if inspect.iscoroutinefunction(self._function):
            answer = await self._function(question)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._function, question)
        return {} if answer is None else JSON.decode(JSON.encode(answer))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """The one used last; how long it may take is said by the hook's own time-out."""
        if self._unused:
            connection = self._unused.pop()
        else:
            import httpx

            assert self._tls is not None
            limits = httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE)
            connection = httpx.AsyncClient(
                follow_redirects=False, trust_env=False, verify=self._tls, timeout=None, limits=limits
            )
            self._connections.append(connection)
        try:
            yield connection
        finally:
            self._unused.append(connection)

    async def _post(self, question: Question) -> Any:
        assert self.options.url is not None
        body = JSON.encode(question)
        async with (
            self._connection() as connection,
            connection.stream("POST", self.options.url, content=body, headers=self._signed(body)) as response,
        ):
            if not response.is_success:
                raise _Failed(f"answered {response.status_code}")
            answer = b""
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > ANSWER_BYTES:
                    raise _Failed(f"answered more than {ANSWER_BYTES} bytes")
        try:
            return JSON.decode(answer) if answer.strip() else {}
        except Error as error:
            raise _Failed(f"its answer is not JSON: {error.reason}") from None

    def _signed(self, body: bytes) -> dict[str, str]:
        now = str(int(self._clock.time()))
        secret = (self.options.secret or "").encode()
        signature = hmac.new(secret, now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {
            "Content-Type": "application/json",
            "Waterspout-Timestamp": now,
            "Waterspout-Signature": f"v1={signature}",
        }


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, _Failed):
        return str(error)
    # Not the error's own words: they may quote what was to be published.
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"failed: {type(error).__name__} in {where.name}, line {where.lineno}"


def _load(name: str, path: str) -> Callable[[Question], Any]:
    module, _, attribute = path.partition(":")
    try:
        function: Callable[[Question], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise StartError(f"configuration: hooks.{name}.function: {path}: {error}") from None
    if not callable(function):
        raise StartError(f"configuration: hooks.{name}.function: {path} is not a function")
    return function
