"""Hooks: the user's own rules, asked before a publish, a subscription or a write of a document is accepted.

A hook is a URL of the user's back end, or a Python function. Both get the same question and give the same answer:

    {"action": "publish", "channel": "chat:lobby", "user": "ann", "server": false, "claims": {…}, "data": …}
    → nothing, or {"allow": true}; {"allow": false, "reason": "…"}; {"data": …} changes what is published

A request is signed: `Waterspout-Signature: v1=` and the hexadecimal HMAC-SHA256 of the timestamp in
`Waterspout-Timestamp`, a dot, and the body. A hook that fails again and again is left alone for a while.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import importlib
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from server.core.config import Hook
from server.core.errors import Error, StartError
from server.core.principals import Principal
from server.wire.codec import JSON

logger = logging.getLogger(__name__)

FAILURES: Final = 5
"""In a row, after which a hook is not asked for RESTS seconds."""
RESTS: Final = 5.0
ANSWER_BYTES: Final = 1 << 20
CONNECTIONS: Final = 100

Question = dict[str, Any]
Answer = Mapping[str, Any]


class _Failed(Exception):
    """No answer, or none that can be understood."""


class Hooks:
    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self._client = httpx.AsyncClient(
            follow_redirects=False, trust_env=False, limits=httpx.Limits(max_connections=CONNECTIONS)
        )
        self._hooks = {name: _Asked(name, hook, self._client) for name, hook in hooks.items()}

    def wanted(self, name: str | None, action: str) -> bool:
        """Whether the hook is to be asked about this."""
        return name is not None and action in self._hooks[name].options.actions

    async def ask(self, name: str | None, action: str, principal: Principal, about: Question) -> Answer:
        """What the hook says: maybe with `data`; nothing if it is not wanted. `permission_denied` with its reason if it
        refuses; `unavailable` if it does not answer, unless it is to be passed over then."""
        if name is None or not self.wanted(name, action):
            return {}
        question = {
            "action": action, "user": principal.user, "server": principal.server, "claims": dict(principal.claims),
        } | about  # fmt: skip
        answer = await self._hooks[name].ask(question)
        if answer.get("allow", True) is not True:
            raise Error("permission_denied", str(answer.get("reason") or f"refused by {name}")[:1000])
        return answer

    async def close(self) -> None:
        await self._client.aclose()


class _Asked:
    """One hook, and how it has been doing."""

    def __init__(self, name: str, options: Hook, client: httpx.AsyncClient) -> None:
        self.name = name
        self.options = options
        self._client = client
        self._function = None if options.function is None else _load(name, options.function)
        self._failures = 0
        self._rests_until = 0.0

    async def ask(self, question: Question) -> Answer:
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until:
            return self._without("does not answer", self._rests_until - loop.time())
        if self._failures >= FAILURES:
            self._rests_until = loop.time() + RESTS  # this one tries; the others go on waiting for what comes of it
        try:
            async with asyncio.timeout(self.options.timeout):
                answer = await (self._post(question) if self._function is None else self._call(question))
            if not isinstance(answer, Mapping):
                raise _Failed("answered neither an object nor nothing")
        except Exception as error:
            self._failures += 1
            if self._failures >= FAILURES:
                self._rests_until = loop.time() + RESTS
            logger.warning("hook %s: %s", self.name, _why(error))
            return self._without(_why(error), 1.0)
        self._failures = 0
        self._rests_until = 0.0
        return answer

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
            answer = await asyncio.to_thread(self._function, question)
        return {} if answer is None else JSON.decode(JSON.encode(answer))

    async def _post(self, question: Question) -> Any:
        assert self.options.url is not None
        body = JSON.encode(question)
        async with self._client.stream(
            "POST", self.options.url, content=body, headers=_signed(self.options.secret or "", body)
        ) as response:
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


def _signed(secret: str, body: bytes) -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
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
